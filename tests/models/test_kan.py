"""KAN layers against SciPy's B-splines and against the linear layer that they become without splines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch.nn import functional

from wsikit.errors import ModelError
from wsikit.models.kan import KAN, KANLinear, spline_basis

STEP = 2 / 5
KNOTS = -1 + STEP * np.arange(-3, 9)


def scipy_values(x: np.ndarray, *, derivative: int = 0) -> np.ndarray:
    """(N, 8), 0 outside the support of each spline."""
    found = [BSpline.basis_element(KNOTS[m : m + 5], extrapolate=False)(x, nu=derivative) for m in range(8)]
    return np.nan_to_num(np.stack(found, axis=1))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_splines_sum_to_one_within_the_grid(dtype: torch.dtype, tolerance: float):
    basis = spline_basis(torch.linspace(-1, 1, 501, dtype=dtype))
    assert basis.dtype == dtype
    assert basis.shape == (501, 8)
    torch.testing.assert_close(basis.sum(dim=1), torch.ones(501, dtype=dtype), atol=tolerance, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-13)])
def test_values_and_gradients_are_those_of_scipy(dtype: torch.dtype, tolerance: float):
    x = torch.linspace(-3, 3, 997, dtype=dtype, requires_grad=True)
    basis = spline_basis(x)
    for m in range(8):
        (slope,) = torch.autograd.grad(basis[:, m].sum(), x, retain_graph=True)
        np.testing.assert_allclose(
            slope.numpy(), scipy_values(x.detach().numpy(), derivative=1)[:, m], atol=10 * tolerance
        )
    np.testing.assert_allclose(basis.detach().numpy(), scipy_values(x.detach().numpy()), atol=tolerance)


def test_another_grid_is_another_scale_of_the_same_splines():
    x = torch.linspace(-1, 1, 41, dtype=torch.float64)
    torch.testing.assert_close(spline_basis(x * 4 + 7, grid=5, low=3, high=11), spline_basis(x))
    assert spline_basis(x, grid=3).shape == (41, 6)


def test_outside_the_grid_splines_fade_and_the_base_branch_remains():
    basis = spline_basis(torch.tensor([1.1, 1.5, 2.1, 2.2001, 50.0, -50.0])).sum(dim=1)
    assert basis[0] < 1
    assert (basis[:3] > 0).all()
    assert (basis.diff()[:2] < 0).all()
    assert (basis[3:] == 0).all()
    layer = KANLinear(3, 4)
    far = torch.full((2, 3), 5.0)
    torch.testing.assert_close(layer(far), functional.linear(functional.silu(far), layer.base_weight))


def test_without_spline_weights_a_layer_is_linear_in_silu():
    layer, x = KANLinear(5, 3), torch.randn(4, 7, 5)
    with torch.no_grad():
        layer.spline_weight.zero_()
    torch.testing.assert_close(layer(x), functional.silu(x) @ layer.base_weight.T)


def test_a_layer_is_the_published_sum_over_edges():
    torch.manual_seed(0)
    layer = KANLinear(3, 2, noise=5.0).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    expected = np.zeros((6, 2))
    for o in range(2):
        for i in range(3):
            spline = BSpline(KNOTS, layer.spline_weight[o, i].detach().numpy(), 3, extrapolate=False)
            inside = scipy_values(x[:, i].numpy()) @ spline.c
            base = functional.silu(x[:, i]).numpy() * layer.base_weight[o, i].item()
            expected[:, o] += base + layer.spline_scale[o, i].item() * inside
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-13)


def test_gradients_are_those_of_finite_differences():
    layer = KANLinear(2, 3, noise=5.0).double()
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_half_precision_is_computed_in_float32():
    x = torch.linspace(-1, 1, 101)
    torch.testing.assert_close(spline_basis(x.bfloat16()), spline_basis(x.bfloat16().float()), atol=0, rtol=0)
    layer = KANLinear(3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(4, 3)).isfinite().all()
    assert layer.bfloat16()(torch.randn(4, 3).bfloat16()).dtype == torch.bfloat16


def test_a_kan_learns_a_function_that_no_linear_layer_of_silu_can():
    """y = sin(3 a) · 1 + |b|; one KAN layer fits it, the same layer without splines does not."""
    torch.manual_seed(0)
    x = torch.rand(512, 2) * 2 - 1
    y = torch.sin(3 * x[:, :1]) + x[:, 1:].abs()

    def error_after_training(*, splines: bool) -> float:
        layer = KAN([2, 1])
        layer[0].spline_weight.requires_grad_(splines)
        optimiser = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], lr=0.05)
        for _ in range(200):
            loss = functional.mse_loss(layer(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return loss.item()

    assert error_after_training(splines=True) < 0.01
    assert error_after_training(splines=False) > 0.05


def test_a_grid_without_intervals_is_refused():
    with pytest.raises(ModelError, match="one or more"):
        KANLinear(2, 2, grid=0)
    with pytest.raises(ModelError, match="low < high"):
        KANLinear(2, 2, low=1, high=1)
