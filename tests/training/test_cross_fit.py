"""The fusion that starts from the mean: fitted on unseen patients, never worse than the mean or the image by more than
noise, closed for captions of other patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.models.field_terms import fused_logits, softmax, with_field
from wsikit.models.prmf_calibrated import CalibratedPRMF, Surprise
from wsikit.training.cross_fit import BranchOutputs, fit_fusion
from wsikit.training.data import PatchSet

N, FACTS = 1200, 6


def _outputs(seed: int = 0, *, image: float = 1.0, text: float = 1.0) -> tuple[BranchOutputs, PatchSet, np.ndarray]:
    """Two branches with independent errors, and captions whose facts the image shows; 40 patients in 4 folds."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=N)
    sign = 2 * labels - 1
    z = [s * (sign + rng.normal(0, 1.5, N)) for s in (image, text)]
    facts = rng.normal(0, 3, (N, FACTS)).astype(np.float32)
    logits = [np.stack([-one / 2, one / 2], axis=1).astype(np.float32) for one in z]
    expected = facts + rng.normal(0, 1, facts.shape).astype(np.float32)
    patients = np.arange(N) % 40
    data = PatchSet(
        images=np.zeros((N, 1, 1, 3), np.uint8),
        labels=labels,
        groups=np.array([f"p{one}" for one in patients]),
        captions=("seen",) * N,
        places_um=np.stack([np.arange(N) * 100.0, np.zeros(N)], axis=1),
    )
    return BranchOutputs(*logits, facts, expected, np.ones(N, bool)), data, patients % 4


def _fused(fusion: CalibratedPRMF, outputs: BranchOutputs, order: np.ndarray) -> np.ndarray:
    """Fused logits (N, 2), with the captions of the rows `order`."""
    image = torch.from_numpy(outputs.image) / fusion.temperature_image
    text = torch.from_numpy(outputs.text[order]) / fusion.temperature_text
    with torch.no_grad():
        gate = fusion.gate(torch.from_numpy(outputs.surprise(order)))[:, None]
    return (image + gate * (text - image)).numpy()


