"""Metrics of survival: closed forms, a double loop over pairs, and other libraries."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.cohort.conftest import part_of
from wsikit.training.cohort.protocol import Prediction
from wsikit.training.cohort.risk_groups import kaplan_meier, log_rank
from wsikit.training.cohort.survival_scores import BRIER, HARRELL, UNO, FoldTruth, standardised, support

Doubles = np.ndarray


def truth_of(time: Doubles, event: Doubles, **changes: object) -> FoldTruth:
    """Tested and trained on the same follow-up."""
    return FoldTruth(time, event, time, event, at_risk=1, **changes)  # type: ignore[arg-type]


def by_pairs(time: Doubles, event: Doubles, risk: Doubles) -> float:
    """Harrell's index by a loop over all pairs: the definition."""
    right, pairs = 0.0, 0
    for i in range(len(time)):
        for j in range(len(time)):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                pairs += 1
                right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return right / pairs


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e9])
def test_perfect_reversed_and_equal_risks(unit: float) -> None:
    time, event = np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4, bool)
    risk = unit * np.array([4.0, 3.0, 2.0, 1.0])
    found = [truth_of(time, event).scores(Prediction(r)) for r in (risk, -risk, np.full(4, unit))]
    assert [one[HARRELL] for one in found] == [1.0, 0.0, 0.5]
    assert [one[UNO] for one in found] == [1.0, 0.0, 0.5]


def test_harrell_equals_a_double_loop_with_ties_in_times_and_risks() -> None:
    rng = np.random.default_rng(1)
    time, event = rng.integers(1, 12, 60).astype(float), rng.random(60) < 0.6
    risk = rng.integers(0, 8, 60).astype(float)
    assert truth_of(time, event).scores(Prediction(risk))[HARRELL] == pytest.approx(
        by_pairs(time, event, risk), abs=1e-12
    )


def test_harrell_equals_lifelines() -> None:
    utils = pytest.importorskip("lifelines.utils", reason="lifelines is not installed")
    rng = np.random.default_rng(2)
    time, event = rng.integers(1, 30, 80).astype(float), rng.random(80) < 0.5
    risk = rng.integers(0, 10, 80).astype(float)
    expected = utils.concordance_index(time, -risk, event)
    assert truth_of(time, event).scores(Prediction(risk))[HARRELL] == pytest.approx(expected, abs=1e-12)


def test_kaplan_meier_equals_lifelines() -> None:
    lifelines = pytest.importorskip("lifelines", reason="lifelines is not installed")
    part = part_of()
    assert part.time is not None
    assert part.event is not None
    curve = kaplan_meier(part.time, part.event)
    fitted = lifelines.KaplanMeierFitter().fit(part.time, part.event)
    assert np.allclose(fitted.predict(curve.times).to_numpy(), curve.survival)
    bounds = fitted.confidence_interval_.to_numpy()[1:]
    assert np.allclose(bounds, np.stack([curve.low, curve.high], axis=1)[1:], atol=1e-6)
    high = part.columns["rna"][:, 0] > 0
    statistics = pytest.importorskip("lifelines.statistics")
    expected = statistics.logrank_test(part.time[high], part.time[~high], part.event[high], part.event[~high]).p_value
    assert log_rank(part.time, part.event, high) == pytest.approx(expected, rel=1e-6)


def test_kaplan_meier_by_hand() -> None:
    # 5 patients: death at 2 (4/5), censored at 3, death at 4 (of 3: 2/3), censored at 5 and 6
    curve = kaplan_meier(np.array([2.0, 3.0, 4.0, 5.0, 6.0]), np.array([True, False, True, False, False]))
    assert curve.times.tolist() == [0, 2, 3, 4, 5, 6]
    assert np.allclose(curve.survival, [1, 0.8, 0.8, 0.8 * 2 / 3, 0.8 * 2 / 3, 0.8 * 2 / 3])
    assert curve.at_risk(np.array([0.0, 2.0, 4.5])) == [5, 5, 2]


def test_brier_score_without_censoring_is_the_mean_squared_error() -> None:
    time, event = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.ones(5, bool)
    half = Prediction(np.arange(5.0), np.full((5, 1), 0.5), np.array([0.1]))
    truth = truth_of(time, event)
    assert truth.scores(half)[BRIER] == pytest.approx(0.25)
    steps = np.linspace(0.5, 5.5, 501)
    known = Prediction(-time, (steps[None, :] < time[:, None]).astype(float), steps)
    assert truth.scores(known)[BRIER] == pytest.approx(0.0, abs=0.02)


