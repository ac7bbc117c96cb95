"""A script for test_kill.py: ends `tile` just before its k-th change to the file system, for many k, and finishes it.

    killed_operations.py SLIDE FOLDER IMAGE_PARAMETERS_AS_JSON FIRST STEP

Python tells an audit hook of every file opened for writing, folder made, file renamed or removed; the process ends
there as by a kill, without any clean-up. Prints as JSON how many ends were tried, and those after which the next run
did not end in the bytes of one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

# imported before the forks, or each would take seconds
import dask.threaded  # noqa: F401
import scipy.ndimage  # noqa: F401
import zarr  # noqa: F401

from wsikit.executor import Executor
from wsikit.slides.formats.tiff import reader  # noqa: F401
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile
from wsikit.tissue import quality  # noqa: F401

ENDED = 9
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


class Stop:
    """Ends the process at its `at`-th change to the file system."""

    def __init__(self) -> None:
        self.at = 0
        self.seen = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if self.at and (writes or event in CHANGES):
            self.seen += 1
            if self.seen == self.at:
                os._exit(ENDED)


def run(slide: str, store: Path, image: ImageParameters, stop: Stop, at: int) -> int:
    """Tile in a child that ends at its `at`-th change (0: never); its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            stop.at = at
            tile(slide, store, slide_id="s", image=image, patch_px=128, executor=Executor(workers=1))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.WEXITSTATUS(os.waitpid(child, 0)[1])


def contents(store: Path) -> dict[str, str]:
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.rglob("*")
        if path.is_file()
    }


def main() -> None:
    slide, folder, image = sys.argv[1], Path(sys.argv[2]), ImageParameters(**json.loads(sys.argv[3]))
    first, step = int(sys.argv[4]), int(sys.argv[5])
    stop = Stop()
    sys.addaudithook(stop)
    run(slide, folder / "whole.zarr", image, stop, 0)
    whole = contents(folder / "whole.zarr")
    tried, wrong, at = 0, [], first
    store = folder / "s.zarr"
    while run(slide, store, image, stop, at) == ENDED:
        tried += 1
        if run(slide, store, image, stop, 0) or contents(store) != whole:
            wrong.append(at)
        shutil.rmtree(store)
        at += step
    print(json.dumps({"tried": tried, "wrong": wrong}))


if __name__ == "__main__":
    main()
