"""Baselines: what each reads, that nothing of the test part is used, and their floors on the real table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.training.cohort.conftest import part_of
from wsikit.training.cohort.baselines import (
    Block,
    LateFusion,
    LinearBaseline,
    NoColumn,
    survival_at,
    usual_baselines,
)
from wsikit.training.cohort.cross_validation import cross_validate, without_outcome
from wsikit.training.cohort.linear import partial_log_likelihood
from wsikit.training.cohort.protocol import Part, Prediction
from wsikit.training.cohort.survival_scores import HARRELL, FoldTruth

TRAINED, CHOSEN, TESTED = slice(0, 60), slice(60, 90), slice(90, 120)


def parts(part: Part) -> tuple[Part, Part, Part]:
    everything = np.arange(len(part))
    return tuple(part.take(everything[one]) for one in (TRAINED, CHOSEN, TESTED))  # type: ignore[return-value]


def c_index(part: Part, prediction: Prediction) -> float:
    assert part.time is not None
    assert part.event is not None
    assert prediction.risk is not None
    found = FoldTruth(part.time, part.event, part.time, part.event, at_risk=1).scores(prediction)[HARRELL]
    assert found is not None
    return found


def test_the_usual_baselines_are_those_that_the_columns_allow() -> None:
    names = [one.name for one in usual_baselines(part_of(), age="age", components=3)]
    assert names == [
        "no column", "age", "PCA-3 of rna, age", "rna alone", "clinical alone", "late fusion", "concatenation",
    ]  # fmt: skip
    assert [one.name for one in usual_baselines(part_of().only(["rna"]), age="age", components=3)] == [
        "no column", "rna alone",
    ]  # fmt: skip


def test_each_baseline_finds_the_signal_that_it_can_see() -> None:
    train, validation, test = parts(part_of())
    found = {
        one.name: c_index(test, one.fit(train, validation, 0).predict(without_outcome(test)))
        for one in usual_baselines(train, age="age", components=10)
    }
    assert found["no column"] == 0.5
    assert found["age"] > 0.55
    assert found["rna alone"] > 0.7
    assert found["concatenation"] > found["age"]
    assert found["late fusion"] > found["age"]


def test_classes_are_predicted_by_the_column_that_makes_them() -> None:
    train, validation, test = parts(replace(part_of(), time=None, event=None))
    for one in usual_baselines(train, age="age", components=3):
        prediction = one.fit(train, validation, 0).predict(without_outcome(test))
        assert prediction.risk is None
        assert prediction.probs is not None
        assert np.allclose(prediction.probs.sum(axis=1), 1)
        right = float((prediction.probs.argmax(axis=1) == test.labels).mean())
        if one.name in ("rna alone", "concatenation", "late fusion"):
            assert right > 0.8, one.name


def test_survival_curves_fall_and_order_as_the_risks() -> None:
    train, validation, test = parts(part_of())
    for one in usual_baselines(train, age="age", components=3):
        prediction = one.fit(train, validation, 0).predict(test)
        assert prediction.survival is not None
        assert prediction.times is not None
        assert (np.diff(prediction.survival, axis=1) <= 1e-12).all()
        assert ((prediction.survival >= 0) & (prediction.survival <= 1)).all()
        if one.name not in ("late fusion", "no column"):
            middle = survival_at(prediction, np.median(prediction.times, keepdims=True))[:, 0]
            assert np.corrcoef(middle, prediction.risk)[0, 1] < -0.5


def test_no_column_is_the_kaplan_meier_estimate_of_the_training() -> None:
    train = replace(part_of(4), time=np.array([1.0, 2.0, 3.0, 4.0]), event=np.array([True, False, True, False]))
    prediction = NoColumn().fit(train.take([0, 1]), train.take([2, 3]), 0).predict(part_of(3))
    assert survival_at(prediction, np.array([0.5, 1.0, 3.5]))[0].tolist() == pytest.approx([1, 0.75, 0.375])


def test_late_fusion_is_the_mean_of_standardised_risks() -> None:
    train, validation, test = parts(part_of())
    members = tuple(LinearBaseline(name, (Block(name),), penalised=True) for name in ("rna", "clinical"))
    fitted = [member.fit(train, validation, 0) for member in members]
    expected = []
    for one in fitted:
        own, tested = one.predict(train).risk, one.predict(test).risk
        assert own is not None
        assert tested is not None
        expected.append((tested - own.mean()) / own.std())
    found = LateFusion(members).fit(train, validation, 0).predict(test).risk
    assert found is not None
    assert np.allclose(found, np.mean(expected, axis=0))


@pytest.mark.parametrize("place", ["rna", "time", "event", "labels"])
def test_a_changed_patient_of_the_test_part_changes_no_other_prediction(place: str) -> None:
    """Scaling, components, penalties and groups are fitted on the training: the others' predictions stay to the bit."""
    part = part_of()
    everything = np.arange(120)
    split = {"train": everything[TRAINED], "validation": everything[CHOSEN], "test": everything[TESTED]}
    changed = replace(
        part,
        columns={"rna": part.columns["rna"].copy(), "clinical": part.columns["clinical"]},
        time=None if part.time is None else part.time.copy(),
        event=None if part.event is None else part.event.copy(),
        labels=None if part.labels is None else part.labels.copy(),
    )
    target = changed.columns["rna"] if place == "rna" else getattr(changed, place)
    target[100] = 1 - target[100] if place in ("event", "labels") else 500.0
    learners = usual_baselines(part, age="age", components=3)
    one, other = (cross_validate(data, learners, {0: [split]}) for data in (part, changed))
    others = np.arange(90, 120) != 100
    for a, b in zip(one, other):
        assert a.cut == b.cut
        for name in ("risk", "survival", "probs"):
            assert np.array_equal(getattr(a.prediction, name)[others], getattr(b.prediction, name)[others]), (
                a.learner,
                name,
            )


