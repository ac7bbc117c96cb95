"""Mode attend: anchors, attention, loss, and that it learns concepts from tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.training.concepts.conftest import World
from wsikit.errors import RequestError
from wsikit.models.concept_attention import ConceptAttention, concept_loss
from wsikit.models.concept_criteria import Criteria
from wsikit.training.concepts import attend
from wsikit.training.concepts.anchors import anchors_of
from wsikit.training.concepts.attend import mean_scores, train_attention
from wsikit.training.concepts.checks import balanced
from wsikit.training.concepts.config import AttendSettings


def tokens_with_places(world: World, *, seed: int = 1) -> np.ndarray:
    """The features of a patch in one of four tokens, at a random place; the others are noise."""
    rng = np.random.default_rng(seed)
    tokens = rng.normal(0, 0.3, (len(world.labels), 4, world.features.shape[1]))
    tokens[np.arange(len(tokens)), rng.integers(4, size=len(tokens))] += world.features
    return tokens.astype(np.float32)


def trained(world: World, **changes: object) -> tuple[attend.Attended, np.ndarray, np.ndarray]:
    train, test = world.halves
    tokens = tokens_with_places(world)
    anchors, _, _ = anchors_of(world.criteria, "lexicon")
    settings = AttendSettings.model_validate({"width": 32, "epochs": 25, "lr": 3e-3, "batch": 32} | changes)
    parts = [(tokens[rows], world.labels[rows], world.concepts[rows]) for rows in (train, test)]
    found = train_attention(parts[0], parts[1], world.criteria, anchors, settings, n_classes=4, seed=0)
    return found, attend.scores_of_tokens(found.attention, tokens[test]), test


def concept_accuracy(scores: np.ndarray, world: World, rows: np.ndarray) -> float:
    return float(
        np.mean(
            [
                (scores[:, columns].argmax(axis=1) == world.concepts[rows, axis]).mean()
                for axis, columns in enumerate(world.criteria.columns)
            ]
        )
    )


def test_attention_learns_concepts_and_classes_from_tokens(world: World) -> None:
    found, scores, test = trained(world)
    assert concept_accuracy(scores, world, test) > 0.6  # at chance: 0.33
    called = (scores @ found.weight + found.bias).argmax(axis=1)
    assert balanced(called, world.labels[test]) > 0.6  # at chance: 0.25


def test_without_the_loss_of_the_concepts_they_are_not_learned(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attend, "concept_loss", lambda scores, labels, columns: scores.sum() * 0.0)
    _, scores, test = trained(world, interventions=0)
    assert concept_accuracy(scores, world, test) < 0.5


def test_the_concept_loss_is_the_mean_over_axes_of_the_cross_entropy() -> None:
    scores = torch.tensor([[2.0, 0.0, 1.0, 1.0, 1.0], [0.0, 2.0, 0.0, 0.0, 3.0]])
    labels = torch.tensor([[0, 1], [1, -1]])
    one = math.log(1 + math.exp(-2.0))  # of both rows, first axis
    two = math.log(3.0)  # of the first row: the second has no label
    found = concept_loss(scores, labels, [slice(0, 2), slice(2, 5)])
    assert float(found) == pytest.approx((one + two) / 2, abs=1e-6)
    assert float(concept_loss(scores, torch.full((2, 2), -1), [slice(0, 2), slice(2, 5)])) == 0.0


def test_scores_are_scaled_cosines_and_attention_sums_to_one(world: World) -> None:
    torch.manual_seed(0)
    anchors = torch.randn(world.criteria.n_options, 7)
    module = ConceptAttention(5, anchors, world.criteria.columns, width=8, heads=2).eval()
    cosines, weights = module.cosines(torch.randn(3, 6, 5))
    assert cosines.shape == (3, world.criteria.n_options)
    assert weights.shape == (3, 3, 6)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(3, 3))
    assert float(cosines.detach().abs().max()) <= 1 + 1e-6
    assert "anchors" not in dict(module.named_parameters())  # they are never trained


def test_an_axis_reads_its_own_anchors_only(world: World) -> None:
    torch.manual_seed(0)
    anchors = torch.randn(world.criteria.n_options, 7)
    module = ConceptAttention(5, anchors, world.criteria.columns, width=8, heads=2).eval()
    tokens = torch.randn(3, 6, 5)
    before = module(tokens)
    module.anchors[world.criteria.columns[1]] = torch.randn(3, 7)
    after = module(tokens)
    changed = (before != after).any(dim=0)
    assert changed[world.criteria.columns[1]].all()
    assert not changed[world.criteria.columns[0]].any()


def test_mean_scores_are_those_of_the_patches_of_each_option() -> None:
    scores = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    found = mean_scores(scores, np.array([[0], [0], [1]]), (slice(0, 2),))
    np.testing.assert_allclose(found, [[2.0, 0.0], [0.0, 5.0]])
    # an option without patches gets the greatest score
    found = mean_scores(scores[:2], np.array([[0], [0]]), (slice(0, 2),))
    assert found[1].argmax() == 1


def test_anchors_of_a_text_encoder_and_of_words_differ_by_option() -> None:
    criteria = Criteria.model_validate(
        {
            "name": "two",
            "axes": {
                "neuropil": {
                    "title": "Neuropil",
                    "options": {"absent": {"texts": ["neuropil absent"]}, "abundant": {"texts": ["neuropil abundant"]}},
                }
            },
        }
    )
    for encoder in ("phantom-afloc", "lexicon"):
        places, scale, _ = anchors_of(criteria, encoder, device="cpu")
        np.testing.assert_allclose(np.linalg.norm(places, axis=1), 1, atol=1e-5)
        assert scale > 1
        assert places[0] @ places[1] < 0.999
    same = criteria.model_dump()
    same["axes"]["neuropil"]["options"]["abundant"]["texts"] = ("neuropil absent",)
    with pytest.raises(RequestError, match="the same anchor|no word of its own"):
        anchors_of(Criteria.model_validate(same), "lexicon")
