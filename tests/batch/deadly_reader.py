"""A plug-in reader whose process dies by a signal while it reads, as one written in C does with a damaged file.

The file says how: "DEADLY" and the number of the signal, 0 for a slide that can be read, -1 for one that hangs, or -2
for one that hangs and keeps Python's lock.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import numpy as np

from wsikit.slides import BaseSlide, SlideInfo

SIDE = 512


class DeadlySlide(BaseSlide):
    """512 × 512 px of pink at 1 µm/px."""

    reader = "deadly"

    def __init__(self, path, *, mpp=None, mpp_source="option"):
        self._signal = int(Path(path).read_text().split()[1])
        size = (SIDE, SIDE)
        info = SlideInfo(path, self.reader, "deadly", "plain", size, (size,), ((1.0, 1.0),), (1.0, 1.0), "file")
        super().__init__(info, mpp=mpp, mpp_source=mpp_source)

    @staticmethod
    def reads(path, head):
        return head.startswith(b"DEADLY")

    def _read_level(self, level, x, y, width, height):
        if self._signal == -1:
            threading.Event().wait()
        if self._signal == -2:
            ctypes.PyDLL(None).sleep(600)
        if self._signal:
            os.kill(os.getpid(), self._signal)
        rows, cols = np.mgrid[y : y + height, x : x + width]
        pixels = np.full((height, width, 3), 243, np.uint8)
        pixels[(rows - SIDE // 2) ** 2 + (cols - SIDE // 2) ** 2 < 200**2] = (205, 130, 180)
        pixels[(rows % 16 < 4) & (cols % 16 < 4)] -= 40
        return pixels

    def close(self):
        pass
