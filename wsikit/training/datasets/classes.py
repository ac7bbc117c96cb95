"""Map values of a table to the classes of a model; strict, so that no patch gets a class by accident."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.training.datasets.table import ImageTable

logger = logging.getLogger(__name__)

_MOST_LISTED = 10
"""Values that an error lists."""

_PLAIN = re.compile(r"[A-Za-z][\w .-]*")
"""Text that YAML reads as text without quotation marks."""


@dataclass(frozen=True)
class Mapped:
    """A table whose classes are those of a model, and the rows left out."""

    table: ImageTable
    dropped: dict[str, int]
    """Number of rows left out, by their value."""


def map_classes(table: ImageTable, mapping: Mapping[str, str], *, drop_others: bool = False) -> Mapped:
    """Replace the value of each row by its class.

    Parameters
    ----------
    mapping
        Value in the table to class code; several values may have the same class.
    drop_others
        Leave out rows of any other value, and count them. Default: refuse.

    Raises
    ------
    RequestError
        If a row has no value, or one that is not in `mapping`, or if no row is left.
    """
    others = Counter(str(value) for value in table.classes if value not in mapping)
    if others and not drop_others:
        row = next(i for i, value in enumerate(table.classes) if value not in mapping)
        listed = ", ".join(f"{value!r} ({n})" for value, n in others.most_common(_MOST_LISTED))
        more = f" and {len(others) - _MOST_LISTED} more" if len(others) > _MOST_LISTED else ""
        raise RequestError(
            f"{table.source}: {table.files[row]} is of class {table.classes[row]!r}; expected one of "
            f"{', '.join(map(repr, mapping))}. Other classes, with their rows: {listed}{more}. List each under the "
            f"values of its class ({_example(mapping, table.classes[row])}), or leave all of them out with data: "
            "{drop_others: true}."
        )
    rows = [i for i, value in enumerate(table.classes) if value in mapping]
    if not rows:
        raise RequestError(f"{table.source}: no row is of one of {', '.join(map(repr, mapping))}. Check the mapping.")
    if others:
        logger.info("%s: %d rows of other classes left out", table.source, sum(others.values()))
    kept = table.select(rows)
    return Mapped(replace(kept, classes=tuple(mapping[str(value)] for value in kept.classes)), dict(others))


def _example(mapping: Mapping[str, str], value: str | None) -> str:
    """How a class is written that also has this value; the class of the same letters, if there is one."""
    same = [code for known, code in mapping.items() if known.casefold() == str(value).casefold()]
    code = next(iter(same or mapping.values()))
    values = [known for known, mapped in mapping.items() if mapped == code]
    shown = (one if _PLAIN.fullmatch(one) else json.dumps(one, ensure_ascii=False) for one in (*values, str(value)))
    return f"{{code: {code}, values: [{', '.join(shown)}]}}"


def class_indices(table: ImageTable, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Index of each row's class in `classes`, int64 (N,).

    Raises
    ------
    RequestError
        If a row has another class.
    """
    places = {code: index for index, code in enumerate(classes)}
    for name, code in zip(table.files, table.classes, strict=True):
        if code not in places:
            raise RequestError(f"{table.source}: {name} is of class {code!r}, not one of {', '.join(classes)}.")
    return np.array([places[str(code)] for code in table.classes], dtype=np.int64)
