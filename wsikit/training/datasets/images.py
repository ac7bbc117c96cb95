"""Image files of a folder or of a zip, by name; decoded when asked for, uint8 (H, W, 3) RGB."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError, WsikitError

Image = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"])
"""Suffixes of images when files are searched rather than named."""

_MODES = frozenset(["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"])
"""Pillow's modes of 8 bits a channel; there is no unique conversion from deeper ones to 8 bits."""


class Pixels(Protocol):
    """Source of the images of a table."""

    def read(self, rows: Sequence[int]) -> list[Image]:
        """Images of these rows of the table, each uint8 (H, W, 3) RGB, in the requested order."""


class Files(Protocol):
    """A folder or a zip: names and contents of its files."""

    place: Path

    def names(self) -> list[str]:
        """All files, as paths with forward slashes, sorted."""

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of `names` that do not exist."""

    def read(self, names: Sequence[str]) -> list[bytes]:
        """Contents of files."""


class FolderFiles:
    """Files of a folder and its sub-folders."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def names(self) -> list[str]:
        return sorted(path.relative_to(self.place).as_posix() for path in self.place.rglob("*") if path.is_file())

    def missing(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if not (self.place / name).is_file()]

    def read(self, names: Sequence[str]) -> list[bytes]:
        return [(self.place / name).read_bytes() for name in names]


class ZipFiles:
    """Files of a zip. It is opened for each call, so that a table can be sent to another process."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def names(self) -> list[str]:
        with self._open() as archive:
            return sorted(info.filename for info in archive.infolist() if not info.is_dir())

    def missing(self, names: Sequence[str]) -> list[str]:
        there = set(self.names())
        return [name for name in names if name not in there]

    def read(self, names: Sequence[str]) -> list[bytes]:
        with self._open() as archive:
            return [archive.read(name) for name in names]

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.place)
        except zipfile.BadZipFile as error:
            raise RequestError(f"{self.place}: not a zip ({error}). Copy it again from its source.") from error


def open_files(place: str | Path) -> Files:
    """The files of a folder or of a zip.

    Raises
    ------
    RequestError
        If `place` is neither.
    """
    path = Path(place)
    if path.is_dir():
        return FolderFiles(path)
    if path.is_file():
        return ZipFiles(path)
    raise RequestError(f"{path}: neither a folder nor a zip of images. Give the folder or zip that contains them.")


class ImageFiles:
    """Images of a table that are files, row by row (see `Pixels`)."""

    def __init__(self, files: Files, names: Sequence[str]) -> None:
        self._files = files
        self._names = tuple(names)

    def read(self, rows: Sequence[int]) -> list[Image]:
        names = [self._names[row] for row in rows]
        try:
            contents = self._files.read(names)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise WsikitError(
                f"{self._files.place}: an image could not be read ({error}). Copy the images again from their source."
            ) from error
        return [decode(content, f"{self._files.place}: {name}") for name, content in zip(names, contents, strict=True)]


def decode(content: bytes, where: str) -> Image:
    """Decode the bytes of an image file to uint8 (H, W, 3) RGB.

    Raises
    ------
    WsikitError
        If it is not an image, or has more than 8 bits per channel; the message begins with `where`.
    """
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with Pillow.open(io.BytesIO(content)) as image:
            if image.mode not in _MODES:
                raise WsikitError(f"{where}: {image.mode} pixels; expected 8 bits a channel. Save the image as RGB.")
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise WsikitError(
            f"{where}: not readable as an image ({error}). Copy it again from its source, or remove its row."
        ) from error


def same_file(name: str) -> str:
    """A file name in normal form: forward slashes, no `./`.

    >>> same_file(".\\\\a\\\\b.png")
    'a/b.png'
    """
    return PurePosixPath(name.replace("\\", "/")).as_posix()
