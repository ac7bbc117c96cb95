"""Structure of a tiled TIFF slide: position and coding of its tiles, read once with tifffile. No pixels."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from wsikit.errors import BrokenSlideError, RequestError, SlideError, UnsupportedSlideError
from wsikit.slides.base import SlideInfo, true_downsamples
from wsikit.slides.formats.tiff import philips
from wsikit.slides.formats.tiff.advice import TO_TILES, how_to_convert
from wsikit.slides.formats.tiff.codecs import APERIO_J2K_YCBCR, COMPRESSIONS, JPEG, codec_fault
from wsikit.slides.formats.tiff.colours import CodedColours, coded_colours
from wsikit.slides.formats.tiff.directories import check_directories, first_directory
from wsikit.slides.formats.tiff.metadata import read_metadata
from wsikit.slides.formats.tiff.page_facts import is_reduction
from wsikit.slides.formats.tiff.pyramid import Scene, Structure, find_images
from wsikit.slides.formats.tiff.samples import Samples, UnfitSamplesError, samples_of
from wsikit.slides.scenes import SceneLike, choose_scene
from wsikit.slides.types import SceneInfo

__all__ = ["COMPRESSIONS", "TiffLayout", "TiffLevel", "first_directory", "is_reduction", "read_layout"]

logger = logging.getLogger(__name__)
# tifffile logs irregularities of a file; without a handler Python would print them on the terminal
logging.getLogger("tifffile").addHandler(logging.NullHandler())


_OTHER_READERS = {
    "is_ndpi": "a Hamamatsu NDPI, which stores each level as one JPEG and not in tiles",
    "is_bif": "a Ventana BIF, whose tiles overlap",
    "is_scn": "a Leica SCN, which holds several scanned areas on one slide",
}
"""tifffile's flags of TIFF slides that are not plain grids of tiles."""


@dataclass(frozen=True)
class TiffLevel:
    """One level of a tiled TIFF. Tiles are numbered row by row; planes, if separate, one after the other."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    stored_columns: int
    stored_rows: int
    """Rows and columns of tiles in the file: more than `width` and `height` need in a Philips TIFF (padded levels)."""
    offsets: npt.NDArray[np.int64]
    """Byte offset of each tile in the file."""
    counts: npt.NDArray[np.int64]
    """Number of bytes of each tile; 0 if it is not stored, which the format defines as an empty tile, or lost."""
    lost: npt.NDArray[np.bool_]
    """Whether a tile has a place in the file but no bytes there, or bytes but no place."""
    planes: int
    """1 if a tile has all its channels, else the number of channels, which are stored in separate tiles."""
    compression: int
    """TIFF compression code, a key of COMPRESSIONS."""
    grey: bool
    """True if a tile has one channel."""
    photometric: int
    """TIFF code of the colour space."""
    samples: Samples
    """What the decoded samples mean."""
    coded: CodedColours
    """How JPEG and JPEG 2000 must be decoded for the colours to be right."""
    jpeg_tables: bytes | None
    """Value of JPEGTables: quantisation and Huffman tables shared by the JPEG tiles of the level."""
    decoded_bytes: int | None
    """Bytes of a decoded tile; None where samples are packed or bits reversed."""
    decode: Callable[..., tuple[npt.NDArray[Any] | None, Any, Any]]
    """tifffile's decoder of one tile: (bytes, number, jpegtables=…) → samples (1, h, w, channels)."""

    def tile_number(self, column: int, row: int, plane: int = 0) -> int:
        """Index of a tile in `offsets` and `counts`."""
        return (plane * self.stored_rows + row) * self.stored_columns + column

    @cached_property
    def plain_jpeg(self) -> bool:
        """Whether a tile is one JPEG of three components whose decoded pixels are those of the slide."""
        direct = self.planes == 1 and not self.grey and self.coded.restated is None and not self.coded.ycbcr
        return self.compression == JPEG and direct and self.samples.plain

    @property
    def not_stored(self) -> int:
        """Number of tiles that the file does not store, and need not."""
        return int(np.count_nonzero((self.counts == 0) & ~self.lost))

    def byte_range(self, number: int) -> tuple[int, int]:
        """Offset and number of bytes of a tile in the file; no bytes if the file does not store the tile."""
        return int(self.offsets[number]), int(self.counts[number])


@dataclass(frozen=True)
class TiffLayout:
    """A tiled TIFF slide: its facts and its levels (finest first)."""

    info: SlideInfo
    levels: tuple[TiffLevel, ...]
    associated_pages: dict[str, int]
    """Name of each associated image and the number of its directory."""


