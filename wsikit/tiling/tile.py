"""`tile`: a slide becomes a store with pixels, tissue label and patch table. Each part is kept if it is up to date."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from wsikit.errors import StoreError, WsikitError
from wsikit.executor import Executor
from wsikit.geometry import check_enlargement
from wsikit.progress import SILENT, Progress
from wsikit.slides.base import Slide
from wsikit.slides.registry import open_slide
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import remove_partials
from wsikit.store.paths import place
from wsikit.store.receipts import Receipt
from wsikit.store.table import PatchTable
from wsikit.tiling.columns import ColumnStage, fill_columns
from wsikit.tiling.image import ImageSource, image_receipt, open_committed, write_image
from wsikit.tiling.patches import (
    PatchParameters,
    quality_stage,
    source_tissue_receipt,
    write_patches,
    write_tissue,
)
from wsikit.tiling.plan import ImageParameters
from wsikit.tissue.mask import tissue_mask
from wsikit.tissue.parameters import TissueParameters


def tile(
    slide: Slide | str | os.PathLike[str],
    store: str | os.PathLike[str],
    *,
    slide_id: str | None = None,
    patches: PatchParameters | None = None,
    tissue: TissueParameters | None = None,
    image: ImageParameters | None = None,
    stages: Sequence[Callable[[PatchTable], ColumnStage]] = (quality_stage,),
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
    stages
        Which columns to compute from the patches, in one pass over them: given the table, each says what it computes.
        Quality, and whatever else is needed (`wsikit.inference.caption.caption_stage`).
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
    folder = place(store)
    patches, tissue, image = patches or PatchParameters(), tissue or TissueParameters(), image or ImageParameters()
    executor = executor or Executor()
    # a slide without scale, or too coarse for these patches, is refused now, not after its pixels were copied
    check_enlargement(opened.path, max(opened.mpp) * finest_kept(opened, image), patches.mpp)
    try:
        written = write_pixels(opened, folder, slide_id, tissue, image, executor, progress)
        add_patches(written, patches=patches, tissue=tissue, stages=stages, executor=executor, progress=progress)
    except OSError as error:
        if isinstance(error, WsikitError):
            raise
        raise StoreError(
            f"{folder}: cannot be written ({error.strerror or error}); the slide is {opened.path}. Make room or mend "
            "the drive, and run again: what is written is kept."
        ) from error
    return written


def write_pixels(
    slide: Slide,
    folder: Path,
    slide_id: str | None,
    tissue: TissueParameters,
    image: ImageParameters,
    executor: Executor,
    progress: Progress,
) -> SlideStore:
    """Bring the pixels of a store up to date and, where only tissue is kept, the tissue label too.

    That label then comes from the slide itself. No patch table is written.
    """
    source = ImageSource.of(slide)
    only_tissue = source.tissue_only(image)
    found = source_tissue_receipt(source.fingerprint, tissue) if only_tissue else None
    receipt = image_receipt(source, image, found)
    committed = open_committed(folder, receipt, slide)
    if committed is not None and (found is None or _has_tissue(committed, found)):
        return committed
    mask = tissue_mask(slide, tissue) if only_tissue else None
    if committed is not None:
        # stopped between pixels and label; it cannot be found on what was kept
        write_tissue(committed, tissue, mask)
        return committed
    progress_started = False

    def plan(total: int) -> None:
        nonlocal progress_started
        progress_started = True
        progress.start("pixels", total, "shards")

    store = write_image(
        source,
        folder,
        slide_id=slide_id or folder.name.removesuffix(".zarr"),
        receipt=receipt,
        parameters=image,
        tissue=mask,
        executor=executor,
        on_plan=plan,
        on_shard=progress.advance,
    )
    if progress_started:
        progress.finish()
    if mask is not None:
        # what was left out is white in the store: the mask is that of the slide, not of what was kept
        write_tissue(store, tissue, mask)
    return store


def _has_tissue(store: SlideStore, receipt: Receipt) -> bool:
    try:
        return bool(store.tissue_record()["receipt"]["digest"] == receipt.digest)
    except StoreError:
        return False


def finest_kept(slide: Slide, image: ImageParameters) -> float:
    """Downsample of the finest level that is kept."""
    level = image.levels[0] if image.levels and image.pixels == "keep" else 0
    return max(slide.level_downsamples[min(level, len(slide.level_downsamples) - 1)])


def add_patches(
    store: SlideStore,
    *,
    patches: PatchParameters | None = None,
    tissue: TissueParameters | None = None,
    stages: Sequence[Callable[[PatchTable], ColumnStage]] = (quality_stage,),
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> None:
    """Bring tissue label, patch table and the columns of `stages` of a store up to date: one pass for all stages.

    A store may hold several grids.
    """
    remove_partials(store.folder)
    progress.start("tissue", 1, "slide")
    receipt = write_tissue(store, tissue or TissueParameters())
    table = write_patches(store, patches or PatchParameters(), receipt)
    progress.finish()
    fill_columns(store, table, [stage(table) for stage in stages], executor, progress)
