"""One pass over the patches of a job, timed, by any reader. Runs in its own process, so that its memory is measured.

The first line of input is a job as JSON; the answer is `ready` or an error. Each further line requests one pass, or, if
it is `check`, some patches to compare.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from wsikit.geometry import PatchGrid
    from wsikit.slides.base import Slide

BATCH = 128
"""Patches that wsikit reads at a time."""

CHECKED_PATCHES = 4
"""Patches that are compared with wsikit's pixels before anything is timed, spread over the job."""

BLOCKS = 8
"""They are compared as means of 8 × 8 blocks, which a shift by a fraction of a pixel hardly changes."""


@dataclass(frozen=True)
class Job:
    """What is read, and by which reader."""

    path: str
    reader: str
    """wsikit, limit, or a name of `wsikit.bench.readers.OTHERS`."""
    slide_mpp: tuple[float, float]
    """Used as the slide's pixel size."""
    mpp: float
    patch_px: int
    corners: tuple[tuple[int, int], ...]
    """Positions of the patches, level-0 px."""
    threads: int
    """Decoding threads of wsikit. Other readers choose their own number."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Job:
        corners = tuple((int(x), int(y)) for x, y in record["corners"])
        width_mpp, height_mpp = record["slide_mpp"]
        return cls(**{**record, "corners": corners, "slide_mpp": (width_mpp, height_mpp)})


Timings = dict[str, float]
"""seconds, cpu_seconds: of the pass, without opening; io_seconds: of reading the encoded tiles alone, of the limit."""


def _timed(work: Callable[[], None]) -> Timings:
    begun, cpu = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu}


def pass_of(job: Job) -> Callable[[], Timings]:
    """The pass of a job; raises any error if its reader is missing or cannot open the slide."""
    if job.reader == "wsikit":
        return lambda: _stream(job)
    if job.reader == "limit":
        return lambda: _decode_each_tile(job)
    _note(job)
    return lambda: _patch_by_patch(job)


def _note(job: Job) -> str | None:
    """Open the slide with another reader, and return what there is to know about it."""
    if job.reader in ("wsikit", "limit"):
        return None
    from wsikit.bench.readers import OTHERS, note_of

    reader = OTHERS[job.reader](job.path)
    try:
        return note_of(reader)
    finally:
        reader.close()


def _opened(job: Job) -> Slide:
    from wsikit.slides.registry import open_slide

    return open_slide(job.path, mpp=job.slide_mpp)


def _grid(job: Job, dimensions: tuple[int, int]) -> PatchGrid:
    from wsikit.geometry import PatchGrid

    return PatchGrid(dimensions, job.slide_mpp, job.patch_px, job.mpp)


def _corners(job: Job) -> npt.NDArray[np.int64]:
    return np.asarray(job.corners, dtype=np.int64).reshape(-1, 2)


def _stream(job: Job) -> Timings:
    from wsikit.tiling.stream import read_patches

    corners = _corners(job)
    with _opened(job) as slide:
        grid = _grid(job, slide.dimensions)

        def read() -> None:
            for first in range(0, len(corners), BATCH):
                read_patches(slide, grid, corners[first : first + BATCH], threads=job.threads, in_order=True)

        return _timed(read)


def _decode_each_tile(job: Job) -> Timings:
    """Decode each needed tile once and discard it, without making patches."""
    from wsikit.slides.paste import DecodePool, plan_paste
    from wsikit.slides.tile_cache import DecodedTiles
    from wsikit.tiling.stream import plan_patches

    with _opened(job) as slide, DecodePool(job.threads) as pool:
        plans = plan_patches(slide, _grid(job, slide.dimensions), _corners(job))
        encoded = _encoded(slide)
        if not isinstance(slide, DecodedTiles):
            raise ValueError(f"the reader {slide.info.reader} gives no access to tiles")
        level = plans.level
        paste = plan_paste(plans.boxes, slide.level_dimensions[level], slide.tile_px(level), in_order=True)
        tiles = paste.tiles.tolist()

        def fetch(share: slice) -> None:
            for column, row in tiles[share]:
                assert encoded is not None
                encoded(level, column, row)

        def decode(share: slice) -> None:
            for column, row in tiles[share]:
                slide.tile(level, column, row, keep=False)

        timings = _timed(lambda: pool.share(decode))
        if encoded is not None:
            timings["io_seconds"] = _timed(lambda: pool.share(fetch))["seconds"]
        return timings


def _encoded(slide: Any) -> Callable[[int, int, int], bytes | None] | None:
    """Function that returns the bytes of a tile without decoding, if the reader has one."""
    from wsikit.slides.encoded_tiles import EncodedTiles

    if slide.info.kind == "store":
        return slide.chunk if slide.holds_pixels else None
    return slide.encoded_tile if isinstance(slide, EncodedTiles) else None


def block_means(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Means over `BLOCKS` × `BLOCKS` parts of uint8 (h, w, 3): float64 (BLOCKS, BLOCKS, 3)."""
    rows = [part.mean(axis=0) for part in np.array_split(pixels.astype(np.float64), BLOCKS)]
    return np.stack([np.stack([part.mean(axis=0) for part in np.array_split(row, BLOCKS)]) for row in rows])


