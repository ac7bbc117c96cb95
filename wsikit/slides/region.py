"""Plans of regions (which box of which level is read), and resampling of their pixels. No file is read here.

The position of a region is its top-left corner in level-0 px; box and crop of a plan are px of the plan's level.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsikit.errors import RequestError, ScaleError
from wsikit.geometry import SCALE_TOLERANCE, check_enlargement, plan_read

ALIGNED_PX = 0.05
"""A region at a level's own scale is read without interpolation if its corner is closer than this to a pixel corner:
a twentieth of a pixel is invisible, and interpolation would blur all pixels."""

INTERPOLATION_MARGIN_PX = 2
"""Pixels that bicubic interpolation needs beyond the crop, so that there is no seam between neighbouring regions."""

BAND_PX = 1 << 24
"""A larger box is read and reduced in bands of rows: 16 Mpx are 48 MB as RGB."""

_BLOCK = 5
"""Output rows (or columns) averaged by one matrix product. The weights are dense, although half of them are zero. Five
pixels have fifteen numbers, which fill a vector register of sixteen."""

_STRIP_BYTES = 1 << 20
"""Source pixels converted to float32 at a time: what fits into the processor's cache."""

_SCRATCH_BYTES = 8 << 20
"""Larger scratch memory is not kept."""

