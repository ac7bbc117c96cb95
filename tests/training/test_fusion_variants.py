"""Fusion variants on features: shared parts, shuffled captions, and fusion of two branches that beats both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from wsikit.models.concat import Concatenation
from wsikit.models.prmf import PRMF
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.fusion_variants import Arm, ArmSettings, Bank, fit_arm

EVEN = np.ones(3, np.float32)


def limited(n: int, seed: int, *, share: float = 0.7) -> Bank:
    """Three classes. Image and text each show the class in `share` of the patches, independently, and nothing in the
    rest, where a guess is right in a third: 80 % each. Both also contain class-independent content."""
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


def stage(fusion: PRMF, bank: Bank) -> PRMF:
    """The image projection after its own stage."""
    side = [*fusion.project_image.parameters(), *fusion.head_image.parameters()]
    optimiser = torch.optim.AdamW(side, lr=5e-3)
    for _ in range(150):
        loss = functional.cross_entropy(fusion.head_image(fusion.project_image(bank.image[:, 0])), bank.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return fusion


@pytest.fixture(scope="module")
def fitted() -> tuple[Arm, Bank]:
    bank = limited(4000, 0)
    image_stage = PRMF(bank.text.shape[1], bank.image.shape[2], 32, mode="robust")
    settings = ArmSettings(epochs=12, batch=64, robust_lr=2e-3)
    curriculum = CurriculumSchedule.over(12)
    arm = fit_arm(
        "PRMF robust", bank, settings, image_stage=stage(image_stage, bank), curriculum=curriculum, weight=EVEN, seed=0
    )
    return arm, limited(3000, 1)


def test_two_branches_of_80_percent_are_fused_to_more_than_both(fitted):
    arm, bank = fitted
    output = arm.predict(bank)
    image, text = accuracy(output.probs_image, bank), accuracy(output.probs_text, bank)
    assert 0.76 < image < 0.84
    assert 0.76 < text < 0.84
    assert accuracy(output.probs, bank) > max(image, text) + 0.07


def test_shuffled_texts_close_the_gate_and_cost_at_most_a_point_against_the_image(fitted):
    arm, bank = fitted
    own, shuffled = arm.predict(bank), arm.predict(bank.shuffled(0))
    assert shuffled.gate.mean() < 0.5 * own.gate.mean()
    assert accuracy(shuffled.probs, bank) >= accuracy(own.probs_image, bank) - 0.01


def test_without_texts_the_gate_is_closed_and_the_image_decides(fitted):
    arm, bank = fitted
    silent = arm.predict(bank.without_captions())
    assert (silent.gate == 0).all()
    assert accuracy(silent.probs, bank) >= accuracy(silent.probs_image, bank) - 0.01


def test_fitting_keeps_the_image_projection_of_its_stage(fitted):
    _, bank = fitted
    image_stage = PRMF(bank.text.shape[1], bank.image.shape[2], 32, mode="robust")
    settings = ArmSettings(epochs=3, batch=256)
    curriculum = CurriculumSchedule.over(3)
    on = fit_arm("PRMF robust", bank, settings, image_stage=image_stage, curriculum=curriculum, weight=EVEN, seed=0)
    for part in ("project_image", "head_image"):
        for name, value in getattr(image_stage, part).state_dict().items():
            assert getattr(on.fusion, part).state_dict()[name].equal(value), name
    assert not on.fusion.head_text.weight.equal(image_stage.head_text.weight)


def test_the_other_arms_start_from_scratch_whatever_the_scale_of_the_features(fitted):
    _, bank = fitted
    wide = Bank(500 * bank.image + 20, 0.01 * bank.text - 3, bank.present, bank.labels)
    image_stage = PRMF(bank.text.shape[1], bank.image.shape[2], 32, mode="robust")
    settings = ArmSettings(epochs=3, batch=256)
    curriculum = CurriculumSchedule.over(3)
    for name in ("concatenation", "PRMF paper"):
        one, other = (
            fit_arm(name, b, settings, image_stage=image_stage, curriculum=curriculum, weight=EVEN, seed=0)
            .predict(b)
            .probs
            for b in (bank, wide)
        )
        np.testing.assert_allclose(one, other, atol=0.02)


def test_concatenation_takes_a_missing_text_as_nothing_even_if_it_is_nan():
    torch.manual_seed(0)
    fusion = Concatenation(4, 6).eval()
    text, image = torch.full((2, 4), torch.nan), torch.randn(2, 6)
    out = fusion(text, image, present=torch.zeros(2, dtype=torch.bool))
    zeros = fusion(torch.zeros(2, 4), image, present=torch.ones(2, dtype=torch.bool))
    assert torch.equal(out.logits, zeros.logits)
    assert out.gate.isnan().all()
