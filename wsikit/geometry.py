"""Geometry of patches and levels: grids, pixel sizes, coverage. Pure functions: no files, no pixels, no torch.

Coordinates are level-0 pixels (x, y) of a patch's top-left corner; sizes state their frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError, ScaleError

SCALE_TOLERANCE = 1e-3
"""Relative. Scanners state 0.2502 for 0.25; such a difference must not select a finer level."""

MPP_RANGE = (0.05, 20.0)
"""Plausible µm/px of a slide: below is finer than the resolution of light, above is a macro photograph."""

STATED_MPP_RANGE = (0.01, 1000.0)
"""µm/px that are believed where they are stated on purpose, such as in DICOM, whose files are single levels of a slide,
down to a thumbnail."""

GIVEN_MPP_RANGE = (0.01, 200.0)
"""µm/px that are believed where a person gives them; 250 are rather nm."""

MAGNIFICATION_MPP = 10.0
"""µm/px × magnification of the usual scanners (0.25 at 40x, 0.5 at 20x)."""

MAGNIFICATION_FACTOR = 3.0
"""Scanners and cameras differ by a factor of up to about 2; more than 3 is a contradiction."""

MAX_ENLARGEMENT = 2.0
"""Maximum factor by which a requested pixel size may be finer than that of the scan."""

HOW_TO_GIVE_MPP = (
    "Give the pixel size in µm: a column mpp in the manifest, the option --assume-mpp 0.25 "
    '(open_slide(…, mpp=0.25)), or a file {sidecar} next to it with {{"mpp": 0.25}}'
)


def downsample_of(size0: int, size: int) -> float:
    """Downsample of a level along one axis, from the two sizes in pixels.

    Scanners round a level's size down or up. Where `size` is `size0` divided by an integer and rounded either way, the
    downsample is that integer. The plain ratio would shift the lower right corner.

    >>> downsample_of(3567, 1783)
    2.0
    >>> round(downsample_of(15994, 4000), 4)
    3.9985
    """
    if size0 < 1 or size < 1:
        raise ScaleError(f"a level of {size} px below a level of {size0} px has no downsample")
    ratio = max(1, round(size0 / size))
    if size in (size0 // ratio, math.ceil(size0 / ratio)):
        return float(ratio)
    return size0 / size


def plan_read(level_mpps: Sequence[float], *, target_mpp: float) -> int:
    """Index of the coarsest level that is at least as fine as `target_mpp` (µm/px); else that of the finest.

    `level_mpps` is (L,) in µm/px along one axis, finest first. `check_enlargement` limits how far a read may enlarge.

    >>> plan_read([0.25, 0.5, 1.0], target_mpp=0.75)
    1
    >>> plan_read([0.25, 0.4999], target_mpp=0.5)
    1
    """
    fine_enough = [i for i, mpp in enumerate(level_mpps) if mpp <= target_mpp * (1 + SCALE_TOLERANCE)]
    return fine_enough[-1] if fine_enough else 0


def is_too_coarse(finest_mpp: float, target_mpp: float) -> bool:
    """Whether `target_mpp` is more than `MAX_ENLARGEMENT` times finer than the slide's `finest_mpp` (both µm/px).

    >>> is_too_coarse(1.0, 0.5), is_too_coarse(1.1, 0.5)
    (False, True)
    """
    return finest_mpp > target_mpp * MAX_ENLARGEMENT * (1 + SCALE_TOLERANCE)


def check_enlargement(path: str, finest_mpp: float, target_mpp: float) -> None:
    """Raise ScaleError if `target_mpp` is more than `MAX_ENLARGEMENT` times finer than the slide's `finest_mpp`."""
    if is_too_coarse(finest_mpp, target_mpp):
        raise ScaleError(
            f"{path}: scanned at {finest_mpp:.4g} µm/px, too coarse for {target_mpp:.4g} µm/px "
            f"(at most {MAX_ENLARGEMENT:g}× enlargement). Ask for {finest_mpp / MAX_ENLARGEMENT:.4g} µm/px or more."
        )


