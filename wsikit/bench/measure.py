"""Reading patches by several readers in one run: interleaved, medians, each reader in a process of its own.

Machines are shared and noisy: only ratios within a run mean anything. Opening the slide is not counted.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from wsikit.bench.passes import Job, block_means
from wsikit.bench.readers import OTHERS
from wsikit.errors import ReadError, RequestError
from wsikit.geometry import PatchGrid
from wsikit.slides.base import Slide
from wsikit.slides.registry import open_slide
from wsikit.store.paths import is_url
from wsikit.tiling.stream import plan_patches

PATIENCE_S = 60.0
"""Timeout: a reader that needs longer to open a slide or for one pass is stopped."""

MOST_DIFFERENCE = 2.0
"""Grey levels, of block means: two decoders, or a shift by a part of a pixel, stay below; false colours do not."""

LIMIT, WSIKIT, STORE, BASE = "limit", "wsikit", "store", "base"


@dataclass(frozen=True)
class ReaderSpeed:
    """Speed of one reader, medians over the passes; or why there is none."""

    seconds: tuple[float, ...] = ()
    """Seconds of each pass."""
    patches_per_s: float | None = None
    mp_per_s: float | None = None
    """Megapixels per second of the level that is read (not of the patches, where they are smaller)."""
    ratio_to_limit: float | None = None
    """Speed relative to decoding each tile once."""
    cpus: float | None = None
    """CPU seconds per second: above 1 if the reader has its own threads."""
    cpu_us_per_patch: float | None = None
    """Processor time of all threads, µs: comparable also on a machine that others use."""
    peak_rss_mb: float | None = None
    """Peak memory of its process, libraries included."""
    reason: str | None = None
    """Why there are no numbers."""
    note: str | None = None
    """What the numbers are about, where the name of the reader is not enough: libvips' own loader, for example."""
    difference: float | None = None
    """Mean difference of some patches from wsikit's pixels, grey levels; None where they cannot be compared."""

    @property
    def remark(self) -> str:
        """The reason, or what must be known to read the numbers: another loader, other pixels."""
        if self.reason is not None:
            return self.reason
        parts = [self.note] if self.note else []
        if self.difference is not None and self.difference > MOST_DIFFERENCE:
            parts.append(f"OTHER PIXELS: they differ from wsikit's by {self.difference:.0f} grey levels on average")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        if self.reason is not None:
            return {"reason": self.reason}
        record = {key: value for key, value in vars(self).items() if value is not None and key != "seconds"}
        return {**record, "seconds": list(self.seconds)}


@dataclass(frozen=True)
class Bottleneck:
    """Fractions of wsikit's time by task, each measured by a pass without the other tasks."""

    decode: float
    io: float
    overhead: float
    """Planning, pasting, resampling."""

    @property
    def line(self) -> str:
        """Summary in one line."""
        shares = {
            "decoding the tiles": self.decode,
            "reading the file": self.io,
            "assembling patches": self.overhead,
        }
        listed = ", ".join(f"{share:.0%} {what}" for what, share in shares.items())
        most = max(shares, key=lambda what: shares[what])
        return f"The bottleneck is {most}: {listed}."


@dataclass(frozen=True)
class BenchResult:
    """All readers on one slide."""

    slide: str
    mpp: float | None
    """µm/px of the patches; None: the slide's own scale."""
    patch_px: int
    patches: int
    level: int
    source_mp: float
    """Megapixels of the level under the patches."""
    threads: int
    readers: dict[str, ReaderSpeed] = field(default_factory=dict)
    bottleneck: Bottleneck | None = None
    """None if the slide's reader gives no access to tiles."""

    def to_json(self) -> dict[str, Any]:
        """One entry per reader by name, with the settings of the run. `peak_rss_mb` is that of wsikit."""
        record = {key: value for key, value in vars(self).items() if key not in ("readers", "bottleneck")}
        found = self.bottleneck
        return {
            **record,
            "peak_rss_mb": self.readers[WSIKIT].peak_rss_mb,
            "bottleneck": {**vars(found), "line": found.line} if found else None,
            **{name: speed.to_json() for name, speed in self.readers.items()},
        }


