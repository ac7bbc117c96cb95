"""Fits of heads: the NumPy forward is scikit-learn's, what can be learnt is learnt, and what cannot is at chance."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier

from wsikit.models.head import HeadModel, neighbour_votes
from wsikit.models.head_config import HeadConfig
from wsikit.models.model_folder import EncoderRecord
from wsikit.models.ood import OodDetector
from wsikit.testing import check_model
from wsikit.training.heads.config import KnnSettings, LinearSettings, MlpSettings
from wsikit.training.heads.fits import Fitted, drawn, standard
from wsikit.training.heads.knn import fit_knn
from wsikit.training.heads.linear import PENALTIES, fit_linear, matrix
from wsikit.training.heads.mlp import fit_mlp

D = 6
Data = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.str_]]


def clouds(n: int, classes: int, *, apart: float, seed: int = 0) -> Data:
    """Features of `n` patches around one centre per class, `apart` standard deviations from 0; labels; 20 patients."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = np.eye(classes, D) * apart * 3 + 40  # features far from 0
    features = centres[labels] + 3 * rng.standard_normal((n, D))
    return features.astype(np.float32), labels, np.array([f"p{i}" for i in rng.integers(0, 20, n)])


def config(kind: Literal["linear", "mlp", "knn"], classes: int, **changes: Any) -> HeadConfig:
    codes = tuple(f"c{i}" for i in range(classes))
    record: dict[str, Any] = {
        "name": "toy",
        "version": "1",
        "classes": codes,
        "class_names": codes,
        "colors": ("#000000",) * classes,
        "mpp": 0.5,
        "patch_px": 224,
        "stain": "H&E",
        "notice": "a test's model",
        "kind": kind,
        "encoder": EncoderRecord(name="toy", width=D, fingerprint="f00d"),
        "temperature": 1.0,
    }
    return HeadConfig.model_validate(record | changes)


def fit(kind: str, data: Data, held: Data, classes: int, seed: int = 0) -> tuple[Fitted, HeadModel]:
    x, labels, groups = data
    if kind == "linear":
        fitted = fit_linear(x, labels, groups, n_classes=classes, settings=LinearSettings(), seed=seed)
        return fitted, HeadModel(config("linear", classes), fitted.arrays)
    if kind == "mlp":
        settings = MlpSettings(hidden=16, epochs=40, batch=32, lr=5e-3)
        fitted = fit_mlp(x, labels, held[:2], n_classes=classes, settings=settings, seed=seed)
        return fitted, HeadModel(config("mlp", classes), fitted.arrays)
    fitted = fit_knn(x, labels, held[:2], n_classes=classes, settings=KnnSettings(metric="euclidean"), seed=seed)
    return fitted, HeadModel(config("knn", classes, neighbours=fitted.neighbours, metric="euclidean"), fitted.arrays)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_linear_head_gives_the_probabilities_of_scikit_learn(classes: int) -> None:
    x, labels, groups = clouds(200, classes, apart=1)
    fitted = fit_linear(x, labels, groups, n_classes=classes, settings=LinearSettings(l2=0.01))
    mean, scale = standard(x)
    theirs = LogisticRegression(C=1 / (0.01 * len(x)), max_iter=1000).fit((x - mean) / scale, labels)
    ours = HeadModel(config("linear", classes), fitted.arrays).predict(x)["probability"]
    np.testing.assert_allclose(ours, theirs.predict_proba((x - mean) / scale), atol=2e-4)
    weight, bias = matrix(theirs, classes)
    same = HeadModel(config("linear", classes), fitted.arrays | {"weight": weight, "bias": bias})
    np.testing.assert_allclose(same.predict(x)["probability"], theirs.predict_proba((x - mean) / scale), atol=1e-6)


def test_the_hidden_layer_gives_the_probabilities_of_scikit_learn() -> None:
    x, labels, _ = clouds(150, 3, apart=1)
    mean, scale = standard(x)
    theirs = MLPClassifier((8,), max_iter=30, random_state=0, early_stopping=False)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        theirs.fit((x - mean) / scale, labels)
    (w1, w2), (b1, b2) = theirs.coefs_, theirs.intercepts_
    arrays = {"mean": mean, "scale": scale, "weight1": w1, "bias1": b1, "weight2": w2, "bias2": b2}
    arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
    ours = HeadModel(config("mlp", 3), arrays).predict(x)["probability"]
    np.testing.assert_allclose(ours, theirs.predict_proba((x - mean) / scale), atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_neighbours_are_those_of_scikit_learn(metric: Literal["cosine", "euclidean"]) -> None:
    x, labels, _ = clouds(150, 3, apart=1)
    new, _, _ = clouds(70, 3, apart=1, seed=1)
    settings = KnnSettings(metric=metric, k=(7,))
    fitted = fit_knn(x, labels, (new, labels[:70]), n_classes=3, settings=settings)
    theirs = KNeighborsClassifier(7, metric=metric).fit(x, labels).predict_proba(new)
    np.testing.assert_allclose(neighbour_votes(new, fitted.arrays, k=7, metric=metric) / 7, theirs, atol=1e-9)
    model = HeadModel(config("knn", 3, neighbours=7, metric=metric), fitted.arrays)
    prior = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(model.predict(new)["probability"], (theirs * 7 + prior) / 8, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "mlp", "knn"])
