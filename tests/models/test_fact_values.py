"""Numbers as features: the piecewise-linear code and its mean over an interval, in closed form and by summation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.models.fact_values import FactValues, piecewise_linear, quantile_edges

EDGES = torch.tensor([[0.0, 0.1, 0.5, 2.0], [-3.0, 0.0, 0.0, 1000.0]])


def by_definition(value: float, edges: np.ndarray) -> list[float]:
    """Of Gorishniy et al. 2022, equation 1, for values within the outer edges."""
    found = []
    for low, high in zip(edges[:-1], edges[1:]):
        found.append(0.0 if value < low or high == low else 1.0 if value >= high else (value - low) / (high - low))
    return found


@pytest.mark.parametrize("value", [0.0, 0.05, 0.1, 0.3, 1.999])
def test_an_exact_number_has_the_published_code(value: float):
    code = piecewise_linear(torch.full((1, 2), value), torch.zeros(1, 2), EDGES)[0].numpy()
    for column in range(2):
        np.testing.assert_allclose(code[column], by_definition(value, EDGES[column].numpy()), atol=1e-6)


@pytest.mark.parametrize(
    ("value", "half_width"), [(0.3, 0.05), (0.3, 0.29), (0.1, 0.1), (1.9, 0.4), (-1.0, 0.5), (0.05, 1e-4), (5.0, 9.0)]
)
def test_an_interval_has_the_mean_code_of_its_numbers(value: float, half_width: float):
    code = piecewise_linear(torch.full((1, 2), value), torch.full((1, 2), half_width), EDGES)[0].numpy()
    n = 20_001
    inside = value - half_width + 2 * half_width * (np.arange(n) + 0.5) / n  # midpoints
    exact = piecewise_linear(torch.tensor(np.stack([inside, inside], axis=1)), torch.zeros(n, 2), EDGES)
    np.testing.assert_allclose(code, exact.double().mean(dim=0).numpy(), atol=2e-4)


def test_a_very_narrow_interval_equals_its_midpoint():
    value = torch.tensor([[0.3, 777.0]])
    for half_width in (1e-12, 1e-9):
        code = piecewise_linear(value, torch.full((1, 2), half_width), EDGES)
        torch.testing.assert_close(code, piecewise_linear(value, torch.zeros(1, 2), EDGES))


def test_bins_hold_equally_many_training_values():
    values = np.random.default_rng(0).gamma(2.0, size=4000)
    counts = np.histogram(values, quantile_edges(values, 8))[0]
    assert counts.min() > 490


def test_where_most_values_are_equal_bins_are_of_the_different_ones():
    values = np.concatenate([np.zeros(900), np.linspace(0, 1, 100)])
    edges = quantile_edges(values, 4)
    np.testing.assert_allclose(edges, [0, 0.25, 0.5, 0.75, 1.0], atol=0.02)
    assert quantile_edges(np.ones(5), 3).tolist() == [1.0, 1.0, 1.0, 1.0]


def learnt(columns: int = 3, **options: object) -> FactValues:
    torch.manual_seed(0)
    module = FactValues(columns, width=8, bins=4, **options)  # type: ignore[arg-type]
    values = np.random.default_rng(0).normal(5.0, 2.0, (200, columns))
    values[:, -1] = np.nan
    module.learn_bins(np.stack([values, np.zeros_like(values)], axis=1))
    return module.eval()


def test_a_missing_number_has_a_feature_of_its_own_and_its_uncertainty_is_not_read():
    module = learnt()
    rows = torch.tensor([[[5.0, torch.nan, torch.nan], [0.0, 0.0, 0.0]]] * 3)
    rows[1, 1, 1] = 9.0
    rows[2, 0, 1] = 5.0
    found = module(rows)
    assert found.isfinite().all()
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
    module.missing.data[1] += 1.0
    assert not torch.allclose(module(rows)[0], found[0])
    torch.testing.assert_close(module(rows)[2], found[2])


def test_a_number_that_no_training_patch_had_is_missing():
    module = learnt()
    with_it = torch.tensor([[[5.0, 5.0, 3.0], [0.0, 0.0, 0.0]]])
    without = torch.tensor([[[5.0, 5.0, torch.nan], [0.0, 0.0, 0.0]]])
    torch.testing.assert_close(module(with_it), module(without))
    assert module.learnt
    assert not FactValues(3).learnt


def test_uncertainty_changes_the_feature_and_odd_values_stay_bounded():
    module = learnt()
    exact, vague = (torch.tensor([[[5.0, 5.0, torch.nan], [u, 0.0, 0.0]]]) for u in (0.0, 1.0))
    assert not torch.allclose(module(exact), module(vague))
    odd = torch.tensor([[[1e9, 5.0, torch.nan], [0.0, 0.0, 0.0]]])
    larger = torch.tensor([[[1e12, 5.0, torch.nan], [0.0, 0.0, 0.0]]])
    torch.testing.assert_close(module(odd), module(larger))


def test_in_training_all_columns_of_a_fact_are_dropped_together():
    module = learnt(4, facts=2, fact_dropout=0.5, dropout=0.0).train()
    module.known[:] = True
    module.missing.data[:] = 100.0  # so that a dropped column shows
    seen = []
    module.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module(torch.tensor([[[5.0] * 4, [0.0] * 4]] * 64))
    dropped = (seen[0].view(64, 4, -1) == 100.0).all(dim=2)
    assert (dropped[:, 0] == dropped[:, 2]).all()
    assert (dropped[:, 1] == dropped[:, 3]).all()
    assert 0.2 < dropped.float().mean() < 0.8


def test_bins_are_saved_with_the_weights():
    module = learnt()
    other = FactValues(3, width=8, bins=4).eval()
    other.load_state_dict(module.state_dict())
    rows = torch.tensor([[[5.0, 1.0, torch.nan], [0.5, 0.0, 0.0]]])
    assert torch.equal(other(rows), module(rows))
