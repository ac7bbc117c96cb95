"""The text of a zarr.json is that of Python's own library, value by value."""

from __future__ import annotations

import enum
import json
from typing import Any

import numpy as np
import pytest

from wsikit.store.json_text import indented_json


class Number(enum.IntEnum):
    TWO = 2


CASES: list[Any] = [
    {},
    [],
    (),
    None,
    "text",
    3,
    {"a": {}, "b": [], "c": (), "d": [[], {}]},
    {"a": [1, -2, 2.5, 1e300, 1e-7, 0.1, -0.0], "b": [True, False, None]},
    {'é"\\\n\t\x00\u2028\U0001f600': 'é"\\\n\t\x00\u2028\U0001f600', "half a pair": "\udc80"},
    [[[1, [2]], {"deep": {"deeper": [{"x": 1}, {"y": (1, 2)}]}}]],
    {1: "a name that is a number", None: 2, 2.5: 3, False: 4},
    {"an enum": Number.TWO, "a double": np.float64(0.25), "large": 10**30},
]


@pytest.mark.parametrize("record", CASES)
def test_it_is_the_text_of_the_library(record: Any) -> None:
    assert indented_json(record) == json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("nan")])
def test_what_is_not_json_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        indented_json({"a": [value]})


def test_what_has_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        indented_json({"a": {1, 2}})