def test_the_auc_counts_pairs_of_early_deaths_and_survivors() -> None:
    time, event = np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4, bool)
    # at 2.5 months: cases 1, 2; survivors 3, 4; only the pair (2, 3) is in the wrong order
    found = truth_of(time, event, horizons=(2.5, 9.0)).scores(Prediction(np.array([4.0, 1.0, 2.0, 0.0])))
    assert found["auc_2.5m"] == pytest.approx(0.75)
    assert found["auc_9m"] is None


def test_draws_with_all_weights_one_equal_scikit_survival() -> None:
    part = part_of(160)
    assert part.time is not None
    assert part.event is not None
    rng = np.random.default_rng(0)
    times = np.linspace(1, 60, 20)
    curves = np.exp(-np.outer(rng.uniform(0.2, 2, 60), times / 30))
    found = Prediction(rng.normal(size=60).round(1), curves, times)
    truth = FoldTruth(part.time[60:], part.event[60:], part.time[:60], part.event[:60], horizons=(6.0, 12.0))
    exact, drawn = truth.scores(found), truth.drawn(found, np.ones((1, 60)))
    assert {*drawn} == {name for name, value in exact.items() if value is not None} == {*exact}
    for name, value in exact.items():
        assert drawn[name][0] == pytest.approx(value, abs=1e-9), name


def test_a_patient_drawn_twice_counts_as_two_patients() -> None:
    part = part_of(40)
    assert part.time is not None
    assert part.event is not None
    risk = part.columns["rna"][:, 0].astype(float)
    weights = np.ones(40)
    weights[:5], weights[5:10] = 2.0, 0.0
    rows = np.repeat(np.arange(40), weights.astype(int))
    twice = by_pairs(part.time[rows], part.event[rows], risk[rows])
    found = truth_of(part.time, part.event).drawn(Prediction(risk), weights[None, :])[HARRELL][0]
    assert found == pytest.approx(twice, abs=1e-12)


@pytest.mark.parametrize("last_died", [True, False])
def test_metrics_are_defined_however_the_longest_follow_up_ended(last_died: bool) -> None:
    """scikit-survival alone refuses one of these, and divides by a weight of 0 in the other."""
    part = part_of(100)
    assert part.time is not None
    assert part.event is not None
    time, event = part.time.copy(), part.event.copy()
    longest = int(time[30:].argmax()) + 30
    event[longest] = last_died
    time[0], event[0] = time.max() + 50, True  # tested for longer than anyone in the training
    curves = Prediction(np.linspace(0, 1, 30), np.full((30, 1), 0.5), np.array([0.0]))
    found = FoldTruth(time[30:], event[30:], time[:30], event[:30])
    scores = found.scores(curves)
    assert found.end == support(time[30:], 10)
    assert all(value is not None and np.isfinite(value) for value in scores.values())


def test_the_end_does_not_depend_on_how_the_longest_follow_up_ended() -> None:
    part = part_of(100)
    assert part.time is not None
    assert part.event is not None
    scores = []
    for died in (True, False):
        event = part.event.copy()
        event[int(part.time[30:].argmax()) + 30] = died
        truth = FoldTruth(part.time[30:], event[30:], part.time[:30], event[:30])
        curves = Prediction(part.columns["rna"][:30, 0].astype(float), np.full((30, 1), 0.5), np.array([0.0]))
        scores.append(truth.scores(curves))
    assert scores[0] == pytest.approx(scores[1], abs=1e-12)


def test_standardised_risks_keep_their_order() -> None:
    risk = np.random.default_rng(0).normal(size=50) * 1e-10
    assert np.array_equal(np.argsort(standardised(risk)), np.argsort(risk))
    assert standardised(np.full(4, 0.1) * 3).tolist() == [0.0] * 4


def test_a_tested_part_without_events_has_no_metric_and_is_no_error() -> None:
    rng = np.random.default_rng(0)
    trained, tested = rng.exponential(20, 60), rng.exponential(20, 12)
    truth = FoldTruth(trained, rng.random(60) < 0.4, tested, np.zeros(12, dtype=bool), horizons=(6.0,))
    prediction = Prediction(risk=rng.normal(size=12), survival=rng.random((12, 3)), times=np.array([1.0, 5.0, 9.0]))
    assert set(truth.scores(prediction).values()) == {None}
    drawn = truth.drawn(prediction, np.ones((1, 12)))
    assert not any(np.isfinite(values).any() for values in drawn.values())
