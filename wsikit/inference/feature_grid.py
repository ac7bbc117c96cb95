"""The patches that an encoder is applied to: a grid of the store that fits it, or a new one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wsikit.encoders.protocol import EncoderInfo
from wsikit.errors import RequestError, StoreError
from wsikit.executor import Executor
from wsikit.geometry import PatchGrid
from wsikit.inference.applicability import MPP_TOLERANCE
from wsikit.progress import SILENT, Progress
from wsikit.slides.store import SlideStore
from wsikit.store.table import PatchTable
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.tile import add_patches
from wsikit.tissue.parameters import TissueParameters

DEFAULT_MPP = 0.5
"""µm/px of a new grid for an encoder that states no scale."""

SCALE_TOLERANCE = 0.15
"""Relative difference of scale from which a warning is given: 224 px where 256 px are usual is no other scale."""


@dataclass(frozen=True)
class GridRequest:
    """Which patches are asked for. Where nothing is given, the encoder decides."""

    name: str | None = None
    """Name of a grid that is in the store."""
    mpp: float | None = None
    """µm/px of the patches."""
    patch_px: int | None = None
    """Side of a patch, px at `mpp`."""
    overlap_px: int | None = None
    """Overlap of neighbours, px at `mpp`."""

    def __post_init__(self) -> None:
        if self.name is not None and self.given():
            raise RequestError("give either the name of a grid or the size, scale and overlap of patches, not both.")

    def given(self) -> bool:
        """Whether a size, scale or overlap is asked for."""
        return (self.mpp, self.patch_px, self.overlap_px) != (None, None, None)

    def parameters(self, info: EncoderInfo) -> PatchParameters:
        """The patches of a new grid for an encoder."""
        return PatchParameters(
            self.mpp or info.mpp or DEFAULT_MPP, self.patch_px or info.patch_px, self.overlap_px or 0
        )


def feature_table(
    store: SlideStore,
    info: EncoderInfo,
    request: GridRequest | None = None,
    *,
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> PatchTable:
    """The patch table for an encoder: that of the request, one that fits the encoder, or a new one.

    Raises
    ------
    StoreError
        There is no grid of the name asked for, or several fit.
    ScaleError
        The slide was scanned too coarsely for the encoder's scale.
    """
    request = request or GridRequest()
    if request.name is not None:
        return store.patches(request.name)
    wanted = request.parameters(info)
    name, names = wanted.grid(store).name, store.grids()
    if name in names:
        return store.patches(name)
    fitting = [] if request.given() else [one for one in names if fits(info, store.patches(one).grid)]
    if len(fitting) > 1:
        raise StoreError(
            f"{store.folder}: several grids fit the encoder {info.name}: {', '.join(fitting)}. Name one with --grid."
        )
    if fitting:
        return store.patches(fitting[0])
    add_patches(store, patches=wanted, tissue=_tissue_of(store), executor=executor, progress=progress)
    return store.patches(name)


def fits(info: EncoderInfo, grid: PatchGrid) -> bool:
    """Whether patches have the size and scale that an encoder was made for; one that states no scale takes any."""
    if info.mpp is None:
        return True
    return grid.patch_px == info.patch_px and abs(grid.target_mpp / info.mpp - 1) <= MPP_TOLERANCE


def scale_warning(info: EncoderInfo, grid: PatchGrid) -> str | None:
    """What differs if an encoder was made for another scale than that of the patches, with both numbers; else None.

    Patches are resized to the encoder's side, which changes their scale.

    >>> info = EncoderInfo("uni", 1024, 256, 0.5, "…")
    >>> scale_warning(info, PatchGrid((1000, 1000), (0.25, 0.25), 256, 0.25)).split("; ")[1]
    'these are 256 px at 0.25 µm/px, which it gets at 0.25 µm/px'
    >>> scale_warning(info, PatchGrid((1000, 1000), (0.25, 0.25), 224, 0.5))
    """
    if info.mpp is None:
        return None
    seen = grid.target_mpp * grid.patch_px / info.patch_px
    if abs(seen / info.mpp - 1) <= SCALE_TOLERANCE and grid.target_mpp <= info.mpp * (1 + SCALE_TOLERANCE):
        return None
    return (
        f"encoder {info.name} was made for patches of {info.patch_px} px at {info.mpp:g} µm/px; these are "
        f"{grid.patch_px} px at {grid.target_mpp:.4g} µm/px, which it gets at {seen:.4g} µm/px"
    )


def _tissue_of(store: SlideStore) -> TissueParameters | None:
    """The parameters of the store's tissue label, which a further grid must not change; None if there is none."""
    try:
        record: dict[str, Any] = store.tissue_record()["parameters"]
        return TissueParameters(**record)
    except (StoreError, KeyError, TypeError):
        return None
