"""Compute columns of a patch table from its patches.

Stages that run on workers share one pass: each task reads a part of a chunk of rows once, and gives back what each
stage makes of it; when all parts of a chunk are there, this process writes them. A task carries the store's path and a
range of rows; no pixels, no open files. Stages that run on a device (a model on a GPU, a language model, a server) are
called once, by the process that holds the device.

Stages whose work is mostly Python run in worker processes where that pays (`wsikit.worker_pool`): the processes open
the store themselves.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from wsikit.executor import Executor, available_cpus
from wsikit.progress import SILENT, Progress
from wsikit.slides.file_state import FileState
from wsikit.slides.store import SlideStore
from wsikit.store.plain_text import wants_plain_text, write_plain_text
from wsikit.store.receipts import Receipt
from wsikit.store.table import ROWS_PER_CHUNK, ColumnSpec, PatchTable
from wsikit.tiling.stream import read_patches

_BATCH_BYTES = 10 << 20
"""Pixels held by a worker at a time, some 64 patches of 224 px: a chunk of rows may hold many times as many."""

_PARTS_PER_WORKER, _LEAST_ROWS = 4, 16
"""A slide of two chunks keeps all workers busy: as many parts per worker, unless they get too small."""

_PYTHON_S_PER_PIXEL = 5e-8
"""Processor time of measured captions, 2.5 ms for a patch of 224 px: what decides whether worker processes pay."""

_Values = dict[str, npt.NDArray[Any]]


class PatchFunction(Protocol):
    """Computes columns from patches. Picklable, so that it can be sent to another process."""

    def __call__(
        self, images: npt.NDArray[np.uint8], readable: npt.NDArray[np.bool_], mpp: float
    ) -> dict[str, npt.NDArray[Any]]:
        """`images` (B, P, P, 3), zeros where not `readable` (B,); `mpp` in µm/px. Returns (B, …) per column."""


class DeviceParts(Protocol):
    """Work on a device that can be cut: several processes, each with the model, compute chunks of rows of one table."""

    def begin(self, store: SlideStore, table: PatchTable) -> list[slice]:
        """Prepare the columns; the chunks of rows that are to be computed."""

    def rows(self, store: SlideStore, table: PatchTable, chunks: Sequence[slice]) -> None:
        """Compute some of these chunks and write them. Others may be written at the same time."""

    def end(self, store: SlideStore, table: PatchTable) -> None:
        """Compute what depends on all rows."""


@dataclass(frozen=True)
class DeviceWork:
    """Work of a stage that runs in the one process that holds a model."""

    run: Callable[[SlideStore, PatchTable, Progress], None]
    """Computes the stage's columns. Slow work stores intermediate results in a journal (`wsikit.store.journal`), and
    replaces older columns only when all rows are computed."""
    parts: DeviceParts | None = None
    """The same work, cut; None if it cannot be."""


@dataclass(frozen=True)
class ColumnStage:
    """Columns that are computed together: their inputs, their types, and the receipt that identifies their content."""

    name: str
    """Shown in progress messages: quality, captions, predictions."""
    specs: tuple[ColumnSpec, ...]
    """The columns that it computes."""
    receipt: Receipt
    """Equal receipts mean equal columns: columns that are complete under this receipt are kept."""
    work: PatchFunction | DeviceWork
    needs: tuple[str, ...] = ("pixels",)
    """Inputs: "pixels", names of columns."""
    mostly_python: bool = False
    """Whether its work on a patch takes a millisecond or more, most of it in Python, so that processes pay."""

    @property
    def where(self) -> Literal["workers", "device"]:
        """Where it runs."""
        return "device" if isinstance(self.work, DeviceWork) else "workers"

    def is_done(self, table: PatchTable) -> bool:
        """Whether all its columns are complete under its receipt. Read-only."""
        return all(table.is_current(spec.name, self.receipt) for spec in self.specs)


@dataclass(frozen=True)
class _RowsTask:
    store: Path
    fingerprint: str
    source: FileState | None
    """Of the slide, where the store reads its pixels there."""
    grid: str
    chunk: slice
    """The chunk of rows that it belongs to."""
    rows: slice
    """The part of the chunk that it computes."""
    stages: tuple[ColumnStage, ...]

    def __str__(self) -> str:
        return f"{self.store}: patches {self.rows.start} to {self.rows.stop - 1} of {self.grid}"


def fill_columns(
    store: SlideStore,
    table: PatchTable,
    stages: Sequence[ColumnStage],
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> None:
    """Compute the missing rows of the stages' columns, in the order of the stages.

    Consecutive stages on workers share one pass over the patches: each patch is read once. After an interruption, each
    stage computes only the rows that it lacks. Columns that are up to date are kept.
    """
    waiting: list[ColumnStage] = []
    for stage in stages:
        if stage.where == "workers":
            waiting.append(stage)
            continue
        _fill_on_workers(store, table, waiting, executor or Executor(), progress)
        waiting = []
        assert isinstance(stage.work, DeviceWork)
        if not stage.is_done(table):
            store.check_complete()
            stage.work.run(store, table, progress)
    _fill_on_workers(store, table, waiting, executor or Executor(), progress)
    if wants_plain_text(store.record):
        write_plain_text(table)


def _fill_on_workers(
    store: SlideStore, table: PatchTable, stages: Sequence[ColumnStage], executor: Executor, progress: Progress
) -> None:
    wanted: dict[tuple[int, int], list[ColumnStage]] = {}
    for stage in stages:
        for rows in table.prepare(stage.specs, stage.receipt):
            wanted.setdefault((rows.start, rows.stop), []).append(stage)
    if not wanted:
        return
    store.check_complete()  # patches on lost files would be recorded as unreadable for good
    total = sum(last - first for first, last in wanted)
    at_once = _rows_at_once(table, total, executor)
    tasks = [
        _RowsTask(store.folder, store.fingerprint, store.source_state, table.name, slice(*chunk), rows, tuple(wanting))
        for chunk, wanting in sorted(wanted.items(), key=lambda item: item[0])
        for rows in _parts(slice(*chunk), at_once)
    ]
    named = {stage.name for _, wanting in wanted.items() for stage in wanting}
    name = " and ".join(stage.name for stage in stages if stage.name in named)
    chunks = _Chunks(table, tasks)

    def put(task: _RowsTask, values: _Values) -> None:
        chunks.put(task, values)
        progress.advance(task.rows.stop - task.rows.start)

    progress.start(name, total, "patches")
    slow = sum(last - first for (first, last), wanting in wanted.items() if any(one.mostly_python for one in wanting))
    executor.each(_compute_rows, tasks, put, python_s=seconds_of_python(slow, table.grid.patch_px))
    progress.finish()


def seconds_of_python(patches: float, patch_px: int) -> float:
    """Processor time of a stage that is `mostly_python` on so many patches, s, for `Executor.each`."""
    return patches * patch_px**2 * _PYTHON_S_PER_PIXEL


def _rows_at_once(table: PatchTable, total: int, executor: Executor) -> int:
    """Rows of a task: as many as a worker may hold, fewer if some workers would have nothing to do.

    On a cluster whole chunks, of which a worker holds a part at a time: a task costs more than a thread.
    """
    if executor.scheduler != "threads":
        return ROWS_PER_CHUNK
    held = _held_rows(table)
    shared = -(-total // (_PARTS_PER_WORKER * (executor.workers or available_cpus())))
    return min(held, max(_LEAST_ROWS, shared))


def _held_rows(table: PatchTable) -> int:
    """Rows whose pixels a worker holds at a time."""
    return max(1, _BATCH_BYTES // (3 * table.grid.patch_px**2))


def _parts(chunk: slice, at_once: int) -> list[slice]:
    """A chunk of rows in parts of about equal size, each of at most `at_once` rows."""
    count = -(-(chunk.stop - chunk.start) // at_once)
    bounds = np.linspace(chunk.start, chunk.stop, count + 1).astype(int).tolist()
    return [slice(first, last) for first, last in zip(bounds, bounds[1:], strict=False)]


class _Chunks:
    """Parts of chunks, each chunk written as soon as all of its parts are there."""

    def __init__(self, table: PatchTable, tasks: Sequence[_RowsTask]) -> None:
        self._table = table
        self._lock = threading.Lock()
        self._missing = Counter(task.chunk.start for task in tasks)
        self._parts: dict[int, dict[int, _Values]] = {}

    def put(self, task: _RowsTask, values: _Values) -> None:
        """Add the columns of a task's rows."""
        chunk = task.chunk
        with self._lock:
            self._parts.setdefault(chunk.start, {})[task.rows.start] = values
            self._missing[chunk.start] -= 1
            if self._missing[chunk.start]:
                return
            parts = [part for _, part in sorted(self._parts.pop(chunk.start).items())]
        for name in parts[0]:
            self._table.write(name, chunk, np.concatenate([part[name] for part in parts]))


def _compute_rows(task: _RowsTask) -> _Values:
    store = _opened(task.store, task.fingerprint, task.source)
    table = store.patches(task.grid)
    parts = [_compute(store, table, task.stages, rows) for rows in _parts(task.rows, _held_rows(table))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _compute(store: SlideStore, table: PatchTable, stages: Sequence[ColumnStage], rows: slice) -> _Values:
    batch = read_patches(store, table.grid, table.read("coords", rows))
    found: _Values = {}
    for stage in stages:
        assert not isinstance(stage.work, DeviceWork)
        columns = stage.work(batch.images, batch.readable, table.grid.target_mpp)
        found |= {spec.name: columns[spec.name] for spec in stage.specs}
    return found


@lru_cache(maxsize=2)  # each keeps up to 64 MB of decoded tiles, in each worker process
def _opened(folder: Path, fingerprint: str, source: FileState | None) -> SlideStore:
    """The store, opened once per process and state of its pixels, so that tasks share its cache of decoded tiles."""
    return SlideStore(folder)
