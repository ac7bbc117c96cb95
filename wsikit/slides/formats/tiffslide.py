"""Slides read with TiffSlide (tifffile and zarr). Positions are px of the level read.

TiffSlide returns a damaged JPEG tile as grey without an error, so each tile is first decoded strictly once.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import tiffslide
from tiffslide.tiffslide import (
    PROPERTY_NAME_MPP_X,
    PROPERTY_NAME_MPP_Y,
    PROPERTY_NAME_OBJECTIVE_POWER,
    PROPERTY_NAME_VENDOR,
)

from wsikit.errors import BrokenSlideError, ReadError, RequestError, UnsupportedSlideError, WsikitError
from wsikit.slides import jpeg
from wsikit.slides.base import WHITE, BaseSlide, MppLike, Pixels, SlideInfo, true_downsamples
from wsikit.slides.formats.tiff.codecs import COMPRESSIONS, JPEG, codec_fault
from wsikit.slides.formats.tiff.colours import coded_colours
from wsikit.slides.formats.tiff.directories import check_directories
from wsikit.slides.formats.tiff.layout import structure_fault
from wsikit.slides.formats.tiff.metadata import read_metadata
from wsikit.slides.formats.tiff.page import read_associated
from wsikit.slides.formats.tiff.samples import RGB, Samples, UnfitSamplesError, samples_of
from wsikit.slides.properties import allowed
from wsikit.slides.scale import stated, stated_text

Box = tuple[int, int, int, int]

_ALPHA_PX = 1 << 24
"""Largest coarsest level in which an alpha channel is looked for, px."""


class TiffSlideSlide(BaseSlide):
    """A TIFF slide read by TiffSlide, in tiles or in strips."""

    reader: ClassVar[str] = "tiffslide"

    def __init__(self, path: str, *, mpp: MppLike | None = None, mpp_source: str = "option") -> None:
        self._slide: tiffslide.TiffSlide | None = _open(path)
        self._checked: set[tuple[int, int]] = set()
        try:
            super().__init__(_info(path, self.reader, self._slide), mpp=mpp, mpp_source=mpp_source)
            self._pages = [level.keyframe for level in _series(self._slide).levels]
            self._samples = self._meanings(self._slide)
            coded = coded_colours(self._pages[0], self._pages[0]).note
            notes = (*self._samples[0].notes, *([coded] if coded else []))
            self._info = replace(self._info, notes=tuple(dict.fromkeys((*self._info.notes, *notes))))
            self._check_readable()
        except WsikitError:
            self.close()
            raise
        except Exception as error:  # tifffile raises errors of many kinds for a damaged structure
            self.close()
            raise BrokenSlideError(f"{path}: {structure_fault(path, error)}") from error

    def close(self) -> None:
        if self._slide is not None:
            self._slide.close()
            self._slide = None

    def pass_through_fault(self, level: int) -> str | None:
        """Why a store cannot keep the tiles of `level` as they are, as the end of a sentence."""
        return "TiffSlide returns pixels, not coded tiles; without --reader tiffslide another reader may keep the tiles"

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        slide = self._open_slide()
        empty = self._check_tiles(slide, level, (x, y, width, height))
        try:
            pixels = self._samples[level].to_rgb(self._stored(slide, level, x, y, width, height))
        except Exception as error:  # tifffile, zarr and the decoders each raise their own errors
            words = " ".join(str(error).split()) or type(error).__name__
            raise ReadError(self.path, level, (x, y, width, height), words) from error
        for left, top, right, bottom in empty:
            pixels[max(0, top - y) : bottom - y, max(0, left - x) : right - x] = WHITE
        return pixels

    def _stored(self, slide: tiffslide.TiffSlide, level: int, x: int, y: int, width: int, height: int) -> Any:
        """Samples (height, width, samples of a px) as tifffile decodes them."""
        group: Any = slide.zarr_group
        array = group[str(level)] if len(self._pages) > 1 else next(iter(group.arrays()))[1]
        return np.asarray(array[y : y + height, x : x + width]).reshape(height, width, -1)

    def _meanings(self, slide: tiffslide.TiffSlide) -> list[Samples]:
        """What the samples of each level mean; an alpha that is 0 in all of a small coarsest level is not used."""
        bits = read_metadata(slide.ts_tifffile, self._pages[0]).significant_bits
        samples = [samples_of(page, bits) for page in self._pages]
        last, alpha = len(samples) - 1, samples[-1].alpha
        width, height = self.level_dimensions[last]
        if alpha is None or width * height > _ALPHA_PX:
            return samples
        try:
            stored = self._stored(slide, last, 0, 0, width, height)
        except Exception:  # a damaged tile says nothing; reading it later raises the error
            return samples
        unused = not stored[..., alpha].any() and stored[..., : samples[-1].colours].any()
        return [level.without_alpha() for level in samples] if unused else samples

    def _read_associated(self, name: str) -> Pixels:
        slide = self._open_slide()
        return read_associated(self.path, name, slide.ts_tifffile, slide.associated_images.series_map[name].keyframe)

    def _check_tiles(self, slide: tiffslide.TiffSlide, level: int, box: tuple[int, int, int, int]) -> list[Box]:
        """Raise ReadError if a tile or strip that overlaps `box` is lost, or a JPEG one damaged.

        Returns (left, top, right, bottom) of those that the file need not store: tifffile gives black for them.
        """
        page = self._pages[level]
        width = page.tilewidth if page.is_tiled else page.imagewidth
        height = page.tilelength if page.is_tiled else page.rowsperstrip
        columns = -(-page.imagewidth // width)
        empty = []
        for row in range(box[1] // height, (box[1] + box[3] - 1) // height + 1):
            for column in range(box[0] // width, (box[0] + box[2] - 1) // width + 1):
                number, place = row * columns + column, (column * width, row * height, width, height)
                if page.databytecounts[number]:
                    if int(page.compression) == JPEG and (level, number) not in self._checked:
                        self._check_jpeg(slide, level, number, place)
                elif page.dataoffsets[number] or (level > 0 and self.info.vendor == "aperio"):
                    raise ReadError(self.path, level, place, "the file has no bytes for the tile")
                else:
                    empty.append((place[0], place[1], place[0] + width, place[1] + height))
        return empty

    def _check_jpeg(self, slide: tiffslide.TiffSlide, level: int, number: int, place: Box) -> None:
        page, handle = self._pages[level], slide.ts_tifffile.filehandle
        with handle.lock:
            handle.seek(page.dataoffsets[number])
            encoded = handle.read(page.databytecounts[number])
        try:
            rgb = int(page.photometric) == RGB
            jpeg.decode(jpeg.self_contained(encoded, page.jpegtables, rgb=rgb), place[2:])
        except jpeg.JpegError as error:
            raise ReadError(self.path, level, place, str(error)) from error
        self._checked.add((level, number))

    def _open_slide(self) -> tiffslide.TiffSlide:
        if self._slide is None:
            raise RequestError(f"{self.path}: the slide is closed; open it again")
        return self._slide


def _open(path: str) -> tiffslide.TiffSlide:
    try:
        check_directories(path)
        slide = tiffslide.TiffSlide(path)
        refusal = _refusal(slide)
    except (FileNotFoundError, PermissionError, BrokenSlideError):
        raise
    except NotImplementedError as error:
        message = f"{path}: TiffSlide cannot read it ({error}). Open it with reader='auto'."
        raise UnsupportedSlideError(message) from error
    except Exception as error:  # tifffile raises errors of many kinds for a damaged structure
        raise BrokenSlideError(f"{path}: {structure_fault(path, error)}") from error
    if refusal is not None:
        slide.close()
        raise UnsupportedSlideError(f"{path}: {refusal}")
    return slide


def _refusal(slide: tiffslide.TiffSlide) -> str | None:
    """Why a slide that TiffSlide opens cannot be read with it, with the next step; or None."""
    if slide.ts_tifffile.is_ndpi:
        return "a Hamamatsu NDPI, of which TiffSlide would show damaged parts as grey. Open it with reader='ndpi'."
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        # TiffSlide warns if it parses the metadata of a vendor only in part
        page = _series(slide).keyframe
    fault = codec_fault(int(page.compression))
    if fault is not None:
        return fault
    try:
        samples_of(page)
    except UnfitSamplesError as error:
        return f"{error}. Open it with reader='auto'."
    coded = coded_colours(page, page)
    # tifffile follows the tags unless there is a JFIF marker
    contrary = bool(coded.note) and int(page.compression) == JPEG and not page.is_jfif
    if coded.ycbcr or coded.restated or coded.fault or contrary:
        return (
            f"{COMPRESSIONS[int(page.compression)]} whose colours TiffSlide would give wrongly "
            f"({(coded.note or coded.fault or '').rstrip('.')}). Open it with reader='auto'."
        )
    return None


def _series(slide: tiffslide.TiffSlide) -> Any:
    return slide.ts_tifffile.series[slide.properties["tiffslide.series-index"]]


def _info(path: str, reader: str, slide: tiffslide.TiffSlide) -> SlideInfo:
    properties = slide.properties
    vendor = properties[PROPERTY_NAME_VENDOR] or ("ome" if slide.ts_tifffile.is_ome else "generic-tiff")
    page = _series(slide).keyframe
    aperio = properties.get("aperio.MPP") if vendor == "aperio" else None
    if aperio is not None:
        scale = stated_text(str(aperio), str(aperio), "vendor property aperio.MPP", f"MPP = {aperio}")
    else:
        scale = stated(properties[PROPERTY_NAME_MPP_X], properties[PROPERTY_NAME_MPP_Y], "TIFF XResolution")
    power = properties[PROPERTY_NAME_OBJECTIVE_POWER]
    width, height = slide.dimensions
    return SlideInfo(
        path=path,
        reader=reader,
        vendor=vendor,
        kind="tiled" if page.is_tiled else "plain",
        dimensions=(width, height),
        level_dimensions=tuple(slide.level_dimensions),
        level_downsamples=true_downsamples(slide.level_dimensions),
        mpp=scale.mpp,
        mpp_source=scale.source,
        mpp_fault=scale.fault,
        mpp_literal=scale.literal,
        magnification=float(power) if power else None,
        tile_px=(page.tilewidth, page.tilelength) if page.is_tiled else None,
        compression=COMPRESSIONS[int(page.compression)],
        associated=tuple(sorted({"label", "macro", "thumbnail"} & set(slide.associated_images))),
        icc_profile=slide._profile,
        properties=allowed({name: value for name, value in properties.items() if value is not None}),
    )
