"""From a store's pixels to its tissue label and patch table. Coordinates are level-0 px, areas mm²."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError, StoreError
from wsikit.geometry import PatchGrid, check_enlargement, coverage
from wsikit.slides.base import Slide
from wsikit.slides.store import TISSUE, UNREADABLE, SlideStore
from wsikit.store.labels import Label, list_labels, write_label
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable
from wsikit.tiling.columns import ColumnStage
from wsikit.tiling.roi import Roi
from wsikit.tissue.mask import TissueMask, TissueParameters, tissue_mask

TISSUE_REVISION = 1
PATCHES_REVISION = 1
QUALITY_REVISION = 1
ROI_REVISION = 1

ROI = "roi"
"""Column: share of the patch's area in the region of interest."""

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
    """Border shared by neighbours, px at `mpp`."""
    min_tissue: float = 0.25
    """Least share of a patch that is tissue (or unreadable: what cannot be seen is kept on the list, and marked)."""
    roi: Roi | None = None
    """Where patches may lie; None: anywhere on the slide."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_tissue <= 1:
            raise RequestError(f"min_tissue {self.min_tissue}: expected a share between 0 and 1")
        PatchGrid((1, 1), (1.0, 1.0), self.patch_px, self.mpp, self.overlap_px)  # refuses impossible patches

    def grid(self, slide: Slide) -> PatchGrid:
        """The grid of these patches on a slide."""
        return PatchGrid(slide.dimensions, slide.mpp, self.patch_px, self.mpp, self.overlap_px)

    def to_json(self) -> dict[str, Any]:
        """For receipts. A region of interest is named only where there is one, as tables from before know none."""
        record = {name: getattr(self, name) for name in ("mpp", "patch_px", "overlap_px", "min_tissue")}
        return record if self.roi is None else {**record, "roi": self.roi.to_json()}


def source_tissue_receipt(fingerprint: str, parameters: TissueParameters) -> Receipt:
    """Of a tissue mask that is found on the slide itself, before its pixels are stored."""
    return Receipt("tissue", TISSUE_REVISION, parameters.to_json(), {"source": fingerprint})


def tissue_receipt(store: SlideStore, parameters: TissueParameters) -> Receipt:
    """Of the tissue label of a store: of its own pixels, or of the slide's where only tissue was stored."""
    if store.record["receipt"]["inputs"].get("tissue") is not None:
        return source_tissue_receipt(store.record["source"]["fingerprint"], parameters)
    return Receipt("tissue", TISSUE_REVISION, parameters.to_json(), {"image": store.fingerprint})


def patches_receipt(parameters: PatchParameters, tissue: Receipt) -> Receipt:
    """Of a patch table."""
    return Receipt("patches", PATCHES_REVISION, parameters.to_json(), {"tissue": tissue.digest})


def write_tissue(store: SlideStore, parameters: TissueParameters, found: TissueMask | None = None) -> Receipt:
    """Bring labels/tissue up to date; return its receipt.

    `found` is the mask if it was found on the slide itself (where only tissue is stored); else it is found here.
    """
    receipt = tissue_receipt(store, parameters)
    try:
        if found is None and store.tissue_record()["receipt"]["digest"] == receipt.digest:
            list_labels(store.folder)
            return receipt
    except StoreError:
        pass  # none yet
    found = found or tissue_mask(store, parameters)
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


def write_patches(store: SlideStore, parameters: PatchParameters, tissue: Receipt) -> PatchTable:
    """Bring the patch table of one grid up to date: coords, tissue share and, with a region of interest, its share.

    Raises
    ------
    ScaleError
        If the slide was scanned too coarsely for `parameters.mpp`, or its pixel size is not known.
    """
    check_enlargement(store.path, max(store.mpp) * max(store.level_downsamples[0]), parameters.mpp)
    grid = parameters.grid(store)
    receipt = patches_receipt(parameters, tissue)
    folder = store.folder / "patches" / grid.name
    if grid.name in store.grids():
        table = PatchTable(folder)
        known = table.receipt("coords")
        needed = {"tissue"} if parameters.roi is None else {"tissue", ROI}
        if known is not None and known.digest == receipt.digest and needed <= set(table.columns()):
            return table
    mask, downsample = store.tissue()
    unreadable = store.unreadable_mask()
    everywhere = grid.all_coords()
    share = coverage(mask, downsample, everywhere, grid.side)
    unseen = coverage(unreadable, downsample, everywhere, grid.side) if unreadable.any() else np.zeros_like(share)
    # at least some tissue, whatever the threshold: an empty patch says nothing
    kept = (share + unseen >= parameters.min_tissue) & (share + unseen > 0)
    inside = None
    if parameters.roi is not None:
        inside = np.zeros(len(everywhere), dtype=np.float32)
        inside[kept] = parameters.roi.share(everywhere[kept], grid.side)
        kept &= (inside >= parameters.roi.min_share) & (inside > 0)
    table = PatchTable.create(folder, grid, everywhere[kept], receipt)
    write_share(table, "tissue", share[kept], receipt)
    if parameters.roi is not None and inside is not None:
        write_share(table, ROI, inside[kept], receipt, source=parameters.roi.source)
    return table


def write_roi(table: PatchTable, roi: Roi) -> npt.NDArray[np.float32]:
    """Write the column `roi` of a table that is there: the exact share of each patch inside, float32 (N,).

    No patch is removed; a vote weighs by it.
    """
    coords = table.receipt("coords")
    assert coords is not None
    share = roi.share(table.coords, table.grid.side)
    # what is inside does not depend on how much of it is asked for
    receipt = Receipt("roi", ROI_REVISION, {"shape": roi.to_json()["shape"]}, {"patches": coords.digest})
    write_share(table, ROI, share, receipt, source=roi.source)
    return share


def write_share(
    table: PatchTable, name: str, share: npt.NDArray[np.float32], receipt: Receipt, **attributes: str
) -> None:
    """Bring a column of shares of the patches' area up to date; `share` is (N,), `attributes` are kept with it."""
    spec = ColumnSpec(name, "float32", attributes={"unit": "share of the patch's area", **attributes})
    for rows in table.prepare([spec], receipt):
        table.write(name, rows, share[rows])


def quality_stage(table: PatchTable) -> ColumnStage:
    """The columns readable (1 or 0) and the quality measures (0 … 1; NaN where not readable)."""
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
