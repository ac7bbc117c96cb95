"""Columns of slides in the linear part of UMEML's heads: shares of patches and their products with genes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.umeml.test_network import missing_is_absent, network, some
from wsikit.models.umeml.network import UMEML
from wsikit.models.umeml.wide import LEAST, SlideColumns

PATCHES = {"width": 5, "prototypes": 4, "heads": 2, "centres": 3}


def wide_network(**settings: Any) -> UMEML:
    """With heads whose linear part is not zero, and places as a training would set them."""
    model = network(patches=PATCHES, products=True, **settings)
    wide = columns_of(model)
    wide.start_from(some(3, 5, seed=7), some(5, seed=8), some(5, seed=9).abs() + 0.5)
    wide.standardise(some(20, 3, seed=10), some(20, 2, seed=11))
    with torch.no_grad():
        for head in model.heads.values():
            head.direct.weight.copy_(some(*head.direct.weight.shape, seed=12))
    return model


def columns_of(model: UMEML) -> SlideColumns:
    assert model.wide is not None
    return model.wide


def test_patches_are_counted_at_the_nearest_centre_of_standardised_features_and_padding_is_not() -> None:
    wide = columns_of(wide_network())
    patches = some(2, 6, 5)
    mask = torch.arange(6).expand(2, 6) < torch.tensor([[6], [4]])
    found = wide.shares(patches, mask)
    z = ((patches - wide.feature_mean) / wide.feature_scale).numpy()
    for row, n in enumerate((6, 4)):
        distances = ((z[row, :n, None, :] - wide.centres.numpy()[None]) ** 2).sum(axis=2)
        shares = np.bincount(distances.argmin(axis=1), minlength=3) / n
        np.testing.assert_allclose(found[row], np.log((shares + LEAST) / (1 / 3 + LEAST)), atol=1e-5)


def test_products_are_those_of_standardised_shares_and_means_of_the_groups() -> None:
    wide = columns_of(wide_network())
    patches, genes = some(2, 6, 5), some(2, 4, seed=1)
    made = wide(patches, None, {"genes": genes}, torch.ones(2, 2, dtype=torch.bool))
    shares = (wide.shares(patches, None) - wide.mean[:3]) / wide.deviation[:3]
    means = torch.stack([genes[:, [0, 1]].mean(dim=1), genes[:, [1, 2, 3]].mean(dim=1)], dim=1)
    scores = (means - wide.mean[3:]) / wide.deviation[3:]
    torch.testing.assert_close(made[:, :3], shares / 3**0.5)
    torch.testing.assert_close(made[:, 3:].view(2, 3, 2), shares[:, :, None] * scores[:, None, :] / 6**0.5)


def test_a_missing_modality_adds_nothing_to_the_linear_part() -> None:
    missing_is_absent(wide_network(), "cox")


def test_means_and_deviations_leave_out_patients_without_a_modality() -> None:
    wide = columns_of(wide_network())
    shares, scores = some(8, 3), some(8, 2, seed=1)
    shares[5:], scores[:2] = float("nan"), float("nan")
    wide.standardise(shares, scores)
    expected = torch.cat([shares[:5].mean(dim=0), scores[2:].mean(dim=0)])
    torch.testing.assert_close(wide.mean, expected)
    torch.testing.assert_close(wide.deviation[:3], shares[:5].std(dim=0, correction=0))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patches": PATCHES | {"centres": 0}}, "needs tables and patches"),
        ({"patches": PATCHES, "tokens": {"genes": {"kind": "learned", "columns": 4, "heads": 2}}}, "have no scores"),
    ],
)
def test_products_without_shares_or_scores_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        network(**settings, products=True)


def test_a_row_of_values_is_its_own_scores() -> None:
    row = {"clinical": {"kind": "row", "columns": 2, "heads": 2}}
    wide = columns_of(network(patches=PATCHES, tokens=row, products=True))
    values: Tensor = torch.tensor([[1.0, 2.0], [float("nan"), 3.0]])
    torch.testing.assert_close(wide.scores({"clinical": values}, 2), torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
