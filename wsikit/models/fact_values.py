"""Numbers of a caption as a feature: measured values with their uncertainty, some of them missing.

Each number is encoded piecewise linearly over quantile bins of the training patches (Gorishniy, Rubachev and Babenko
2022, "On embeddings for numerical features in tabular deep learning"). An uncertain number is an interval, and its code
is the mean code over the interval, in closed form. Axes: B patches, C numbers per patch, T bins.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

EMBEDDING = 8
"""Width of the embedding of one number."""

_FURTHEST = 4.0
"""Standardised values beyond are cut off: a single odd number must not decide."""


def quantile_edges(values: npt.NDArray[np.floating], bins: int) -> npt.NDArray[np.float32]:
    """Edges of at most `bins` bins with about equally many values each, float32 (bins + 1,), ascending.

    Where many values are equal there are fewer bins, and the last edge is repeated. Values must be finite.

    >>> quantile_edges(np.arange(5.0), 2).tolist()
    [0.0, 2.0, 4.0]
    """
    places = np.linspace(0, 1, bins + 1)
    edges = np.unique(np.quantile(values, places).astype(np.float32))
    if len(edges) <= bins:  # equal values: bins of the different ones
        edges = np.unique(np.quantile(np.unique(values), places).astype(np.float32))
    return np.pad(edges, (0, bins + 1 - len(edges)), mode="edge")


def piecewise_linear(values: Tensor, half_widths: Tensor, edges: Tensor) -> Tensor:
    """Piecewise-linear code of numbers: per bin 0 below it, 1 above it, linear between.

    Parameters
    ----------
    values, half_widths : Tensor
        (B, C). The code of an interval is the mean code over it.
    edges : Tensor
        (C, T + 1), ascending. The code of a bin without width is 0.

    Returns
    -------
    Tensor
        float32 (B, C, T).

    Examples
    --------
    >>> edges = torch.tensor([[0.0, 1.0, 2.0]])
    >>> piecewise_linear(torch.tensor([[1.5]]), torch.tensor([[0.0]]), edges).tolist()
    [[[1.0, 0.5]]]
    >>> piecewise_linear(torch.tensor([[1.0]]), torch.tensor([[1.0]]), edges).tolist()
    [[[0.75, 0.25]]]
    """
    low, high = edges[:, :-1].double(), edges[:, 1:].double()  # (C, T)
    width = (high - low).clamp(min=1e-30)
    v, u = values.double().unsqueeze(2), half_widths.double().unsqueeze(2)  # (B, C, 1)
    exact = ((v - low) / width).clamp(0, 1) * (high > low)
    if not half_widths.any():
        return exact.float()
    first, last = torch.maximum(torch.minimum(v - u, high), low), torch.maximum(torch.minimum(v + u, high), low)
    inside = (last - first) * ((first + last) / 2 - low) / width
    above = ((v + u) - torch.maximum(v - u, high)).clamp(min=0)
    mean = (inside + above) / (2 * u).clamp(min=1e-30)
    narrow = 2 * u < 1e-6 * width  # the difference of two nearly equal numbers has no digits left
    code = torch.where(narrow, exact, mean * (high > low))
    return code.float()


class FactValues(nn.Module):
    """Numbers of patches (B, 2, C), values and half-widths, to features (B, width).

    Parameters
    ----------
    numbers : int
        C, see `wsikit.models.slide_context.number_columns`.
    width : int
        Width of the feature.
    bins : int
        T, maximum number of bins of a number.
    facts : int, optional
        F: columns f, f + F, f + 2F … are of the same fact. Default: every column is a fact.
    dropout : float
        Of the hidden layer, in training.
    fact_dropout : float
        Share of facts that are treated as not measured, in training, so that some may be missing later.

    A number is missing where its value is not finite, or where the training patches had no value of it.
    """

    edges: Tensor
    centre: Tensor
    scale: Tensor
    known: Tensor

    def __init__(
        self,
        numbers: int,
        *,
        width: int = 64,
        bins: int = 16,
        facts: int | None = None,
        dropout: float = 0.5,
        fact_dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.numbers, self.width, self.bins = numbers, width, bins
        self.facts = numbers if facts is None else facts
        self.fact_dropout = fact_dropout
        self.register_buffer("edges", torch.zeros(numbers, bins + 1))
        self.register_buffer("centre", torch.zeros(numbers))
        self.register_buffer("scale", torch.ones(numbers))
        self.register_buffer("known", torch.zeros(numbers, dtype=torch.bool))
        codes = bins + 2  # of the bins, the standardised value, the uncertainty
        self.embed = nn.Parameter(torch.randn(numbers, codes, EMBEDDING) / codes**0.5)
        self.bias = nn.Parameter(torch.zeros(numbers, EMBEDDING))
        self.missing = nn.Parameter(torch.randn(numbers, EMBEDDING) * 0.1)
        self.head = nn.Sequential(
            nn.Linear(numbers * EMBEDDING, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.LayerNorm(width),
        )

    @property
    def learnt(self) -> bool:
        """Whether the bins were learnt from training patches."""
        return bool(self.known.any())

    @torch.no_grad()
    def learn_bins(self, numbers: npt.NDArray[np.floating]) -> None:
        """Learn bins, centres and scales from the numbers of the training patches, (N, 2, C)."""
        for column, values in enumerate(np.asarray(numbers, dtype=np.float64)[:, 0].T):
            there = values[np.isfinite(values)]
            self.known[column] = len(there) > 0
            if len(there):
                self.edges[column] = torch.from_numpy(quantile_edges(there, self.bins))
                self.centre[column] = float(there.mean())
                self.scale[column] = max(float(there.std()), 1e-6 * max(1.0, abs(float(there.mean()))))

    def ranks(self, numbers: Tensor) -> Tensor:
        """Position of each fact among the training patches, 0 to 1 (B, F), 0.5 where it is missing."""
        values, edges = numbers[:, 0, : self.facts].float(), self.edges[: self.facts]
        there = values.isfinite() & self.known[: self.facts]
        codes = piecewise_linear(torch.where(there, values, self.centre[: self.facts]), torch.zeros_like(values), edges)
        bins = (edges[:, 1:] > edges[:, :-1]).sum(dim=1).clamp(min=1)
        return torch.where(there, codes.sum(dim=2) / bins, torch.full_like(values, 0.5))

    def forward(self, numbers: Tensor) -> Tensor:
        values, half_widths = numbers[:, 0].float(), numbers[:, 1].float()
        there = values.isfinite() & self.known
        if self.training and self.fact_dropout:
            kept = torch.rand(len(values), self.facts, device=values.device) >= self.fact_dropout
            there = there & kept.repeat(1, self.numbers // self.facts)
        values = torch.where(there, values, self.centre)
        half_widths = torch.where(there, half_widths, torch.zeros_like(half_widths))
        codes = torch.cat(
            [
                piecewise_linear(values, half_widths, self.edges),
                ((values - self.centre) / self.scale).clamp(-_FURTHEST, _FURTHEST).unsqueeze(2),
                (half_widths / self.scale).clamp(max=_FURTHEST).unsqueeze(2),
            ],
            dim=2,
        )  # (B, C, T + 2)
        embedded = functional.relu(torch.einsum("bct,cte->bce", codes, self.embed) + self.bias)
        embedded = torch.where(there.unsqueeze(2), embedded, self.missing)
        found: Tensor = self.head(embedded.flatten(1))
        return found
