"""Reads one whole image of a TIFF file, with strict decoding: pictures in strips, labels, macros, thumbnails."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from wsikit.errors import ReadError
from wsikit.slides import jpeg
from wsikit.slides.formats.tiff.layout import GREY_0_IS_WHITE, JPEG, RGB, white_level
from wsikit.slides.to_rgb import to_rgb

Pixels = npt.NDArray[np.uint8]


def read_page(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Pixels:
    """Pixels of `page`, uint8 (h, w, 3). Raises whatever the decoders raise for damaged bytes."""
    if int(page.compression) == JPEG and not page.is_tiled and int(page.planarconfig) == 1:
        return _jpeg_strips(tiff, page)
    samples = page.asarray()
    if int(page.planarconfig) == 2 and page.samplesperpixel > 1:
        samples = samples.transpose(1, 2, 0)
    samples = samples.reshape(page.imagelength, page.imagewidth, -1)
    inverted = int(page.photometric) == GREY_0_IS_WHITE
    return to_rgb(samples, white_level=white_level(page, None), inverted=inverted)


def read_associated(path: str, name: str, tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Pixels:
    """An associated image, uint8 (h, w, 3); ReadError if it is damaged."""
    try:
        return read_page(tiff, page)
    except Exception as error:  # the decoders raise errors of many kinds for damaged bytes
        words = " ".join(str(error).split()) or type(error).__name__
        box = (0, 0, page.imagewidth, page.imagelength)
        raise ReadError(path, 0, box, f"associated image {name}: {words}") from error


def _jpeg_strips(tiff: tifffile.TiffFile, page: Any) -> Pixels:
    rows = []
    for offset, count in zip(page.dataoffsets, page.databytecounts):
        tiff.filehandle.seek(offset)
        encoded = tiff.filehandle.read(count)
        stream = jpeg.self_contained(encoded, page.jpegtables, rgb=int(page.photometric) == RGB)
        rows.append(jpeg.decode(stream, (page.imagewidth, max(page.rowsperstrip, page.imagelength))))
    return np.concatenate(rows)[: page.imagelength]
