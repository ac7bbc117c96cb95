"""PRMF against its published formula, and what must hold of any gated fusion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.errors import ModelError
from wsikit.models.prmf import PRMF, mix
from wsikit.training.trainer import loss_of

BOTH_MODES = pytest.mark.parametrize("mode", ["paper", "robust"])


def features(n: int, d_text: int, d_img: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d_text, generator=generator), torch.randn(n, d_img, generator=generator)


def block(mode: str, *, d_text: int = 24, d_img: int = 40, gate: str = "scalar") -> PRMF:
    torch.manual_seed(3)
    return PRMF(d_text, d_img, d_text if mode == "paper" else 32, gate, mode).eval()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_paper_mode_is_the_published_formula():
    """Recomputed in NumPy, double precision, from the weights alone."""
    torch.manual_seed(0)
    prmf = PRMF(768, 512, mode="paper").eval()
    text, image = features(5, 768, 512)
    w = {name: value.double().numpy() for name, value in prmf.state_dict().items()}
    t, v = text.double().numpy(), image.double().numpy()

    hidden = np.maximum(np.concatenate([t, v], axis=1) @ w["gate.0.weight"].T + w["gate.0.bias"], 0)
    c = sigmoid(hidden @ w["gate.2.weight"].T + w["gate.2.bias"])
    f = c * t + (1 - c) * (v @ w["project_image.weight"].T + w["project_image.bias"])
    logits = np.maximum(f, 0) @ w["head.2.weight"].T + w["head.2.bias"]

    with torch.no_grad():
        out = prmf(text, image)
    np.testing.assert_allclose(out.logits.numpy(), logits, atol=1e-6)
    np.testing.assert_allclose(out.gate.numpy(), c[:, 0], atol=1e-6)


def test_paper_block_has_the_published_number_of_parameters():
    prmf = PRMF(768, 512, mode="paper")
    block = (prmf.project_text, prmf.project_image, prmf.gate)  # without the classifiers
    assert sum(p.numel() for part in block for p in part.parameters()) == 722_177


def test_robust_mode_is_its_formula():
    prmf = block("robust")
    text, image = features(4, 24, 40)
    w = {name: value.double().numpy() for name, value in prmf.state_dict().items()}

    def normalised(x: np.ndarray, name: str) -> np.ndarray:
        y = x @ w[f"{name}.0.weight"].T + w[f"{name}.0.bias"]
        y = (y - y.mean(axis=1, keepdims=True)) / np.sqrt(y.var(axis=1, keepdims=True) + 1e-5)
        return y * w[f"{name}.1.weight"] + w[f"{name}.1.bias"]

    t, v = normalised(text.double().numpy(), "project_text"), normalised(image.double().numpy(), "project_image")
    x = np.concatenate([t, v, t * v, np.abs(t - v)], axis=1) @ w["gate.0.weight"].T + w["gate.0.bias"]
    erf = torch.erf(torch.from_numpy(x) / 2**0.5).numpy()
    c = sigmoid((x * 0.5 * (1 + erf)) @ w["gate.2.weight"].T + w["gate.2.bias"])
    g = 0.7 * c
    f = g * t + (1 - g) * v
    f = (f - f.mean(axis=1, keepdims=True)) / np.sqrt(f.var(axis=1, keepdims=True) + 1e-5)
    logits = f @ w["head.2.weight"].T + w["head.2.bias"]  # the norm's own weights are still 1 and 0

    with torch.no_grad():
        out = prmf(text, image, rho=0.7)
    np.testing.assert_allclose(out.logits.numpy(), logits, atol=1e-6)
    np.testing.assert_allclose(out.gate.numpy(), g[:, 0], atol=1e-6)


@BOTH_MODES
@pytest.mark.parametrize("gate", ["scalar", "vector"])
def test_a_closed_gate_makes_the_output_independent_of_the_text_to_the_last_bit(mode: str, gate: str):
    prmf = block(mode, gate=gate)
    text, image = features(6, 24, 40)
    other, _ = features(6, 24, 40, seed=9)
    with torch.no_grad():
        one, two = prmf(text, image, rho=0.0), prmf(100 * other, image, rho=0.0)
    assert torch.equal(one.logits, two.logits)
    assert torch.equal(one.gate, torch.zeros(6))


@BOTH_MODES
def test_a_missing_text_equals_a_closed_gate_even_if_its_features_are_nan(mode: str):
    prmf = block(mode)
    text, image = features(6, 24, 40)
    present = torch.tensor([True, False] * 3)
    broken = torch.where(present.unsqueeze(1), text, torch.nan)
    with torch.no_grad():
        closed, open_, some = prmf(text, image, rho=0.0), prmf(text, image), prmf(broken, image, present=present)
    assert torch.equal(some.logits[~present], closed.logits[~present])
    assert torch.equal(some.logits[present], open_.logits[present])
    assert (some.gate[~present] == 0).all()


@BOTH_MODES
def test_the_gate_rises_with_its_bias(mode: str):
    prmf = block(mode)
    text, image = features(8, 24, 40)
    gates = []
    for bias in (-3.0, -1.0, 0.0, 1.0, 3.0):
        with torch.no_grad():
            prmf.gate[2].bias.fill_(bias)
            gates.append(prmf(text, image).gate)
    assert (torch.stack(gates).diff(dim=0) > 0).all()


@pytest.mark.parametrize("width", [1, 32])
def test_the_mix_lies_in_the_segment_between_image_and_text(width: int):
    text, image = features(50, 32, 32)
    gate = torch.rand(50, width, generator=torch.Generator().manual_seed(1))
    mixed = mix(image, text, gate)
    low, high = torch.minimum(text, image), torch.maximum(text, image)
    assert ((mixed >= low - 1e-6) & (mixed <= high + 1e-6)).all()
    torch.testing.assert_close(mixed, gate * text + (1 - gate) * image)


@BOTH_MODES
def test_gradients_reach_both_encoders_while_the_gate_is_half_open(mode: str):
    prmf = block(mode)
    text, image = (x.requires_grad_() for x in features(4, 24, 40))
    prmf(text, image, rho=0.5).logits.sum().backward()
    assert text.grad.abs().sum() > 0
    assert image.grad.abs().sum() > 0


@BOTH_MODES
@pytest.mark.parametrize("d_img", [1, 192, 1280])
def test_any_width_of_image_encoder_fits(mode: str, d_img: int):
    prmf = block(mode, d_img=d_img)
    out = prmf(*features(3, 24, d_img))
    assert out.logits.shape == out.logits_img.shape == out.logits_txt.shape == (3, 3)
    assert out.gate.shape == (3,)
    assert out.logits.dtype == torch.float32


def test_paper_mode_refuses_a_width_that_it_cannot_fuse():
    with pytest.raises(ModelError, match="d must be its width 24"):
        PRMF(24, 40, 32, mode="paper")


def test_fusion_beats_either_branch_and_survives_shuffled_texts():
    """Image and text carry independent evidence of the class (about 80 % each), and both show what is in the patch."""
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)

    def sample(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        labels = torch.randint(3, (n,), generator=rng)
        content = 1.5 * torch.randn(n, 4, generator=rng)  # independent of the class
        views = (1.75 * torch.eye(3, 8)[labels] + torch.randn(n, 8, generator=rng) for _ in range(2))
        image, text = (torch.cat([view, content], dim=1) for view in views)
        return labels, text, image

    labels, text, image = sample(4000)
    prmf = PRMF(12, 12, 32, mode="robust")
    optimiser = torch.optim.AdamW(prmf.parameters(), 3e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 600)
    for _ in range(600):
        rows = torch.randint(4000, (128,), generator=rng)
        own = torch.rand(128, generator=rng) > 0.5
        texts = torch.where(own.unsqueeze(1), text[rows], text[torch.randint(4000, (128,), generator=rng)])
        out = prmf(texts, image[rows])
        loss = loss_of(
            out, labels[rows], present=torch.ones_like(own), own=own, alpha=0.7, lambda_text=0.3, lambda_gate=0.5
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()

    labels, text, image = sample(4000)
    prmf.eval()
    with torch.no_grad():
        out, shuffled = prmf(text, image), prmf(text[torch.randperm(4000, generator=rng)], image)

    def accuracy(logits: torch.Tensor) -> float:
        return (logits.argmax(dim=1) == labels).double().mean().item()

    image_only = accuracy(out.logits_img)
    assert 0.75 < image_only < 0.85
    assert accuracy(out.logits) > max(image_only, accuracy(out.logits_txt)) + 0.05
    assert accuracy(shuffled.logits) >= image_only - 0.01
    assert shuffled.gate.mean() < 0.3 * out.gate.mean()
