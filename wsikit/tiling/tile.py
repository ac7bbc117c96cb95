"""`tile`: from a slide to a store with pixels, tissue label and patch table. Parts that are up to date are kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from wsikit.errors import StoreError, WsikitError
from wsikit.executor import Executor
from wsikit.geometry import check_enlargement
from wsikit.memory import give_back_memory
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
    TISSUE_REVISION,
    PatchParameters,
    quality_stage,
    source_tissue_receipt,
    write_patches,
    write_tissue,
)
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.roi import FrameChoice, RoiLike, as_roi
from wsikit.tissue.mask import TissueMask, tissue_mask
from wsikit.tissue.parameters import TissueParameters


def tile(
    slide: Slide | str | os.PathLike[str],
    store: str | os.PathLike[str],
    *,
    mpp: float = PatchParameters.mpp,
    patch_px: int = PatchParameters.patch_px,
    overlap_px: int = PatchParameters.overlap_px,
    min_tissue: float = PatchParameters.min_tissue,
    roi: RoiLike | None = None,
    roi_frame: FrameChoice = "auto",
    slide_id: str | None = None,
    tissue: TissueParameters | None = None,
    image: ImageParameters | None = None,
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> SlideStore:
    """Convert a slide to a slide store, or update an existing store.

    After an interruption, a second call writes only what is missing. If the source file or a parameter changed, what
    depends on it is computed again, and nothing else.

    Parameters
    ----------
    slide
        An open slide, or the path of one.
    store
        Folder to write, `<slide_id>.zarr`; a path or a URL.
    mpp
        Pixel size of the patches, µm/px.
    patch_px
        Side of a patch, px at `mpp`.
    overlap_px
        Overlap of neighbouring patches, px at `mpp`.
    min_tissue
        Minimum fraction of a patch that is tissue, 0 to 1.
    roi
        Region of interest: patches outside are left out. A GeoJSON file of polygons (as QuPath exports them), or a
        `Roi`. None: the whole slide.
    roi_frame
        What the coordinates of the file count from: "level0", "bounds" (the corner of the scanned area, as QuPath shows
        slides that state one), or "auto": as the file states; else bounds for files of QuPath, level 0 for others.
    slide_id
        Name of the slide in all outputs; by default the store's name without `.zarr`.
    tissue
        Parameters of tissue detection (µm, mm²).
    image
        How pixels are stored.
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
        Its pixel size is missing or implausible, or it was scanned too coarsely for `mpp`.
    RequestError
        The patch parameters are impossible, or `roi` is not a GeoJSON file of polygons.
    StoreError
        A folder that wsikit did not write exists at `store`, or it cannot be written.

    Examples
    --------
    >>> import tempfile, wsikit
    >>> folder = tempfile.mkdtemp()
    >>> made = wsikit.make_phantom(f"{folder}/slide.tif", size_px=(768, 512))
    >>> store = tile(f"{folder}/slide.tif", f"{folder}/slide.zarr", mpp=1.0, patch_px=128)
    >>> store.patches().name
    '1um_128px'
    """
    patches = PatchParameters(mpp, patch_px, overlap_px, min_tissue)
    opened = slide if not isinstance(slide, str | os.PathLike) else open_slide(slide)
    return tile_slide(
        opened,
        store,
        slide_id=slide_id,
        patches=replace(patches, roi=as_roi(roi, opened, frame=roi_frame)),
        tissue=tissue,
        image=image,
        executor=executor,
        progress=progress,
    )


def tile_slide(
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
    """`tile` with the patch parameters in one object, for callers inside the package."""
    opened = slide if not isinstance(slide, str | os.PathLike) else open_slide(slide)
    folder = place(store)
    patches, tissue, image = patches or PatchParameters(), tissue or TissueParameters(), image or ImageParameters()
    executor = executor or Executor()
    # a slide without pixel size, or too coarse for these patches, is refused before its pixels are copied
    check_enlargement(opened.path, max(opened.mpp) * finest_kept(opened, image), patches.mpp)
    try:
        written = write_pixels(opened, folder, slide_id, tissue, image, executor, progress)
        add_patches(written, patches=patches, tissue=tissue, stages=stages, executor=executor, progress=progress)
    except OSError as error:
        if isinstance(error, WsikitError):
            raise
        raise StoreError(
            f"{folder}: cannot be written ({error.strerror or error}); the slide is {opened.path}. Free disk space or "
            "repair the drive, and run again: what is written is kept."
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
    """Write the pixels of a store that are missing or out of date.

    Where only tissue is stored, the tissue label is written too, as it is found on the slide itself. No patch table is
    written.
    """
    if isinstance(slide, SlideStore) and str(slide.folder.absolute()) == str(folder.absolute()):
        return slide  # a store gets further patch tables; its pixels are those that it holds
    source = ImageSource.of(slide)
    only_tissue = source.tissue_only(image)
    found = source_tissue_receipt(source.fingerprint, tissue) if only_tissue else None
    receipt = image_receipt(source, image, found)
    committed = open_committed(folder, receipt, slide)
    if committed is not None and (found is None or _has_tissue(committed, found)):
        return committed
    mask = tissue_mask(slide, tissue) if only_tissue else None
    if committed is not None:
        # interrupted between pixels and label; it must come from the slide, as the store lacks the background
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
    mask = mask if mask is not None else _mask_of(slide, tissue)
    if mask is not None and not (found is not None and _has_tissue(store, found)):
        # the background is white in the store, so the mask is that of the slide
        write_tissue(store, tissue, mask)
    return store


def _mask_of(slide: Slide, parameters: TissueParameters) -> TissueMask | None:
    """The tissue of a store that is the source of another one, as found on the slide itself; None if it has none.

    A store of tissue alone lacks the background that the mask is found against.
    """
    if not isinstance(slide, SlideStore) or slide.has_given_mpp:
        return None
    try:
        record, (mask, downsample) = slide.tissue_record(), slide.tissue()
    except StoreError:
        return None
    receipt = record["receipt"]
    if receipt["revision"] != TISSUE_REVISION or record["parameters"] != json.loads(json.dumps(parameters.to_json())):
        return None
    mpp = (slide.mpp[0] * downsample[0], slide.mpp[1] * downsample[1])
    return TissueMask(mask, downsample, mpp, record["stain"], record["area_mm2"], slide.unreadable_mask(), parameters)


def _has_tissue(store: SlideStore, receipt: Receipt) -> bool:
    try:
        store.tissue()  # StoreError if a file of it is lost
        return bool(store.tissue_record()["receipt"]["digest"] == receipt.digest)
    except StoreError:
        return False


def finest_kept(slide: Slide, image: ImageParameters) -> float:
    """Downsample of the finest level that is stored."""
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
    """Write tissue label, patch table and the columns of `stages` where they are missing or out of date.

    All stages are computed in one pass over the patches. A store may hold several grids.
    """
    remove_partials(store.folder)
    progress.start("tissue", 1, "slide")
    receipt = write_tissue(store, tissue or TissueParameters())
    table = write_patches(store, patches or PatchParameters(), receipt)
    progress.advance()
    progress.finish()
    give_back_memory()  # of the tissue mask
    fill_columns(store, table, [stage(table) for stage in stages], executor, progress)
