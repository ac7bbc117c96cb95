"""The process in which damaged slides are opened: it may die, hang, or be refused memory, and is then started again.

    child.py MEMORY_IN_MB

Reads jobs, one JSON per line, and prints the name of each step before it begins, and at the end what was seen.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.cli.main import main
from wsikit.errors import ReadError, StoreError, WsikitError
from wsikit.slides import open_slide
from wsikit.slides.store import SlideStore
from wsikit.slides.types import WHITE

_ANSWERS = os.fdopen(os.dup(1), "w")
"""Standard output of the process; whatever libraries print goes elsewhere."""
_MOST_TILES = 400
"""Compared per level: a damaged file can state more than can be read."""
_SIDE = 96
_RECODED = 3.0
"""Mean difference by encoding a tile as JPEG again."""

_truths: dict[str, tuple[list[np.ndarray], Any]] = {}


def answer(**values: Any) -> None:
    _ANSWERS.write(json.dumps(values) + "\n")
    _ANSWERS.flush()


def truth_of(path: str) -> tuple[list[np.ndarray], Any]:
    """Pixels of each level of the undamaged slide, and its scanned area."""
    if path not in _truths:
        with open_slide(path) as slide:
            levels = [
                _samples(slide, level, (0, 0, width, height))
                for level, (width, height) in enumerate(slide.level_dimensions)
            ]
            _truths[path] = levels, slide.info.bounds
    return _truths[path]


def _samples(slide: Any, level: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """RGB of a box, or its channels: the colours of their composite depend on the whole slide. (h, w, n)."""
    channels = range(len(slide.info.channels))
    if channels:
        return np.moveaxis(slide.read_channel_box(level, box, channels), 0, 2)
    found: np.ndarray = slide.read_box(level, box)
    return found


def called(*arguments: str) -> dict[str, Any]:
    """`wsikit` with these arguments: exit status, lines on standard error, and what escaped."""
    said, escaped, status = io.StringIO(), None, 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            main(list(arguments))
        except SystemExit as done:
            status = int(done.code or 0)
        except BaseException as error:  # what a user would see as a traceback
            escaped = f"{type(error).__name__}: {error}"[:300]
    lines = [line for line in said.getvalue().splitlines() if line.strip()]
    return {"status": status, "lines": lines[-4:], "escaped": escaped}


def compared(path: str, truth: list[np.ndarray], area: Any) -> dict[str, Any]:
    """Tiles of a damaged slide next to those of the undamaged one: equal, unreadable, changed, changed to white."""
    found: dict[str, Any] = {"equal": 0, "unreadable": 0, "changed": 0, "white": 0, "shape": True}
    with open_slide(path) as slide:
        sizes = slide.level_dimensions
        found["shape"] = [(level.shape[1], level.shape[0]) for level in truth] == [tuple(size) for size in sizes]
        found["shape"] &= slide.info.bounds == area
        found["reader"] = slide.info.reader
        found["notes"] = list(slide.info.notes)
        for level, (width, height) in enumerate(sizes):
            known = next((one for one in truth if one.shape[:2] == (height, width)), None)
            boxes = [(x, y) for y in range(0, height, _SIDE) for x in range(0, width, _SIDE)] if height < 1e5 else []
            for x, y in boxes[:_MOST_TILES]:
                w, h = min(_SIDE, width - x), min(_SIDE, height - y)
                try:
                    seen = _samples(slide, level, (x, y, w, h))
                except ReadError:
                    found["unreadable"] += 1
                    continue
                if known is None:
                    continue
                expected = known[y : y + h, x : x + w]
                if seen.shape == expected.shape and np.array_equal(seen, expected):
                    found["equal"] += 1
                elif seen.shape != expected.shape:
                    found["shape"] = False
                else:
                    found["changed"] += 1
                    found["white"] += int(_in_squares(blank(seen) & ~blank(expected)) > 0.2)
    return found


def blank(samples: np.ndarray) -> np.ndarray:
    """Where there is nothing: white, or 0 in all channels of a fluorescence slide."""
    nothing: np.ndarray = (samples == (WHITE if samples.dtype == np.uint8 else 0)).all(axis=2)
    return nothing


def _in_squares(where: np.ndarray) -> float:
    """Share of the squares of 8 px that are full: noise of a decoder has single white pixels."""
    height, width = (side // 8 * 8 for side in where.shape)
    squares = where[:height, :width].reshape(height // 8, 8, width // 8, 8).all(axis=(1, 3))
    return float(squares.mean()) if squares.size else float(where.all())


def kept(path: str, store: str) -> dict[str, int]:
    """Tiles of a lossless store next to the slide that it was made of: equal, unreadable in both or in the store
    alone (its tiles can be larger), differing, and readable though the slide is not.

    A tile of JPEG whose bytes cannot be kept is encoded again, with the loss of JPEG, and the store records it."""
    found = {"equal": 0, "unreadable": 0, "differs": 0, "unreadable_0": 0}
    with open_slide(path) as slide, open_slide(store) as copy:
        for level, size in enumerate(copy.level_dimensions):
            record = json.loads((Path(store) / str(level) / "zarr.json").read_text())["attributes"]["wsikit"]
            most = _RECODED if record.get("recoded_tiles") else 0
            if level >= len(slide.level_dimensions) or size != slide.level_dimensions[level] or max(size) > 10_000:
                continue
            for y in range(0, size[1], _SIDE):
                for x in range(0, size[0], _SIDE):
                    box = (x, y, min(_SIDE, size[0] - x), min(_SIDE, size[1] - y))
                    pair = [_read(one, level, box) for one in (slide, copy)]
                    if pair[1] is None:
                        found["unreadable"] += 1
                        found["unreadable_0"] += not level
                    else:
                        found["equal" if _alike(*pair, most) else "differs"] += 1
    return found


def patches_differ(store: str) -> int:
    """Patches that count as readable though a part of them is not, or the reverse; and those with a prediction or a
    caption though they are not readable. Of tables at the scale of level 0."""
    found = 0
    with SlideStore(store) as copy:
        width, height = copy.dimensions
        for name in copy.grids():
            table = copy.patches(name)
            if not len(table) or any(abs(mpp - table.grid.target_mpp) > 1e-6 for mpp in copy.mpp):
                continue
            columns = table.columns()
            readable = table.read("readable") if "readable" in columns else None
            for row, (x, y) in enumerate(table.coords.tolist()):
                box = (x, y, min(table.grid.patch_px, width - x), min(table.grid.patch_px, height - y))
                is_readable = _read(copy, 0, box) is not None
                if readable is not None:
                    found += bool(readable[row]) != is_readable
                if not is_readable and "probability" in columns:
                    found += not np.isnan(table.read("probability", slice(row, row + 1))).all()
                if not is_readable and "caption" in columns:
                    found += bool(table.read("caption", slice(row, row + 1))[0])
    return found


def _alike(one: np.ndarray | None, other: np.ndarray, most: float) -> bool:
    """Whether pixels differ by `most` on average."""
    return one is not None and float(np.abs(one.astype(float) - other).mean()) <= most


def _read(slide: Any, level: int, box: tuple[int, int, int, int]) -> np.ndarray | None:
    try:
        found: np.ndarray = slide.read_box(level, box)
    except ReadError:
        return None
    return found


def steps(job: dict[str, Any]) -> dict[str, Any]:
    """What `info`, reading, `tile` and `run` make of one damaged slide."""
    path, work = job["path"], Path(job["work"])
    seen: dict[str, Any] = {}
    answer(step="info")
    seen["info"] = called("info", path)
    if seen["info"]["status"] == 0 and not seen["info"]["escaped"]:
        answer(step="read")
        try:
            seen["read"] = compared(path, *truth_of(job["truth"]))
        except WsikitError as error:
            seen["read"] = {"refused": str(error)}
        except MemoryError as error:
            seen["read"] = {"escaped": f"MemoryError: {error}"}
        except Exception as error:  # readers must raise ReadError
            seen["read"] = {"escaped": f"{type(error).__name__}: {error}"[:300]}
    for verb, store in job.get("stores", {}).items():
        answer(step=f"store of {verb}")
        try:
            seen[f"kept by {verb}"] = kept(path, store) | {"patches": patches_differ(store)}
        except (StoreError, WsikitError) as error:
            seen[f"kept by {verb}"] = {"refused": str(error)}
    if "tile" in job["steps"] and ("read" in seen or "run" in job["steps"]) and not path.rstrip("/").endswith(".zarr"):
        answer(step="tile")
        store = str(work / "tiled.zarr")
        seen["tile"] = called("tile", path, "-o", store, "--codec", "zstd", "--assume-mpp", "0.5", "--min-tissue", "0")
        if seen["tile"]["status"] == 0 and not seen["tile"]["escaped"]:
            answer(step="store")
            try:
                seen["kept"] = kept(path, store)
            except (StoreError, WsikitError) as error:
                seen["kept"] = {"refused": str(error)}
    if "run" in job["steps"]:
        answer(step="run")
        seen["run"] = called("run", path, "-o", str(work / "out"), "--assume-mpp", "0.5", "--min-tissue", "0")
        traces = [file.read_text() for file in (work / "out" / "failures").glob("*.txt")]
        seen["run"]["reason"] = [text.strip().splitlines()[-1][:300] for text in traces if text.strip()]
    return seen


def peak_mb() -> float:
    """Highest resident memory since the last reset, MB."""
    text = Path("/proc/self/status").read_text()
    return float(text.split("VmHWM:")[1].split()[0]) / 1024


def work(memory_mb: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    answer(ready=True)
    limited = False
    for line in sys.stdin:
        job = json.loads(line)
        Path(job["work"]).mkdir(parents=True)
        if not limited and job.get("warm"):
            steps(job)  # imports everything, loads the model
            now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (now + (memory_mb << 20),) * 2)
            limited = True
            answer(done={})
            continue
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_mb()
        seen = steps(job)
        seen["grown_mb"] = peak_mb() - before
        shutil.rmtree(job["work"], ignore_errors=True)
        answer(done=seen)


if __name__ == "__main__":
    work(int(sys.argv[1]))