def _right(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


@pytest.fixture
def weight() -> np.ndarray:
    return np.ones(2, dtype=np.float32)


def _fusion() -> CalibratedPRMF:
    return CalibratedPRMF(8, 8, 8, n_classes=2)


def test_an_untrained_fusion_is_the_mean_of_both_branches():
    torch.manual_seed(0)
    fusion = _fusion().eval()
    text, image = torch.randn(5, 8), torch.randn(5, 8)
    out = fusion(text, image)
    torch.testing.assert_close(out.logits, (out.logits_img + out.logits_txt) / 2)
    torch.testing.assert_close(out.gate, torch.full((5,), 0.5))


def test_without_a_caption_the_result_is_that_of_the_image_to_the_bit():
    torch.manual_seed(0)
    fusion = _fusion().eval()
    text, image = torch.full((3, 8), float("nan")), torch.randn(3, 8)
    out = fusion(text, image, present=torch.tensor([False, False, False]))
    assert torch.equal(out.logits, out.logits_img)
    assert torch.equal(out.gate, torch.zeros(3))


def test_temperatures_undo_a_known_overconfidence(weight):
    outputs, data, fold = _outputs(image=1.0, text=4.0)
    fitted = fit_fusion(_fusion(), outputs, data, fold, weight=weight)
    assert fitted.temperatures[1] / fitted.temperatures[0] == pytest.approx(4.0, rel=0.25)


def test_the_fitted_fusion_keeps_the_gain_of_the_mean_and_refuses_other_patches_captions(weight):
    outputs, data, fold = _outputs()
    fusion = _fusion()
    fitted = fit_fusion(fusion, outputs, data, fold, weight=weight)
    assert fitted.kept == "gate"
    own, swapped = np.arange(N), np.random.default_rng(1).permutation(N)
    image, both = _right(outputs.image, data.labels), _right((outputs.image + outputs.text) / 2, data.labels)
    assert both > image + 0.05
    assert _right(_fused(fusion, outputs, own), data.labels) > both - 0.01
    assert _right((outputs.image + outputs.text[swapped]) / 2, data.labels) < image - 0.05
    assert _right(_fused(fusion, outputs, swapped), data.labels) > image - 0.02


def test_a_text_branch_that_is_noise_leaves_the_image_alone(weight):
    outputs, data, fold = _outputs()
    rng = np.random.default_rng(2)
    noise = BranchOutputs(
        outputs.image,
        rng.permutation(outputs.text),
        rng.permutation(outputs.feature),
        rng.permutation(outputs.expected),
        outputs.present,
    )
    fusion = _fusion()
    fit_fusion(fusion, noise, data, fold, weight=weight)
    fused = _fused(fusion, noise, np.arange(N))
    assert _right(fused, data.labels) > _right(outputs.image, data.labels) - 0.01


def test_the_weights_of_the_field_are_kept_only_where_neighbours_help(weight):
    outputs, data, fold = _outputs()
    runs = data.labels.copy()
    for first in range(0, N, 40):  # neighbours in runs of one class, one run per patient and fold
        runs[first : first + 40] = (first // 40) % 2
    blocks = np.array([f"p{one // 80}" for one in range(N)])
    sign = np.stack([1 - 2 * runs, 2 * runs - 1], axis=1)
    rng = np.random.default_rng(3)
    noisy = (sign * 0.5 + rng.normal(0, 1, (N, 1)) * np.array([[-1, 1]])).astype(np.float32)
    grouped = BranchOutputs(noisy, noisy[:, ::1].copy(), outputs.feature, outputs.expected, outputs.present)
    near = PatchSet(data.images, runs, blocks, data.captions, places_um=data.places_um)
    folds = (np.arange(N) // 80) % 4
    helped = fit_fusion(_fusion(), grouped, near, folds, weight=weight, field_um=500.0)
    assert helped.field is not None
    assert helped.losses["field"] < helped.losses["gate"] - 0.05
    alone = fit_fusion(_fusion(), outputs, data, fold, weight=weight, field_um=500.0)
    assert alone.field is None or abs(alone.losses["field"] - alone.losses["gate"]) < 0.01


def test_patches_without_caption_take_no_part_in_fitting(weight):
    outputs, data, fold = _outputs()
    missing = np.arange(N) % 5 == 0
    odd = BranchOutputs(
        outputs.image,
        np.where(missing[:, None], 50.0, outputs.text).astype(np.float32) * np.array([[1, -1]], np.float32),
        np.where(missing[:, None], 1e3, outputs.feature).astype(np.float32),
        outputs.expected,
        ~missing,
    )
    plain = BranchOutputs(odd.image, odd.text, odd.feature, odd.expected, odd.present).select(np.flatnonzero(~missing))
    kept = data.select(np.flatnonzero(~missing))
    whole, part = _fusion(), _fusion()
    first = fit_fusion(whole, odd, data, fold, weight=weight)
    second = fit_fusion(part, plain, kept, fold[~missing], weight=weight)
    assert first.losses == pytest.approx(second.losses)
    assert whole.gate.slope.item() == pytest.approx(part.gate.slope.item())


def test_surprise_is_one_for_usual_captions_and_more_for_those_of_other_patches():
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(2000, 10, generator=rng)
    said = image @ torch.randn(10, 4, generator=rng) + 0.3 * torch.randn(2000, 4, generator=rng)
    surprise = Surprise(4, 10)
    surprise.fit(said[:1000], image[:1000])
    own = surprise(said[1000:], image[1000:])
    other = surprise(said[1000:].roll(1, dims=0), image[1000:])
    assert own.mean().item() == pytest.approx(0.9, abs=0.15)  # less than 1 by the shrinkage of the covariance
    assert other.median() > 10 * own.median()


def test_terms_of_the_field_change_nothing_without_captions_or_weights():
    from wsikit.models.config import FieldTermsConfig

    rng = np.random.default_rng(0)
    image, text = (softmax(rng.normal(size=(5, 3))) for _ in range(2))
    text[2] = np.nan
    gate = np.array([0.5, 0.2, 0.0, 1.0, 0.0])
    centres = rng.uniform(0, 2000, (5, 2))
    none = FieldTermsConfig(sd_um=500.0, image=0.0, text=0.0, image_slide=0.0, text_slide=0.0)
    some = FieldTermsConfig(sd_um=500.0, image=1.0, text=0.5, image_slide=0.0, text_slide=0.0)
    plain = softmax(fused_logits(image, text, gate))
    plain[2] = image[2]
    np.testing.assert_allclose(with_field(none, image, text, gate, centres), plain, atol=1e-6)
    changed = with_field(some, image, text, gate, centres)
    np.testing.assert_array_equal(changed[2], image[2].astype(np.float32))
    assert np.abs(changed - plain).max() > 0.01
