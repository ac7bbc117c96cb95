"""Conformance checks for models of patches (`wsikit.models.protocol.PatchModel`)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.models.protocol import IMAGE, NUMBERS, PROBABILITY, TEXT, FitsToSlide, ModelInfo, PatchModel


def check_model(model: PatchModel, *, n_patches: int = 5, feature_dim: int = 16, tolerance: float = 1e-4) -> None:
    """Check that a model keeps what `PatchModel` promises. wsikit's own models pass it.

    Parameters
    ----------
    model
        The model, loaded.
    n_patches
        Patches to classify, 3 or more.
    feature_dim
        Width of the features that are drawn for a model that reads stored features.
    tolerance
        Greatest difference between a row classified alone and in a batch.

    Raises
    ------
    AssertionError
        Naming what is not kept.

    Examples
    --------
    >>> import wsikit
    >>> check_model(wsikit.load_model("phantom-mmlnb", device="cpu"))
    """
    info = model.info
    assert isinstance(model, PatchModel), "a model has `info` and `predict`"
    assert isinstance(info, ModelInfo), "`info` is a wsikit.ModelInfo"
    assert info == model.info, "`info` stays the same"
    assert info.fingerprint, "`info.fingerprint` is not empty: stored predictions are recognised by it"
    json.dumps(info.record())
    inputs = _inputs(info, n_patches, feature_dim)
    found = model.predict(**inputs)
    _check_columns(info, found, n_patches)
    if info.fits_to:
        assert isinstance(model, FitsToSlide), "a model that states `info.fits_to` has `fit`"
        of_slide = _inputs(info, 12, feature_dim)
        names = {IMAGE: ("images",), TEXT: ("captions",), NUMBERS: ("facts", "uncertainty")}
        model = model.fit(**{name: of_slide[name] for one in info.fits_to for name in names.get(one, ("features",))})
        assert model.info == info, "`info` is the same for the model of a slide"
        found = model.predict(**inputs)
        _check_columns(info, found, n_patches)
    again = model.predict(**inputs)
    for row in range(n_patches):
        alone = model.predict(**{name: values[row : row + 1] for name, values in inputs.items()})
        for column in info.columns:
            _equal(found[column.name], again[column.name], tolerance, f"{column.name}: equal input, equal output")
            _equal(
                found[column.name][row : row + 1],
                alone[column.name],
                tolerance,
                f"{column.name}: a row depends on its own patch alone (and the slide), not on the batch",
            )
    if TEXT in info.inputs:
        unknown = {"facts": np.full_like(inputs["facts"], np.nan)} if NUMBERS in info.inputs else {}
        silent = model.predict(**{**inputs, **unknown, "captions": [None] * n_patches})
        _check_columns(info, silent, n_patches)
    _check_columns(info, model.predict(**{name: values[:0] for name, values in inputs.items()}), 0)


def _inputs(info: ModelInfo, n: int, feature_dim: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    inputs: dict[str, Any] = {}
    if IMAGE in info.inputs:
        inputs["images"] = rng.integers(0, 256, (n, info.patch_px, info.patch_px, 3), dtype=np.uint8)
    if TEXT in info.inputs:
        inputs["captions"] = ["Dense small round nuclei.", None, "Neuropil abundant."] + ["No nuclei."] * (n - 3)
    if NUMBERS in info.inputs:
        facts = rng.uniform(0, 1, (n, len(info.facts))).astype(np.float32)
        facts[1] = np.nan
        inputs |= {"facts": facts, "uncertainty": np.where(np.arange(n)[:, None] == 2, 0.1, 0) * np.ones_like(facts)}
    if info.feature_columns:
        inputs["features"] = rng.normal(size=(n, feature_dim)).astype(np.float32)
    return inputs


def _check_columns(info: ModelInfo, found: Any, n: int) -> None:
    for column in info.columns:
        assert column.name in found, f"predict returns the column {column.name}, which `info.columns` names"
        width = column.width(len(info.classes))
        expected = (n,) if width is None else (n, width)
        shape = np.shape(found[column.name])
        assert shape == expected, f"column {column.name} has shape {shape}, expected {expected}"
    probs = np.asarray(found[PROBABILITY])
    assert np.isfinite(probs).all(), "probabilities of readable patches are finite"
    assert ((probs >= 0) & (probs <= 1 + 1e-5)).all(), "probabilities lie in 0 … 1"
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-3, err_msg="probabilities of a patch sum to 1")


def _equal(one: npt.ArrayLike, two: npt.ArrayLike, tolerance: float, what: str) -> None:
    np.testing.assert_allclose(np.asarray(one), np.asarray(two), atol=tolerance, err_msg=what)
