from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from wsikit.training.afloc.phrases import Phrase
from wsikit.training.afloc.statements import sentences_of, statements_of, terms_of

TUMOUR = (
    "Densely cellular small round neuroblasts with pale chromatin; neuropil moderate; ganglion cells none; "
    "Schwannian stroma septa only; haemorrhage."
)
STROMA = "Schwannian stroma of wavy spindle cells; no neuroblasts; neuropil absent; no necrosis or haemorrhage."


def test_one_word_sentences_are_kept() -> None:
    assert sentences_of("Oedema. Fat; necrosis.") == ["Oedema", "Fat", "necrosis"]


def test_a_caption_states_what_is_present_and_what_is_absent() -> None:
    assert terms_of(TUMOUR) == {
        "neuropil": "moderate", "ganglion_cells": "absent", "spindle_stroma": "absent", "blood": "present",
        "neuroblasts": "present", "septa": "present",
    }  # fmt: skip
    assert terms_of(STROMA)["neuroblasts"] == "absent"


def test_a_statement_is_true_of_every_patch_whose_caption_states_it() -> None:
    found = statements_of([TUMOUR, STROMA, ""])
    column = {text: found.holds[:, n].tolist() for n, text in enumerate(found.texts)}
    assert column["neuropil"] == [True, False, False]
    assert column["no neuropil"] == [False, True, False]
    assert column["moderate neuropil"] == [True, False, False]
    assert column["an H&E image of Schwannian stroma"] == [False, True, False]
    assert column["hemorrhage"] == [True, False, False]
    assert len(set(found.texts)) == len(found.texts)


def test_unnamed_terms_are_absent_only_in_a_closed_world() -> None:
    captions = ["Fat.", "Necrosis."]
    closed, open_ = statements_of(captions), statements_of(captions, closed_world=False)
    assert closed.holds[:, closed.texts.index("no necrosis")].tolist() == [True, False]
    assert "no necrosis" not in open_.texts


def test_sentences_that_name_a_class_are_scrubbed() -> None:
    found = statements_of(["Poorly differentiated tumour. Fat."] * 2)
    assert not any("differentiated" in text for text in (*found.texts, *found.reports))


CROWDED = Phrase(
    say=("crowded dark nuclei", "high cellularity"),
    where={"haematoxylin": ("abundant",)},
    deny=("few nuclei",),
    deny_where={"haematoxylin": ("absent", "scant"), "eosin": ("abundant",)},
)


def test_a_phrase_is_true_where_its_grades_are_stated_and_its_opposite_where_the_others_are() -> None:
    captions = ["Haematoxylin abundant (60 %), eosin scant.", "Haematoxylin absent, eosin abundant (80 %).",
                "Haematoxylin moderate, eosin abundant.", "Haematoxylin scant, eosin scant.", ""]  # fmt: skip
    found = statements_of(captions, phrases=[CROWDED])
    column = {text: found.holds[:, n].tolist() for n, text in enumerate(found.texts)}
    assert column["high cellularity"] == column["crowded dark nuclei"] == [True, False, False, False, False]
    assert column["few nuclei"] == [False, True, False, False, False]
    np.testing.assert_array_equal(found.answered[:, 0], [1, 0, np.nan, np.nan, np.nan])
    groups = {found.texts[n]: group for n, group in enumerate(found.groups.tolist())}
    assert groups["high cellularity"] == groups["crowded dark nuclei"] != groups["few nuclei"]
    plain = statements_of(captions)
    assert found.texts[: len(plain.texts)] == plain.texts  # phrases change nothing else
    assert found.groups[: len(plain.texts)].tolist() == plain.groups.tolist()


@pytest.mark.parametrize(
    ("change", "fault"),
    [({"deny": []}, "give both, or neither"), ({"say": ["no nuclei"]}, "is negated"), ({"say": ["…"]}, "has no word"),
     ({"deny": ["high cellularity"]}, "is said and denied"), ({"where": {}}, "at least 1")],
)  # fmt: skip
def test_phrases_that_contradict_themselves_are_refused(change: dict[str, object], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        Phrase.model_validate(CROWDED.model_dump() | change)