def read_layout(path: str, reader: str, scene: SceneLike | None = None) -> TiffLayout:
    """The layout of a tiled TIFF slide; of one of its scenes, by number or name (None: the largest).

    Raises
    ------
    RequestError
        There is no such scene.
    UnsupportedSlideError
        The file is not tiled, or this reader does not decode its type of tiles.
    BrokenSlideError
        The TIFF structure is damaged.
    """
    try:
        # tifffile would crop the levels of a Philips TIFF by a rule that differs slightly from OpenSlide's
        check_directories(path)
        with tifffile.TiffFile(path, is_philips=False) as tiff:
            return _layout(path, reader, tiff, scene)
    except (SlideError, RequestError, FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # tifffile raises errors of many kinds for a damaged structure
        raise BrokenSlideError(f"{path}: {structure_fault(path, error)}") from error


def tile_compression(path: str, scene: SceneLike | None = None) -> int | None:
    """Compression code of the tiles of a TIFF slide's finest level; None if it is not stored in tiles."""
    try:
        check_directories(path)
        with tifffile.TiffFile(path, is_philips=False) as tiff:
            page = images_of(path, tiff, scene).scene.main
            return int(page.compression) if page.is_tiled else None
    except (SlideError, RequestError):
        raise
    except Exception as error:  # tifffile raises errors of many kinds for a damaged structure
        raise BrokenSlideError(f"{path}: {structure_fault(path, error)}") from error


def is_aperio_ycbcr(path: str) -> bool:
    """Whether the finest level is JPEG 2000 in YCbCr as Aperio's own encoder writes it."""
    try:
        with tifffile.TiffFile(path) as tiff:
            page = images_of(path, tiff).scene.main
            return int(page.compression) == APERIO_J2K_YCBCR and coded_colours(page, page).aperio
    except (SlideError, RequestError):
        raise
    except Exception as error:  # tifffile raises errors of many kinds for a damaged structure
        raise BrokenSlideError(f"{path}: {structure_fault(path, error)}") from error


def structure_fault(path: str, error: Exception) -> str:
    """What is wrong with the structure of a file, as text, and the next step."""
    with open(path, "rb") as file:
        head = file.read(16)
        size = file.seek(0, 2)
    start = first_directory(head)
    if start is None:
        return "not a TIFF file. Open it with reader='auto'."
    if start >= size:
        what = f"the file is cut off: it has {size} bytes, and its directory should begin at byte {start}"
    else:
        what = f"the TIFF structure is damaged ({type(error).__name__}: {' '.join(str(error).split())})"
    return f"{what}. Copy it again from its source."


def _layout(path: str, reader: str, tiff: tifffile.TiffFile, scene: SceneLike | None) -> TiffLayout:
    if not tiff.pages:
        raise BrokenSlideError(f"{path}: a TIFF file without any image. Copy it again from its source.")
    for flag, words in _OTHER_READERS.items():
        if getattr(tiff, flag):
            better = "ndpi" if flag == "is_ndpi" else "openslide"
            raise UnsupportedSlideError(f"{path}: {words}. Open it with reader='{better}'.")
    images = images_of(path, tiff, scene)
    main = images.scene
    page = main.main
    fault = refusal(page, main, tiled=True)
    if fault is not None:
        raise UnsupportedSlideError(f"{path}: {fault}")
    description = philips.describe(tiff)
    levels = _levels(path, main) if description is None else _philips_levels(path, main, description)
    metadata = read_metadata(tiff, page, description, main.ome_image)
    levels = tuple(_with_range(level, page, metadata.significant_bits) for level in levels)
    level_dimensions = tuple((level.width, level.height) for level in levels)
    width, height = level_dimensions[0]
    properties = dict(metadata.properties)
    if levels[0].samples.white != 255:
        properties["wsikit.white-level"] = f"{levels[0].samples.white:g}"
    info = SlideInfo(
        path=path,
        reader=reader,
        vendor=metadata.vendor,
        kind="tiled",
        dimensions=(width, height),
        level_dimensions=level_dimensions,
        level_downsamples=true_downsamples(level_dimensions),
        mpp=metadata.scale.mpp,
        mpp_source=metadata.scale.source,
        mpp_fault=metadata.scale.fault,
        mpp_literal=metadata.scale.literal,
        magnification=metadata.magnification,
        tile_px=(levels[0].tile_width, levels[0].tile_height),
        compression=COMPRESSIONS[levels[0].compression] + (" (YCbCr)" if levels[0].coded.ycbcr else ""),
        associated=tuple(images.associated if description is None else description.associated),
        icc_profile=metadata.icc_profile,
        properties=properties,
        notes=(*images.notes, *level_notes(levels)),
        scenes=scene_infos(images),
        scene=images.chosen,
    )
    return TiffLayout(info, levels, images.associated)


def images_of(path: str, tiff: tifffile.TiffFile, scene: SceneLike | None = None) -> Structure:
    """The images of a TIFF file: the slide, its levels, other scenes and pictures.

    The levels of a Philips TIFF are those that its XML lists.
    """
    if not tiff.pages.first.is_philips:
        return find_images(tiff, path, scene)
    choose_scene(path, [""], scene, 0)
    pages = [page.aspage() for page in tiff.pages]
    levels = [page for page in pages if page.is_tiled and not page.description.startswith(("Macro", "Label"))]
    return Structure([Scene(levels or pages[:1], axes=pages[0].axes)], 0, {})


def scene_infos(images: Structure) -> tuple[SceneInfo, ...]:
    """The scenes of a file that has several, for `SlideInfo`."""
    if len(images.scenes) == 1:
        return ()
    return tuple(SceneInfo(number, scene.name, scene.size) for number, scene in enumerate(images.scenes))


def refusal(page: tifffile.TiffPage, scene: Scene, *, tiled: bool) -> str | None:
    """Why an image cannot be read as a slide in tiles (or in strips), with the next step; or None."""
    fault = codec_fault(int(page.compression))
    if fault is not None:
        return fault
    if page.is_tiled and not tiled:
        return "a TIFF in tiles. Open it with reader='tiff'."
    if tiled and not page.is_tiled:
        return f"a TIFF in strips, not in tiles. {TO_TILES}"
    fault = _unfit_samples(page, scene) or coded_colours(page, page).fault
    return None if fault is None else f"{fault}. {how_to_convert(page, scene.planes)}"


def _unfit_samples(page: tifffile.TiffPage, scene: Scene) -> str | None:
    """What is wrong with the channels and the sample type of an image, as text, or None."""
    if scene.planes > 1:
        return (
            f"an image of {scene.planes} channels or planes ({scene.axes}), where RGB or one grey channel is expected"
        )
    try:
        samples_of(page)
    except UnfitSamplesError as error:
        return str(error)
    return None


def _levels(path: str, scene: Scene) -> tuple[TiffLevel, ...]:
    """The finest image and its reduced versions that can be read, finest first."""
    levels = []
    for page in scene.levels:
        if page is scene.main or refusal(page, Scene([page]), tiled=True) is None:
            levels.append(_level(page, page))
        else:
            logger.info("%s: an image of %d × %d px is not read as a level", path, page.imagewidth, page.imagelength)
    return tuple(levels)


def _philips_levels(path: str, scene: Scene, description: philips.Description) -> tuple[TiffLevel, ...]:
    """The levels of a Philips TIFF, with their size without padding."""
    sizes = philips.level_sizes(path, description, [(page.imagewidth, page.imagelength) for page in scene.levels])
    return tuple(_level(page, page, size) for page, size in zip(scene.levels, sizes))


def _level(page: tifffile.TiffPage, frame: Any, size: tuple[int, int] | None = None) -> TiffLevel:
    counts = np.asarray(frame.databytecounts, dtype=np.int64)
    offsets = np.asarray(frame.dataoffsets, dtype=np.int64)
    planes = page.samplesperpixel if int(page.planarconfig) == 2 and page.samplesperpixel > 1 else 1
    coded = coded_colours(page, frame)
    level = TiffLevel(
        width=size[0] if size else page.imagewidth,
        height=size[1] if size else page.imagelength,
        tile_width=page.tilewidth,
        tile_height=page.tilelength,
        stored_columns=math.ceil(page.imagewidth / page.tilewidth),
        stored_rows=math.ceil(page.imagelength / page.tilelength),
        offsets=offsets,
        # an offset of 0 is the file header: GDAL and others write 0 twice for a tile that is not stored
        counts=np.where(offsets == 0, 0, counts),
        lost=(offsets == 0) != (counts == 0),
        planes=planes,
        compression=int(page.compression),
        grey=planes > 1 or page.samplesperpixel == 1,
        photometric=int(page.photometric),
        samples=samples_of(page) if not coded.ycbcr else replace(samples_of(page), ycbcr=True),
        coded=coded,
        jpeg_tables=page.jpegtables,
        decoded_bytes=_decoded_bytes(page, planes),
        decode=page.decode,
    )
    expected = level.stored_columns * level.stored_rows * planes
    if len(offsets) != expected or len(counts) != expected:
        raise ValueError(f"{len(offsets)} tiles listed where {expected} are needed")
    return level


def _decoded_bytes(page: tifffile.TiffPage, planes: int) -> int | None:
    if page.dtype is None or page.bitspersample != 8 * page.dtype.itemsize or page.fillorder != 1:
        return None
    return page.tilewidth * page.tilelength * page.dtype.itemsize * (1 if planes > 1 else page.samplesperpixel)


def _with_range(level: TiffLevel, first: tifffile.TiffPage, significant_bits: int | None) -> TiffLevel:
    """The level with the range of samples that the finest level `first` has: one for the whole slide."""
    main = samples_of(first, significant_bits)
    return replace(level, samples=replace(level.samples, white=main.white, black=main.black, notes=main.notes))


def level_notes(levels: tuple[TiffLevel, ...]) -> tuple[str, ...]:
    """What was decided about the samples and colours, and how many tiles of level 0 the file does not store."""
    notes = [*levels[0].samples.notes, *(level.coded.note for level in levels if level.coded.note)]
    if levels[0].not_stored:
        count, total = levels[0].not_stored, len(levels[0].counts)
        notes.append(f"{count} of the {total} tiles of level 0 are not stored in the file; they are shown as white.")
    lost = int(np.count_nonzero(levels[0].lost))
    if lost:
        notes.append(
            f"{lost} of the {len(levels[0].counts)} tiles of level 0 have no bytes or no place; they are unreadable."
        )
    return tuple(dict.fromkeys(notes))
