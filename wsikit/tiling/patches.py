"""From a store's pixels to its tissue label and patch table. Coordinates are level-0 px, areas mm²."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError, StoreError
from wsikit.geometry import PatchGrid, check_enlargement, coverage
from wsikit.slides.base import Slide
from wsikit.slides.store import SlideStore
from wsikit.slides.store_label import TISSUE, UNREADABLE
from wsikit.store.labels import Label, list_labels, write_label
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable, make_group_of_tables
from wsikit.tiling.columns import ColumnStage
from wsikit.tiling.roi import Roi
from wsikit.tissue.mask import TissueMask, TissueParameters, tissue_mask

TISSUE_REVISION = 2
PATCHES_REVISION = 1
QUALITY_REVISION = 2
ROI_REVISION = 1

ROI = "roi"
"""Column: fraction of the patch's area in the region of interest."""

_NAMES = {TISSUE: "tissue", UNREADABLE: "could not be read"}
_COLORS = {TISSUE: (0, 158, 115), UNREADABLE: (213, 94, 0)}


@dataclass(frozen=True)
class PatchParameters:
    """Which patches a table holds."""

    mpp: float = 0.5
    """µm/px of a patch."""
    patch_px: int = 224
    """Side of a patch, px at `mpp`."""
    overlap_px: int = 0
    """Overlap of neighbouring patches, px at `mpp`."""
    min_tissue: float = 0.25
    """Minimum fraction of a patch that is tissue or unreadable (unreadable patches are listed and marked)."""
    roi: Roi | None = None
    """Region of interest that limits the patches; None: the whole slide."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_tissue <= 1:
            raise RequestError(f"min_tissue {self.min_tissue}: expected a fraction between 0 and 1")
        PatchGrid(
            (1, 1), (1.0, 1.0), self.patch_px, self.mpp, self.overlap_px
        )  # raises RequestError for impossible patches

    def grid(self, slide: Slide) -> PatchGrid:
        """The grid of these patches on a slide."""
        return PatchGrid(slide.dimensions, slide.mpp, self.patch_px, self.mpp, self.overlap_px)

    def to_json(self) -> dict[str, Any]:
        """For receipts. The key `roi` is present only with a region of interest, as in older tables."""
        record = {name: getattr(self, name) for name in ("mpp", "patch_px", "overlap_px", "min_tissue")}
        return record if self.roi is None else {**record, "roi": self.roi.to_json()}


def source_tissue_receipt(fingerprint: str, parameters: TissueParameters) -> Receipt:
    """Receipt of a tissue mask computed on the slide itself, before its pixels are stored."""
    return Receipt("tissue", TISSUE_REVISION, parameters.to_json(), {"source": fingerprint})


def tissue_receipt(store: SlideStore, parameters: TissueParameters) -> Receipt:
    """Receipt of a store's tissue label: computed on its own pixels, or on the slide where only tissue is stored."""
    if store.record["receipt"]["inputs"].get("tissue") is not None:
        return source_tissue_receipt(store.record["source"]["fingerprint"], parameters)
    return Receipt("tissue", TISSUE_REVISION, parameters.to_json(), {"image": store.fingerprint})


def patches_receipt(parameters: PatchParameters, tissue: Receipt) -> Receipt:
    """Receipt of a patch table."""
    return Receipt("patches", PATCHES_REVISION, parameters.to_json(), {"tissue": tissue.digest})


def write_tissue(store: SlideStore, parameters: TissueParameters, found: TissueMask | None = None) -> Receipt:
    """Write labels/tissue if it is missing or out of date; return its receipt.

    `found` is the mask where it was computed on the slide itself (where only tissue is stored); else it is computed
    here.
    """
    receipt = tissue_receipt(store, parameters)
    try:
        if found is None and store.tissue_record()["receipt"]["digest"] == receipt.digest:
            store.check_tissue()  # StoreError if a file of it is lost
            list_labels(store.folder)
            return receipt
    except StoreError:
        pass  # none yet, or incomplete
    if found is None:
        found = tissue_mask(store, parameters)
        store.check_source(complete=not found.unreadable.any())
    values = np.where(found.unreadable, UNREADABLE, np.where(found.mask, TISSUE, 0)).astype(np.uint8)
    record = {
        "stain": found.stain,
        "area_mm2": round(float(found.area_mm2), 6),
        "unreadable_fraction": round(found.unreadable_fraction, 6),
        "parameters": parameters.to_json(),
    }
    label = Label("tissue", values, found.downsample, _NAMES, _COLORS, record)
    write_label(store.folder, label, n_levels=len(store.level_dimensions), mpp=store.info.mpp, receipt=receipt)
    return receipt


class ChosenPatches(NamedTuple):
    """The patches of a grid that are kept, row-major."""

    coords: npt.NDArray[np.int64]
    """(N, 2) x, y of the top-left corners, level-0 px."""
    tissue: npt.NDArray[np.float32]
    """(N,) fraction of the patch that is tissue."""
    roi: npt.NDArray[np.float32] | None
    """(N,) fraction of the patch in the region of interest; None without one."""


