"""Pictures that are not TIFF: PNG, JPEG, BMP, GIF, WebP, AVIF by Pillow; JPEG 2000 and JPEG XL by imagecodecs.

Every picture becomes uint8 RGB, upright as its Exif orientation states, and transparent parts white.
"""

from __future__ import annotations

import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from wsikit.slides import jpeg, jpeg2k
from wsikit.slides.to_rgb import over_white, to_8_bit, to_rgb

Pixels = npt.NDArray[np.uint8]

_PNG = b"\x89PNG\r\n\x1a\n"
_JP2, _J2K = b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"
_JXL_BOXES, _JXL = b"\0\0\0\x0cJXL ", b"\xff\x0a"
_ORIENTATION = 0x0112
_UNUSED_ALPHA = "The alpha channel is 0 everywhere: it is not used, and the colours are shown."
_SIDEWAYS = (5, 6, 7, 8)
_switch = threading.Lock()  # of Pillow, which all threads share


class UnfitPictureError(ValueError):
    """A picture that is not read. The message says what it is, and the next step."""


@dataclass(frozen=True)
class PictureHead:
    """Facts about a picture, without its pixels."""

    kind: str
    """JPEG, PNG, …"""
    size: tuple[int, int]
    """Width and height, px, upright."""
    dpi: tuple[float, float] | None
    """Stated px per inch, along x and y, upright."""
    icc_profile: bytes | None


def read_head(path: str) -> PictureHead:
    """Kind, size and resolution of a picture.

    Raises
    ------
    UnfitPictureError
        It is of a kind that is not read.
    Image.DecompressionBombError
        It is far too large.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith((_JXL, _JXL_BOXES)):
        return PictureHead("JPEGXL", _jxl_size(Path(path).read_bytes()), None, None)
    if start.startswith((_JP2, _J2K)):
        head = jpeg2k.read_head(Path(path).read_bytes())
        if head is None:
            raise UnfitPictureError("its JPEG 2000 header is damaged. Copy it again from its source")
        return PictureHead("JPEG2000", (head.width, head.height), None, None)
    try:
        with _quiet(), Image.open(path) as image:
            return _pillow_head(image)
    except (UnfitPictureError, FileNotFoundError, PermissionError):
        raise
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        if start[8:12] in (b"avif", b"avis"):
            words = "an AVIF picture that the installed Pillow does not decode. Export it as JPEG or PNG"
            raise UnfitPictureError(words) from error
        if start[4:8] == b"ftyp":
            words = "a HEIC picture, as phones write, which is not read here. Export it as JPEG or PNG"
            raise UnfitPictureError(words) from error
        raise UnfitPictureError(
            "no picture that Pillow can read: damaged, or of another kind. Copy it again from its source"
        ) from error


def load(path: str) -> tuple[Pixels, tuple[str, ...]]:
    """Pixels, uint8 (h, w, 3), and notes on what was decided. Raises whatever the decoders raise for damaged bytes."""
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith((_JXL, _JXL_BOXES)):
        return _load_jxl(Path(path).read_bytes())
    if start.startswith((_JP2, _J2K)):
        return _load_jpeg2k(Path(path).read_bytes())
    if start.startswith(_PNG):
        with _quiet(), Image.open(path) as image:
            image.verify()  # the checksum of each chunk
    with _strictly(), _quiet(), Image.open(path) as image:
        if image.format not in ("JPEG", "MPO"):
            image.load()  # before the Exif data of a PNG: they decode it, and a second decoding is silent about damage
        turn, frames = _orientation(image), getattr(image, "n_frames", 1)
        pixels, notes = _load_pillow(path, image)
    if frames > 1:
        notes.append(f"The file holds {frames} pictures (MPO); the first one is read.")
    if turn > 1:
        notes.append(f"The picture is turned upright, as its Exif orientation {turn} states.")
    return _upright(pixels, turn), tuple(notes)


def _pillow_head(image: Image.Image) -> PictureHead:
    kind, frames = image.format or "image", getattr(image, "n_frames", 1)
    if frames > 1 and kind != "MPO":
        raise UnfitPictureError(f"a picture of {frames} frames, where one is expected. Export one frame")
    if image.mode == "F" or image.mode in ("LAB", "HSV"):
        raise UnfitPictureError(
            f"a {kind} picture of mode {image.mode}, where grey or RGB is expected. Export it as PNG"
        )
    (width, height), dpi = image.size, image.info.get("dpi")
    resolution = (float(dpi[0]), float(dpi[1])) if dpi else None
    if _orientation(image) in _SIDEWAYS:
        width, height = height, width
        resolution = resolution[::-1] if resolution else None
    # a CMYK profile does not describe the RGB that is made here
    profile = image.info.get("icc_profile") if image.mode != "CMYK" else None
    return PictureHead("JPEG" if kind == "MPO" else kind, (width, height), resolution, profile)


def _orientation(image: Image.Image) -> int:
    """Exif orientation, 1 to 8; 1 if there is none. Damaged Exif data say nothing."""
    try:
        found = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow raises errors of many kinds for damaged Exif data
        return 1
    return found if 1 <= found <= 8 else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels as the Exif orientation states that they are to be seen."""
    if orientation in _SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _load_pillow(path: str, image: Image.Image) -> tuple[Pixels, list[str]]:
    mode, key = image.mode, image.info.get("transparency")
    if image.format in ("JPEG", "MPO") and mode in ("RGB", "L"):
        return jpeg.decode(Path(path).read_bytes(), image.size), []
    if mode == "CMYK":
        return _from_cmyk(image)
    if mode.startswith("I;16") or mode == "I":
        samples = np.asarray(image)
        if samples.min() < 0 or samples.max() > 65535:
            raise ValueError("samples of 32 bits, where at most 16 are expected")
        grey = to_rgb(samples.astype(np.uint16)[..., None], white_level=65535)
        return (np.where((samples == key)[..., None], 255, grey).astype(np.uint8) if isinstance(key, int) else grey), []
    if mode in ("RGBa", "La") or mode in ("RGBA", "LA", "PA") or key is not None:
        return _over_white(np.asarray(image.convert("RGBA")), meant=image.format == "PNG")
    return np.asarray(image.convert("RGB")), []


