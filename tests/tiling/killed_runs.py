"""A script for test_kill.py: starts `tile` again and again and kills it (SIGKILL) at random moments.

    killed_runs.py SLIDE STORE IMAGE_PARAMETERS_AS_JSON KILLS SEED

Everything is imported once; each attempt is a fork of this process, in which no other thread lives, so that an attempt
costs only its own run time. A store that is finished despite the kills is compared and started again. Prints as JSON
how many different states the killed left behind, and in how many different ones the finished ended: one, if all is
well.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

# imported before the forks, or each would take seconds
import dask.threaded  # noqa: F401
import scipy.ndimage  # noqa: F401
import zarr  # noqa: F401

from wsikit.executor import Executor
from wsikit.slides.formats.tiff import reader  # noqa: F401
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile
from wsikit.tissue import quality  # noqa: F401


def start(slide: Path, store: Path, image: ImageParameters) -> int:
    """Fork a child that tiles; its process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            tile(slide, store, slide_id="s", image=image, patch_px=128, executor=Executor(workers=2))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def state(store: Path) -> str:
    """Digest of all files of a store, by name and content."""
    digest = hashlib.sha256()
    for path in sorted(store.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(store)).encode() + path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    slide, store = Path(sys.argv[1]), Path(sys.argv[2])
    image, kills, chance = ImageParameters(**json.loads(sys.argv[3])), int(sys.argv[4]), random.Random(int(sys.argv[5]))
    timed = store.with_name("timed.zarr")
    begun = time.perf_counter()
    os.waitpid(start(slide, timed, image), 0)
    whole_time = time.perf_counter() - begun
    killed, left_behind, finished = 0, set(), {state(timed)}
    while killed < kills:
        child = start(slide, store, image)
        time.sleep(chance.uniform(0, 0.6) * whole_time)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            killed += 1
            left_behind.add(state(store))
        elif status:
            sys.exit("a run failed where it should have gone on")
        else:  # it came to its end before the signal: what many before it began
            finished.add(state(store))
            shutil.rmtree(store)
    os.waitpid(start(slide, store, image), 0)
    finished.add(state(store))
    print(json.dumps({"left_behind": len(left_behind), "finished": len(finished)}))


if __name__ == "__main__":
    main()
