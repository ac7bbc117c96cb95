"""One picture as a slide with one level: PNG, JPEG, BMP etc. read by Pillow, TIFF in strips by tifffile.

Decoded once, when it is opened, and kept in memory: for regions of slides and camera pictures, not for whole slides.
"""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from wsikit.errors import BrokenSlideError, ReadError, RequestError, SlideError, UnsupportedSlideError
from wsikit.slides import jpeg
from wsikit.slides.base import BaseSlide, MppLike, Pixels, SlideInfo
from wsikit.slides.formats.tiff import layout as tiff_layout
from wsikit.slides.formats.tiff.metadata import read_metadata
from wsikit.slides.formats.tiff.page import read_page
from wsikit.slides.scale import Scale, from_resolution
from wsikit.slides.to_rgb import to_rgb

MAX_PIXELS = 178_000_000
"""0.5 GB as RGB, and close to Pillow's own limit. A larger picture should be stored in tiles."""

_INCH = 2


class ImageSlide(BaseSlide):
    """A picture without tiles and levels."""

    reader: ClassVar[str] = "image"

    def __init__(self, path: str, *, mpp: MppLike | None = None, mpp_source: str = "option") -> None:
        with open(path, "rb") as file:
            is_tiff = tiff_layout.first_directory(file.read(16)) is not None
        self._load = _load_tiff if is_tiff else _load_image
        super().__init__((_tiff_info if is_tiff else _image_info)(path, self.reader), mpp=mpp, mpp_source=mpp_source)
        self._lock = threading.Lock()
        self._closed = False
        self._pixels: Pixels | None = None
        try:
            self._whole()
        except ReadError as error:
            raise BrokenSlideError(
                f"{path}: the picture cannot be decoded ({error.reason}). Copy it again from its source."
            ) from error

    def close(self) -> None:
        self._closed, self._pixels = True, None

    def pass_through_fault(self, level: int) -> str | None:
        """Why a store cannot keep the picture as it is, as the end of a sentence."""
        return "it is one picture, not stored in tiles"

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        return self._whole()[y : y + height, x : x + width].copy()

    def _whole(self) -> Pixels:
        with self._lock:
            if self._closed:
                raise RequestError(f"{self.path}: the slide is closed; open it again")
            if self._pixels is None:
                width, height = self.dimensions
                try:
                    pixels = self._load(self.path)
                    if pixels.shape != (height, width, 3):
                        raise ValueError(f"{pixels.shape[1]}×{pixels.shape[0]} px found")
                    self._pixels = pixels
                except Exception as error:  # Pillow and tifffile raise errors of many kinds for damaged bytes
                    words = " ".join(str(error).split()) or type(error).__name__
                    raise ReadError(self.path, 0, (0, 0, width, height), words) from error
            return self._pixels


def _image_info(path: str, reader: str) -> SlideInfo:
    try:
        with _quiet(), Image.open(path) as image:
            width, height = image.size
            dpi = image.info.get("dpi")
            profile = image.info.get("icc_profile")
            kind = image.format or "image"
            frames = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise
        raise UnsupportedSlideError(
            f"{path}: not a picture that Pillow can read. Open it with reader='auto'."
        ) from error
    if width * height > MAX_PIXELS:
        raise _too_large(path)
    if frames > 1:
        raise UnsupportedSlideError(f"{path}: a picture of {frames} frames, where one is expected. Export one frame.")
    scale = from_resolution(float(dpi[0]), float(dpi[1]), _INCH, f"{kind} resolution") if dpi else None
    return _info(path, reader, kind.lower(), (width, height), scale, profile, None, {})


def _tiff_info(path: str, reader: str) -> SlideInfo:
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.series[0].keyframe
            refusal = tiff_layout.refusal(page, tiff.series[0], tiled=False)
            if refusal is not None:
                raise UnsupportedSlideError(f"{path}: {refusal}")
            if page.imagewidth * page.imagelength > MAX_PIXELS:
                raise _too_large(path)
            metadata = read_metadata(tiff, page)
            return _info(
                path,
                reader,
                metadata.vendor,
                (page.imagewidth, page.imagelength),
                metadata.scale,
                metadata.icc_profile,
                tiff_layout.COMPRESSIONS[int(page.compression)],
                metadata.properties,
            )
    except (SlideError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # tifffile raises errors of many kinds for a damaged structure
        raise BrokenSlideError(f"{path}: {tiff_layout.structure_fault(path, error)}") from error


def _info(
    path: str,
    reader: str,
    vendor: str,
    size: tuple[int, int],
    scale: Scale | None,
    profile: bytes | None,
    compression: str | None,
    properties: dict[str, str],
) -> SlideInfo:
    return SlideInfo(
        path=path,
        reader=reader,
        vendor=vendor,
        kind="plain",
        dimensions=size,
        level_dimensions=(size,),
        level_downsamples=((1.0, 1.0),),
        mpp=scale.mpp if scale else None,
        mpp_source=scale.source if scale else "unknown",
        compression=compression,
        icc_profile=profile,
        properties=properties,
    )


def _load_image(path: str) -> Pixels:
    with _quiet(), Image.open(path) as image:
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            return jpeg.decode(Path(path).read_bytes(), image.size)
        if image.mode.startswith("I;16") or image.mode == "I":
            return to_rgb(np.asarray(image).astype(np.uint16)[..., None], white_level=65535)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            return to_rgb(np.asarray(image.convert("RGBA")), white_level=255)
        return np.asarray(image.convert("RGB"))


def _load_tiff(path: str) -> Pixels:
    with tifffile.TiffFile(path) as tiff:
        return read_page(tiff, tiff.series[0].keyframe)


def _too_large(path: str) -> UnsupportedSlideError:
    return UnsupportedSlideError(
        f"{path}: a picture of more than {MAX_PIXELS / 1e6:.0f} million pixels without tiles would fill the memory. "
        f"{tiff_layout.CONVERT}"
    )


def _quiet() -> warnings.catch_warnings:
    """Suppresses Pillow's warnings about large pictures; MAX_PIXELS is the limit here."""
    return warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)
