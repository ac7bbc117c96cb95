"""A plug-in reader that does to its process what the slide's file says, while it reads.

The file: "CLUSTER", what is done, and the path of a file by which test and reader talk.

plain           nothing.
waits           write the process id to FLAG.begun, and wait until FLAG is there.
kills_once      end the process by SIGKILL, if FLAG is not there yet.
kills_workers   end the process by SIGKILL; in a process that a worker has started, the worker too.
eats_once       take memory until the process is ended, if FLAG is not there yet.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np

from wsikit.slides import BaseSlide, SlideInfo

SIDE = 512
_MOST = 3 << 30


class ClusterSlide(BaseSlide):
    """512 × 512 px of pink at 1 µm/px."""

    reader = "cluster"

    def __init__(self, path, *, mpp=None, mpp_source="option"):
        _, self._what, flag = Path(path).read_text().split()
        self._flag = Path(flag)
        size = (SIDE, SIDE)
        info = SlideInfo(path, self.reader, "cluster", "plain", size, (size,), ((1.0, 1.0),), (1.0, 1.0), "file")
        super().__init__(info, mpp=mpp, mpp_source=mpp_source)

    @staticmethod
    def reads(path, head):
        return head.startswith(b"CLUSTER")

    def _read_level(self, level, x, y, width, height):
        if self._what == "waits":
            begun = self._flag.with_suffix(".begun")
            begun.with_suffix(".new").write_text(str(os.getpid()))
            begun.with_suffix(".new").replace(begun)
            wait_for(self._flag)
        elif self._what == "kills_workers":
            if "distributed.worker" not in sys.modules:
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._what != "plain" and not self._flag.exists():
            self._flag.touch()
            if self._what == "eats_once":
                eat()
            os.kill(os.getpid(), signal.SIGKILL)
        rows, cols = np.mgrid[y : y + height, x : x + width]
        pixels = np.full((height, width, 3), 243, np.uint8)
        pixels[(rows - SIDE // 2) ** 2 + (cols - SIDE // 2) ** 2 < 200**2] = (205, 130, 180)
        pixels[(rows % 16 < 4) & (cols % 16 < 4)] -= 40
        return pixels

    def close(self):
        pass


def eat():
    """Take memory in small steps, so that whoever watches it can end the process."""
    held = []
    while len(held) << 24 < _MOST:
        held.append(np.ones(1 << 24, np.uint8))
        threading.Event().wait(0.02)


def wait_for(path):
    """Wait until a file is there; given up after two minutes, which no machine needs."""
    for _ in range(1200):
        if path.exists():
            return
        threading.Event().wait(0.1)
    raise TimeoutError(path)
