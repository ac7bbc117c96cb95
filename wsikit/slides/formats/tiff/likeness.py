"""Whether one image of a TIFF is a reduced copy of another, by their pixels at a few places.

Sizes alone do not show it: a label or a second section can have the slide's shape. Some tiles of the finer image are
reduced by area and compared with the same places of the coarser one: by correlation, and by mean absolute difference.
Nothing is decided by tiles that are missing or cannot be decoded, nor by places without structure, such as glass.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from wsikit.slides.to_rgb import ycbcr_to_rgb

Samples = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
Cells = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]

_PLACES = 8
_SEGMENT_PX = 1 << 24
"""Larger tiles and strips are not decoded for a comparison."""
_CELL_PX = 2
"""Smallest side of the cells in which two images are compared, px of the coarser one: reduction kernels differ."""
_MAX_CELLS = 24
_PLACE_PX = 32
"""Side of a place that is compared, at least, px of the coarser image."""
_FLAT, _STRUCTURE = 3.0, 10.0
"""Standard deviation of the cells of a place without structure, and of one with structure, grey levels of 255."""
_BLOCK = 4
"""Side of the blocks of cells that are compared one by one, cells."""
_ALIKE, _UNLIKE = 0.6, 0.35
"""Median correlation of the blocks of a place."""
_SAME, _MANY = 0.8, 8
"""Correlation, and number of blocks, of a place that decides alone."""
_FAR = 60.0
_SHIFT_OF_COLOUR = 12.0
"""Difference of the mean colours of a place with structure that reduction and compression do not make."""
_OTHER_COLOUR = 30.0
"""Difference of the mean colours of two places without structure, grey levels of 255."""
_SHIFTS = (0, -1, 1)
"""Displacements of the coarser image that are tried, px: writers round sizes and use other kernels."""

_KEPT_ANSWERS = 4096
_ANSWERS: dict[tuple[str, int, int, int, int, float, bool], bool | None] = {}

_JPEG, _APERIO_J2K_YCBCR, _YCBCR, _PALETTE = 7, 33003, 6, 3
_WITHOUT_TRANSFORM = (1, 5, 8, 32946, 50000)
"""Codecs that return the samples as they are stored, also YCbCr."""


def is_reduced_copy(
    tiff: tifffile.TiffFile, fine: tifffile.TiffPage, coarse: tifffile.TiffPage, *, same_colours: bool = True
) -> bool | None:
    """Whether `coarse` shows the same picture as `fine` with fewer pixels; None if nothing decides it.

    A level has the `same_colours`; a thumbnail can be brighter.

    A few tiles are decoded; for blank slides and for damaged or sparse tiles the answer is None. Answers are kept: a
    slide is opened several times, by the choice of the reader and in each worker.
    """
    return _answer(tiff, fine, coarse, _SHIFT_OF_COLOUR if same_colours else _FAR)


def is_other_picture(tiff: tifffile.TiffFile, fine: tifffile.TiffPage, coarse: tifffile.TiffPage) -> bool:
    """Whether the colours of `coarse` cannot be those of `fine` with fewer pixels: a label or a macro, not a level.

    For images that the file states to be levels: what is drawn in them is not compared.
    """
    return _answer(tiff, fine, coarse, _OTHER_COLOUR, drawing=False) is False


def _answer(
    tiff: tifffile.TiffFile, fine: tifffile.TiffPage, coarse: tifffile.TiffPage, colour: float, drawing: bool = True
) -> bool | None:
    """The answer of `_is_reduced_copy`, which is kept for the file as it is now."""
    state = os.stat(tiff.filehandle.path)
    key = (tiff.filehandle.path, state.st_size, state.st_mtime_ns, fine.offset, coarse.offset, colour, drawing)
    if key not in _ANSWERS:
        if len(_ANSWERS) >= _KEPT_ANSWERS:
            _ANSWERS.clear()
        _ANSWERS[key] = _is_reduced_copy(tiff, fine, coarse, colour, drawing)
    return _ANSWERS[key]


def _is_reduced_copy(
    tiff: tifffile.TiffFile, fine: tifffile.TiffPage, coarse: tifffile.TiffPage, colour: float, drawing: bool
) -> bool | None:
    fine_side, coarse_side = Segments(tiff, fine), Segments(tiff, coarse)
    alike = unlike = 0
    for box in _places(fine_side, coarse_side):
        verdict = _compare(fine_side, coarse_side, box, colour, drawing)
        alike += max(0, verdict)
        unlike += verdict < 0
        if (alike >= 2 and not unlike) or (unlike >= 3 and not alike):
            break
    if alike == unlike == 0:
        return None
    return alike > unlike or (alike == unlike and alike >= 2)


class Segments:
    """The tiles or strips of one image; each is decoded at most once."""

    def __init__(self, tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> None:
        self._tiff, self._page = tiff, page
        self.width, self.height = int(page.imagewidth), int(page.imagelength)
        self.floating = page.dtype is not None and page.dtype.kind == "f"
        self.segment_width = int(page.tilewidth) if page.is_tiled else self.width
        rows = int(page.tilelength) if page.is_tiled else int(page.rowsperstrip)
        self.segment_height = rows if page.is_tiled else min(rows, self.height)
        self.columns = math.ceil(self.width / self.segment_width)
        self.rows = math.ceil(self.height / self.segment_height)
        self.planes = int(page.samplesperpixel) if int(page.planarconfig) == 2 else 1
        counts = np.asarray(page.databytecounts, dtype=np.int64)
        offsets = np.asarray(page.dataoffsets, dtype=np.int64)
        number = self.columns * self.rows
        self.usable = (
            len(counts) == len(offsets) == number * self.planes
            and self.segment_width * self.segment_height <= _SEGMENT_PX
        )
        stored = np.where(offsets == 0, 0, counts) if self.usable else np.zeros(number * self.planes, np.int64)
        self.counts = stored[:number].reshape(self.rows, self.columns)
        """Bytes of each segment (of the first plane): much detail takes many bytes."""
        self._stored, self._offsets = stored, offsets
        self._decoded: dict[tuple[int, int], Samples | None] = {}

    def box(self, left: int, top: int, right: int, bottom: int) -> Samples | None:
        """Pixels of a box within the image, float32 (h, w, channels); None if a part is missing or unreadable."""
        bands = []
        for row in range(top // self.segment_height, (bottom - 1) // self.segment_height + 1):
            parts = []
            for column in range(left // self.segment_width, (right - 1) // self.segment_width + 1):
                pixels = self._segment(column, row)
                x, y = column * self.segment_width, row * self.segment_height
                if pixels is None:
                    return None
                x0, x1 = max(left - x, 0), min(right - x, self.segment_width)
                y0, y1 = max(top - y, 0), min(bottom - y, self.segment_height)
                if pixels.shape[0] < y1 or pixels.shape[1] < x1:
                    return None
                parts.append(pixels[y0:y1, x0:x1])
            bands.append(np.concatenate(parts, axis=1))
        return np.concatenate(bands)

    def _segment(self, column: int, row: int) -> Samples | None:
        if (column, row) not in self._decoded:
            try:
                self._decoded[column, row] = self._decode(column, row)
            except Exception:  # the decoders raise errors of many kinds; an unreadable tile does not decide
                self._decoded[column, row] = None
        return self._decoded[column, row]

    def _decode(self, column: int, row: int) -> Samples | None:
        page, planes = self._page, []
        for plane in range(self.planes):
            number = (plane * self.rows + row) * self.columns + column
            if not self._stored[number]:
                return None
            handle = self._tiff.filehandle
            handle.seek(int(self._offsets[number]))
            encoded = handle.read(int(self._stored[number]))
            tables = {"jpegtables": page.jpegtables} if int(page.compression) == _JPEG else {}
            decoded = page.decode(encoded, number, **tables)[0]
            if decoded is None:
                return None
            planes.append(decoded[0])
        return _colours(page, np.concatenate(planes, axis=2) if len(planes) > 1 else planes[0])


def _colours(page: tifffile.TiffPage, samples: npt.NDArray[np.generic]) -> Samples:
    """Samples as colours that can be compared between images of one file."""
    photometric, codec = int(page.photometric), int(page.compression)
    if photometric == _PALETTE and page.colormap is not None:
        return (np.moveaxis(page.colormap[:, samples[..., 0]], 0, -1) / 257).astype(np.float32)
    stored_ycbcr = codec == _APERIO_J2K_YCBCR or (photometric == _YCBCR and codec in _WITHOUT_TRANSFORM)
    if stored_ycbcr and samples.dtype == np.uint8 and samples.shape[2] == 3:
        return ycbcr_to_rgb(samples)  # type: ignore[arg-type]
    if samples.dtype == np.uint8:
        return samples[..., :3]  # type: ignore[return-value]
    found = samples[..., :3].astype(np.float32)
    return np.nan_to_num(found) if samples.dtype.kind == "f" else found


def _places(fine: Segments, coarse: Segments) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of `fine`, px, on its tiles: where either image has much detail, then spread over the image."""
    if not (fine.usable and coarse.usable):
        return
    ratio = fine.width / coarse.width, fine.height / coarse.height
    seen = set()
    for column, row in _spots(fine, coarse, ratio):
        if (column, row) in seen:
            continue
        seen.add((column, row))
        box = _around(fine, column, row, ratio)
        yield box
        if len(seen) == _PLACES:
            return


