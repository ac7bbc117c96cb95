"""What is to be written of a level: all of it, or only the files that a complete store lost since.

Objects (shards, or chunk files) are named by column and row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsikit.errors import StoreError
from wsikit.slides.store_levels import fault_of_chunk
from wsikit.slides.store_record import read_level
from wsikit.store.atomic import write_json
from wsikit.store.level_files import BYTES, NO_OBJECTS, REWRITING, LevelFiles, runs_of
from wsikit.store.paths import remove_tree
from wsikit.tiling.plan import LevelPlan
from wsikit.tiling.shard import ShardResult, ShardTask

Place = tuple[int, int]


@dataclass(frozen=True)
class LevelWork:
    """The shards of a level that are to be written."""

    plan: LevelPlan
    tasks: tuple[ShardTask, ...]
    dropped: int
    """Tiles of the level that are left out as background."""
    before: Mapping[str, Any] | None = None
    """Attributes of a level whose other shards are kept; None: the whole level is written."""
    left_out: frozenset[Place] = frozenset()
    """Objects that are not stored, among those that are kept."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is to be written, not even the level's metadata."""
        return self.before is not None and not self.tasks

    def files(self, folder: Path, results: Sequence[ShardResult]) -> dict[str, Any]:
        """The attributes that state the level's files and its unreadable tiles; `results` are those of the tasks."""
        written = {(task.shard.col, task.shard.row) for task in self.tasks}
        left_out = self.left_out | {
            (task.shard.col, task.shard.row)
            for task, result in zip(self.tasks, results, strict=True)
            if not result.stored
        }
        side = self.plan.format.shard_side
        kept = [] if self.before is None else self.before["unreadable_tiles"]
        unreadable = [[col, row] for col, row in kept if (col // side, row // side) not in written]
        unreadable += [[col, row] for result in results for col, row in result.unreadable]
        files = LevelFiles(folder / str(self.plan.level), self.plan.format, {"unreadable_tiles": []})
        return {
            "unreadable_tiles": sorted(unreadable),
            NO_OBJECTS: runs_of(left_out),
            BYTES: sum(files.sizes().values()),
        }


def _mark(path: Path, runs: list[list[int]]) -> None:
    """State in a level's attributes which objects are being written again."""
    record = json.loads(path.read_text(encoding="utf-8"))
    record["attributes"]["wsikit"][REWRITING] = runs
    write_json(path, record)


def lost_part(folder: Path, whole: LevelWork) -> LevelWork:
    """The part of a level that a store lost: some shards, or the whole level if its metadata are lost or damaged.

    Damaged files are removed, and the level is marked, so that an interrupted repair is noticed.
    """
    array = folder / str(whole.plan.level)
    try:
        form, attributes = read_level(array / "zarr.json", folder)
    except StoreError:
        form, attributes = None, {}
    if form != whole.plan.format:
        if array.is_dir():
            remove_tree(array)
        return whole
    found = LevelFiles(array, whole.plan.format, attributes)
    damaged = found.damaged(lambda path: fault_of_chunk(whole.plan.format, path))
    left_out = frozenset(found.objects()) - frozenset(found.sizes()) - frozenset(damaged)
    attributes.pop(REWRITING, None)
    if damaged:
        _mark(array / "zarr.json", runs_of(damaged))
        for place in damaged:
            found.path(place).unlink(missing_ok=True)
    tasks = tuple(task for task in whole.tasks if (task.shard.col, task.shard.row) in damaged)
    return LevelWork(whole.plan, tasks, whole.dropped, attributes, left_out)
