"""Rivals and controls of the fusion: what they read, and what they must find in data made for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from wsikit.captions import Morphometry
from wsikit.errors import RequestError
from wsikit.training.config import CaptionsConfig
from wsikit.training.data import PatchSet
from wsikit.training.patch_facts import in_slide, measured_facts, read_facts, save_facts
from wsikit.training.rivals import DEFAULT, ON_FACTS, ON_FIELD, TITLES, Rivals, check_rivals, mean_of_logits

N_SLIDES, EACH = 24, 20


def patches(seed: int) -> PatchSet:
    """Grey patches of `N_SLIDES` slides of one patient each, half of each slide of class 1."""
    n = N_SLIDES * EACH
    slides = np.repeat([f"{seed}-{slide}" for slide in range(N_SLIDES)], EACH)
    return PatchSet(np.full((n, 8, 8, 3), 128, np.uint8), np.arange(n) % 2, slides, ("",) * n, slides=slides)


def numbers(data: PatchSet, seed: int) -> np.ndarray:
    """(N, 3): a number that is higher in class 1 than in class 0 of the same slide, but whose level differs far more
    between slides; noise that is missing in half of the rows; and nothing."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.normal(0, 20, N_SLIDES), EACH)
    noise = np.where(rng.random(len(data)) < 0.5, np.nan, rng.normal(size=len(data)))
    never = np.full(len(data), np.nan)  # not measured at this scale
    return np.stack([level + 2 * data.labels + rng.normal(0, 0.7, len(data)), noise, never], axis=1).astype(np.float32)


def rivals(**given: object) -> Rivals:
    training, test = patches(0), patches(1)
    return Rivals(training, test, 2, 0, facts=(numbers(training, 0), numbers(test, 1)), **given)  # type: ignore[arg-type]


def auc(made: Rivals, probs: np.ndarray) -> float:
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    return float(roc_auc_score(made.test.labels, probs[:, 1]))


def test_a_mean_of_logits_is_the_logistic_of_the_mean_log_odds():
    a, b = np.array([[0.2, 0.8], [0.5, 0.5]]), np.array([[0.4, 0.6], [0.1, 0.9]])
    odds = (np.log(a[:, 1] / a[:, 0]) + np.log(b[:, 1] / b[:, 0])) / 2
    np.testing.assert_allclose(mean_of_logits(a, b)[:, 1], 1 / (1 + np.exp(-odds)))
    assert np.isfinite(mean_of_logits(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]))).all()


def test_slide_context_is_value_z_and_mean_without_what_was_not_measured():
    values = np.array([[1.0, np.nan], [5.0, np.nan], [np.nan, 3.0], [7.0, 7.0]])
    found = in_slide(values, np.array(["a", "a", "a", "b"]))
    nan = np.nan
    np.testing.assert_allclose(
        found,
        [[1, nan, -1, nan, 3, 3], [5, nan, 1, nan, 3, 3], [nan, 3, nan, 0, 3, 3], [7, 7, 0, 0, 7, 7]],
    )


def test_only_boosting_with_slide_context_finds_what_is_relative_to_the_slide():
    made = rivals()
    assert auc(made, made.probs("facts")) < 0.75
    assert auc(made, made.probs("facts_in_slide")) > 0.93


def test_an_image_branch_that_sees_the_slide_finds_it_in_its_features():
    by_id = {0: numbers(patches(0), 0)[:, :1], 1: numbers(patches(1), 1)[:, :1]}
    made = rivals(features=lambda data: by_id[int(data.groups[0][0])])
    assert auc(made, made.probs("image_in_slide")) > 0.93


def test_a_rival_with_the_image_is_the_mean_of_logits_of_both():
    image = np.random.default_rng(2).dirichlet((1, 1), N_SLIDES * EACH)
    text, other = image[::-1].copy(), np.roll(image, 1, axis=0)
    text[:5] = np.nan
    made = rivals(image=image, text=text, second_image=lambda: other)
    np.testing.assert_allclose(made.probs("two_image_seeds"), mean_of_logits(image, other))
    for name in ("facts", "facts_in_slide"):
        np.testing.assert_allclose(made.probs(f"image_and_{name}"), mean_of_logits(image, made.probs(name)))  # type: ignore[arg-type]
    found = made.probs("mean_of_logits")
    np.testing.assert_allclose(found[5:], mean_of_logits(image, text)[5:])
    np.testing.assert_allclose(found[:5], image[:5])  # no caption: the image alone