def choose_patches(
    grid: PatchGrid,
    mask: npt.NDArray[np.bool_],
    unreadable: npt.NDArray[np.bool_],
    downsample: tuple[float, float],
    parameters: PatchParameters,
) -> ChosenPatches:
    """The patches of `grid` with enough tissue, or with parts that could not be read, inside the region of interest.

    `mask` and `unreadable` are bool (h, w), at `downsample` (x, y) level-0 px per mask px.
    """
    everywhere = grid.all_coords()
    share = coverage(mask, downsample, everywhere, grid.side)
    unseen = coverage(unreadable, downsample, everywhere, grid.side) if unreadable.any() else np.zeros_like(share)
    # patches without any tissue are left out, even at min_tissue 0
    kept = (share + unseen >= parameters.min_tissue) & (share + unseen > 0)
    if parameters.roi is None:
        return ChosenPatches(everywhere[kept], share[kept], None)
    inside = np.zeros(len(everywhere), dtype=np.float32)
    inside[kept] = parameters.roi.share(everywhere[kept], grid.side)
    kept &= (inside >= parameters.roi.min_share) & (inside > 0)
    return ChosenPatches(everywhere[kept], share[kept], inside[kept])


def write_patches(store: SlideStore, parameters: PatchParameters, tissue: Receipt) -> PatchTable:
    """Write the patch table of one grid if it is missing or out of date: coords, tissue, and roi where there is one.

    Raises
    ------
    ScaleError
        If the slide was scanned too coarsely for `parameters.mpp`, or its pixel size is not known.
    """
    check_enlargement(store.path, max(store.mpp) * max(store.level_downsamples[0]), parameters.mpp)
    grid = parameters.grid(store)
    receipt = patches_receipt(parameters, tissue)
    folder = store.folder / "patches" / grid.name
    table, current = None, False
    if grid.name in store.grids():
        table = PatchTable(folder)
        known = table.receipt("coords")
        current = known is not None and known.digest == receipt.digest
        if current and is_complete_table(table, parameters):
            make_group_of_tables(folder)
            return table
    mask, downsample = store.tissue()
    chosen = choose_patches(grid, mask, store.unreadable_mask(), downsample, parameters)
    if table is not None and current and len(chosen.coords) == len(table):
        table.restore_coords(chosen.coords)  # a file was lost: all other columns are kept
    else:
        restored = None if current else PatchTable.restore(folder, grid, chosen.coords, receipt)
        table = restored or PatchTable.create(folder, grid, chosen.coords, receipt)
        table.restore_coords(chosen.coords)
    write_share(table, "tissue", chosen.tissue, receipt)
    if parameters.roi is not None and chosen.roi is not None:
        write_share(table, ROI, chosen.roi, receipt, source=parameters.roi.source, frame=parameters.roi.frame)
    return table


def is_complete_table(table: PatchTable, parameters: PatchParameters) -> bool:
    """Whether no file is lost of what `write_patches` writes."""
    written = ("coords", "tissue") if parameters.roi is None else ("coords", "tissue", ROI)
    receipts = {name: table.receipt(name) for name in written}
    return all(receipt is not None and table.is_current(name, receipt) for name, receipt in receipts.items())


def write_roi(table: PatchTable, roi: Roi) -> npt.NDArray[np.float32]:
    """Write the column `roi` of an existing table: the exact fraction of each patch inside, float32 (N,).

    No patch is removed; the vote uses the column as a weight.
    """
    coords = table.receipt("coords")
    assert coords is not None
    share = roi.share(table.coords, table.grid.side)
    # the fraction inside does not depend on min_share
    receipt = Receipt("roi", ROI_REVISION, {"shape": roi.to_json()["shape"]}, {"patches": coords.digest})
    write_share(table, ROI, share, receipt, source=roi.source, frame=roi.frame)
    return share


def write_share(
    table: PatchTable, name: str, share: npt.NDArray[np.float32], receipt: Receipt, **attributes: str
) -> None:
    """Write a column of fractions of the patches' area if it is out of date; `share` is (N,), with `attributes`."""
    spec = ColumnSpec(name, "float32", attributes={"unit": "share of the patch's area", **attributes})
    for rows in table.prepare([spec], receipt):
        table.write(name, rows, share[rows])


def quality_stage(table: PatchTable) -> ColumnStage:
    """The stage of the columns readable (1 or 0) and the quality measures (0 … 1; NaN where not readable)."""
    from wsikit.tissue.quality import QUALITY_NAMES

    coords = table.receipt("coords")
    assert coords is not None
    receipt = Receipt("quality", QUALITY_REVISION, {"names": list(QUALITY_NAMES)}, {"patches": coords.digest})
    specs = [ColumnSpec("readable", "float32", attributes={"unit": "1: every pixel could be read; 0: not"})]
    specs += [ColumnSpec(name, "float32", attributes={"unit": "0 … 1"}) for name in QUALITY_NAMES]
    return ColumnStage("quality", tuple(specs), receipt, Quality())


@dataclass(frozen=True)
class Quality:
    """Measures readability and quality of some patches (a picklable function)."""

    def __call__(self, images: np.ndarray, readable: np.ndarray, mpp: float) -> dict[str, np.ndarray]:
        from wsikit.tissue.quality import QUALITY_NAMES, patch_quality

        columns = {"readable": readable.astype(np.float32)}
        for name in QUALITY_NAMES:
            columns[name] = np.full(len(images), np.nan, dtype=np.float32)
        if readable.any():
            for name, values in patch_quality(images[readable], mpp=mpp).items():
                columns[name][readable] = values
        return columns
