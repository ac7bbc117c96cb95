"""Kolmogorov-Arnold layers (KAN): on each edge from an input to an output a function that is learnt, a cubic B-spline.

Layer of efficient form (Liu et al. 2024, arXiv 2404.19756; summed over edges as one matrix product):
y_o = Σ_i [ w_b,oi · silu(x_i) + s_oi · Σ_m w_oim · B_m(x_i) ].

The knots are uniform, so every B_m is the same cubic curve, moved: its closed form replaces the recursion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.errors import ModelError

ORDER = 3
"""Cubic splines."""


def spline_basis(x: Tensor, *, grid: int = 5, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Values of the cubic B-splines on a uniform grid, extended by three intervals at both ends.

    Parameters
    ----------
    x
        (..., D), float32 or float64; lower precisions are computed in float32.
    grid
        Number of intervals of [low, high].

    Returns
    -------
    Tensor
        (..., D, grid + 3). Within [low, high] they sum to 1. Outside they fade, and are 0 from three intervals beyond
        the grid on: there a layer is its base branch alone. The gradient is that of the formula everywhere.

    >>> basis = spline_basis(torch.tensor([0.0, 9.0]))
    >>> basis.shape, basis.sum(dim=1).round(decimals=5).tolist()
    (torch.Size([2, 8]), [1.0, 0.0])
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    basis: Tensor = _Basis.apply(x, grid, low, high)
    return basis


class _Basis(torch.autograd.Function):
    """Keeps the inputs only, as the distances to all splines are quickly computed again: autograd would keep five
    tensors of the size of the result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: int, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.grid = grid, low, high
        t = _distance(x, grid, low, high).abs_()
        near = (1 - t).clamp_(min=0)
        far = (2 - t).clamp_(min=0)
        return far.square().mul_(far).sub_(near.square().mul_(near), alpha=4).div_(6)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        grid, low, high = ctx.grid
        t = _distance(x, grid, low, high)
        sign = t.sign()
        t = t.abs_()
        near = (1 - t).clamp_(min=0)
        far = (2 - t).clamp_(min=0)
        slope = near.square_().mul_(4).sub_(far.square_()).mul_(sign)  # times 2 intervals
        return (slope.mul_(gradients[0]).sum(dim=-1) * (grid / (2 * (high - low))), None, None, None)


def _distance(x: Tensor, grid: int, low: float, high: float) -> Tensor:
    """Signed distance of x to the centre of each spline, in intervals, (..., D, grid + 3)."""
    centres = torch.arange(-1, grid + ORDER - 1, dtype=x.dtype, device=x.device)
    return ((x - low) * (grid / (high - low))).unsqueeze(-1) - centres


class KANLinear(nn.Module):
    """One KAN layer, (..., inputs) to (..., outputs).

    Parameters
    ----------
    grid
        Number of intervals of [low, high]; a spline has grid + 3 weights.
    noise
        Largest initial weight of a spline, times its number of intervals.

    Attributes
    ----------
    base_weight : (outputs, inputs)
        w_b. With spline weights of 0 the layer is the linear layer of silu(x) with these weights.
    spline_weight : (outputs, inputs, grid + 3)
        w.
    spline_scale : (outputs, inputs)
        s.
    """

    def __init__(
        self, inputs: int, outputs: int, *, grid: int = 5, low: float = -1.0, high: float = 1.0, noise: float = 0.05
    ) -> None:
        super().__init__()
        if grid < 1 or not low < high:
            raise ModelError(f"KAN layer: {grid} intervals of [{low}, {high}]; expected one or more, and low < high.")
        self.grid, self.low, self.high = grid, low, high
        self.base_weight = nn.Parameter(torch.empty(outputs, inputs))
        self.spline_weight = nn.Parameter(torch.empty(outputs, inputs, grid + ORDER))
        self.spline_scale = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.spline_scale, a=math.sqrt(5))
        nn.init.uniform_(self.spline_weight, -noise / grid, noise / grid)

    def forward(self, x: Tensor) -> Tensor:
        basis = spline_basis(x, grid=self.grid, low=self.low, high=self.high).to(x.dtype)
        weight = (self.spline_weight * self.spline_scale.unsqueeze(-1)).flatten(1)  # (outputs, inputs · (grid + 3))
        base = functional.linear(functional.silu(x), self.base_weight)
        return base + functional.linear(basis.flatten(-2), weight)

    def extra_repr(self) -> str:
        outputs, inputs = self.base_weight.shape
        return f"{inputs}, {outputs}, grid={self.grid}, low={self.low:g}, high={self.high:g}"


class KAN(nn.Sequential):
    """KAN layers of these widths, one after the other.

    >>> KAN([24, 16, 24])(torch.zeros(2, 7, 24)).shape
    torch.Size([2, 7, 24])
    """

    def __init__(self, widths: Sequence[int], *, grid: int = 5) -> None:
        super().__init__(*(KANLinear(inputs, outputs, grid=grid) for inputs, outputs in pairwise(widths)))
