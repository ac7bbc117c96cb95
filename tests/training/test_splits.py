"""Splits: no patient in two parts, classes spread, and what lies on disk is what is used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.training.data import PatchSet
from wsikit.training.splits import PARTS, check_parts, folds, read_splits, split, write_splits


def patches(n: int = 600, n_patients: int = 40, seed: int = 0) -> PatchSet:
    """Three classes of 60, 30 and 10 %; patients lean to one class or another."""
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, n_patients, n)
    labels = np.where(rng.random(n) < 0.5, patients % 2, rng.choice(3, n, p=[0.6, 0.2, 0.2]))
    return PatchSet(
        np.zeros((n, 1, 1, 3), np.uint8),
        labels.astype(np.int64),
        np.char.add("p", patients.astype(str)),
        ("",) * n,
        ids=tuple(f"{i}.png" for i in range(n)),
        classes=("a", "b", "c"),
    )


def test_no_patient_is_in_two_parts_and_shares_and_classes_are_met_roughly():
    data = patches()
    parts = split(data.labels, data.groups, validation=0.15, test=0.2, seed=3)
    groups = {name: set(data.groups[rows].tolist()) for name, rows in parts.items()}
    assert sum(map(len, groups.values())) == len(set.union(*groups.values()))
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(data)))
    assert len(parts["test"]) / len(data) == pytest.approx(0.2, abs=0.06)
    assert len(parts["validation"]) / len(data) == pytest.approx(0.15, abs=0.06)
    shares = [np.bincount(data.labels[rows]) / len(rows) for rows in parts.values()]
    assert np.ptp(shares, axis=0).max() < 0.15


def test_each_patch_is_tested_in_one_fold_and_another_seed_gives_another_split():
    data = patches()
    found = folds(data.labels, data.groups, 5, seed=0)
    assert sorted(np.concatenate([parts["test"] for parts in found]).tolist()) == list(range(len(data)))
    for parts in found:
        owners = [set(data.groups[parts[name]].tolist()) for name in PARTS]
        assert not owners[0] & owners[1] | owners[0] & owners[2] | owners[1] & owners[2]
    again, other = (folds(data.labels, data.groups, 5, seed=seed)[0]["test"] for seed in (0, 1))
    assert again.tolist() == found[0]["test"].tolist()
    assert other.tolist() != again.tolist()


def test_a_patient_in_two_parts_is_refused_by_name():
    """The official split drew patches, so that one slide lay on both sides."""
    data = patches()
    parts = split(data.labels, data.groups, validation=0.2, test=0.2, seed=0)
    moved = parts["test"][0]
    leak = parts | {"train": np.append(parts["train"], moved)}
    with pytest.raises(RequestError, match=rf"'{data.groups[moved]}' is in train and in test"):
        check_parts(data.labels, data.groups, leak)


def test_training_without_a_class_is_refused():
    labels, groups = np.array([0, 1, 0, 1, 2]), np.array(list("abcde"))
    parts = {"train": np.array([0, 1]), "validation": np.array([2, 3]), "test": np.array([4])}
    with pytest.raises(RequestError, match="no training patch of class 2"):
        check_parts(labels, groups, parts)


def test_a_split_comes_back_from_disk_for_rows_in_any_order(tmp_path: Path):
    data = patches()
    written = folds(data.labels, data.groups, 4, seed=0)
    write_splits(tmp_path / "s.json", data, written, seed=0)
    for before, after in zip(written, read_splits(tmp_path / "s.json", data), strict=True):
        assert all((before[name] == after[name]).all() for name in PARTS)
    order = np.random.default_rng(1).permutation(len(data))
    shuffled = data.select(order)
    for before, after in zip(written, read_splits(tmp_path / "s.json", shuffled), strict=True):
        assert {data.ids[row] for row in before["test"]} == {shuffled.ids[row] for row in after["test"]}


def test_a_split_that_was_changed_or_is_of_other_data_is_refused(tmp_path: Path):
    data, path = patches(), tmp_path / "s.json"
    record = write_splits(path, data, [split(data.labels, data.groups, validation=0.2, test=0.2, seed=0)], seed=0)
    parts = record["folds"][0]
    parts["train"]["ids"].append(parts["test"]["ids"].pop())
    path.write_text(json.dumps(record))
    with pytest.raises(RequestError, match="fold 0, train: the ids were changed"):
        read_splits(path, data)
    write_splits(path, data, [split(data.labels, data.groups, validation=0.2, test=0.2, seed=0)], seed=0)
    for other in (data.select(np.arange(599)), patches(seed=1)):
        with pytest.raises(RequestError, match="made for other patches"):
            read_splits(path, other)
    with pytest.raises(RequestError, match="no such file"):
        read_splits(tmp_path / "none.json", data)


@pytest.mark.parametrize(("validation", "test"), [(0.0, 0.2), (0.6, 0.5), (0.2, 1.0)])
def test_impossible_shares_are_refused(validation: float, test: float):
    data = patches()
    with pytest.raises(RequestError, match=r"must lie in \(0, 1\)"):
        split(data.labels, data.groups, validation=validation, test=test, seed=0)


@pytest.mark.parametrize("n_patients", [3, 4, 7])
def test_fractions_that_are_less_than_a_patient_are_refused_with_some_that_are_enough(n_patients: int):
    data = patches(n_patients=n_patients)
    with pytest.raises(
        RequestError, match=f"{n_patients} patients are too few for validation: 0.05, test: 0.1"
    ) as caught:
        split(data.labels, data.groups, validation=0.05, test=0.1, seed=0)
    enough = float(str(caught.value).split("Give ")[1].split()[0])
    parts = split(data.labels, data.groups, validation=enough, test=enough, seed=0)
    assert all(len(rows) for rows in parts.values())
    with pytest.raises(RequestError, match="2 patients are too few for train, validation, test: each part needs one"):
        split(data.labels, np.where(data.groups == "p0", "p0", "p1"), validation=0.4, test=0.4, seed=0)


def test_too_few_patients_are_refused_in_words():
    data = patches(n_patients=3)
    with pytest.raises(RequestError, match="3 patients are too few for 5 folds"):
        folds(data.labels, data.groups, 5, seed=0)
