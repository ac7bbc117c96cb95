"""A plug-in reader in a few lines: a NumPy picture (.npy, uint8 (h, w, 3)) with its pixel size in its name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from wsikit.errors import RequestError
from wsikit.slides import BaseSlide, SlideInfo


class NumpySlide(BaseSlide):
    """`colon_0.5um.npy` is a slide of 0.5 µm/px."""

    reader = "numpy"
    suffixes = (".NPY",)

    def __init__(self, path, *, mpp=None, mpp_source="option"):
        self._pixels = np.load(path, mmap_mode="r")
        size = self._pixels.shape[1], self._pixels.shape[0]
        found = re.search(r"_([\d.]+)um", Path(path).name)
        own, source = ((float(found[1]),) * 2, "file name") if found else (None, "unknown")
        info = SlideInfo(path, self.reader, "numpy", "plain", size, (size,), ((1.0, 1.0),), own, source)
        super().__init__(info, mpp=mpp, mpp_source=mpp_source)

    @staticmethod
    def reads(path, head):
        return head.startswith(b"\x93NUMPY")

    def _read_level(self, level, x, y, width, height):
        if self._pixels is None:
            raise RequestError(f"{self.path}: the slide is closed; open it again")
        return np.array(self._pixels[y : y + height, x : x + width])

    def close(self):
        self._pixels = None
