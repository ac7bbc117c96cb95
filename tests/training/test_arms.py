"""Arms on features: what they share, what shuffling does, and two branches of 80 % whose fusion is better than both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.models.concat import Concatenation
from wsikit.models.prmf import PRMF
from wsikit.training.arms import ArmSettings, Bank, Scale, ask, fit_arm
from wsikit.training.curriculum import CurriculumSchedule

EVEN = np.ones(3, np.float32)


def limited(n: int, seed: int, *, share: float = 0.7) -> Bank:
    """Three classes. Image and text each show the class in `share` of the patches, independently, and nothing in the
    rest, where a guess is right in a third: 80 % each. Both also show what the patch is like, whatever its class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n)
    likeness = rng.normal(size=(n, 4))

    def branch(width: int) -> torch.Tensor:
        shown = (rng.random(n) < share)[:, None]
        signal = np.where(shown, 3.0 * np.eye(3)[labels], 1.0)
        noise = rng.normal(size=(n, width))
        return torch.from_numpy(np.hstack([signal + 0.3 * rng.normal(size=(n, 3)), likeness, noise])).float()

    return Bank(branch(3)[:, None], branch(2), torch.ones(n, dtype=torch.bool), torch.from_numpy(labels))


def accuracy(probs: np.ndarray, bank: Bank) -> float:
    return float((probs.argmax(axis=1) == bank.labels.numpy()).mean())


@pytest.fixture(scope="module")
def fitted() -> tuple[PRMF, Bank]:
    settings = ArmSettings(epochs=12, batch=64, lr=2e-3, d=32)
    curriculum = CurriculumSchedule.over(12)
    fusion = fit_arm("PRMF robust", limited(4000, 0), settings, curriculum=curriculum, weight=EVEN, seed=0)
    assert isinstance(fusion, PRMF)
    return fusion, limited(3000, 1)


def test_two_branches_of_80_percent_are_fused_to_more_than_both(fitted):
    fusion, bank = fitted
    fused, image, _ = ask(fusion, bank)
    with torch.inference_mode():
        text = fusion(bank.text, bank.image[:, 0], present=bank.present).logits_txt.numpy()
    assert 0.76 < accuracy(image, bank) < 0.84
    assert 0.76 < accuracy(text, bank) < 0.84
    assert accuracy(fused, bank) > max(accuracy(image, bank), accuracy(text, bank)) + 0.07


def test_shuffled_texts_close_the_gate_and_cost_at_most_a_point_against_the_image(fitted):
    fusion, bank = fitted
    _, image, gate = ask(fusion, bank)
    astray, _, shut = ask(fusion, bank.shuffled(0))
    assert shut.mean() < 0.5 * gate.mean()
    assert accuracy(astray, bank) >= accuracy(image, bank) - 0.01


def test_without_texts_the_gate_is_shut(fitted):
    fusion, bank = fitted
    silent, _, gate = ask(fusion, bank.silent())
    assert (gate == 0).all()
    assert accuracy(silent, bank) > 0.76


def test_a_scale_folded_into_the_fusion_gives_the_same_answers_on_raw_features(fitted):
    fusion, bank = fitted
    raw = Bank(5 * bank.image + 2, 0.1 * bank.text - 3, bank.present, bank.labels)
    scale = Scale.of(raw)
    wanted = ask(fusion, scale.apply(raw))
    copy = PRMF(raw.text.shape[1], raw.image.shape[2], 32, mode="robust", n_classes=3)
    copy.load_state_dict(fusion.state_dict())
    scale.fold_into(copy.eval())
    for found, expected in zip(ask(copy, raw), wanted, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_concatenation_takes_a_missing_text_as_nothing_even_if_it_is_nan():
    torch.manual_seed(0)
    fusion = Concatenation(4, 6).eval()
    text, image = torch.full((2, 4), torch.nan), torch.randn(2, 6)
    out = fusion(text, image, present=torch.zeros(2, dtype=torch.bool))
    zeros = fusion(torch.zeros(2, 4), image, present=torch.ones(2, dtype=torch.bool))
    assert torch.equal(out.logits, zeros.logits)
    assert out.gate.isnan().all()
