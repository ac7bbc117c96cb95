"""A reader of .npz files: `pixels`, uint8 (height, width, 3), and optionally `mpp`, µm per pixel."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.errors import RequestError
from wsikit.slides import BaseSlide, SlideInfo


class NpzSlide(BaseSlide):
    """One level, all of it in memory. `BaseSlide` does the rest: levels, scales, edges, thumbnails."""

    reader = "npz"  # the name of the entry point
    suffixes = (".npz",)  # by which it is found in a folder

    def __init__(self, path: str | Path, *, mpp: Any = None, mpp_source: str = "option") -> None:
        with np.load(path) as file:  # allow_pickle stays False: a file must not run code
            self._pixels: np.ndarray | None = file["pixels"]
            own = (float(file["mpp"]),) * 2 if "mpp" in file else None  # never a guess
        size = self._pixels.shape[1], self._pixels.shape[0]
        source = "mpp in the file" if own else "unknown"
        info = SlideInfo(str(path), self.reader, "npz", "plain", size, (size,), ((1.0, 1.0),), own, source)
        super().__init__(info, mpp=mpp, mpp_source=mpp_source)

    @staticmethod
    def reads(path: str | Path, head: bytes) -> bool:
        """Whether this reader opens the file: decided by content; `head` are its first bytes."""
        if not head.startswith(b"PK\x03\x04"):
            return False
        with zipfile.ZipFile(path) as file:
            return "pixels.npy" in file.namelist()

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """(height, width, 3) uint8 of a level; the region is inside of the level."""
        if self._pixels is None:
            raise RequestError(f"{self.path}: the slide is closed; open it again")
        return np.array(self._pixels[y : y + height, x : x + width])

    def close(self) -> None:
        self._pixels = None
