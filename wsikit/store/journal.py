"""Intermediate results of slow stages, stored next to a patch table in small pieces.

A chunk of a column can be minutes of work; a piece is one batch. Each piece is a zarr group with attributes only, and
is written atomically, on a disk and at a URL.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import zarr

from wsikit.store.atomic import new_node
from wsikit.store.paths import remove_tree
from wsikit.store.table import JOURNALS, PatchTable

_MARK = "wsikit"


class Journal:
    """The intermediate results of one computation on one table.

    Parameters
    ----------
    table
        Its journals are removed with it, since they do not apply to another choice of patches.
    identity
        Hex digest of everything that decides the records' content; an equal computation finds its records again.
    """

    def __init__(self, table: PatchTable, identity: str) -> None:
        self._all = table.folder / JOURNALS
        self._names = table.stored_names
        self.folder: Path = self._all / identity[:32]

    def read(self) -> list[dict[str, Any]]:
        """All records, ordered by the time of their piece; empty without a journal."""
        found = []
        for path in self.folder.glob("*/zarr.json"):
            if not path.parent.name.startswith("."):
                attributes = json.loads(path.read_text(encoding="utf-8"))["attributes"]
                found.append((attributes[_MARK]["time"], attributes["records"]))
        ordered = [record for _, records in sorted(found, key=lambda piece: piece[0]) for record in records]
        return [_with_facts(record, self._names.facts) for record in ordered]

    def add(self, records: Sequence[dict[str, Any]]) -> None:
        """Store some records of JSON values; after this call they survive a crash."""
        if not records:
            return
        for group in (self._all, self.folder):
            if not (group / "zarr.json").is_file():
                self._group(group, {_MARK: {"journal": True}})
        stored = [_with_facts(record, self._names.stored_facts) for record in records]
        piece = {_MARK: {"journal": True, "time": time.time()}, "records": stored}
        self._group(self.folder / uuid.uuid4().hex, piece)

    def clear(self) -> None:
        """Remove this journal."""
        if self.folder.exists():
            remove_tree(self.folder)

    def clear_others(self) -> None:
        """Remove all other journals of the table: they belong to columns that were replaced."""
        if self._all.exists():
            for path in list(self._all.glob("*/zarr.json")):
                if path.parent != self.folder and f'"{_MARK}"' in path.read_text(encoding="utf-8"):
                    remove_tree(path.parent)

    @staticmethod
    def _group(folder: Path, attributes: dict[str, Any]) -> None:
        with new_node(folder) as partial:
            zarr.create_group(partial, attributes=attributes)


def _with_facts(record: dict[str, Any], renamed: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """A record whose entry `facts`, if there is one, has other names."""
    return {**record, "facts": renamed(record["facts"])} if "facts" in record else record
