"""The text of a zarr.json: `json.dumps` with an indent, which Python's library makes value by value in a chain of
generators. A store has some twenty such files, and their text took as long as the pixels of a small slide."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Any


def indented_json(record: Any) -> str:
    """`json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)`. ValueError for NaN, which is not JSON.

    >>> print(indented_json({"a": [1, 2.5], "b": {}}))
    {
      "a": [
        1,
        2.5
      ],
      "b": {}
    }
    """
    parts: list[str] = []
    try:
        _add(record, "\n", parts.append)
    except _RareError:
        return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    return "".join(parts)


class _RareError(Exception):
    """A value whose text is left to the library."""


def _add(value: Any, line: str, add: Callable[[str], None]) -> None:
    """Add the text of `value`; `line` is a line break and the indent of the line on which it begins."""
    kind = type(value)
    if kind is dict and value:
        inner, mark = line + "  ", "{"
        for name, entry in value.items():
            if type(name) is not str:
                raise _RareError
            add(f"{mark}{inner}{encode_basestring(name)}: ")
            _add(entry, inner, add)
            mark = ","
        add(line + "}")
    elif kind in (list, tuple) and value:
        inner, mark = line + "  ", "["
        for entry in value:
            add(mark + inner)
            _add(entry, inner, add)
            mark = ","
        add(line + "]")
    else:
        add(_text_of_one(value, kind))


def _text_of_one(value: Any, kind: type) -> str:
    if kind is str:
        return encode_basestring(value)
    if kind is int or (kind is float and math.isfinite(value)):
        return repr(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is dict:
        return "{}"
    if kind in (list, tuple):
        return "[]"
    raise _RareError
