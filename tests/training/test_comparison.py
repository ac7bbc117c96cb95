"""Paired differences of several predictions on the same draws of patients."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.training.comparison import drawn_figures, gains_of, gains_over
from wsikit.training.data import PatchSet
from wsikit.training.evaluation_lines import gain_lines
from wsikit.training.metrics import paired_difference


def test_gains_are_those_of_a_paired_bootstrap():
    rng = np.random.default_rng(0)
    n = 120
    data = PatchSet(
        np.zeros((n, 2, 2, 3), np.uint8), rng.integers(2, size=n), np.array([f"p{i // 6}" for i in range(n)]), ("",) * n
    )
    score = data.labels + rng.normal(0, 1, n)
    ways = {}
    for name, noise in (("image alone", 1.0), ("fused", 0.3), ("mean of both", 0.5)):
        p = 1 / (1 + np.exp(-(score + rng.normal(0, noise, n))))
        ways[name] = np.stack([1 - p, p], axis=1)
    drawn = drawn_figures(data, ways)
    gains = gains_over("image alone", drawn)
    assert set(gains) == {"fused", "mean of both"}
    for measure in ("auc", "balanced_accuracy", "ece"):
        wanted = paired_difference(data.labels, ways["fused"], ways["image alone"], data.groups, measure)
        found = gains["fused"][measure]
        assert (found["value"], found["low"], found["high"]) == pytest.approx(wanted)
    over = gains_of("fused", drawn)
    assert over["image alone"]["auc"]["value"] == pytest.approx(gains["fused"]["auc"]["value"])
    lines = list(gain_lines({"gains_over_image": gains, "fused_over": over}))
    assert len(lines) == 2 + 2 + 2
    assert lines[1].split()[:1] == ["fused"]


def test_a_difference_that_is_not_defined_is_none():
    data = PatchSet(np.zeros((4, 2, 2, 3), np.uint8), np.zeros(4, np.int64), np.array(list("aabb")), ("",) * 4)
    ways = {"image alone": np.full((4, 2), 0.5), "fused": np.full((4, 2), 0.5)}
    assert gains_over("image alone", drawn_figures(data, ways))["fused"]["auc"] == {
        "value": None,
        "low": None,
        "high": None,
    }
