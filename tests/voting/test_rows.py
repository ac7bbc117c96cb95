"""Sums and maxima over classes: equal to NumPy's own reductions, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.voting.methods import choices
from wsikit.voting.rows import nan_rows, row_max, row_sums


@pytest.mark.parametrize("n_classes", [1, 2, 3, 7, 8, 9, 20])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_are_reduced_as_numpy_reduces_them(n_classes, order):
    rng = np.random.default_rng(n_classes)
    rows = np.asarray(np.round(rng.dirichlet([0.5] * n_classes, 3000), 1) + 1e-17 * rng.random(), order=order)
    top, first = row_max(rows)
    np.testing.assert_array_equal(top, rows.max(axis=1))
    np.testing.assert_array_equal(first, rows.argmax(axis=1))
    np.testing.assert_array_equal(row_sums(rows), np.ascontiguousarray(rows).sum(axis=1))
    best = rows == rows.max(axis=1, keepdims=True)
    np.testing.assert_array_equal(choices(rows), best / best.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, -np.inf])
def test_rows_with_a_nan_are_found_among_any_numbers(value):
    rows = np.full((50, 3), 0.25)
    rows[7, 1], rows[7, 2] = value, -value
    np.testing.assert_array_equal(nan_rows(rows), np.isnan(rows).any(axis=1))


def test_no_rows_are_no_rows():
    none = np.empty((0, 3))
    assert len(nan_rows(none)) == len(row_sums(none)) == len(row_max(none)[0]) == 0