def _spots(fine: Segments, coarse: Segments, ratio: tuple[float, float]) -> Iterator[tuple[int, int]]:
    """Tiles (column, row) of `fine`, the most telling first."""
    for column, row in _detailed(coarse.counts, 2):
        left, top = (
            int(column * coarse.segment_width * ratio[0]) // fine.segment_width,
            int(row * coarse.segment_height * ratio[1]) // fine.segment_height,
        )
        right = min(int((column + 1) * coarse.segment_width * ratio[0]) // fine.segment_width, fine.columns - 1)
        bottom = min(int((row + 1) * coarse.segment_height * ratio[1]) // fine.segment_height, fine.rows - 1)
        for inner_column, inner_row in _detailed(fine.counts[top : bottom + 1, left : right + 1], 1):
            yield left + inner_column, top + inner_row
    yield from _detailed(fine.counts, 2)
    for across, down in (
        (0.5, 0.5),
        (0.3, 0.3),
        (0.7, 0.7),
        (0.7, 0.3),
        (0.3, 0.7),
        (0.5, 0.2),
        (0.2, 0.5),
        (0.8, 0.5),
    ):
        yield int(across * fine.columns), int(down * fine.rows)


def _detailed(counts: npt.NDArray[np.int64], number: int) -> list[tuple[int, int]]:
    """The segments (column, row) with the most bytes; the middle one if all have equally many."""
    if counts.size == 0:
        return []
    if counts.min() == counts.max():
        return [(counts.shape[1] // 2, counts.shape[0] // 2)]
    best = np.argsort(counts, axis=None)[::-1][:number]
    return [(int(at % counts.shape[1]), int(at // counts.shape[1])) for at in best]


def _around(fine: Segments, column: int, row: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """A box of whole tiles at a tile, large enough for some cells: at most 4 × 4 tiles, or a band of strips."""

    def side(at: int, size: int, limit: int, factor: float, most: int) -> tuple[int, int]:
        count = min(most, max(1, math.ceil(_PLACE_PX * factor / size)))
        first = max(0, min(at - count // 2, math.ceil(limit / size) - count))
        return first * size, min(limit, (first + count) * size)

    strips = 4 if fine.columns > 1 or fine.segment_width < fine.width else 64
    left, right = side(column, fine.segment_width, fine.width, ratio[0], 4)
    top, bottom = side(row, fine.segment_height, fine.height, ratio[1], strips)
    return left, top, right, bottom


def _compare(fine: Segments, coarse: Segments, box: tuple[int, int, int, int], colour: float, drawing: bool) -> int:
    """1: the place looks alike in both (2: without doubt), -1: it does not, 0: it does not decide."""
    across, down = coarse.width / fine.width, coarse.height / fine.height
    target = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    left, top = max(0, math.floor(target[0]) - 1), max(0, math.floor(target[1]) - 1)
    right, bottom = min(coarse.width, math.ceil(target[2]) + 1), min(coarse.height, math.ceil(target[3]) + 1)
    one, other = fine.box(*box), coarse.box(left, top, right, bottom)
    if one is None or other is None or one.shape[2] != other.shape[2]:
        return 0
    scale = _scale(fine, max(float(one.max()), float(other.max())))
    cells = tuple(_cells(target[i + 2] - target[i]) for i in (0, 1))
    expected = _reduce(one, scale, (0.0, 0.0, float(one.shape[1]), float(one.shape[0])), cells)
    verdicts = []
    for shift_y in _SHIFTS:
        for shift_x in _SHIFTS:
            shifted = _within(
                (
                    target[0] - left + shift_x,
                    target[1] - top + shift_y,
                    target[2] - left + shift_x,
                    target[3] - top + shift_y,
                ),
                other.shape,
            )
            verdict = _verdict(expected, _reduce(other, scale, shifted, cells), colour, drawing)
            if verdict > 0:
                return verdict
            verdicts.append(verdict)
    return max(verdicts)


def _scale(fine: Segments, highest: float) -> float:
    """Factor that makes samples comparable with 8-bit grey levels."""
    return 255.0 / highest if highest > 0 and (highest > 255 or fine.floating) else 1.0


def _cells(side: float) -> int:
    """Number of cells along a side of `side` px of the coarser image."""
    return max(1, min(_MAX_CELLS, round(side / _CELL_PX)))


def _within(box: Box, shape: tuple[int, ...]) -> Box:
    # a shift can put the whole box outside an image of few px
    left, top = (min(max(0.0, box[axis]), shape[1 - axis] - 0.5) for axis in (0, 1))
    return left, top, max(left + 0.5, min(box[2], float(shape[1]))), max(top + 0.5, min(box[3], float(shape[0])))


def _reduce(pixels: Samples, scale: float, box: Box, cells: tuple[int, ...]) -> Cells:
    """Area averages of a box, times `scale`: float32 (rows, columns, channels)."""
    size, box_filter = (cells[0], cells[1]), Image.Resampling.BOX
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(pixels).resize(size, box_filter, box)).astype(np.float32)
    channels = (np.ascontiguousarray(pixels[..., channel], dtype=np.float32) for channel in range(pixels.shape[2]))
    reduced = [np.asarray(Image.fromarray(channel).resize(size, box_filter, box)) for channel in channels]
    return np.stack(reduced, axis=-1) * np.float32(scale)


def _verdict(one: Cells, other: Cells, colour: float, drawing: bool) -> int:
    difference = float(np.abs(one.mean((0, 1)) - other.mean((0, 1))).max())
    spread, other_spread = (float(np.sqrt(cells.var((0, 1)).mean())) for cells in (one, other))
    if min(spread, other_spread) < _FLAT:
        return -1 if difference > _OTHER_COLOUR or max(spread, other_spread) > _STRUCTURE else 0
    if float(np.abs(one - other).mean()) > _FAR or difference > colour:
        return -1
    if one.shape[0] * one.shape[1] < _BLOCK**2:
        return 0
    found = _block_correlations(one, other)
    if not found:
        return 0
    correlation = float(np.median(found))
    if correlation >= _ALIKE:
        return 2 if correlation >= _SAME and len(found) >= _MANY else 1
    return -1 if correlation < _UNLIKE and drawing else 0


def _block_correlations(one: Cells, other: Cells) -> list[float]:
    """Correlation within each block of cells that has structure.

    The whole place would not do: two sections, or a section and its label, can share the border of the glass.
    """
    found = []
    for top in range(0, max(1, one.shape[0] - _BLOCK // 2), _BLOCK):
        for left in range(0, max(1, one.shape[1] - _BLOCK // 2), _BLOCK):
            rows, columns = slice(top, top + _BLOCK), slice(left, left + _BLOCK)
            a, b = (cells[rows, columns] - cells[rows, columns].mean((0, 1)) for cells in (one, other))
            spreads = math.sqrt(float((a * a).mean())), math.sqrt(float((b * b).mean()))
            if min(spreads) >= _FLAT / 2 and max(spreads) >= _FLAT:
                found.append(float((a * b).mean()) / (spreads[0] * spreads[1]))
            elif max(spreads) > _STRUCTURE:
                found.append(0.0)
    return found
