"""Out-of-distribution scores, in units of the distances of held-out patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsikit.errors import ModelError
from wsikit.models.config import OOD_FILE
from wsikit.models.io import fingerprint, load_model, save_model
from wsikit.models.mmlnb import MMLNB
from wsikit.models.ood import OodDetector
from wsikit.models.predictor import Predictor

RNG = np.random.default_rng(3)
MIX = RNG.normal(size=(8, 8)) * np.array([1, 1, 1, 1, 1, 1, 1, 50.0])


def cloud(n: int) -> np.ndarray:
    """Features that vary together, at scales far apart, around 7."""
    return RNG.normal(size=(n, 8)) @ MIX + 7


def test_one_in_a_hundred_in_distribution_patches_scores_above_1():
    found = OodDetector.fit(cloud(4000), cloud(4000)).of(cloud(20_000))
    assert 0.006 < (found > 1).mean() < 0.014


def test_distance_is_that_of_mahalanobis_by_the_closed_form():
    turn = np.eye(8) + 0.3 * MIX / np.abs(MIX).max(axis=0)
    training, asked = (RNG.normal(size=(n, 8)) @ turn * np.arange(1, 9) for n in (50_000, 50))
    ood_score = OodDetector.fit(training, training[:500])
    difference = asked - training.mean(axis=0)
    exact = np.sqrt(np.einsum("ij,jk,ik->i", difference, np.linalg.inv(np.cov(training.T)), difference))
    np.testing.assert_allclose(ood_score.of(asked) * ood_score.limit, exact, rtol=0.05)  # shrinkage moves it a little


def test_a_small_step_where_training_never_went_is_farther_than_a_wide_one_where_it_went():
    training = np.zeros((500, 2))
    training[:, 0] = RNG.normal(size=500) * 10
    training[:, 1] = training[:, 0] + RNG.normal(size=500) * 0.1
    ood_score = OodDetector.fit(training, training)
    along, across = ood_score.of(np.array([[15.0, 15.0], [5.0, -5.0]]))
    assert along < 1 < across


def test_a_feature_that_is_constant_in_training_does_not_dominate():
    training = np.hstack([RNG.normal(size=(300, 3)), np.full((300, 1), 2.0)])
    asked = np.append(training[0], []) + np.array([0, 0, 0, 1e-4])
    assert OodDetector.fit(training, training).of(asked[None])[0] < 2


def test_too_few_held_out_patches_are_refused():
    with pytest.raises(ModelError, match="99 held-out"):
        OodDetector.fit(cloud(500), cloud(99))


def test_a_model_folder_keeps_the_ood_detector_and_includes_it_in_the_fingerprint(tiny_model: MMLNB, tmp_path: Path):
    width = tiny_model.image.width
    bare = save_model(tiny_model, tmp_path / "bare", card="")
    features = RNG.normal(size=(300, width)).astype(np.float32)
    tiny_model.ood_detector = OodDetector.fit(features, features)
    folder = save_model(tiny_model, tmp_path / "knows", card="")
    loaded = load_model(folder).ood_detector
    np.testing.assert_array_equal(loaded.of(features), tiny_model.ood_detector.of(features))
    assert fingerprint(folder) != fingerprint(bare)
    assert load_model(bare).ood_detector is None


def test_a_damaged_ood_file_or_one_of_another_encoder_is_named(tiny_model: MMLNB, tmp_path: Path):
    folder = save_model(tiny_model, tmp_path / "tiny", card="")
    OodDetector(np.zeros(3, np.float32), np.eye(3, dtype=np.float32), 1.0).save(folder / OOD_FILE)
    with pytest.raises(ModelError, match=OOD_FILE):
        load_model(folder)
    (folder / OOD_FILE).write_bytes(b"torn")
    with pytest.raises(ModelError, match="damaged"):
        load_model(folder)


def test_predictions_have_an_ood_score_per_patch_and_nan_without_a_detector(tiny_model: MMLNB):
    patches = RNG.integers(0, 256, (150, 64, 64, 3)).astype(np.uint8)
    predictor = Predictor(tiny_model, device="cpu")
    assert "ood_score" not in predictor.predict(patches[:3], [None] * 3)
    from wsikit.training.forward import image_features

    features = image_features(tiny_model, patches)
    tiny_model.ood_detector = OodDetector.fit(features, features)
    white = np.full((1, 64, 64, 3), 255, np.uint8)
    found = predictor.predict(np.concatenate([patches[:9], white]), [None] * 10)["ood_score"]
    np.testing.assert_allclose(found[:9], tiny_model.ood_detector.of(features[:9]), rtol=1e-3)
    assert found[9] > 1 > found[:9].mean()
