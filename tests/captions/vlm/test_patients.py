"""No patient on two sides, and no patient described by an adapter that has seen him."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.training.captioner.patients import (
    folds_of,
    hold_out,
    patient_id,
    patients_of,
    refuse_seen_patients,
    refuse_shared_patients,
)
from wsikit.training.datasets import ImageTable

Make = Callable[..., ImageTable]
PATIENTS = [f"p{n}" for n in np.random.default_rng(0).integers(0, 17, 300)]


@pytest.mark.parametrize("seed", range(5))
def test_a_patient_is_held_out_whole(seed: int) -> None:
    train, held = hold_out(PATIENTS, share=0.2, seed=seed)
    assert sorted(train + held) == list(range(300))
    assert not {PATIENTS[row] for row in train} & {PATIENTS[row] for row in held}
    assert 0.1 < len(held) / 300 < 0.3


def test_another_seed_holds_out_others() -> None:
    assert len({tuple(hold_out(PATIENTS, share=0.2, seed=seed)[1]) for seed in range(5)}) > 1


def test_two_patients_give_one_to_each_side() -> None:
    train, held = hold_out(["a"] * 9 + ["b"], share=0.15, seed=0)
    assert len(train) + len(held) == 10
    assert min(len(train), len(held)) == 1


def test_one_patient_cannot_be_split() -> None:
    with pytest.raises(RequestError, match="at least two"):
        hold_out(["a"] * 9, share=0.15, seed=0)


def test_a_patient_on_both_sides_is_refused() -> None:
    with pytest.raises(RequestError, match="1 patient.*such as b: split by patient"):
        refuse_shared_patients(["a", "b"], ["b", "c"])


def test_each_patient_is_in_one_fold() -> None:
    folds = folds_of(PATIENTS, 4, seed=1)
    assert sorted(row for fold in folds for row in fold) == list(range(300))
    names = [{PATIENTS[row] for row in fold} for fold in folds]
    assert sum(map(len, names)) == len(set(PATIENTS))
    assert max(map(len, folds)) - min(map(len, folds)) < 40


def test_patients_are_known_by_column_then_slide_then_file(make_table: Make) -> None:
    table = make_table(4)
    assert patients_of(table).known_by == "patient"
    nameless = replace(table, patients=(None,) * 4)
    assert patients_of(replace(nameless, slides=("s",) * 4)).known_by == "slide"
    files = ("a/1.png", "a/2.png", "case7_x1.png", "case7-3.png")
    guessed = patients_of(replace(nameless, files=files))
    assert (guessed.known_by, guessed.names) == ("file prefix", ("a", "a", "case7", "case7"))


def test_a_patient_missing_in_some_rows_is_named(make_table: Make) -> None:
    table = replace(make_table(4), patients=("a", None, "b", None))
    with pytest.raises(RequestError, match="2 of 4 rows have no patient .first: image_1.png"):
        patients_of(table)


def test_an_adapter_that_has_seen_a_patient_is_refused() -> None:
    record = {"patients": {"trained": [patient_id("a")], "validated": [patient_id("b")]}}
    refuse_seen_patients(record, ["c", "d"])
    for seen in ("a", "b"):
        with pytest.raises(RequestError, match=f"trained on 1 of these patients, such as {seen}"):
            refuse_seen_patients(record, ["c", seen])
    with pytest.raises(RequestError, match="does not list"):
        refuse_seen_patients({}, ["c"])
