"""Many small slides in one run: memory and open files stay as they are. Also a script that prints the figures.

    test_soak.py FOLDER SLIDES [SLIDES_AT_ONCE]

With one slide at a time, what a slide costs outside of its stages is printed too: wall time, which includes waiting for
the disk, and processor time.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import wsikit
from wsikit.batch import attempt, scheduler
from wsikit.tiling.plan import ImageParameters

SLIDES = int(os.environ.get("WSIKIT_SOAK", "240"))
"""docs/reliability.md states the figures of a longer run: test_soak.py FOLDER 500."""


def soak(folder: Path, slides: int) -> dict[str, Any]:
    """Run copies of one phantom of 520 px, and look at this process after each of them."""
    (folder / "in").mkdir(parents=True)
    first = folder / "in" / "s0000.tiff"
    wsikit.make_phantom(first, size_px=(520, 520), seed=1)
    settings: dict[str, Any] = {"device": "cpu", "workers": 1, "image": ImageParameters(pixels="none")}
    wsikit.run(first, folder / "warm", **settings)  # what is loaded once
    for number in range(1, slides):
        shutil.copy(first, folder / "in" / f"s{number:04d}.tiff")
    seen: list[tuple[int, int, int, float]] = []

    def look(_: object) -> None:
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        seen.append((memory >> 20, len(os.listdir("/proc/self/fd")), threading.active_count(), time.process_time()))

    spent, real = [0.0], attempt.carry_out

    def carry_out(*arguments: Any) -> None:
        before = time.process_time()
        real(*arguments)
        spent[0] += time.process_time() - before

    attempt.carry_out = carry_out
    begun = time.process_time()
    try:
        result = wsikit.run(folder / "in", folder / "out", on_slide=look, **settings)
    finally:
        attempt.carry_out = real
    assert result.exit_status == 0
    assert result.time is not None
    quarter = slides // 4
    names = ("second quarter", "third quarter", "last quarter")
    parts = {name: seen[number * quarter : (number + 1) * quarter] for number, name in enumerate(names, 1)}
    in_stages = sum(one.seconds for one in result.time.stages)
    outside = {
        "wall_ms_outside_of_stages_per_slide": round(1000 * (result.time.seconds - in_stages) / slides),
        "cpu_ms_outside_of_stages_per_slide": round(1000 * (time.process_time() - begun - spent[0]) / slides),
    }
    return {
        "slides": slides,
        **(outside if scheduler.SLIDES_AT_ONCE == 1 else {}),
        "wall_s": round(result.time.seconds, 1),
        "bound_by": result.time.bound_by(),
        **{
            name: {
                "memory_mb": statistics.median(one[0] for one in part),
                "files": max(one[1] for one in part),
                "threads": max(one[2] for one in part),
                "cpu_ms_per_slide": round(1000 * (part[-1][3] - part[0][3]) / (len(part) - 1)),
            }
            for name, part in parts.items()
        },
        "stages_ms_per_slide": {one.stage: round(1000 * one.seconds / slides) for one in result.time.stages},
    }


@pytest.mark.slow
@pytest.mark.timeout(120 + 5 * SLIDES)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_and_open_files_stay_flat_over_many_slides(tmp_path: Path) -> None:
    found = soak(tmp_path, SLIDES)
    before, after = found["third quarter"], found["last quarter"]
    assert after["memory_mb"] <= before["memory_mb"] + 60, "1 MB per slide"
    assert after["files"] <= before["files"] + 2
    assert after["threads"] <= before["threads"] + 10, (
        "those of slides that overlap come and go; one per slide would be 60"
    )


if __name__ == "__main__":
    scheduler.SLIDES_AT_ONCE = int(sys.argv[3]) if len(sys.argv) > 3 else scheduler.SLIDES_AT_ONCE
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as scratch:
        print(json.dumps(soak(Path(scratch), int(sys.argv[2])), indent=2))
