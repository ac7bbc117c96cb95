"""What holds of every vote, on slides that Hypothesis makes up."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsikit.geometry import PatchGrid
from wsikit.voting import METHODS, SMOOTHINGS, SlidePatches, SlideResult, ThresholdRule, VoteParameters, vote_slide

CLASSES = ("UD", "PD", "D", "other")


@st.composite
def slides(draw: st.DrawFn) -> SlidePatches:
    """Up to 7 × 7 places, some without patch, some without prediction, sure, torn or background."""
    cols, rows = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    overlap = draw(st.sampled_from([0, 30, 50]))
    stride = 100 - overlap
    grid = PatchGrid((cols * stride + overlap, rows * stride + overlap), (0.5, 0.5), 100, 0.5, overlap)
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    coords = grid.all_coords()
    coords = coords[rng.random(len(coords)) < draw(st.sampled_from([0.3, 1.0]))]
    n = len(coords)
    probs = rng.dirichlet(np.full(4, draw(st.sampled_from([0.02, 1.0, 50.0]))), n)
    probs[rng.random(n) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = np.nan
    known: dict[str, np.ndarray] = {"gate": rng.random(n), "attention": rng.random(n)}
    known["key_tissue"] = rng.dirichlet(np.ones(3), n)
    for name in ("tissue", "readable", "blur", "pen", "ood_score"):
        if draw(st.booleans()):
            known[name] = np.where(rng.random(n) < 0.1, np.nan, np.round(rng.random(n) * 1.5, 1).clip(0, 1))
    return SlidePatches(probs, CLASSES, ("other",), grid, coords, known)


def parameters(method: str, smooth: str) -> VoteParameters:
    small = VoteParameters(method, rule=ThresholdRule("D"), k=3, min_patches=2, resamples=50)
    return replace(small, smooth=smooth, block_um=60, second_mm2=0.001)


@settings(max_examples=150, deadline=None)
@given(slides(), st.sampled_from(METHODS), st.sampled_from(SMOOTHINGS))
def test_a_result_never_contradicts_itself(patches: SlidePatches, method: str, smooth: str) -> None:
    result = vote_slide(patches, parameters(method, smooth))
    n = len(patches.probs)
    assert result.n_patches + result.n_background + result.n_unpredicted == n
    assert result.n_unpredicted == np.isnan(patches.probs).any(axis=1).sum()
    assert result.abstained == (result.label is None) == bool(result.reason)
    assert (result.leading is None) == (result.n_patches == 0)
    if result.n_patches:
        assert result.label in (None, result.leading)
        assert result.probs.sum() == pytest.approx(1)
        assert (result.probs >= 0).all()
        assert result.fractions.sum() == pytest.approx(1)
        assert 0 <= result.margin <= 1
        assert 0 < result.n_effective <= result.n_patches * (1 + 1e-9)
    else:
        assert np.isnan(result.probs).all()
    assert (result.interval is None) == bool(result.no_interval)
    if result.interval is not None:
        assert (result.interval.low <= result.interval.high).all()
    areas = result.areas
    total = areas.mm2.sum() + areas.background_mm2 + areas.unpredicted_mm2
    assert total <= np.prod(patches.grid.slide_px) * 0.25e-6 * (1 + 1e-9)
    assert (total > 0) == (n > 0)
    if result.second is not None:
        assert result.second.index != result.leading
        assert 0.001 <= result.second.area_mm2 <= areas.mm2[result.second.index] * (1 + 1e-9)
    text = json.dumps(result.to_json(), allow_nan=False)
    assert SlideResult.from_json(json.loads(text)).to_json() == json.loads(text)


@settings(max_examples=60, deadline=None)
@given(slides(), st.sampled_from(METHODS), st.sampled_from(SMOOTHINGS), st.integers(0, 2**31))
def test_the_order_of_the_patches_changes_nothing(patches: SlidePatches, method: str, smooth: str, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(patches.probs))
    turned = SlidePatches(
        patches.probs[order], CLASSES, ("other",), patches.grid, patches.coords[order],
        {name: values[order] for name, values in patches.columns.items()},
    )  # fmt: skip
    one, other = (vote_slide(found, parameters(method, smooth)) for found in (patches, turned))
    assert other.probs == pytest.approx(one.probs, nan_ok=True)
    assert other.reason == one.reason
    assert other.areas.mm2 == pytest.approx(one.areas.mm2)
    assert other.ood_fraction == pytest.approx(one.ood_fraction)
