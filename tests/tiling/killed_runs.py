"""A script for test_kill.py: starts `tile` again and again and kills it (SIGKILL) at random moments.

    killed_runs.py SLIDE STORE IMAGE_PARAMETERS_AS_JSON KILLS SEED

Everything is imported once; each attempt is a fork of this process, in which no other thread lives, so that an attempt
costs no more than what it lives. Prints as JSON how many were killed at work, and how many states they left behind.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

# imported before the forks, or each would take seconds
import dask.threaded  # noqa: F401
import scipy.ndimage  # noqa: F401
import zarr  # noqa: F401

from wsikit.execution import Executor
from wsikit.slides import tiff  # noqa: F401
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile
from wsikit.tissue import quality  # noqa: F401


def start(slide: Path, store: Path, image: ImageParameters) -> int:
    """Fork a child that tiles; its process id."""
    child = os.fork()
    if child == 0:
        try:
            tile(
                slide, store, slide_id="s", image=image, patches=PatchParameters(0.5, 128), executor=Executor(workers=2)
            )
        finally:
            os._exit(0)
    return child


def state(store: Path) -> frozenset[str]:
    return frozenset(str(path) for path in store.rglob("*") if path.is_file())


def main() -> None:
    slide, store = Path(sys.argv[1]), Path(sys.argv[2])
    image, kills, chance = ImageParameters(**json.loads(sys.argv[3])), int(sys.argv[4]), random.Random(int(sys.argv[5]))
    begun = time.perf_counter()
    os.waitpid(start(slide, store.with_name("timed.zarr"), image), 0)
    whole_time = time.perf_counter() - begun
    killed, states = 0, set()
    for _ in range(kills):
        child = start(slide, store, image)
        time.sleep(chance.uniform(0, 0.7) * whole_time)
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        states.add(state(store))
    print(json.dumps({"killed": killed, "states": len(states)}))


if __name__ == "__main__":
    main()
