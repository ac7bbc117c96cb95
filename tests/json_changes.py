"""Changes of one entry of a JSON record, for tests of what reads such records."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

DELETED = object()


def places(record: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each entry of a record, also to those within others."""
    items = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(record: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of a record with another value at one entry; DELETED: without the entry."""
    whole = copy.deepcopy(record)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    if value is DELETED:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return whole
