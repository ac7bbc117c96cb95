"""Columns that slides give to the linear part of UMEML's heads: shares of the patches, and their products with genes.

A prototype is a mean of patches, and does not tell how many belong to it. Here patches are counted at fixed centres,
and the counts enter the heads linearly, as the columns of tables do; so do, where asked for, their products with the
values of the second tokens, which is how one modality can change what the other means.
Axes: B patients, N patches, D features, K centres, S scores.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.models.umeml.config import GroupsConfig, RowConfig, UmemlConfig

LEAST = 0.02
"""Share that is added before the logarithm: a centre without a patch is no further away than one with few."""


class SlideColumns(nn.Module):
    """Standardised logarithms of the shares of K centres, and their products with S scores of the second tokens.

    The score of a group of columns is their mean, that of a row's column its value. All columns are divided by the root
    of their number, as those of a table are, so that one ridge penalty is fair to both. Nothing here is learnt by
    gradients: a training sets the centres, means and deviations from its patients.

    Parameters
    ----------
    config : UmemlConfig
        With `patches.centres`; `products` asks for the products.
    """

    centres: Tensor
    """(K, D), of standardised features; their mean and deviation are `feature_mean` and `feature_scale`, (D,)."""
    feature_mean: Tensor
    feature_scale: Tensor
    mean: Tensor
    """(K + S,): of shares and scores over the patients of the training, and `deviation`."""
    deviation: Tensor

    def __init__(self, config: UmemlConfig) -> None:
        super().__init__()
        if config.patches is None or not config.patches.centres:
            raise ValueError("slide columns: give patches.centres")
        k, d = config.patches.centres, config.patches.width
        self.sets: list[tuple[str, int]] = []  # name and place among the modalities, of each set that has scores
        self.counts: list[int] = []
        for name, tokens in config.tokens.items() if config.products else ():
            if not isinstance(tokens, GroupsConfig | RowConfig):
                raise ValueError(f"products: {name}: tokens of kind {tokens.kind} have no scores; use groups or a row")
            self.sets.append((name, config.modalities.index(name)))
            self.counts.append(len(tokens.groups) if isinstance(tokens, GroupsConfig) else tokens.columns)
            if isinstance(tokens, GroupsConfig):
                members = torch.zeros(max(map(max, tokens.groups)) + 1, len(tokens.groups))
                for number, group in enumerate(tokens.groups):
                    members[list(group), number] = 1 / len(group)
                self.register_buffer(f"members_{name}", members, persistent=False)
        self.k, self.count = k, k + k * sum(self.counts)
        self.register_buffer("centres", torch.zeros(k, d))
        for name, size in (("feature_mean", d), ("mean", k + sum(self.counts))):
            self.register_buffer(name, torch.zeros(size))
        for name, size in (("feature_scale", d), ("deviation", k + sum(self.counts))):
            self.register_buffer(name, torch.ones(size))

    @torch.no_grad()
    def start_from(self, centres: Tensor, mean: Tensor, scale: Tensor) -> None:
        """Centres (K, D) in units of the features; mean and standard deviation of the features, (D,)."""
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(scale)
        self.centres.copy_((centres - mean) / scale)

    @torch.no_grad()
    def standardise(self, shares: Tensor, scores: Tensor) -> None:
        """Set means and deviations from `shares` (n, K) and `scores` (n, S) of patients; NaN is not counted."""
        both = torch.cat([shares, scores], dim=1)
        known = ~both.isnan()
        n = known.sum(dim=0).clamp_min(1)
        self.mean.copy_(both.nan_to_num(0.0).sum(dim=0) / n)
        spread = (((both - self.mean).nan_to_num(0.0).square()).sum(dim=0) / n).sqrt()
        self.deviation.copy_(torch.where(spread > 1e-6, spread, 1.0))

    @torch.no_grad()
    def shares(self, patches: Tensor, mask: Tensor | None) -> Tensor:
        """Logarithms (B, K) of the shares of the patches (B, N, D) that are nearest to each centre, relative to equal
        shares; NaN for a patient without a patch."""
        # nearest: largest x·c − |c|²/2 in standardised units, written as one product with the features as they are
        weight = self.centres / self.feature_scale
        bias = -weight @ self.feature_mean - self.centres.square().sum(dim=1) / 2
        nearest = functional.linear(patches, weight, bias).argmax(dim=2)
        there = torch.ones_like(nearest, dtype=patches.dtype) if mask is None else mask.to(patches.dtype)
        counts = patches.new_zeros(len(patches), self.k).scatter_add_(1, nearest, there)
        shares = counts / counts.sum(dim=1, keepdim=True)  # 0 / 0 without a patch
        found: Tensor = ((shares + LEAST) / (1 / self.k + LEAST)).log()
        return found

    def scores(self, values: Mapping[str, Tensor], batch: int) -> Tensor:
        """Scores (B, S) from the inputs of the token sets; NaN where a set is missing."""
        found = [self.mean.new_zeros(batch, 0)]
        for (name, _), count in zip(self.sets, self.counts, strict=True):
            if name not in values:
                found.append(self.mean.new_full((batch, count), torch.nan))
                continue
            known, none = values[name].nan_to_num(0.0), values[name].isnan().all(dim=1, keepdim=True)
            members = getattr(self, f"members_{name}", None)
            made = known if members is None else known[:, : len(members)] @ members
            found.append(made.masked_fill(none, torch.nan))
        return torch.cat(found, dim=1)

    def forward(
        self, patches: Tensor | None, mask: Tensor | None, values: Mapping[str, Tensor], used: Tensor
    ) -> Tensor:
        """Columns (B, K + K·S); 0 where a modality is missing or `used`, bool (B, modalities), leaves it out."""
        batch = len(used)
        if patches is None:
            return self.mean.new_zeros(batch, self.count)
        shares = (self.shares(patches, mask) - self.mean[: self.k]) / self.deviation[: self.k]
        shares = shares.nan_to_num(0.0) * used[:, :1]
        made = [shares / self.k**0.5]
        if self.sets:
            scores = (self.scores(values, batch) - self.mean[self.k :]) / self.deviation[self.k :]
            owners = [place for (_, place), count in zip(self.sets, self.counts, strict=True) for _ in range(count)]
            scores = scores.nan_to_num(0.0) * used[:, owners]
            products = (shares[:, :, None] * scores[:, None, :]).flatten(1)
            made.append(products / products.shape[1] ** 0.5)
        return torch.cat(made, dim=1)