def mpp_fault(
    mpp: tuple[float, float], *, magnification: float | None = None, within: tuple[float, float] = MPP_RANGE
) -> str | None:
    """The problem with a stated pixel size (µm/px; x, y), or None. `within`: the µm/px that are plausible.

    >>> mpp_fault((0.25, 0.25), magnification=40)
    >>> mpp_fault((0.00499, 0.00499))
    '0.00499 × 0.00499 µm/px is outside 0.05–20 µm/px'
    """
    low, high = within
    named = f"{mpp[0]:.4g} × {mpp[1]:.4g} µm/px"
    if not all(math.isfinite(value) and low <= value <= high for value in mpp):
        return f"{named} is outside {low:g}–{high:g} µm/px"
    if max(mpp) > 2 * min(mpp):
        return f"{named} is not plausible: the axes differ by more than a factor of 2"
    if magnification and magnification > 0:
        expected = MAGNIFICATION_MPP / magnification
        if not expected / MAGNIFICATION_FACTOR <= mpp[0] <= expected * MAGNIFICATION_FACTOR:
            return f"{named} contradicts the stated {magnification:g}x magnification (about {expected:.3g} µm/px)"
    return None


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """A regular grid of patches over a slide, anchored at level-0 (0, 0), row-major.

    Sides are floats; only coordinates are rounded. The last column and row may extend beyond the slide's edge, so that
    no tissue at the edge is lost. Patches imported from other tools may not lie on such a grid: then `anchored` is
    False, and only the sizes are defined.
    """

    slide_px: tuple[int, int]
    """Width and height of level 0, px."""
    slide_mpp: tuple[float, float]
    """Level-0 µm/px along x and y."""
    patch_px: int
    """Side of a patch, px at `target_mpp`."""
    target_mpp: float
    """Pixel size of a patch, µm/px."""
    overlap_px: int = 0
    """Overlap of neighbouring patches, px at `target_mpp`."""
    anchored: bool = True
    """False: patches lie in no columns and rows, and may overlap in any way."""

    def __post_init__(self) -> None:
        if self.patch_px < 1:
            raise RequestError(f"patch size {self.patch_px} px: it must be 1 px or more")
        if not 0 <= self.overlap_px < self.patch_px:
            raise RequestError(
                f"overlap {self.overlap_px} px with patches of {self.patch_px} px: "
                "the overlap must be at least 0 and smaller than the patch"
            )
        if not (math.isfinite(self.target_mpp) and self.target_mpp > 0):
            raise RequestError(f"target of {self.target_mpp} µm/px: it must be a positive number")
        if not all(math.isfinite(mpp) and mpp > 0 for mpp in self.slide_mpp):
            raise ScaleError(f"slide of {self.slide_mpp} µm/px: the pixel size must be positive along both axes")
        if min(self.slide_px) < 1:
            raise RequestError(f"slide of {self.slide_px} px: it has no pixels")

    @property
    def name(self) -> str:
        """Name of the grid's folder in a store.

        >>> PatchGrid((1000, 1000), (0.25, 0.25), 224, 0.5).name
        '0.5um_224px'
        """
        overlap = f"_{self.overlap_px}ov" if self.overlap_px else ""
        return f"{self.target_mpp:.6g}um_{self.patch_px}px{overlap}{'' if self.anchored else '_free'}"

    @property
    def side(self) -> tuple[float, float]:
        """Side of a patch along x and y, level-0 px."""
        return self._level0(self.patch_px)

    @property
    def stride(self) -> tuple[float, float]:
        """Distance between neighbours along x and y, level-0 px."""
        return self._level0(self.patch_px - self.overlap_px)

    @property
    def n_cols(self) -> int:
        return self._count(0)

    @property
    def n_rows(self) -> int:
        return self._count(1)

    @property
    def patch_area_mm2(self) -> float:
        """Area of one patch, mm²."""
        return (self.patch_px * self.target_mpp / 1000.0) ** 2

    @property
    def cell_area_mm2(self) -> float:
        """Area of one grid cell (stride × stride), mm²; smaller than a patch where patches overlap."""
        return ((self.patch_px - self.overlap_px) * self.target_mpp / 1000.0) ** 2

    def coords(self, cols: npt.ArrayLike, rows: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Top-left corners, int64 (N, 2), x then y, level-0 px, of the patches at `cols` (N,) and `rows` (N,)."""
        stride_x, stride_y = self.stride
        x = np.rint(np.asarray(cols, dtype=np.float64) * stride_x)
        y = np.rint(np.asarray(rows, dtype=np.float64) * stride_y)
        return np.stack([x, y], axis=-1).astype(np.int64)

    def all_coords(self) -> npt.NDArray[np.int64]:
        """Corners of every patch of the grid, int64 (n_rows · n_cols, 2), row-major, level-0 px."""
        rows, cols = np.divmod(np.arange(self.n_rows * self.n_cols), self.n_cols)
        return self.coords(cols, rows)

    def index_of(self, coords: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Columns and rows, int64 (N,) each, of `coords` (N, 2) in level-0 px.

        RequestError if the grid is not anchored: its places follow no columns and rows.
        """
        if not self.anchored:
            raise RequestError(
                f"patches of {self.name} were imported and lie in no columns and rows: what needs "
                "neighbours (smoothing) does not apply to them"
            )
        places = np.asarray(coords)
        cols, rows = (np.rint(places[:, axis] / self.stride[axis]).astype(np.int64) for axis in (0, 1))
        return cols, rows

    def fault(self, coords: npt.NDArray[np.integer[Any]]) -> str | None:
        """Why `coords` (N, 2) cannot be coordinates of this grid's patches, or None."""
        if self.anchored:
            # as in index_of and coords, axis by axis and in floats, which hold these integers exactly
            cols, rows = (np.rint(coords[:, axis] / self.stride[axis]) for axis in (0, 1))
            fits = all(
                len(index) == 0
                or (index.min() >= 0 and index.max() < count and (np.rint(index * stride) == coords[:, axis]).all())
                for axis, (index, count, stride) in enumerate(
                    zip((cols, rows), (self.n_cols, self.n_rows), self.stride, strict=True)
                )
            )
            if not fits:
                return f"coordinates are not on the grid {self.name}; use the table's own grid"
            number = rows * self.n_cols + cols
        else:
            if not ((coords >= 0) & (coords < np.asarray(self.slide_px))).all():
                return "coordinates lie outside of the slide"
            number = coords[:, 1].astype(np.int64) * self.slide_px[0] + coords[:, 0]
        if (number[1:] > number[:-1]).all():  # row-major, as tables are
            return None
        number.sort()  # several times faster than np.unique
        return "two patches have the same coordinates" if (number[1:] == number[:-1]).any() else None

    def to_json(self) -> dict[str, Any]:
        free = {} if self.anchored else {"anchored": False}
        return {
            "slide_px": list(self.slide_px),
            "slide_mpp": list(self.slide_mpp),
            "patch_px": self.patch_px,
            "target_mpp": self.target_mpp,
            "overlap_px": self.overlap_px,
            **free,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> PatchGrid:
        return cls(
            slide_px=(int(record["slide_px"][0]), int(record["slide_px"][1])),
            slide_mpp=(float(record["slide_mpp"][0]), float(record["slide_mpp"][1])),
            patch_px=int(record["patch_px"]),
            target_mpp=float(record["target_mpp"]),
            overlap_px=int(record["overlap_px"]),
            anchored=bool(record.get("anchored", True)),
        )

    def _level0(self, px_at_target: int) -> tuple[float, float]:
        side_um = px_at_target * self.target_mpp
        return side_um / self.slide_mpp[0], side_um / self.slide_mpp[1]

    def _count(self, axis: int) -> int:
        beyond_first = self.slide_px[axis] - self.side[axis]
        # 1e-6 px: rounding must not add a patch to a slide that is an exact multiple of patches wide
        return 1 + max(0, math.ceil(beyond_first / self.stride[axis] - 1e-6))


def coverage(
    mask: npt.NDArray[np.bool_],
    downsample: tuple[float, float],
    coords: npt.ArrayLike,
    side: tuple[float, float],
) -> npt.NDArray[np.float32]:
    """Fraction of each patch's area that lies in `mask`: exact, by an integral image.

    Parameters
    ----------
    mask
        bool (h, w), covering the slide from level-0 (0, 0). Outside it counts as False.
    downsample
        Level-0 px per mask px along x and y.
    coords
        (N, 2) top-left corners, level-0 px.
    side
        Patch side along x and y, level-0 px.

    Returns
    -------
    float32 (N,) in [0, 1].

    >>> coverage(np.array([[True, False]]), (10.0, 10.0), [[0, 0], [5, 0]], (10.0, 10.0)).tolist()
    [1.0, 0.5]
    """
    corners = np.asarray(coords, dtype=np.float64).reshape(-1, 2)
    # integers, computed in place: a large slide's mask needs no larger array
    integral = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int32)
    inner = integral[1:, 1:]
    np.cumsum(mask, axis=0, out=inner)
    np.cumsum(inner, axis=1, out=inner)
    x0, y0 = corners[:, 0] / downsample[0], corners[:, 1] / downsample[1]
    x1, y1 = x0 + side[0] / downsample[0], y0 + side[1] / downsample[1]
    inside = (
        _bilinear(integral, x1, y1)
        - _bilinear(integral, x0, y1)
        - _bilinear(integral, x1, y0)
        + _bilinear(integral, x0, y0)
    )
    area = (side[0] / downsample[0]) * (side[1] / downsample[1])
    return np.clip(inside / area, 0.0, 1.0).astype(np.float32)


def _bilinear(
    integral: npt.NDArray[np.int32], x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """`integral` at fractional coordinates (clamped). Exact for an integral image, whose cells are bilinear."""
    height, width = integral.shape[0] - 1, integral.shape[1] - 1
    x, y = np.clip(x, 0, width), np.clip(y, 0, height)
    col, row = np.minimum(x.astype(np.int64), width - 1), np.minimum(y.astype(np.int64), height - 1)
    fx, fy = x - col, y - row
    top = integral[row, col] * (1 - fx) + integral[row, col + 1] * fx
    bottom = integral[row + 1, col] * (1 - fx) + integral[row + 1, col + 1] * fx
    found: npt.NDArray[np.float64] = top * (1 - fy) + bottom * fy
    return found
