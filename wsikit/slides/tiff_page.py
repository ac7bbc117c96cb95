"""One image of a TIFF file read whole and strictly: pictures in strips, labels, macros, thumbnails."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from wsikit.slides import jpeg
from wsikit.slides.pixels import to_rgb
from wsikit.slides.tiff_layout import GREY_0_IS_WHITE, JPEG, RGB, white_level

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


def _jpeg_strips(tiff: tifffile.TiffFile, page: Any) -> Pixels:
    rows = []
    for offset, count in zip(page.dataoffsets, page.databytecounts):
        tiff.filehandle.seek(offset)
        encoded = tiff.filehandle.read(count)
        rows.append(jpeg.decode(jpeg.self_contained(encoded, page.jpegtables, rgb=int(page.photometric) == RGB)))
    return np.concatenate(rows)[: page.imagelength, : page.imagewidth]
