"""OME-Zarr images of other programs as slides: NGFF 0.1 to 0.6, Zarr v2 and v3, read by zarr. Frame: px of a level."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from wsikit.errors import BrokenSlideError, ReadError, RequestError, UnsupportedSlideError
from wsikit.geometry import downsample_of
from wsikit.slides.base import WHITE, BaseSlide, MppLike, Pixels, Size, SlideInfo
from wsikit.slides.formats.ome_zarr import nodes
from wsikit.slides.formats.ome_zarr.metadata import (
    Channels,
    MetadataError,
    Multiscale,
    channels_of,
    parse_multiscale,
    pixel_size,
)
from wsikit.slides.scenes import SceneLike
from wsikit.slides.tile_reader import TileReader, in_words
from wsikit.slides.to_rgb import to_rgb

if TYPE_CHECKING:
    import zarr

logger = logging.getLogger(__name__)

_LEAST_TILE_PX = 256
"""Smaller chunks are read several at a time."""

_MOST_DOWNSAMPLE_ERROR_PX = 1.01
_DTYPES = ("uint8", "uint16")


@dataclass(frozen=True)
class _Level:
    """One array of a pyramid."""

    array: zarr.Array[Any]
    size: Size
    tile_px: Size


class OmeZarrSlide(BaseSlide, TileReader):
    """An OME-Zarr image: RGB of 8 or 16 bits, or one grey channel.

    The folder may be the image itself, or that of bioformats2raw with the slide as one of its images.
    """

    reader: ClassVar[str] = "ome-zarr"
    has_scenes = True
    read_box = TileReader.read_box

    def __init__(
        self,
        path: str,
        *,
        mpp: MppLike | None = None,
        mpp_source: str = "option",
        scene: SceneLike | None = None,
    ) -> None:
        self._closed = False
        found = nodes.find_image(path, scene)
        self._associated_paths = found.associated
        self._multiscale, self._levels, self._channels, notes = _open(path, found)
        self._plane = _middle_planes(path, self._multiscale, self._levels[0].array.shape)
        sizes = tuple(level.size for level in self._levels)
        scale = pixel_size(self._multiscale)
        info = SlideInfo(
            path=path,
            reader=self.reader,
            vendor="ome-zarr",
            kind="tiled",
            dimensions=sizes[0],
            level_dimensions=sizes,
            level_downsamples=_downsamples(sizes, self._multiscale.scales),
            mpp=scale.mpp,
            mpp_source=scale.source,
            mpp_fault=scale.fault,
            tile_px=self._levels[0].tile_px,
            compression=_compression(self._levels[0].array),
            associated=tuple(found.associated),
            properties=_properties(found.version, self._channels),
            notes=(*found.notes, *notes),
            scenes=found.scenes,
            scene=found.scene,
        )
        BaseSlide.__init__(self, info, mpp=mpp, mpp_source=mpp_source, scene=scene)
        TileReader.__init__(self)
        self._check_readable()

    @staticmethod
    def reads(path: str, head: bytes) -> bool:
        """Whether the folder at `path` is a Zarr node that wsikit did not write as a store."""
        return os.path.isdir(path) and nodes.is_zarr(path) and not nodes.is_store(path)

    def tile_px(self, level: int) -> Size:
        """Width and height of the squares that are decoded at a time, px."""
        return self._levels[level].tile_px

    def close(self) -> None:
        self._closed = True
        self._forget_tiles()

    def _decode_tile(self, level: int, column: int, row: int) -> Pixels:
        if self._closed:
            raise RequestError(f"{self.path}: the slide is closed; open it again")
        found = self._levels[level]
        (width, height), (tile_width, tile_height) = found.size, found.tile_px
        x, y = column * tile_width, row * tile_height
        box = (x, y, min(tile_width, width - x), min(tile_height, height - y))
        try:
            pixels = self._read(found.array, box)
        except Exception as error:  # zarr and its codecs raise errors of many kinds for damaged chunks
            raise ReadError(self.path, level, box, in_words(error)) from error
        if pixels.shape[:2] == (tile_height, tile_width):
            return pixels
        tile = np.full((tile_height, tile_width, 3), WHITE, dtype=np.uint8)
        tile[: pixels.shape[0], : pixels.shape[1]] = pixels
        return tile

    def _read(self, array: zarr.Array[Any], box: tuple[int, int, int, int]) -> Pixels:
        """Pixels of a box (x, y, width, height) of an array, uint8 (h, w, 3)."""
        return _read_rgb(array, self._multiscale, self._plane, self._channels, box)

    def _read_associated(self, name: str) -> Pixels:
        path = str(self._associated_paths[name])
        multiscale, levels, channels, _ = _open(path, nodes.find_image(path))
        plane = _middle_planes(path, multiscale, levels[0].array.shape)
        return _read_rgb(levels[0].array, multiscale, plane, channels, (0, 0, *levels[0].size))


def refuse_channels(path: str, names: tuple[str, ...]) -> None:
    """UnsupportedSlideError for an image whose channels are stains, not colours."""
    raise UnsupportedSlideError(
        f"{path}: {len(names)} channels ({', '.join(names)}), not red, green and blue. Fluorescence with several "
        "channels is read from OME-TIFF, QPTIFF and ImageJ files; export it so, or as a composite picture in RGB."
    )


def _open(path: str, found: nodes.Found) -> tuple[Multiscale, list[_Level], Channels, tuple[str, ...]]:
    """The pyramid of an image: its metadata, its levels, its channels, and notes about what was decided."""
    try:
        multiscale = parse_multiscale(found.attributes, _n_dims(found))
    except (MetadataError, KeyError, TypeError, AttributeError) as error:
        raise BrokenSlideError(
            f"{found.path}: its OME-Zarr metadata cannot be used ({in_words(error)}). Convert the slide again."
        ) from None
    arrays = [_array(found.path / name) for name in multiscale.paths]
    first, axes = arrays[0], multiscale.axes
    if first.dtype.name not in _DTYPES:
        raise UnsupportedSlideError(f"{path}: pixels of type {first.dtype}; slides are uint8 or uint16.")
    n_channels = 1 if axes.c is None else int(first.shape[axes.c])
    channels = channels_of(found.attributes, n_channels, first.dtype, found.samples_per_pixel)
    if n_channels != 1 and not channels.rgb:
        refuse_channels(path, channels.names)
    for array, name in zip(arrays, multiscale.paths, strict=True):
        same = array.ndim == first.ndim == len(axes.names) and array.dtype == first.dtype
        if not same or (axes.c is not None and array.shape[axes.c] != n_channels):
            raise BrokenSlideError(
                f"{found.path / name}: an array of {array.dtype} {array.shape}, which does not fit the axes "
                f"{', '.join(axes.names)} of {first.dtype} {first.shape}. Convert the slide again."
            )
    levels = [
        _Level(array, (array.shape[axes.x], array.shape[axes.y]), _tile_px(array, multiscale)) for array in arrays
    ]
    _check_order(found.path, multiscale, levels)
    entries = found.attributes["multiscales"]
    notes = [f"OME-Zarr {found.version}, axes {', '.join(axes.names)}"]
    notes += [channels.note] if channels.note else []
    notes += _absent_chunks(found.path / multiscale.paths[0], first)
    notes += _plane_notes(multiscale, first.shape)
    if len(entries) > 1:
        notes.append(f"the first of {len(entries)} multiscale images is read")
    return multiscale, levels, channels, tuple(notes)


def _n_dims(found: nodes.Found) -> int | None:
    try:
        path = found.path / found.attributes["multiscales"][0]["datasets"][0]["path"]
        return len(nodes.array_metadata(path)[0])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def _array(path: Path) -> zarr.Array[Any]:
    import zarr

    from wsikit.slides.formats.ome_zarr.blosc_chunks import BloscChunks, is_of_blosc

    try:
        zarr_format: Any = nodes.array_metadata(path)[1]
        array = zarr.open_array(path, mode="r", zarr_format=zarr_format)
        if not is_of_blosc(array):
            return array
        return zarr.open_array(BloscChunks(path, read_only=True), mode="r", zarr_format=zarr_format)
    except FileNotFoundError:
        raise BrokenSlideError(
            f"{path}: the metadata list this level, but it is not there. Copy the folder again with all its files."
        ) from None
    except Exception as error:  # unknown codecs and damaged metadata raise errors of many kinds
        words = in_words(error)
        if "codec" in words.lower():
            raise UnsupportedSlideError(
                f"{path}: its pixels are coded in a way that zarr does not read here ({words}). Install the package "
                "of this codec, or convert the slide with Zstandard or Blosc."
            ) from error
        raise BrokenSlideError(f"{path}: damaged Zarr metadata ({words}). Copy the folder again.") from error


def _absent_chunks(folder: Path, array: zarr.Array[Any]) -> list[str]:
    """A note if files of an array are not there, which Zarr reads as the fill value.

    Writers leave out chunks that hold only the fill value, so this is no error unless all are absent.
    """
    names = (name for _, _, files in os.walk(folder) for name in files)
    stored = sum(not name.startswith(".") and name != "zarr.json" for name in names)
    files = array.shards or array.chunks
    expected = math.prod(math.ceil(size / side) for size, side in zip(array.shape, files, strict=True))
    if stored == 0:
        raise BrokenSlideError(
            f"{folder}: metadata without a single chunk of pixels. Copy the folder again with all its files."
        )
    if stored >= expected:
        return []
    absent = f"{expected - stored} of {expected} files of the finest level are not there"
    return [f"{absent}; their pixels have the fill value {array.fill_value}, as OME-Zarr prescribes"]


def _tile_px(array: zarr.Array[Any], multiscale: Multiscale) -> Size:
    """The chunk, or several together if it is small; at most the level."""

    def side(axis: int) -> int:
        chunk, size = int(array.chunks[axis]), int(array.shape[axis])
        return max(1, min(chunk * max(1, math.ceil(_LEAST_TILE_PX / chunk)), size))

    return side(multiscale.axes.x), side(multiscale.axes.y)


def _check_order(folder: Path, multiscale: Multiscale, levels: list[_Level]) -> None:
    """BrokenSlideError unless each level is the one before, reduced: equally in both directions, within a pixel."""
    (width, height) = levels[0].size
    for name, finer, level in zip(multiscale.paths[1:], levels, levels[1:], strict=False):
        ratio_x, ratio_y = width / level.size[0], height / level.size[1]
        # sizes are rounded, so that small levels have inexact ratios
        slack = 1 + 1 / level.size[0] + 1 / level.size[1]
        if (
            level.size[0] > finer.size[0]
            or level.size[1] > finer.size[1]
            or not 1 / slack <= ratio_x / ratio_y <= slack
        ):
            raise BrokenSlideError(
                f"{folder / name}: a level of {level.size[0]} × {level.size[1]} px below one of {finer.size[0]} × "
                f"{finer.size[1]} px is not the same picture, reduced. Convert the slide again."
            )


def _downsamples(
    sizes: tuple[Size, ...], scales: tuple[tuple[float, float] | None, ...]
) -> tuple[tuple[float, float], ...]:
    """Level-0 px per px of each level: by the stated scales where the sizes agree with them, else by the sizes."""
    found = []
    for size, scale in zip(sizes, scales, strict=True):
        pair = []
        for axis in (0, 1):
            whole, px = sizes[0][axis], size[axis]
            first = scales[0]
            ratio = scale[axis] / first[axis] if scale and first and first[axis] > 0 else 0.0
            fits = ratio >= 1 and abs(px - whole / ratio) <= _MOST_DOWNSAMPLE_ERROR_PX
            pair.append(ratio if fits else downsample_of(whole, px))
        found.append((pair[0], pair[1]))
    ordered = found == sorted(found)
    return (
        tuple(found)
        if ordered
        else tuple((downsample_of(sizes[0][0], w), downsample_of(sizes[0][1], h)) for w, h in sizes)
    )


def _middle_planes(path: str, multiscale: Multiscale, shape: tuple[int, ...]) -> dict[int, int]:
    """The index that is read along each axis other than y, x and channel: the middle one, as of focal planes."""
    for axis in multiscale.axes.others:
        if multiscale.axes.names[axis] == "t" and shape[axis] > 1:
            raise UnsupportedSlideError(f"{path}: {shape[axis]} points in time, a slide has one. Export one of them.")
    return {axis: shape[axis] // 2 for axis in multiscale.axes.others}


def _plane_notes(multiscale: Multiscale, shape: tuple[int, ...]) -> list[str]:
    names = multiscale.axes.names
    return [
        f"axis {names[axis]} has {shape[axis]} entries; number {shape[axis] // 2} is read, the others are not used"
        for axis in multiscale.axes.others
        if shape[axis] > 1
    ]


def _read_rgb(
    array: zarr.Array[Any],
    multiscale: Multiscale,
    plane: dict[int, int],
    channels: Channels,
    box: tuple[int, int, int, int],
) -> Pixels:
    x, y, width, height = box
    axes = multiscale.axes
    index: list[Any] = [slice(None)] * array.ndim
    for axis in axes.others:
        middle = plane[axis] if array.shape[axis] > plane[axis] else array.shape[axis] // 2
        index[axis] = slice(middle, middle + 1)
    index[axes.y], index[axes.x] = slice(y, y + height), slice(x, x + width)
    samples: npt.NDArray[Any] = np.asarray(array[tuple(index)])
    order = [axes.y, axes.x, *([] if axes.c is None else [axes.c]), *axes.others]
    samples = samples.transpose(order).reshape(height, width, -1)
    return np.ascontiguousarray(
        to_rgb(samples.astype(samples.dtype.newbyteorder("=")), white_level=channels.white_level)
    )


def _compression(array: zarr.Array[Any]) -> str | None:
    """Name of the codec, as its metadata state it."""
    names = [type(codec).__name__.removesuffix("Codec").lower() for codec in array.compressors]
    return ", ".join(names) or "none"


def _properties(version: str, channels: Channels) -> dict[str, str]:
    return {} if channels.white_level == 255 else {"wsikit.white-level": str(channels.white_level)}