def samples(job: Job) -> list[dict[str, Any]]:
    """Of some patches as another reader reads them: place (level-0 px), downsample, size (px) and block means."""
    from wsikit.bench.readers import OTHERS

    reader = OTHERS[job.reader](job.path)
    try:
        level, size = _reading(job, reader.downsamples)
        places = [job.corners[number] for number in np.linspace(0, len(job.corners) - 1, CHECKED_PATCHES).astype(int)]
        return [
            {
                "place": place,
                "downsample": float(reader.downsamples[level]),
                "size": size,
                "means": block_means(reader.read(place[0], place[1], level, *size)).round(2).tolist(),
            }
            for place in places
        ]
    finally:
        reader.close()


def _reading(job: Job, downsamples: Sequence[float]) -> tuple[int, tuple[int, int]]:
    """The level that patches are read from, and their size there, px."""
    from wsikit.geometry import plan_read

    level = plan_read([shrink * max(job.slide_mpp) for shrink in downsamples], target_mpp=job.mpp)
    step_x, step_y = (job.mpp / (mpp * downsamples[level]) for mpp in job.slide_mpp)
    return level, (math.ceil(job.patch_px * step_x - 1e-3), math.ceil(job.patch_px * step_y - 1e-3))


def _patch_by_patch(job: Job) -> Timings:
    from PIL import Image

    from wsikit.bench.readers import OTHERS

    reader = OTHERS[job.reader](job.path)
    try:
        level, size = _reading(job, reader.downsamples)
        out = job.patch_px, job.patch_px

        def read() -> None:
            for x, y in job.corners:
                pixels = reader.read(x, y, level, *size)
                if size != out:  # not exact, but usual practice
                    np.asarray(Image.fromarray(pixels).resize(out, Image.Resampling.BOX))

        return _timed(read)
    finally:
        reader.close()


def peak_rss_mb() -> float | None:
    """Peak memory of this process, MB; None if the system does not report it."""
    try:
        # not ru_maxrss, which on Linux includes the parent's memory at the start of this process
        with open("/proc/self/status", encoding="ascii") as file:
            peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
        return round(peak / 2**10, 1)
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), 1)


def main() -> None:
    """Serve one job on standard input and output."""
    try:
        job = Job.from_json(json.loads(sys.stdin.readline()))
        run = pass_of(job)
        note = _note(job)
    except Exception as error:  # any error of a library for a slide that it cannot open is reported
        _say({"reason": _in_a_line(error)})
        return
    _say({"ready": True, "note": note})
    for line in sys.stdin:
        try:
            if line.strip() == "check":
                _say({"samples": samples(job)})
                continue
            timings = run()
        except Exception as error:
            _say({"reason": _in_a_line(error)})
            return
        _say({**timings, "peak_rss_mb": peak_rss_mb()})


def _say(record: dict[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(record) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def _in_a_line(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "not installed" if isinstance(error, ModuleNotFoundError) else f"does not load: {error}"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
