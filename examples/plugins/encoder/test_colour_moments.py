"""The encoder gives the moments that SciPy gives, and a patch does not depend on its batch."""

import numpy as np
import torch
from colour_moments import ColourMoments
from scipy import stats


def test_the_moments_are_those_of_scipy() -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = ColourMoments()(images).numpy()
    pixels = images.flatten(2).numpy().astype(np.float64)
    expected = np.concatenate([pixels.mean(2), pixels.std(2), stats.skew(pixels, axis=2)], axis=1)
    assert features.shape == (3, ColourMoments().num_features)
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_a_patch_alone_has_the_features_that_it_has_in_a_batch() -> None:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    encoder = ColourMoments().eval()
    torch.testing.assert_close(encoder(images)[2:3], encoder(images[2:3]))


def test_a_patch_of_one_colour_gives_no_nan() -> None:
    assert torch.isfinite(ColourMoments()(torch.ones(1, 3, 8, 8))).all()
