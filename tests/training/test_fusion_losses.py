"""Terms of MIRROR: against hand-computed values, torch.distributions and SciPy; and that models learn by them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from torch import nn
from torch.distributions import Normal, kl_divergence

from wsikit.training.fusion_losses import cluster_kl, draw_mask, mask_tokens, retention, style_kl


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_retention_is_the_mean_squared_error_of_the_masked_tokens_alone():
    target = torch.zeros(2, 2, 2)
    reconstructed = torch.tensor([[[1.0, 3.0], [9.0, 9.0]], [[2.0, 0.0], [4.0, 4.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    # mean_d: 5, (masked out), 2, 16; their mean over three masked tokens
    assert retention(reconstructed, target, mask).item() == pytest.approx((5 + 2 + 16) / 3)
    genes = retention(reconstructed[:, 0], target[:, 0], mask)  # a vector: 1, (9), 4, 0
    assert genes.item() == pytest.approx((1 + 4 + 0) / 3)


def test_visible_tokens_and_padding_do_not_change_retention_nor_its_gradient():
    reconstructed = random(3, 5, 4).requires_grad_()
    mask = random(3, 5, seed=1) > 0
    retention(reconstructed, random(3, 5, 4, seed=2), mask).backward()
    assert (reconstructed.grad[~mask] == 0).all()
    assert (reconstructed.grad[mask] != 0).any()


def test_nothing_masked_gives_zero_and_nan_as_published():
    tokens, none = random(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool)
    assert retention(tokens, 0 * tokens, none).item() == 0
    assert math.isnan(retention(tokens, 0 * tokens, none, published=True).item())


def test_a_mask_for_other_tokens_is_refused():
    with pytest.raises(ValueError, match=r"mask of shape \(1, 2\) for tokens of shape \(1, 3, 2\)"):
        retention(random(1, 3, 2), random(1, 3, 2), torch.ones(1, 2, dtype=torch.bool))


def test_three_quarters_of_the_present_tokens_are_masked_and_padding_never():
    present = torch.arange(40)[None, :] < torch.tensor([40, 16, 3, 1])[:, None]
    mask = draw_mask(present, generator=torch.Generator().manual_seed(0))
    assert mask.sum(dim=1).tolist() == [30, 12, 2, 0]  # one token is kept at least
    assert not (mask & ~present).any()
    again = draw_mask(present, generator=torch.Generator().manual_seed(0))
    other = draw_mask(present, generator=torch.Generator().manual_seed(1))
    assert (mask == again).all()
    assert (mask != other).any()
    with pytest.raises(ValueError, match="share 1.5"):
        draw_mask(present, share=1.5)


def test_masks_are_drawn_evenly_over_the_tokens():
    present = torch.ones(4000, 8, dtype=torch.bool)
    share = draw_mask(present, generator=torch.Generator().manual_seed(0)).float().mean(dim=0)
    assert (share - 0.75).abs().max() < 0.04  # five standard errors


def test_style_kl_is_the_divergence_from_the_standard_normal():
    mean, logstd = random(6, 3), random(6, 3, seed=1)
    wanted = kl_divergence(Normal(mean, logstd.exp()), Normal(0.0, 1.0)).sum(dim=1).mean()
    torch.testing.assert_close(style_kl(mean, logstd), wanted)


def test_published_style_kl_takes_the_standard_deviation_for_the_variance():
    mean, logstd = random(6, 3), random(6, 3, seed=1)
    wanted = kl_divergence(Normal(mean, (logstd / 2).exp()), Normal(0.0, 1.0)).sum(dim=1).mean()
    found = style_kl(mean, logstd, published=True)
    torch.testing.assert_close(found, wanted)
    assert abs(found - style_kl(mean, logstd)) > 0.1
    # by hand: m = 1, s = ln 2: ½ (2 + 1 − 1 − ln 2) and ½ (4 + 1 − 1 − 2 ln 2)
    one, log_two = torch.ones(1, 1), torch.full((1, 1), math.log(2))
    assert style_kl(one, log_two, published=True).item() == pytest.approx(1 - math.log(2) / 2)
    assert style_kl(one, log_two).item() == pytest.approx(2 - math.log(2))


@pytest.mark.parametrize("published", [False, True])
def test_cluster_kl_is_the_symmetric_divergence_of_both_assignments(published):
    first, second = random(5, 7), random(5, 7, seed=1)
    p, q = (scores.double().softmax(dim=1).numpy() for scores in (first, second))
    wanted = 0.5 * (rel_entr(p, q) + rel_entr(q, p)).sum(axis=1).mean()
    assert cluster_kl(first, second, published=published).item() == pytest.approx(wanted, rel=1e-5)
    assert cluster_kl(second, first, published=published).item() == pytest.approx(wanted, rel=1e-5)
    assert cluster_kl(first, first + 3, published=published).item() == pytest.approx(0, abs=1e-6)


def test_surely_different_assignments_have_a_finite_divergence_and_an_infinite_one_as_published():
    first, second = torch.tensor([[0.0, 200.0]]), torch.tensor([[200.0, 0.0]])
    assert cluster_kl(first, second).item() == pytest.approx(200)
    assert cluster_kl(first, second, published=True).item() == math.inf
    with pytest.raises(ValueError, match="must be equal"):
        cluster_kl(first, second[:, :1])


def test_a_model_learns_to_fill_in_the_masked_tokens():
    torch.manual_seed(0)
    latent, directions = random(96, 1, 4), random(1, 12, 4, seed=1)
    tokens = latent * directions  # every token shows the latent of its bag
    present = torch.ones(96, 12, dtype=torch.bool)
    token, place = nn.Parameter(torch.zeros(4)), nn.Parameter(0.1 * random(12, 16, seed=2))
    into, block, out = nn.Linear(4, 16), nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True), nn.Linear(16, 4)
    parameters = [token, place, *into.parameters(), *block.parameters(), *out.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(160):
        mask = draw_mask(present, share=0.5, generator=generator)
        found = out(block(into(mask_tokens(tokens, mask, token)) + place))
        errors.append(((found - tokens)[mask] ** 2).mean().item())
        optimiser.zero_grad()
        retention(found, tokens, mask).backward()
        optimiser.step()
    variance = tokens.var(dim=0).mean().item()  # the error of the mean token, the best without the visible ones
    assert errors[0] > variance
    assert np.mean(errors[-10:]) < 0.35 * variance


def test_a_modality_learns_the_prototypes_of_the_other():
    torch.manual_seed(0)
    group = torch.arange(300) % 3
    genes = random(3, 10)[group] + 0.3 * random(300, 10, seed=1)
    slide_scores = 4 * nn.functional.one_hot(group, 3).float() + 0.5 * random(300, 3, seed=2)
    model = nn.Linear(10, 3)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        cluster_kl(model(genes), slide_scores).backward()
        optimiser.step()
    agreement = np.mean((model(genes).argmax(dim=1) == group).numpy())
    assert agreement > 0.95  # by chance 1/3