_memory = threading.local()

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class RegionPlan:
    """Read `box` of `level`, then bring `crop` of it to `out`."""

    level: int
    """0 is the finest."""
    box: tuple[int, int, int, int]
    """x, y, width, height in px of `level`; parts outside the level are white."""
    crop: tuple[float, float, float, float]
    """left, top, right, bottom within `box`: the exact field of view."""
    out: tuple[int, int]
    """Width and height of the output, px."""

    @property
    def resampled(self) -> bool:
        """False if the output pixels are those of the file, unchanged."""
        return self.crop != (0.0, 0.0, float(self.out[0]), float(self.out[1]))

    def bands(self, band_px: int = BAND_PX) -> Iterator[tuple[slice, RegionPlan]]:
        """The same region in bands of output rows; each band reads about `band_px` pixels or fewer."""
        _, _, box_width, box_height = self.box
        out_width, out_height = self.out
        rows = out_height
        if self.resampled and box_width * box_height > band_px:
            rows = max(1, out_height * band_px // (box_width * box_height))
        for first in range(0, out_height, rows):
            last = min(first + rows, out_height)
            yield slice(first, last), self if last - first == out_height else self._band(first, last)

    def _band(self, first: int, last: int) -> RegionPlan:
        left, top, right, bottom = self.crop
        step = (bottom - top) / self.out[1]
        band_top, band_bottom = top + first * step, top + last * step
        margin = INTERPOLATION_MARGIN_PX if step < 1 else 0
        start = max(0, math.floor(band_top) - margin)
        stop = min(self.box[3], math.ceil(band_bottom) + margin)
        return RegionPlan(
            level=self.level,
            box=(self.box[0], self.box[1] + start, self.box[2], stop - start),
            crop=(left, band_top - start, right, band_bottom - start),
            out=(self.out[0], last - first),
        )


@dataclass(frozen=True, slots=True)
class RegionPlans:
    """Plans of N regions of one output size, all read from one level."""

    level: int
    boxes: npt.NDArray[np.int64]
    """(N, 4): x, y, width, height in px of `level`; the sizes can differ by a pixel."""
    crops: npt.NDArray[np.float64]
    """(N, 4): left, top, right, bottom within the box."""
    out: tuple[int, int]
    """Width and height of the output, px."""

    @property
    def resampled(self) -> bool:
        """False if the output pixels of all regions are those of the file, unchanged."""
        return bool((self.crops != (0.0, 0.0, *self.out)).any())

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> RegionPlan:
        x, y, width, height = self.boxes[index].tolist()
        left, top, right, bottom = self.crops[index].tolist()
        return RegionPlan(self.level, (x, y, width, height), (left, top, right, bottom), self.out)


def plan_region(
    level_downsamples: Sequence[tuple[float, float]],
    slide_mpp: tuple[float, float] | None,
    x: float,
    y: float,
    width: int,
    height: int,
    *,
    mpp: float | tuple[float, float] | None = None,
    level: int | None = None,
    path: str = "slide",
) -> RegionPlan:
    """Plan the region of `width` × `height` output px with its top-left corner at level-0 px (`x`, `y`).

    Parameters
    ----------
    level_downsamples
        (x, y) per level, level-0 px per px of the level, finest first.
    slide_mpp
        Level-0 µm/px (x, y); needed with `mpp` only.
    mpp
        µm per output px, one number or (x, y). The field of view is exact. If a level has this scale (within 0.1 %)
        and its pixels are aligned with the region, they are used unchanged.
    level
        Use pixels of this level unchanged; the corner is rounded to the nearest pixel. Level 0 if neither is given.
    path
        Path of the slide, for error messages.

    Raises
    ------
    RequestError
        Both `mpp` and `level` are given, the level does not exist, or a number is out of range.
    ScaleError
        `mpp` is more than twice as fine as the slide, or `slide_mpp` is unknown.

    >>> plan_region([(1.0, 1.0), (4.0, 4.0)], (0.25, 0.25), 0, 0, 224, 224, mpp=1.0)
    RegionPlan(level=1, box=(0, 0, 224, 224), crop=(0.0, 0.0, 224.0, 224.0), out=(224, 224))
    >>> plan_region([(1.0, 1.0)], (0.5, 0.5), 10, 0, 2, 2, mpp=0.75)
    RegionPlan(level=0, box=(10, 0, 3, 3), crop=(0.0, 0.0, 3.0, 3.0), out=(2, 2))
    """
    _check_request(path, width, height, mpp, level, len(level_downsamples))
    if not (math.isfinite(x) and math.isfinite(y)):
        raise RequestError(f"{path}: a region at x={x} y={y} is not a position; give level-0 px")
    if mpp is None:
        return _plan_level(level_downsamples[level or 0], level or 0, x, y, width, height)
    corner = np.array([[x, y]], dtype=np.float64)
    return plan_regions(level_downsamples, slide_mpp, corner, width, height, mpp=mpp, path=path)[0]


def plan_regions(
    level_downsamples: Sequence[tuple[float, float]],
    slide_mpp: tuple[float, float] | None,
    corners: npt.NDArray[np.int64] | npt.NDArray[np.float64],
    width: int,
    height: int,
    *,
    mpp: float | tuple[float, float],
    path: str = "slide",
) -> RegionPlans:
    """Plan many regions of one size and scale at once. Parameters and result are as for `plan_region`.

    Parameters
    ----------
    corners
        (N, 2) top-left corners, x then y, level-0 px.

    >>> plans = plan_regions([(1.0, 1.0)], (0.25, 0.25), np.array([[0, 0], [448, 0]]), 224, 224, mpp=0.5)
    >>> plans.level, plans.boxes.tolist(), plans.resampled
    (0, [[0, 0, 448, 448], [448, 0, 448, 448]], True)
    """
    _check_request(path, width, height, mpp, None, len(level_downsamples))
    if slide_mpp is None:
        raise ScaleError(f"{path}: its pixel size is unknown, so nothing can be read at {mpp} µm/px")
    target = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    for axis in (0, 1):
        check_enlargement(path, slide_mpp[axis] * level_downsamples[0][axis], target[axis])
    chosen = min(
        plan_read([ds[axis] * slide_mpp[axis] for ds in level_downsamples], target_mpp=target[axis]) for axis in (0, 1)
    )
    boxes = np.empty((len(corners), 4), dtype=np.int64)
    crops = np.empty((len(corners), 4), dtype=np.float64)
    for axis, out_px in ((0, width), (1, height)):
        downsample = level_downsamples[chosen][axis]
        ends = slice(axis, None, 2)
        boxes[:, ends], crops[:, ends] = _spans(
            corners[:, axis] / downsample, out_px, target[axis] / (slide_mpp[axis] * downsample)
        )
    return RegionPlans(chosen, boxes, crops, (width, height))


def resample(
    pixels: Pixels, crop: tuple[float, float, float, float], out: tuple[int, int], *, into: Pixels | None = None
) -> Pixels:
    """Resample `crop` of `pixels` to the size `out`: exact area averages to reduce, bicubic interpolation to enlarge.

    Parameters
    ----------
    pixels
        uint8 (h, w, 3).
    crop
        left, top, right, bottom, px of `pixels`; a partly covered pixel has a weight equal to the covered area.
    out
        Width and height, px.
    into
        Array of the output shape to write to; new memory if None.

    Returns
    -------
    uint8 (out height, out width, 3). Within 0.6 grey levels of the exact area average.

    >>> pixels = np.zeros((4, 4, 3), np.uint8)
    >>> pixels[:, 2:] = 200
    >>> resample(pixels, (0, 0, 4, 4), (2, 1))[..., 0].tolist()
    [[0, 200]]
    >>> resample(pixels, (1, 0, 3, 4), (1, 2))[..., 0].tolist()
    [[100], [100]]
    """
    if into is None:
        into = np.empty((out[1], out[0], 3), dtype=np.uint8)
    left, top, right, bottom = crop
    step_x, step_y = (right - left) / out[0], (bottom - top) / out[1]
    whole = _whole_ratio(crop, step_x, step_y)
    if whole is not None:
        x0, y0, x1, y1 = (round(place) for place in crop)
        into[:] = pixels[y0:y1, x0:x1] if whole == (1, 1) else _reduce(pixels[y0:y1, x0:x1], whole)
        return into
    if (step_x, step_y) == (1.0, 1.0) and left % 1 in (0.0, 0.5) and top % 1 in (0.0, 0.5):
        return _average_neighbours(pixels, (int(left), int(top)), (left % 1 != 0, top % 1 != 0), into)
    shrunk: npt.NDArray[np.generic] = pixels
    if step_y >= 1:
        shrunk = _average_rows(pixels, top, step_y, out[1])
    if step_x >= 1:
        shrunk = _average_columns(shrunk, left, step_x, out[0])
    if step_x >= 1 and step_y >= 1:
        # an average of uint8 needs no clipping
        np.copyto(into, np.rint(shrunk, out=shrunk), casting="unsafe")
        return into
    part = pixels if shrunk is pixels else np.rint(shrunk).astype(np.uint8)
    near = (0.0 if step_x >= 1 else left, 0.0 if step_y >= 1 else top)
    far = (float(out[0]) if step_x >= 1 else right, float(out[1]) if step_y >= 1 else bottom)
    into[:] = _enlarge(part, (*near, *far), out)
    return into


def _check_request(
    path: str,
    width: int,
    height: int,
    mpp: float | tuple[float, float] | None,
    level: int | None,
    n_levels: int,
) -> None:
    if mpp is not None and level is not None:
        raise RequestError(f"{path}: a region is read at an mpp or at a level, not both (mpp={mpp}, level={level})")
    if width < 1 or height < 1:
        raise RequestError(f"{path}: a region of {width}×{height} px is empty; request 1 px or more")
    if level is not None and not 0 <= level < n_levels:
        raise RequestError(f"{path}: there is no level {level}; its levels are 0 to {n_levels - 1}")
    if mpp is not None:
        values = mpp if isinstance(mpp, tuple) else (mpp,)
        if not all(math.isfinite(value) and value > 0 for value in values):
            raise RequestError(f"{path}: cannot read at mpp={mpp}; it must be a positive number of µm per px")


def _plan_level(downsample: tuple[float, float], level: int, x: float, y: float, width: int, height: int) -> RegionPlan:
    column, row = math.floor(x / downsample[0] + 0.5), math.floor(y / downsample[1] + 0.5)
    return RegionPlan(level, (column, row, width, height), (0.0, 0.0, float(width), float(height)), (width, height))


def _spans(
    starts: npt.NDArray[np.float64], out_px: int, step: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Along one axis: (N, 2) first px and number of px to read, and (N, 2) start and end of the crop within them.

    `starts` (N,) are px of the level, `step` is px of the level per output px.
    """
    if abs(step - 1) <= SCALE_TOLERANCE:
        step = 1.0
        starts = np.where(np.abs(starts - np.rint(starts)) <= ALIGNED_PX, np.rint(starts), starts)
    starts, stops = _snap(starts), _snap(starts + out_px * step)
    margin = INTERPOLATION_MARGIN_PX if step < 1 else 0
    first, last = np.floor(starts) - margin, np.ceil(stops) + margin
    return np.stack([first, last - first], 1).astype(np.int64), np.stack([starts - first, stops - first], 1)


def _snap(places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Round places within 1e-6 px of a pixel corner to the corner: rounding errors must not add a row of pixels."""
    whole = np.rint(places)
    return np.where(np.abs(places - whole) < 1e-6, whole, places)


def _whole_ratio(crop: tuple[float, float, float, float], step_x: float, step_y: float) -> tuple[int, int] | None:
    """The reduction factors if both are whole numbers and the crop starts and ends at pixel corners, else None."""
    numbers = (*crop, step_x, step_y)
    if min(step_x, step_y) < 1 or any(abs(number - round(number)) > 1e-6 for number in numbers):
        return None
    return round(step_x), round(step_y)


def _average_neighbours(pixels: Pixels, corner: tuple[int, int], between: tuple[bool, bool], into: Pixels) -> Pixels:
    """`pixels` (h, w, 3) from `corner`, moved by half a pixel along x, y or both: averages of 2 or 4 neighbours.

    They are exact, and rounded once, to the even number if half-way, as all other averages.
    """
    import cv2

    height, width, _ = into.shape
    left, top = corner
    right, bottom = left + width + between[0], top + height + between[1]
    part = pixels[top:bottom, left:right]
    if between == (True, True):
        across = _scratch("across", bottom - top, 3 * width, np.uint16).reshape(bottom - top, width, 3)
        sums = _scratch("sums", height, 3 * width, np.uint16).reshape(height, width, 3)
        np.add(part[:, :-1], part[:, 1:], out=across, dtype=np.uint16)
        np.add(across[:-1], across[1:], out=sums)
        found = cv2.convertScaleAbs(sums, dst=into, alpha=0.25)
    else:
        one, other = (part[:, :-1], part[:, 1:]) if between[0] else (part[:-1], part[1:])
        found = cv2.addWeighted(one, 0.5, other, 0.5, 0.0, dst=into)
    if found is not into:
        into[:] = found
    return into


def _reduce(pixels: Pixels, ratio: tuple[int, int]) -> Pixels:
    """Averages over blocks of `ratio` (x, y) pixels, by Pillow; blocks of 2 × 2 by OpenCV: faster and equal."""
    if ratio == (2, 2):
        import cv2

        size = pixels.shape[1] // 2, pixels.shape[0] // 2
        halved: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        return halved
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).reduce(ratio))


