"""Options of `wsikit features` for whole slides: what does not go together is refused before anything is done."""

from __future__ import annotations

import pytest

from wsikit.cli.slide_options import Pooling
from wsikit.errors import RequestError


@pytest.mark.parametrize(
    ("slide", "weights", "table", "several", "words"),
    [
        (None, "tissue", None, False, "go with --slide"),
        ("mean", None, "t.parquet", True, "one --encoder"),
        ("mean", None, "t.xlsx", False, ".parquet or .csv"),
    ],
)
def test_what_does_not_go_together_is_refused(slide, weights, table, several, words) -> None:
    with pytest.raises(RequestError, match=words):
        Pooling(slide, weights, table, "auto", several=several)