def bench(
    path: str | os.PathLike[str],
    *,
    store: str | os.PathLike[str] | None = None,
    mpp: float | None = None,
    patches: int = 1000,
    patch_px: int = 224,
    repeat: int = 5,
    threads: int = 1,
    others: Sequence[str] = tuple(OTHERS),
    base: str | os.PathLike[str] | None = None,
    on_pass: Callable[[], None] | None = None,
) -> BenchResult:
    """Read the same patches of a slide, row by row, with every installed reader.

    Parameters
    ----------
    path
        A slide, or a slide store.
    store
        A store of the same slide, read in the same run.
    mpp
        µm/px of the patches; the slide's own scale if None.
    patches
        Maximum number of patches; whole ones from the middle of the slide.
    repeat
        Counted passes of each reader, after one warm-up pass.
    threads
        Decoding threads of wsikit.
    others
        Names of the other readers to run.
    base
        Folder with the sources of another version of wsikit, which reads the same patches in the same run.
    on_pass
        Called after each pass.

    Raises
    ------
    SlideError, ScaleError
        wsikit cannot open the slide, or its scale is needed and unknown.
    RequestError
        The slide has no whole patch of this size.
    """
    if min(patches, repeat, threads) < 1:
        raise RequestError(f"patches {patches}, repeat {repeat}, threads {threads}: expected 1 or more of each")
    with open_slide(path) as slide:
        result, job = _plan(slide, mpp, patches, patch_px, threads)
    jobs = {LIMIT: replace(job, reader=LIMIT), WSIKIT: job}
    if store is not None:
        jobs[STORE] = replace(job, path=os.fspath(store))
    jobs |= {name: replace(job, reader=name) for name in others}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(_Worker(job)) for name, job in jobs.items()}
        if base is not None:
            workers[BASE] = stack.enter_context(_Worker(job, sources=os.path.abspath(base)))
        with open_slide(path, mpp=job.slide_mpp) as slide:
            for name in others:
                workers[name].compare(slide)
        for _ in range(1 + repeat):
            for worker in workers.values():
                worker.run()
                if on_pass:
                    on_pass()
    limit = workers[LIMIT].median("seconds")
    readers = {name: _speed(worker, result, limit) for name, worker in workers.items()}
    return replace(result, readers=readers, bottleneck=_bottleneck(workers[LIMIT], workers[WSIKIT]))