def _average_rows(pixels: Pixels, start: float, step: float, n_out: int) -> npt.NDArray[np.float32]:
    """Average rows: float32 (n_out, w, 3) of (h, w, 3), in scratch memory. Row i averages the px from start + i·step to
    start + (i+1)·step.

    Pillow's box filter uses each pixel fully or not at all, which is wrong by up to 150 grey levels at a ratio of
    1.3; here the weight of each source row is the part of it that is covered.
    """
    height, width, channels = pixels.shape
    flat = pixels.reshape(height, width * channels)
    averages = _scratch("rows", n_out, width * channels)
    first, weights = _row_weights(start, step, n_out, height)
    n_blocks, _, taps = weights.shape
    per_strip = max(1, int(_STRIP_BYTES / (4 * width * channels * step * _BLOCK)))
    for strip in range(0, n_blocks, per_strip):
        blocks = range(strip, min(strip + per_strip, n_blocks))
        top = first[blocks[0]]
        strip_px = flat[top : first[blocks[-1]] + taps]
        source = _scratch("source", *strip_px.shape)
        source[:] = strip_px
        for block in blocks:
            into = averages[block * _BLOCK : (block + 1) * _BLOCK]
            row = first[block] - top
            np.matmul(weights[block, : len(into)], source[row : row + taps], out=into)
    return averages.reshape(n_out, width, channels)


