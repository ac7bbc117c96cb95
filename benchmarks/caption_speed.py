"""How fast patches are described, against another build of wsikit: the same patches, in alternating pairs.

    python benchmarks/captions.py --base ../other-worktree --data ../shared/data

Each build runs in a process of its own, which loads the package from its worktree. Per set of patches: milliseconds of
processor time per patch of both builds (medians over the pairs), their ratio (median of the pairs' ratios), the share
of patches with the same words, the largest difference of a fact (relative, of those above 0.01), and what two threads
gain over one: patches per wall second of two threads that describe half of the patches each, over those of one. Both
builds see the same load, so that ratios hold on a busy machine; the gain of two threads needs two idle cores.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

Patches = npt.NDArray[np.uint8]

PATCH_PX = 224
TIMED = 64  # patches per measurement
IDC_MPP, IDC_PATCHES = 4.0, 600
HER2ST_MPP, CMU_MPP = 0.688, 0.499
PHANTOM_SEEDS = range(810_000, 810_012)  # nothing was trained or tuned on these
LEAST_FACT = 0.01


def patch_sets(data: Path | None) -> dict[str, tuple[Callable[[], Patches], float]]:
    """Name to what gives the patches, uint8 (B, H, W, 3), and µm per pixel. Without real data, phantoms only."""
    sets: dict[str, tuple[Callable[[], Patches], float]] = {}
    if data:
        slides, patches = data / "slides", data / "patches"
        sets["her2st slide"] = partial(_cut, slides / "her2st_C2_pyramid.tif", least_tissue=0.3), HER2ST_MPP
        sets["her2st spots"] = partial(_zipped, patches / "her2st.zip", "spots.csv"), HER2ST_MPP
        sets["CMU-1"] = partial(_cut, slides / "CMU-1-Small-Region.svs", least_tissue=0.0), CMU_MPP
        sets["IDC"] = partial(_zipped, patches / "idc.zip", "index.csv", IDC_PATCHES), IDC_MPP
    for mpp in (0.5, 0.25):
        sets[f"phantom {mpp}"] = partial(_drawn, mpp), mpp
    return sets


def _cut(path: Path, *, least_tissue: float) -> Patches:
    """The patches of a slide at its own pixel size of which at least `least_tissue` is not glass."""
    from wsikit.slides import open_slide

    with open_slide(path) as slide:
        width, height = slide.dimensions
        cut = [
            slide.read_region(x, y, PATCH_PX, PATCH_PX, level=0)
            for y in range(0, height - PATCH_PX + 1, PATCH_PX)
            for x in range(0, width - PATCH_PX + 1, PATCH_PX)
        ]
    return np.stack([patch for patch in cut if np.mean(patch.min(axis=2) < 200) >= least_tissue])


def _zipped(path: Path, index: str, most: int | None = None) -> Patches:
    """The patches of a zip that have the usual size; `most` of them, evenly spaced."""
    from PIL import Image

    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name != index and name[-4:] in (".jpg", ".png"))
        if most:
            names = [names[i] for i in np.linspace(0, len(names) - 1, min(most, len(names))).astype(int)]
        images = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    sizes = [image.shape for image in images]
    usual = max(set(sizes), key=sizes.count)
    return np.stack([image for image in images if image.shape == usual])


def _drawn(mpp: float) -> Patches:
    from wsikit.phantom import phantom_patches

    return np.stack([patch.image for patch in phantom_patches(PHANTOM_SEEDS, 8, mpp=mpp)])


class Build:
    """A process that describes patches with one build of the package."""

    def __init__(self, folder: Path | None) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if folder is not None:
            if not (folder / "wsikit" / "captions").is_dir():
                raise SystemExit(f"--base {folder}: no wsikit in it; give the worktree of another build")
            environment["PYTHONPATH"] = str(folder.resolve())
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, **request: Any) -> Any:
        """The answer to one request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("a build stopped: see its error above")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def _builds(base: Path | None) -> Iterator[dict[str, Build]]:
    builds = {"here": Build(None)} | ({"base": Build(base)} if base else {})
    try:
        yield builds
    finally:
        for build in builds.values():
            build.close()