def test_a_patient_without_a_modality_is_predicted() -> None:
    train, validation, test = parts(part_of())
    test.columns["rna"][0] = np.nan
    for one in usual_baselines(train, age="age", components=3):
        prediction = one.fit(train, validation, 0).predict(test)
        assert prediction.risk is not None
        assert np.isfinite(prediction.risk).all()


def test_the_partial_likelihood_by_hand() -> None:
    # risk sets: {a, b, c} at 1 and {b, c} at 2, where b and c die together (Breslow)
    risk = np.log(np.array([2.0, 1.0, 3.0]))
    expected = (np.log(2 / 6) + np.log(1 / 4) + np.log(3 / 4)) / 3
    assert partial_log_likelihood(risk, np.array([1.0, 2.0, 2.0]), np.ones(3, bool)) == pytest.approx(expected)


@pytest.mark.slow
def test_the_floors_of_glioma_are_reached(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TCGA GBM-LGG, one seed of folds by hospital: age 0.766 and PCA-10 with age 0.804 are known for random folds."""
    from wsikit.training.cohort.cohort import load_cohort
    from wsikit.training.cohort.config import CohortTrainConfig
    from wsikit.training.cohort.evaluate import fold_truths, measure_survival
    from wsikit.training.cohort.folds import make_folds
    from wsikit.training.task import read_config

    monkeypatch.setenv("WSIKIT_DATA", str(data_dir))
    root = Path(__file__).parents[3]
    config = read_config(root / "pipelines" / "configs" / "baselines_gbmlgg.yaml", CohortTrainConfig)
    cohort = load_cohort(config)
    assert (len(cohort.part), cohort.findings) == (569, ())
    learners = [one for one in usual_baselines(cohort.part, age="age", components=10) if one.name != "rna alone"]
    splits = {0: make_folds(cohort, config.split, 0)}
    results = cross_validate(cohort.part, learners, splits)
    truths = fold_truths(cohort.part, splits, horizons=(), at_risk=10)
    measures = measure_survival(cohort.part, results, splits, truths, draws=100)
    found = {name: one[HARRELL].value for name, one in measures.items()}
    assert found["age"] == pytest.approx(0.766, abs=0.02)
    assert found["PCA-10 of rna, age"] == pytest.approx(0.804, abs=0.02)
    assert found["late fusion"] > 0.82
