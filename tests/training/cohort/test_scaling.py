"""What is fitted on the training part: scaling, choice of columns, components, time bins."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests.training.cohort.conftest import part_of
from wsikit.errors import RequestError
from wsikit.training.cohort.linear import survival_array
from wsikit.training.cohort.scaling import CLIP, fit_columns, fit_components, time_bin, time_cuts, univariate


def test_columns_have_mean_0_and_standard_deviation_1_on_the_training() -> None:
    values = np.random.default_rng(0).normal(5, 3, (50, 4))
    z = fit_columns(values).transform(values)
    assert z.dtype == np.float32
    assert np.allclose(z.mean(axis=0), 0, atol=1e-6)
    assert np.allclose(z.std(axis=0), 1, atol=1e-5)


def test_missing_values_become_the_median_and_outliers_end() -> None:
    scaler = fit_columns(np.array([[0.0], [1.0], [2.0], [9.0]]))
    assert scaler.transform(np.array([[np.nan]]))[0, 0] == pytest.approx((1.5 - 3) / np.std([0, 1, 2, 9]))
    assert scaler.transform(np.array([[1e9]]))[0, 0] == CLIP


def test_a_table_without_variation_is_refused() -> None:
    with pytest.raises(RequestError, match="none of 2 varies among the 3 patients"):
        fit_columns(np.ones((3, 2)))


def test_columns_are_chosen_by_variance_or_by_outcome() -> None:
    part = part_of()
    values = part.columns["rna"] * np.arange(1, 13, dtype=np.float32)
    assert fit_columns(values, most=2).kept.tolist() == [10, 11]
    assert 0 in fit_columns(values, most=1, by="univariate", part=part).kept


def test_the_univariate_statistic_is_the_score_test_of_cox() -> None:
    """For one binary column without equal times this is the log-rank statistic."""
    from sksurv.compare import compare_survival

    rng = np.random.default_rng(3)
    part = part_of(80)
    from dataclasses import replace

    part = replace(part, time=rng.permutation(80) + 1.0)
    assert part.time is not None
    assert part.event is not None
    group = (rng.random(80) < 0.4).astype(float)
    expected = compare_survival(survival_array(part.time, part.event), group)[0]
    assert univariate(group[:, None], part)[0] == pytest.approx(expected, rel=1e-6)


def test_the_univariate_statistic_of_classes_is_f() -> None:
    from dataclasses import replace

    part = replace(part_of(), time=None, event=None)
    assert part.labels is not None
    column = part.columns["rna"][:, 1]
    expected = stats.f_oneway(column[part.labels == 0], column[part.labels == 1]).statistic
    assert univariate(column[:, None], part)[0] == pytest.approx(expected, rel=1e-4)


def test_components_equal_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    values = np.random.default_rng(0).normal(size=(60, 8)) @ np.random.default_rng(1).normal(size=(8, 8))
    found = fit_components(values, 3)
    z = found.scaler.transform(values).astype(float)
    expected = PCA(3, whiten=True).fit_transform(z) * np.sqrt(60 / 59)
    assert np.allclose(np.abs(found.transform(values)), np.abs(expected), atol=1e-4)
    assert np.array_equal(found.transform(values), fit_components(values.copy(), 3).transform(values))


def test_time_bins_are_quartiles_of_the_uncensored_times() -> None:
    time, event = np.array([*range(1, 9), 100.0]), np.array([True] * 8 + [False])
    cuts = time_cuts(time, event, 4)
    assert cuts.tolist() == [2.75, 4.5, 6.25]
    assert np.bincount(time_bin(time, cuts)).tolist() == [2, 2, 2, 3]


def test_too_few_events_for_the_bins_are_refused() -> None:
    with pytest.raises(RequestError, match="2 events with 2 different times"):
        time_cuts(np.array([1.0, 2.0, 3.0]), np.array([True, True, False]), 4)
