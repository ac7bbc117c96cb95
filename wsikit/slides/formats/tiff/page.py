"""Reads one whole image of a TIFF file, with strict decoding: pictures in strips, labels, macros, thumbnails."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from wsikit.errors import ReadError
from wsikit.slides import jpeg, jpeg2k
from wsikit.slides.base import WHITE
from wsikit.slides.formats.tiff.codecs import JPEG, JPEG_2000
from wsikit.slides.formats.tiff.colours import coded_colours
from wsikit.slides.formats.tiff.samples import RGB, samples_of

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PageImage:
    """One image, and what was decided about its samples."""

    pixels: Pixels
    """uint8 (h, w, 3)."""
    notes: tuple[str, ...] = ()


def read_page(tiff: tifffile.TiffFile, page: tifffile.TiffPage, significant_bits: int | None = None) -> PageImage:
    """The pixels of `page`. Raises whatever the decoders raise for damaged bytes."""
    samples, coded = samples_of(page, significant_bits), coded_colours(page, page)
    if coded.fault is not None:
        raise ValueError(coded.fault)
    samples = replace(samples, ycbcr=samples.ycbcr or coded.ycbcr)
    missing = _missing_strips(tiff, page)
    if int(page.compression) == JPEG and not page.is_tiled and int(page.planarconfig) == 1:
        decoded = _jpeg_strips(tiff, page, coded.restated)
    else:
        _check_whole(tiff, page)
        decoded = page.asarray()
        if int(page.planarconfig) == 2 and page.samplesperpixel > 1:
            decoded = decoded.transpose(1, 2, 0)
        decoded = decoded.reshape(page.imagelength, page.imagewidth, -1)
    if samples.alpha is not None and not decoded[..., samples.alpha].any() and decoded[..., : samples.colours].any():
        samples = samples.without_alpha()
    pixels, notes = samples.to_rgb(decoded), [*samples.notes, *([coded.note] if coded.note else [])]
    for top in missing:
        pixels[top : top + page.rowsperstrip] = WHITE
    if missing:
        notes.append(f"{len(missing)} strips are not stored in the file; they are shown as white.")
    return PageImage(pixels, tuple(notes))


def read_associated(path: str, name: str, tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Pixels:
    """An associated image, uint8 (h, w, 3); ReadError if it is damaged."""
    try:
        return read_page(tiff, page).pixels
    except Exception as error:  # the decoders raise errors of many kinds for damaged bytes
        words = " ".join(str(error).split()) or type(error).__name__
        box = (0, 0, page.imagewidth, page.imagelength)
        raise ReadError(path, 0, box, f"associated image {name}: {words}") from error


def _jpeg_strips(tiff: tifffile.TiffFile, page: Any, restated: str | None) -> Pixels:
    rows = []
    grey = page.samplesperpixel == 1
    for number, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts)):
        height = min(page.rowsperstrip, page.imagelength - number * page.rowsperstrip)
        if not count:
            rows.append(np.full((height, page.imagewidth, page.samplesperpixel), WHITE, np.uint8))
            continue
        tiff.filehandle.seek(offset)
        encoded = tiff.filehandle.read(count)
        stream = jpeg.self_contained(encoded, page.jpegtables, rgb=int(page.photometric) == RGB)
        if restated is not None:
            stream = jpeg.restated(stream, rgb=restated == "rgb")
        rows.append(jpeg.decode(stream, (page.imagewidth, max(page.rowsperstrip, page.imagelength)), grey=grey))
    return np.concatenate(rows)[: page.imagelength]


def _missing_strips(tiff: tifffile.TiffFile, page: Any) -> list[int]:
    """First rows of the strips that the file does not store. ValueError if one is lost, or ends beyond the file."""
    missing = []
    size = tiff.filehandle.size
    for number, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts)):
        if not count and offset:
            raise ValueError(f"the file has a place for strip {number} but no bytes")
        if count and not offset:
            raise ValueError(f"the file has bytes for strip {number} but no place")
        if offset >= size > 0 or count > size:
            raise ValueError(f"the file ends at byte {size}, before strip {number} does")
        if not count and not page.is_tiled:
            missing.append(number * page.rowsperstrip)
    if missing and len(missing) == len(page.databytecounts):
        raise ValueError("none of its strips are stored in the file: it was not written to the end")
    if missing and int(page.planarconfig) == 2 and page.samplesperpixel > 1:
        raise ValueError("strips of one channel are not stored in the file")
    return missing


def _check_whole(tiff: tifffile.TiffFile, page: Any) -> None:
    """A damaged JPEG 2000 stream decodes to a blurred picture without any error."""
    if int(page.compression) not in JPEG_2000:
        return
    for offset, count in zip(page.dataoffsets, page.databytecounts):
        tiff.filehandle.seek(offset)
        fault = jpeg2k.damage(tiff.filehandle.read(count)) if count else None
        if fault is not None:
            raise ValueError(fault)