def _average_columns(pixels: npt.NDArray[np.generic], start: float, step: float, n_out: int) -> npt.NDArray[np.float32]:
    """Average columns: float32 (h, n_out, 3) of (h, w, 3), as `_average_rows` does with rows."""
    height, width, channels = pixels.shape
    flat = pixels.reshape(height, width * channels).astype(np.float32, copy=False)
    averages = _scratch("columns", height, n_out * channels)
    first, weights = _column_weights(start, step, n_out, width, channels)
    taps = weights.shape[1]
    for block, column in enumerate(first):
        into = averages[:, block * _BLOCK * channels : (block + 1) * _BLOCK * channels]
        source = flat[:, column * channels : column * channels + taps]
        np.matmul(source, weights[block, :, : into.shape[1]], out=into)
    return averages.reshape(height, n_out, channels)


def _scratch(name: str, height: int, width: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Scratch memory (height, width) of this thread; the next call with the same name returns the same memory.

    New memory costs several times as much time as the computation in it.
    """
    known: npt.NDArray[Any] | None = getattr(_memory, name, None)
    if known is None or known.size < height * width:
        known = np.empty(height * width, dtype=dtype)
        if known.nbytes <= _SCRATCH_BYTES:
            setattr(_memory, name, known)
    return known[: height * width].reshape(height, width)


@lru_cache(maxsize=32)
def _row_weights(start: float, step: float, n_out: int, n_in: int) -> tuple[list[int], npt.NDArray[np.float32]]:
    """Weight of each source px in each output px, in blocks of `_BLOCK` output px. The arrays are shared: read-only.

    Returns the first source px of each block, and float32 (blocks, _BLOCK, taps). The sums over a block are one matrix
    product, too small for BLAS to split among threads, so that the result depends on the plan alone.
    """
    low = start + step * np.arange(-(-n_out // _BLOCK) * _BLOCK).reshape(-1, _BLOCK, 1)
    taps = min(n_in, math.ceil(step * _BLOCK) + 1)
    first = np.clip(np.floor(low[:, 0, 0] + 1e-9).astype(np.int64), 0, n_in - taps)
    px = first[:, None, None] + np.arange(taps)
    covered = np.clip(np.minimum(low + step, px + 1) - np.maximum(low, px), 0.0, 1.0)
    return first.tolist(), (covered / step).astype(np.float32)


@lru_cache(maxsize=32)
def _column_weights(
    start: float, step: float, n_out: int, n_in: int, channels: int
) -> tuple[list[int], npt.NDArray[np.float32]]:
    """`_row_weights` as matrices, float32 (blocks, taps · channels, _BLOCK · channels), that average interleaved
    channels in place: separating them would take longer."""
    first, weights = _row_weights(start, step, n_out, n_in)
    n_blocks, _, taps = weights.shape
    spread = np.zeros((n_blocks, taps, channels, _BLOCK, channels), dtype=np.float32)
    for channel in range(channels):
        spread[:, :, channel, :, channel] = weights.transpose(0, 2, 1)
    return first, spread.reshape(n_blocks, taps * channels, _BLOCK * channels)


def _enlarge(pixels: Pixels, crop: tuple[float, float, float, float], out: tuple[int, int]) -> Pixels:
    """Bicubic interpolation, columns first.

    Two passes, because in a single call Pillow chooses the order by the shape of the picture. Each pass clips, so a
    region would then depend on its shape.
    """
    left, top, right, bottom = crop
    height = pixels.shape[0]
    image = Image.fromarray(pixels)
    image = image.resize((out[0], height), Image.Resampling.BICUBIC, box=(left, 0, right, height))
    return np.asarray(image.resize(out, Image.Resampling.BICUBIC, box=(0, top, out[0], bottom)))
