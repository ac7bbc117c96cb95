"""Search by words: stated or measured, never by silence, and nothing that contradicts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsikit.captions.search import MEASURED, SHARED, STATED, Patches, count_terms, find, grade_match, parse_query
from wsikit.errors import RequestError

TEXTS = [
    "Abundant neuropil without rosettes; no necrosis.",  # 0
    "Scant neuropil, rosettes present.",  # 1
    "Densely cellular, small round nuclei; neuropil absent.",  # 2
    "",  # 3
    "Neuropil is seen.",  # 4: silent on rosettes
    "Extensive necrosis; sparsely cellular.",  # 5
    "Moderate neuropil; rosettes not seen.",  # 6
]


def captioned(texts: list[str], **facts: list[float]) -> Patches:
    values = np.array(list(facts.values()), np.float32).T if facts else np.empty((len(texts), 0), np.float32)
    return Patches(texts, np.ones(len(texts), bool), values, list(facts))


def rows(query: str, patches: Patches | None = None) -> list[int]:
    return [match.row for match in find(patches or captioned(TEXTS), parse_query(query))]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("neuropil without rosettes", [0, 6]),
        ("neuropil", [0, 6, 4, 1]),
        ("no neuropil", [2]),
        ("rosettes", [1]),
        ("no rosettes", [0, 6]),
        ("abundant neuropil, no necrosis", [0]),
        ("abundant neuropil", [0, 4, 6]),
        ("scant neuropil", [1, 4, 6]),
        ("densely cellular", [2]),
        ("sparsely cellular", [5]),
        ("necrosis", [5]),
        ("small round nuclei", [2]),
        ("calcification", []),
        ("no calcification", []),
    ],
)
def test_a_query_finds_what_is_stated_and_nothing_else(query: str, expected: list[int]) -> None:
    assert rows(query) == expected


@given(st.lists(st.sampled_from([*TEXTS, "Lymphocytes.", "   "]), max_size=8))
def test_silence_is_no_absence(texts: list[str]) -> None:
    patches = captioned(texts)
    for match in find(patches, {"rosettes": "absent"}):
        assert "rosettes" in texts[match.row].lower()
    assert find(captioned([""] * 5), {"rosettes": "absent"}) == []


def test_measured_facts_count_like_stated_terms() -> None:
    patches = captioned(["", "", ""], rosette_like=[0.0, 3.0, np.nan], fibrillary_share=[0.5, 0.5, 0.5])
    (match,) = find(patches, parse_query("neuropil without rosettes"))
    assert match.row == 0
    assert {term: known.source for term, known in match.why.items()} == {"neuropil": MEASURED, "rosettes": MEASURED}


def test_words_that_the_measurement_contradicts_are_not_believed() -> None:
    patches = captioned(["Abundant neuropil.", "Abundant neuropil."], fibrillary_share=[0.02, 0.4])
    assert rows("neuropil", patches) == [1]


def test_a_shared_caption_counts_less_and_says_so() -> None:
    patches = Patches(["Abundant neuropil.", "Abundant neuropil."], np.array([False, True]), np.empty((2, 0)))
    own, shared = find(patches, parse_query("abundant neuropil"))
    assert (own.row, own.why["neuropil"].source) == (1, STATED)
    assert (shared.row, shared.why["neuropil"].source) == (0, SHARED)
    assert own.score > shared.score


def test_among_equals_more_of_what_is_wanted_comes_first() -> None:
    patches = captioned([""] * 3, fibrillary_share=[0.35, 0.9, 0.5], necrosis_share=[0.0, 0.0, 0.0])
    assert rows("abundant neuropil, no necrosis", patches) == [1, 2, 0]


def test_a_distant_amount_contradicts_the_query() -> None:
    assert grade_match("neuropil", "scant", "abundant") == 0
    assert grade_match("neuropil", "abundant", "absent") == 0
    assert 0 < grade_match("neuropil", "abundant", "moderate") < grade_match("neuropil", "abundant", "abundant") == 1
    assert grade_match("nuclear_size", "small", "large") == 0


def test_a_query_without_a_known_word_is_refused_with_those_that_are() -> None:
    with pytest.raises(RequestError, match="neuropil, rosettes"):
        parse_query("purple unicorn")


def test_every_listed_term_can_be_searched_for() -> None:
    with pytest.raises(RequestError) as caught:
        parse_query("?")
    listed = str(caught.value).split("Search for ")[1].split(", cellularity")[0].split(", ")
    assert len(listed) > 15
    for term in listed:
        assert parse_query(f"no {term}") == {term.replace(" ", "_"): "absent"}


def test_which_term_nothing_fits_is_captioned() -> None:
    assert count_terms(captioned(TEXTS), parse_query("necrosis without rosettes")) == {"necrosis": 1, "rosettes": 2}
