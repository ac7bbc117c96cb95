"""The supervised contrastive loss: against its formula, and what it does to the features of an image branch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.training.test_trainer import run, toy_model, toy_set
from wsikit.training.forward import image_features
from wsikit.training.losses import supervised_contrast
from wsikit.training.settings import ContrastSettings, TrainingSettings


def written_out(features: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Equation 2 of arXiv 2004.11362, term by term."""
    z = features / np.linalg.norm(features, axis=1, keepdims=True)
    terms = []
    for i in range(len(z)):
        partners = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
        if not partners:
            continue
        others = sum(math.exp(z[i] @ z[a] / temperature) for a in range(len(z)) if a != i)
        terms.append(-sum(math.log(math.exp(z[i] @ z[p] / temperature) / others) for p in partners) / len(partners))
    return float(np.mean(terms))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_is_the_formula(temperature: float):
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(9, 4)), np.array([0, 0, 0, 1, 1, 2, 2, 2, 3])  # 3 has no partner
    found = supervised_contrast(torch.from_numpy(features), torch.from_numpy(labels), temperature=temperature)
    assert found.item() == pytest.approx(written_out(features, labels, temperature), rel=1e-5)


def test_two_pure_clusters_have_the_least_loss_that_the_formula_allows():
    """Each of n patches has n/2 − 1 partners at cosine 1 and n/2 others at −1."""
    n, temperature = 8, 0.5
    features = torch.tensor([[1.0, 0.0]] * (n // 2) + [[-3.0, 0.0]] * (n // 2))
    labels = torch.tensor([0] * (n // 2) + [1] * (n // 2))
    others = (n / 2 - 1) * math.exp(1 / temperature) + n / 2 * math.exp(-1 / temperature)
    expected = math.log(others) - 1 / temperature
    assert supervised_contrast(features, labels, temperature=temperature).item() == pytest.approx(expected, rel=1e-6)


def test_patches_without_partners_add_nothing_and_keep_gradients_finite():
    features = torch.randn(3, 4, requires_grad=True)
    loss = supervised_contrast(features, torch.arange(3))
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert (features.grad == 0).all()
    pair = torch.randn(3, 4, requires_grad=True)
    supervised_contrast(pair, torch.tensor([0, 0, 1])).backward()
    assert pair.grad is not None
    assert pair.grad.isfinite().all()


def spread(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean cosine within a class less that between classes."""
    z = features / np.linalg.norm(features, axis=1, keepdims=True)
    likeness, equal = z @ z.T, labels[:, None] == labels[None, :]
    apart = ~np.eye(len(z), dtype=bool)
    return float(likeness[equal & apart].mean() - likeness[~equal].mean())


def test_training_with_contrast_draws_the_features_of_a_class_together():
    test = toy_set(seed=7)

    def after(contrast: ContrastSettings | None) -> float:
        model = toy_model()
        run(model, epochs=4, contrast=contrast)
        return spread(image_features(model, test.images), test.labels)

    assert after(ContrastSettings(weight=1.0, temperature=0.5)) > after(None) + 0.05


def test_settings_without_contrast_are_written_as_before():
    """Unfinished runs of before can be resumed: their settings are the same record."""
    assert "contrast" not in TrainingSettings(epochs=1).model_dump(mode="json")
    written = TrainingSettings(epochs=1, contrast=ContrastSettings()).model_dump(mode="json")
    assert written["contrast"] == {"weight": 0.5, "temperature": 0.1}
    assert TrainingSettings.model_validate(written).contrast == ContrastSettings()


def test_a_contrast_without_weight_or_temperature_is_refused():
    for wrong in ({"weight": 0}, {"temperature": 0}, {"tau": 1}):
        with pytest.raises(ValidationError):
            ContrastSettings.model_validate(wrong)