def test_another_image_branch_is_trained_once_and_takes_the_text_as_the_first_does():
    image = np.random.default_rng(2).dirichlet((1, 1), N_SLIDES * EACH)
    text = image[::-1].copy()
    text[:5] = np.nan
    trained = []

    def train() -> np.ndarray:
        trained.append(1)
        return np.roll(image, 1, axis=0)

    made = rivals(image=image, text=text, other_image=train)
    other = made.probs("other_image")
    np.testing.assert_array_equal(other, np.roll(image, 1, axis=0))
    both = made.probs("other_image_and_text")
    np.testing.assert_allclose(both[5:], mean_of_logits(other, text)[5:])
    np.testing.assert_allclose(both[:5], other[:5])
    assert len(trained) == 1
    assert not set(DEFAULT) & {"other_image", "other_image_and_text"}
    with pytest.raises(RequestError, match="other_image is missing"):
        rivals(image=image).probs("other_image")


def test_the_colours_of_a_slide_are_added_to_the_image():
    training, test = patches(0), patches(1)
    shift = lambda data: replace(data, images=(data.images + 40 * data.labels[:, None, None, None]).astype(np.uint8))  # noqa: E731
    even = np.full((len(test), 2), 0.5)
    made = Rivals(shift(training), shift(test), 2, 0, image=even)
    assert auc(made, made.probs("image_and_colours")) > 0.99
    with pytest.raises(RequestError, match="facts is missing"):
        made.probs("facts")


def test_rivals_on_facts_are_left_out_or_refused_without_facts():
    kept, line = check_rivals(DEFAULT, facts=False, explicit=False)
    assert set(kept) == set(DEFAULT) - ON_FACTS
    assert "boosting on facts" in line
    assert check_rivals(DEFAULT, facts=True, explicit=True, field=True) == (DEFAULT, "")
    assert set(check_rivals(DEFAULT, facts=True, explicit=False)[0]) == set(DEFAULT) - ON_FIELD
    with pytest.raises(RequestError, match="facts_in_field need the field"):
        check_rivals(("facts_in_field",), facts=True, explicit=True)
    with pytest.raises(RequestError, match="image_and_facts need measured facts"):
        check_rivals(("image_and_facts",), facts=False, explicit=True)
    assert "two_image_seeds" not in DEFAULT
    assert len(set(TITLES.values())) == len(TITLES)


def test_facts_are_those_of_the_captions_and_missing_where_they_say_nothing(tmp_path):
    rng = np.random.default_rng(0)
    images = np.clip(np.array((190, 120, 180)) + rng.normal(0, 25, (5, 32, 32, 3)), 0, 255).astype(np.uint8)
    images[4] = 255  # glass, of which less is measured
    data = PatchSet(images, np.zeros(5, np.int64), np.array(list("aabbb")), ("",) * 5)
    config = CaptionsConfig(source="captioner", captioner="morphometry-in-slide")
    found = measured_facts(data, config, mpp=4.0)
    assert found is not None
    names = Morphometry.fact_names
    for row, caption in enumerate(Morphometry().caption(images, mpp=4.0)):
        known = {name: value for name, value in zip(names, found[row].tolist()) if np.isfinite(value)}
        assert known == pytest.approx(caption.facts, rel=1e-6)
    assert np.isnan(found[4]).sum() > np.isnan(found[0]).sum()
    save_facts(tmp_path / "facts.npz", found, names)
    np.testing.assert_array_equal(read_facts(tmp_path / "facts.npz"), found)
    assert read_facts(tmp_path / "none.npz") is None
    assert measured_facts(data, CaptionsConfig(source="none"), mpp=4.0) is None