def test_separable_classes_are_learnt_and_shuffled_labels_are_not(kind: str) -> None:
    data, held = clouds(240, 3, apart=9), clouds(120, 3, apart=9, seed=1)
    test, truth, _ = clouds(300, 3, apart=9, seed=2)
    _, model = fit(kind, data, held, 3)
    assert (model.predict(test)["probability"].argmax(axis=1) == truth).all()
    rng = np.random.default_rng(3)
    shuffled = [(x, rng.permutation(labels), groups) for x, labels, groups in (data, held)]
    _, model = fit(kind, shuffled[0], shuffled[1], 3)
    of_truth = model.predict(test)["probability"][np.arange(len(truth)), truth]
    assert abs(of_truth.mean() - 1 / 3) < 0.06


@pytest.mark.parametrize("kind", ["linear", "mlp", "knn"])
def test_equal_seeds_give_equal_weights(kind: str) -> None:
    data, held = clouds(120, 2, apart=1), clouds(60, 2, apart=1, seed=1)
    first, again = (fit(kind, data, held, 2, seed=5)[0] for _ in range(2))
    assert first.selection == again.selection
    for name, values in first.arrays.items():
        np.testing.assert_array_equal(values, again.arrays[name])


@pytest.mark.parametrize("kind", ["linear", "mlp", "knn"])
def test_a_head_is_a_model_of_patches(kind: str) -> None:
    data, held = clouds(240, 2, apart=1), clouds(120, 2, apart=1, seed=1)
    fitted, model = fit(kind, data, held, 2)
    ood = OodDetector.fit(data[0], held[0])
    model = HeadModel(model.config, fitted.arrays, ood=ood, fingerprint="abc")
    check_model(model, feature_dim=D)
    assert model.info.feature_columns == ("features_toy",)
    x = held[0][:4].copy()
    x[1, 0], x[2, 3] = np.nan, np.inf
    found = model.predict(x)
    for values in found.values():
        assert np.isnan(values[1:3]).all()
        assert np.isfinite(values[[0, 3]]).all()
    np.testing.assert_allclose(found["probability"][3], model.predict(held[0][3:4])["probability"][0], atol=1e-6)
    assert model.predict(held[0] + 1000)["ood_score"].min() > 10


def test_noise_asks_for_a_strong_penalty_and_clean_classes_for_a_weak_one() -> None:
    x, labels, groups = clouds(300, 2, apart=4)
    clean = fit_linear(x, labels, groups, n_classes=2, settings=LinearSettings()).selection
    noise = np.random.default_rng(0).permutation(labels)
    noisy = fit_linear(x, noise, groups, n_classes=2, settings=LinearSettings()).selection
    assert noisy["l2"] >= 1 > 0.1 >= clean["l2"]
    assert noisy["l2"] in PENALTIES


def test_a_penalty_is_chosen_without_a_patient_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    seen = []
    split = StratifiedGroupKFold.split

    def watched(self: Any, X: Any, y: Any, groups: Any) -> Any:
        for train, held in split(self, X, y, groups):
            seen.append(set(groups[train]) & set(groups[held]))
            yield train, held

    monkeypatch.setattr(StratifiedGroupKFold, "split", watched)
    x, labels, groups = clouds(100, 2, apart=1)
    fit_linear(x, labels, groups, n_classes=2, settings=LinearSettings())
    assert seen == [set()] * 5


def test_too_few_patients_for_cross_validation_are_stated() -> None:
    x, labels, _ = clouds(40, 2, apart=1)
    groups = np.array([f"p{label}" for label in labels])  # each class of one patient
    assert (
        "no cross-validation"
        in fit_linear(x, labels, groups, n_classes=2, settings=LinearSettings()).selection["chosen_by"]
    )


def test_patches_are_drawn_by_class() -> None:
    labels = np.array([0] * 900 + [1] * 99 + [2])
    rows = drawn(labels, 100, np.random.default_rng(0))
    assert np.bincount(labels[rows]).tolist() == [90, 10, 1]
    assert (np.diff(rows) > 0).all()
