"""One picture as a slide with one level: PNG, JPEG, JPEG XL etc. (`pictures`), and TIFF in strips.

Decoded once, when it is opened, and kept in memory: for regions of slides and camera pictures, not for whole slides.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar

import tifffile
from PIL import Image

from wsikit.errors import BrokenSlideError, ReadError, RequestError, SlideError, UnsupportedSlideError
from wsikit.slides.base import BaseSlide, MppLike, Pixels, SlideInfo
from wsikit.slides.formats import pictures
from wsikit.slides.formats.tiff import layout as tiff_layout
from wsikit.slides.formats.tiff.advice import TO_TILES
from wsikit.slides.formats.tiff.codecs import COMPRESSIONS
from wsikit.slides.formats.tiff.directories import check_directories
from wsikit.slides.formats.tiff.metadata import read_metadata
from wsikit.slides.formats.tiff.page import read_page
from wsikit.slides.scale import Scale, from_resolution
from wsikit.slides.scenes import SceneLike, choose_scene

MAX_PIXELS = 178_000_000
"""0.5 GB as RGB, and close to Pillow's own limit. A larger picture should be stored in tiles."""

_INCH = 2


class ImageSlide(BaseSlide):
    """A picture without tiles and levels."""

    reader: ClassVar[str] = "image"

    has_scenes: ClassVar[bool] = True

    def __init__(
        self,
        path: str,
        *,
        mpp: MppLike | None = None,
        mpp_source: str = "option",
        scene: SceneLike | None = None,
    ) -> None:
        with open(path, "rb") as file:
            is_tiff = tiff_layout.first_directory(file.read(16)) is not None
        if is_tiff:
            info = _tiff_info(path, self.reader, scene)
            self._load: Callable[[str], tuple[Pixels, tuple[str, ...]]] = partial(_load_tiff, scene=info.scene)
        else:
            choose_scene(path, [""], scene, 0)
            info, self._load = _image_info(path, self.reader), pictures.load
        super().__init__(info, mpp=mpp, mpp_source=mpp_source, scene=scene)
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
                    pixels, notes = self._load(self.path)
                    if pixels.shape != (height, width, 3):
                        raise ValueError(f"{pixels.shape[1]}×{pixels.shape[0]} px found")
                    self._pixels = pixels
                    self._info = replace(self._info, notes=tuple(dict.fromkeys((*self._info.notes, *notes))))
                except Exception as error:  # Pillow and tifffile raise errors of many kinds for damaged bytes
                    words = " ".join(str(error).split()) or type(error).__name__
                    raise ReadError(self.path, 0, (0, 0, width, height), words) from error
            return self._pixels


def _image_info(path: str, reader: str) -> SlideInfo:
    try:
        head = pictures.read_head(path)
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except pictures.UnfitPictureError as error:
        raise UnsupportedSlideError(f"{path}: {error}.") from error
    width, height = head.size
    if width * height > MAX_PIXELS:
        raise _too_large(path)
    scale = _picture_scale(head.dpi, head.kind)
    return _info(path, reader, head.kind.lower(), head.size, scale, head.icc_profile, None, {})


def _picture_scale(dpi: tuple[float, float] | None, kind: str) -> Scale | None:
    if not dpi:
        return None
    return from_resolution(float(dpi[0]), float(dpi[1]), _INCH, f"{kind} resolution", f"{float(dpi[0]):g} dpi")


def _tiff_info(path: str, reader: str, scene: SceneLike | None) -> SlideInfo:
    try:
        check_directories(path)
        with tifffile.TiffFile(path) as tiff:
            images = tiff_layout.images_of(path, tiff, scene)
            page = images.scene.main
            refusal = tiff_layout.refusal(page, images.scene, tiled=False)
            if refusal is not None:
                raise UnsupportedSlideError(f"{path}: {refusal}")
            if page.imagewidth * page.imagelength > MAX_PIXELS:
                raise _too_large(path)
            metadata = read_metadata(tiff, page, ome_image=images.scene.ome_image)
            info = _info(
                path,
                reader,
                metadata.vendor,
                (page.imagewidth, page.imagelength),
                metadata.scale,
                metadata.icc_profile,
                COMPRESSIONS[int(page.compression)],
                metadata.properties,
            )
            return replace(info, notes=tuple(images.notes), scenes=tiff_layout.scene_infos(images), scene=images.chosen)
    except (SlideError, RequestError, FileNotFoundError, PermissionError):
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
        mpp_fault=scale.fault if scale else None,
        mpp_literal=scale.literal if scale else "",
        compression=compression,
        icc_profile=profile,
        properties=properties,
    )


def _load_tiff(path: str, scene: int | None) -> tuple[Pixels, tuple[str, ...]]:
    with tifffile.TiffFile(path) as tiff:
        page = tiff_layout.images_of(path, tiff, scene).scene.main
        image = read_page(tiff, page, read_metadata(tiff, page).significant_bits)
        return image.pixels, image.notes


def _too_large(path: str) -> UnsupportedSlideError:
    return UnsupportedSlideError(
        f"{path}: a picture of more than {MAX_PIXELS / 1e6:.0f} million pixels without tiles would fill the memory. "
        f"{TO_TILES}"
    )
