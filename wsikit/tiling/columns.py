"""Compute columns of a patch table from its patches: one task per chunk of rows, which reads its
patches once and writes what each stage makes of them.

A task carries the store's path and a range of rows; no pixels, no open files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wsikit.executor import Executor
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable
from wsikit.tiling.stream import read_patches

_BATCH_BYTES = 20 << 20
"""Of pixels held by a worker at a time, some 128 patches of 224 px: a chunk of rows may have many times as many."""


class PatchFunction(Protocol):
    """Turns patches into columns. Picklable, so that it can go to another process."""

    def __call__(
        self, images: npt.NDArray[np.uint8], readable: npt.NDArray[np.bool_], mpp: float
    ) -> dict[str, npt.NDArray[Any]]:
        """`images` (B, P, P, 3), zeros where not `readable` (B,); `mpp` in µm/px. Returns (B, …) per column."""


@dataclass(frozen=True)
class ColumnStage:
    """Some columns that are computed together, and what they depend on."""

    name: str
    """In a word, for people: quality, captions."""
    specs: tuple[ColumnSpec, ...]
    receipt: Receipt
    function: PatchFunction


@dataclass(frozen=True)
class _RowsTask:
    store: Path
    fingerprint: str
    grid: str
    rows: slice
    stages: tuple[ColumnStage, ...]


def fill_columns(
    store: SlideStore,
    table: PatchTable,
    stages: Sequence[ColumnStage],
    executor: Executor,
    on_rows: Callable[[int], None] | None = None,
) -> None:
    """Compute what is missing of the stages' columns, in one pass: each patch is read once for all that want it.

    After an interruption the stages may be at different rows; each is given those that it lacks. `on_rows` is told
    how many rows were just written.
    """
    wanted: dict[tuple[int, int], list[ColumnStage]] = {}
    for stage in stages:
        for rows in table.prepare(stage.specs, stage.receipt):
            wanted.setdefault((rows.start, rows.stop), []).append(stage)
    tasks = [
        _RowsTask(store.folder, store.fingerprint, table.name, slice(*rows), tuple(wanting))
        for rows, wanting in sorted(wanted.items(), key=lambda item: item[0])
    ]
    executor.map(
        _compute_rows, tasks, on_done=lambda task: on_rows(task.rows.stop - task.rows.start) if on_rows else None
    )


def _compute_rows(task: _RowsTask) -> None:
    store = _opened(task.store, task.fingerprint)
    table = store.patches(task.grid)
    coords, grid = table.read("coords", task.rows), table.grid
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    at_once = max(1, _BATCH_BYTES // (3 * grid.patch_px**2))
    for first in range(0, len(coords), at_once):
        batch = read_patches(store, grid, coords[first : first + at_once])
        for stage in task.stages:
            columns = stage.function(batch.images, batch.readable, grid.target_mpp)
            for spec in stage.specs:
                parts.setdefault(spec.name, []).append(columns[spec.name])
    for name, values in parts.items():
        table.write(name, task.rows, np.concatenate(values))


@lru_cache(maxsize=4)
def _opened(folder: Path, fingerprint: str) -> SlideStore:
    """The store, opened once per process and state of its pixels: its decoded tiles serve all tasks."""
    return SlideStore(folder)