def _plan(slide: Slide, mpp: float | None, patches: int, patch_px: int, threads: int) -> tuple[BenchResult, Job]:
    # at its own scale a slide is read pixel by pixel, even if the pixel size is unknown
    slide_mpp = slide.mpp if mpp is not None else (1.0, 1.0)
    grid = PatchGrid(slide.dimensions, slide_mpp, patch_px, mpp if mpp is not None else 1.0)
    corners = grid.all_coords()
    corners = corners[(corners + grid.side <= slide.dimensions).all(axis=1)]
    if not len(corners):
        raise RequestError(f"{slide.path}: no whole patch of {patch_px} px; its size is {slide.dimensions} px")
    corners = corners[max(0, (len(corners) - patches) // 2) :][:patches]
    with open_slide(slide.path, mpp=slide_mpp) as scaled:
        plans = plan_patches(scaled, grid, corners)
    result = BenchResult(
        slide=os.path.basename(slide.path.rstrip("/")),
        mpp=mpp,
        patch_px=patch_px,
        patches=len(corners),
        level=plans.level,
        source_mp=float(np.prod(plans.boxes[:, 2:], axis=1).sum() / 1e6),
        threads=threads,
    )
    places = tuple((int(x), int(y)) for x, y in corners.tolist())
    return result, Job(slide.path, WSIKIT, slide_mpp, grid.target_mpp, patch_px, places, threads)


class _Worker:
    """A process that makes one pass on request; of this version of wsikit, or of the one in the folder `sources`."""

    def __init__(self, job: Job, *, sources: str | None = None) -> None:
        if sources is not None:
            job = replace(job, path=job.path if is_url(job.path) else os.path.abspath(job.path))
        self.reason: str | None = None
        self.passes: list[dict[str, float]] = []
        self.difference: float | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "wsikit.bench.passes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=sources,  # searched first for modules
            env=None if sources is None else {**os.environ, "PYTHONPATH": sources},
        )
        self.note: str | None = self._ask(json.dumps(job.to_json())).get("note")

    def run(self) -> None:
        """One more pass; nothing if an earlier one failed."""
        if self.reason is None:
            answer = self._ask("pass")
            if self.reason is None:
                self.passes.append(answer)

    def compare(self, slide: Slide) -> None:
        """Compare some patches with the pixels of `slide`, as wsikit reads it. Before the passes, and not timed."""
        answer = self._ask("check") if self.reason is None else {}
        if self.reason is None:
            found = [_difference(slide, sample) for sample in answer["samples"]]
            known = [value for value in found if value is not None]
            self.difference = round(max(known), 2) if known else None

    @property
    def counted(self) -> list[dict[str, float]]:
        """The passes without the first, which is the warm-up."""
        return self.passes[1:]

    def median(self, key: str) -> float | None:
        """Median over the counted passes; None if there are none."""
        values = [found[key] for found in self.counted if key in found]
        return statistics.median(values) if values and self.reason is None else None

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watch = threading.Timer(
            PATIENCE_S, self._process.kill
        )  # some readers never return on a file they do not fully support
        asked = time.monotonic()
        watch.start()
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        watch.cancel()
        if not answer:
            status = self._process.wait()
            late = time.monotonic() - asked >= PATIENCE_S
            self.reason = f"no answer in {PATIENCE_S:g} s" if late else f"its process ended with status {status}"
            return {}
        found: dict[str, Any] = json.loads(answer)
        self.reason = found.get("reason")
        return found

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def _speed(worker: _Worker, result: BenchResult, limit: float | None) -> ReaderSpeed:
    seconds = worker.median("seconds")
    if seconds is None:
        return ReaderSpeed(reason=worker.reason)
    cpu = worker.median("cpu_seconds")
    return ReaderSpeed(
        seconds=tuple(round(found["seconds"], 5) for found in worker.counted),
        patches_per_s=round(result.patches / seconds, 1),
        mp_per_s=round(result.source_mp / seconds, 1),
        ratio_to_limit=round(limit / seconds, 3) if limit else None,
        cpus=round(cpu / seconds, 2) if cpu is not None else None,
        cpu_us_per_patch=round(cpu / result.patches * 1e6, 1) if cpu is not None else None,
        peak_rss_mb=worker.passes[-1].get("peak_rss_mb"),
        note=worker.note,
        difference=worker.difference,
    )


def _difference(slide: Slide, sample: dict[str, Any]) -> float | None:
    """Mean difference of one patch from wsikit's pixels, grey levels; None if the slide has no such level."""
    x, y = sample["place"]
    width, height = sample["size"]
    ratios = [abs(across / sample["downsample"] - 1) for across, _ in slide.level_downsamples]
    level = int(np.argmin(ratios))
    if ratios[level] > 0.01:
        return None
    try:
        own = slide.read_region(x, y, width, height, level=level)
    except ReadError:
        return None
    return float(np.abs(block_means(own) - np.asarray(sample["means"])).mean())


def _bottleneck(limit: _Worker, wsikit: _Worker) -> Bottleneck | None:
    whole, decoding, io = wsikit.median("seconds"), limit.median("seconds"), limit.median("io_seconds")
    if whole is None or decoding is None:
        return None
    io = min(io or 0.0, whole)
    decode = max(0.0, min(decoding, whole) - io)
    return Bottleneck(round(decode / whole, 3), round(io / whole, 3), round(1 - (decode + io) / whole, 3))