def _over_white(rgba: Pixels, *, meant: bool) -> tuple[Pixels, list[str]]:
    """On white, by straight alpha. An alpha of 0 everywhere is `meant` in PNG; other writers leave the byte unused."""
    colour, alpha = rgba[..., :3], rgba[..., 3]
    if not alpha.any() and colour.any() and not meant:
        return np.ascontiguousarray(colour), [_UNUSED_ALPHA]
    if not alpha.any():
        return over_white(colour, alpha), [
            "The picture is transparent everywhere (its alpha is 0), and so it is white."
        ]
    note = [] if (alpha == 255).all() else ["The picture has transparent parts: its colours are shown on white."]
    return over_white(colour, alpha), note


def _from_cmyk(image: Image.Image) -> tuple[Pixels, list[str]]:
    """Adobe stores CMYK inverted, which Pillow assumes for every JPEG; without Adobe's segment 0 is no ink."""
    inks = np.asarray(image)
    inverted = image.format == "JPEG" and "adobe" not in image.info
    paper = (inks if inverted else 255 - inks).astype(np.uint16)
    pixels = ((paper[..., :3] * paper[..., 3:] + 127) // 255).astype(np.uint8)
    return pixels, ["CMYK is converted to RGB by the plain formula, without a colour profile."]


def _load_jpeg2k(stream: bytes) -> tuple[Pixels, tuple[str, ...]]:
    head = jpeg2k.read_head(stream)
    fault = jpeg2k.damage(stream)
    if head is None or fault is not None:
        raise ValueError(fault or "the header of the JPEG 2000 stream is damaged")
    if not head.bits or head.signed or head.bits > 16:
        raise ValueError("JPEG 2000 samples that are signed, of more than 16 bits, or not all of one kind")
    samples = np.asarray(imagecodecs.jpeg2k_decode(stream))
    kinds = _channel_kinds(stream)
    return _from_channels(samples, float((1 << head.bits) - 1), kinds.get(samples.shape[-1] - 1, 0))


def _channel_kinds(stream: bytes) -> dict[int, int]:
    """Type of each channel by a JP2 file's channel definitions: 0 colour, 1 opacity, 2 premultiplied opacity."""
    place = stream.find(b"cdef", 0, 4096)
    if place < 0 or place + 6 > len(stream):
        return {}
    (count,) = struct.unpack_from(">H", stream, place + 4)
    entries = stream[place + 6 : place + 6 + 6 * count]
    return {number: kind for number, kind, _ in struct.iter_unpack(">HHH", entries[: len(entries) // 6 * 6])}


def _load_jxl(stream: bytes) -> tuple[Pixels, tuple[str, ...]]:
    samples = np.asarray(imagecodecs.jpegxl_decode(stream))
    if samples.ndim > 3:
        raise ValueError(f"a picture of {len(samples)} frames, where one is expected")
    white = 1.0 if samples.dtype.kind == "f" else float(np.iinfo(samples.dtype).max)
    return _from_channels(samples, white, 1)


def _from_channels(samples: Any, white: float, last: int) -> tuple[Pixels, tuple[str, ...]]:
    """RGB from (h, w) or (h, w, channels); `last`: what a channel beyond the colours is, as in `_channel_kinds`."""
    samples = samples[..., None] if samples.ndim == 2 else samples
    channels = samples.shape[2]
    colours = 1 if channels <= 2 else 3
    scaled = to_8_bit(samples, white)
    rgb = scaled[..., :colours] if colours == 3 else np.repeat(scaled[..., :1], 3, axis=2)
    if channels == colours:
        return np.ascontiguousarray(rgb), ()
    if channels > colours + 1 or last not in (1, 2):
        return np.ascontiguousarray(rgb), (f"The picture has {channels} channels; the first {colours} are shown.",)
    if not scaled[..., -1].any() and rgb.any():
        return np.ascontiguousarray(rgb), (_UNUSED_ALPHA,)
    return over_white(rgb, scaled[..., -1], premultiplied=last == 2), ("Its colours are shown on white, by its alpha.",)


def _jxl_size(stream: bytes) -> tuple[int, int]:
    """Width and height by the header of a JPEG XL codestream (ISO/IEC 18181-1, size header), raw or in boxes."""
    if stream.startswith(_JXL_BOXES):
        place = max(stream.find(b"jxlc"), stream.find(b"jxlp"))
        stream = stream[stream.find(_JXL, place) :] if place >= 0 else b""
    bits = int.from_bytes(stream[2:16], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def side(small: int) -> int:
        return (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    height = side(small)
    ratio = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[take(3)]
    width = height * ratio[0] // ratio[1] if ratio[0] else side(small)
    return width, height


@contextmanager
def _strictly() -> Iterator[None]:
    """Pillow refuses a picture that was cut short or is damaged, even if something in this process has asked it not to:
    a switch of the whole process, which importing `tiffslide.deepzoom` turns on."""
    with _switch:
        tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


def _quiet() -> warnings.catch_warnings:
    """Suppresses Pillow's warnings about large pictures; the caller has its own limit."""
    return warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)