def speed_against(base: Path | None, data: Path | None, pairs: int, only: str = "") -> dict[str, Any]:
    """Figures per set of patches whose name holds `only`; see the module's text. Without `base`, of this build."""
    report: dict[str, Any] = {}
    with _builds(base) as builds, tempfile.TemporaryDirectory() as folder:
        for name, (patches, mpp) in patch_sets(data).items():
            if only in name:
                place = Path(folder) / "patches.npy"
                np.save(place, patches())
                report[name] = _compare(builds, place, mpp, pairs)
                print(f"{name:14}", "  ".join(f"{key} {value}" for key, value in report[name].items()), flush=True)
    return report


def _compare(builds: dict[str, Build], place: Path, mpp: float, pairs: int) -> dict[str, Any]:
    found = {key: build.ask(do="describe", patches=str(place), mpp=mpp) for key, build in builds.items()}
    times: dict[str, list[float]] = {key: [] for key in builds}
    gains: dict[str, list[float]] = {key: [] for key in builds}
    for _ in range(pairs):
        for key, build in builds.items():
            times[key].append(build.ask(do="time"))
            gains[key].append(build.ask(do="threads"))
    row: dict[str, Any] = {"patches": len(found["here"]), "ms": round(1000 * median(times["here"]), 3)}
    if "base" in builds:
        ratios = [before / now for before, now in zip(times["base"], times["here"])]
        row |= {"ms_base": round(1000 * median(times["base"]), 3), "ratio_to_base": round(median(ratios), 2)}
        row |= _agreement(found["here"], found["base"])
        row["two_threads_base"] = round(median(gains["base"]), 2)
    return row | {"two_threads": round(median(gains["here"]), 2)}


def _agreement(here: list[Any], base: list[Any]) -> dict[str, Any]:
    """Share of equal words, and the fact that differs most."""
    same = sum(one[0] == other[0] for one, other in zip(here, base, strict=True))
    worst, where = 0.0, ""
    for (_, facts), (_, others) in zip(here, base, strict=True):
        for name in facts.keys() | others.keys():
            one, other = facts.get(name, float("inf")), others.get(name, float("inf"))
            apart = 0.0 if one == other else abs(one - other) / max(abs(one), abs(other), LEAST_FACT)
            if not apart <= worst:
                worst, where = apart, name
    return {"same_words": round(same / max(1, len(here)), 4), "largest_difference": f"{worst:.2g} {where}".strip()}


def _serve() -> None:
    """Answer requests, one JSON line each, about the patches that were named last."""
    import wsikit.captions.morphometry as module

    captioner = module.Morphometry()
    images, mpp = np.zeros((0, 1, 1, 3), np.uint8), 1.0
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "describe":
            images, mpp = np.load(request["patches"]), request["mpp"]
            answer: Any = [(one.text, one.facts) for one in captioner.caption(images, mpp=mpp)]
            images = images[:: max(1, len(images) // TIMED)][:TIMED]
        elif request["do"] == "time":
            start = time.process_time()
            captioner.caption(images, mpp=mpp)
            answer = (time.process_time() - start) / len(images)
        else:
            answer = _two_threads(captioner, np.concatenate([images, images]), mpp)
        print(json.dumps(answer), flush=True)


def _two_threads(captioner: Any, images: Patches, mpp: float) -> float:
    """Patches per wall second of two threads over those of one."""
    halves = np.array_split(images, 2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda part: captioner.caption(part[:1], mpp=mpp), halves))
        start = time.perf_counter()
        captioner.caption(images, mpp=mpp)
        middle = time.perf_counter()
        list(pool.map(lambda part: captioner.caption(part, mpp=mpp), halves))
    return (middle - start) / (time.perf_counter() - middle)


if __name__ == "__main__":
    _serve()
