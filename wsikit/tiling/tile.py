"""`tile`: a slide becomes a store with pixels, tissue label and patch table. Each part is kept if it is up to date."""

from __future__ import annotations

import os
from pathlib import Path

from wsikit.execution import Executor
from wsikit.geometry import check_enlargement
from wsikit.progress import SILENT, Progress
from wsikit.slides.base import Slide
from wsikit.slides.registry import open_slide
from wsikit.slides.store import SlideStore
from wsikit.tiling.fingerprint import fingerprint
from wsikit.tiling.image import write_image
from wsikit.tiling.patches import PatchParameters, measure_quality, write_patches, write_tissue
from wsikit.tiling.plan import ImageParameters
from wsikit.tissue.parameters import TissueParameters


def tile(
    slide: Slide | str | os.PathLike[str],
    store: str | os.PathLike[str],
    *,
    slide_id: str | None = None,
    patches: PatchParameters | None = None,
    tissue: TissueParameters | None = None,
    image: ImageParameters | None = None,
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> SlideStore:
    """Turn a slide into a slide store, or bring the one that is there up to date.

    Run again after an interruption, it does only what is missing. A changed source file or parameter redoes what
    depends on it, and nothing else.

    Parameters
    ----------
    slide
        An open slide, or the path of one.
    store
        Folder to write, `<slide_id>.zarr`.
    slide_id
        Name of the slide in all outputs; by default the store's name without `.zarr`.
    patches, tissue, image
        What a patch is (µm/px, px), what tissue is (µm, mm²), how pixels are stored.
    executor
        Where the tasks run; by default one thread per CPU.

    Returns
    -------
    SlideStore

    Raises
    ------
    SlideError
        The file is not a slide that can be read.
    ScaleError
        Its pixel size is missing or absurd, or it was scanned too coarsely for `patches.mpp`.
    StoreError
        Something that wsikit did not write is at `store`.
    """
    opened = slide if not isinstance(slide, str | os.PathLike) else open_slide(slide)
    folder = Path(store)
    executor = executor or Executor()
    # a slide without scale, or too coarse for these patches, is refused now, not after its pixels were copied
    check_enlargement(opened.path, max(opened.mpp), (patches or PatchParameters()).mpp)
    progress_started = False

    def plan(total: int) -> None:
        nonlocal progress_started
        progress_started = True
        progress.start("pixels", total, "shards")

    written = write_image(
        opened,
        folder,
        slide_id=slide_id or folder.name.removesuffix(".zarr"),
        fingerprint=fingerprint(opened.path),
        parameters=image or ImageParameters(),
        executor=executor,
        on_plan=plan,
        on_shard=progress.advance,
    )
    if progress_started:
        progress.finish()
    add_patches(written, patches=patches, tissue=tissue, executor=executor, progress=progress)
    return written


def add_patches(
    store: SlideStore,
    *,
    patches: PatchParameters | None = None,
    tissue: TissueParameters | None = None,
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> None:
    """Bring tissue label, patch table and quality columns of a store up to date. A store may hold several grids."""
    progress.start("tissue", 1, "slide")
    receipt = write_tissue(store, tissue or TissueParameters())
    table = write_patches(store, patches or PatchParameters(), receipt)
    progress.finish()
    progress.start("quality", len(table), "patches")
    measure_quality(store, table, executor or Executor(), progress.advance)
    progress.finish()
