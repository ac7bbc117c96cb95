"""MMLNB on stored features: features and a projection in place of the image encoder, and its `PatchModel`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsikit.errors import ModelError
from wsikit.models.config import FeatureBranchConfig
from wsikit.models.mmlnb import MMLNB
from wsikit.models.predictor import Columns, Numbers, Predictor
from wsikit.models.protocol import ModelInfo


class FeaturePredictor:
    """Runs an MMLNB on features and captions: a `wsikit.models.protocol.PatchModel`. See `Predictor`."""

    def __init__(self, model: MMLNB, *, device: Literal["auto", "cpu", "cuda"] = "auto") -> None:
        self._inner = Predictor(model, device=device)

    @property
    def info(self) -> ModelInfo:
        """Description of the model."""
        return self._inner.info

    def fit(
        self,
        *,
        features: npt.NDArray[np.floating] | None = None,
        facts: Numbers = None,
        uncertainty: Numbers = None,
    ) -> FeaturePredictor:
        """The predictor for one slide; as `Predictor.fit`, with the features of its patches, (n, D). Rows that are not
        finite are left out."""
        bound = copy.copy(self)
        seen = None if features is None else np.asarray(features, dtype=np.float32)
        if seen is not None:
            seen = seen[np.isfinite(seen).all(axis=1)]
        bound._inner = self._inner.fit(images=seen, facts=facts, uncertainty=uncertainty)
        return bound

    def finish(self, columns: Mapping[str, npt.NDArray[np.floating]], centres_um: npt.NDArray[np.floating]) -> Columns:
        """As `Predictor.finish`."""
        return self._inner.finish(columns, centres_um)

    def predict(
        self,
        features: npt.NDArray[np.floating],
        captions: Sequence[str | None],
        facts: Numbers = None,
        uncertainty: Numbers = None,
        around: Numbers = None,
    ) -> Columns:
        """Classify patches by their features, float (B, D), captions (B) and, of a model that reads
        numbers, facts (B, F), as `Predictor.predict`; so are the columns.

        Rows of features that are not finite (patches that could not be read) are NaN.

        Raises
        ------
        ModelError
            If shapes or lengths do not match.
        """
        config = self._inner.model.config
        assert isinstance(config.image, FeatureBranchConfig)
        x = np.asarray(features, dtype=np.float32)
        if x.ndim != 2 or x.shape[1] != config.image.width or len(captions) != len(x):
            raise ModelError(
                f"model {config.name}: takes features of {config.image.name}, (B, {config.image.width}), and B "
                f"captions, got {x.shape} and {len(captions)}."
            )
        finite = np.asarray(np.isfinite(x).all(axis=1))
        whole = np.where(finite[:, np.newaxis], x, np.float32(0))
        columns = self._inner.run(whole, captions, facts, uncertainty, around)
        for values in columns.values():
            values[~finite] = np.nan
        return columns
