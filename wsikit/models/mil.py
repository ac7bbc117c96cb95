"""A model trained on slide labels, in NumPy: patch logits, attention, and the slide that follows from them.

Prediction on stored features imports no torch. Arrays of each member, by name `<member>.<array>`; D is the width of the
features, H of the embedding, A of the attention, K of the output:

mean, scale (D,); weight1 (D, H), bias1 (H,): h = relu(W1 z + b1); v (H, A), v_bias (A,), u (H, A), u_bias (A,), w (A,):
score = w · (tanh(V h) ⊙ σ(U h)), of abmil only; weight (H, K), bias (K,); cuts, of ordered classes and survival only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ModelError
from wsikit.models.head import softmax
from wsikit.models.mil_config import ATTENTION, ATTENTION_SCORE, VALUE, MilConfig, info_of_mil
from wsikit.models.mil_pooling import evidence_scores, pooling_weights
from wsikit.models.protocol import PROBABILITY, ModelInfo
from wsikit.ordinal import ordered_classes

Floats = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[np.floating]]

AT_ONCE = 1 << 14
_LAYERS = ("mean", "scale", "weight1", "bias1", "weight", "bias")
_GATED = ("v", "v_bias", "u", "u_bias", "w")


class MilModel:
    """Patches to class probabilities and attention; see `wsikit.models.protocol.PatchModel`.

    Parameters
    ----------
    config : MilConfig
    arrays : mapping
        float32 arrays of all members; see the module.
    encode : callable, optional
        uint8 (B, P, P, 3) to float32 (B, D), of a model with its own image encoder.

    Raises
    ------
    ModelError
        If arrays are missing or of another shape.
    """

    def __init__(
        self,
        config: MilConfig,
        arrays: Arrays,
        *,
        encode: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]] | None = None,
        fingerprint: str = "",
    ) -> None:
        self.config = config
        self.arrays = {name: np.asarray(values, dtype=np.float32) for name, values in arrays.items()}
        self.encode = encode
        self.width = _checked(config, self.arrays)
        self._info = info_of_mil(config, fingerprint)

    @property
    def info(self) -> ModelInfo:
        """Description of the model."""
        return self._info

    def predict(
        self, features: npt.NDArray[np.floating] | None = None, images: npt.NDArray[np.uint8] | None = None
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Classify patches by their features, float (B, D), or by their pixels, uint8 (B, P, P, 3).

        Returns
        -------
        dict of float32 arrays
            `probability` (B, C); `attention_score` (B,); `attention` (B,), 1 for a patch by itself; for values also
            `value` (B,), whose attention-weighted sum is that of the slide. NaN where features are not finite.
        """
        if features is None:
            if self.encode is None or images is None:
                raise ModelError(f"model {self.config.name}: reads {self._info.inputs[0]}, which is not given.")
            features = self.encode(images)
        scores, logits = self.raw(features)
        found = {
            PROBABILITY: self.probabilities(logits),
            ATTENTION_SCORE: scores,
            ATTENTION: np.where(np.isfinite(scores), 1.0, np.nan),
        }
        if VALUE in {column.name for column in self._info.columns}:
            found[VALUE] = logits[:, 0]
        return {name: values.astype(np.float32) for name, values in found.items()}

    def finish(
        self, columns: Mapping[str, npt.NDArray[np.floating]], centres_um: npt.NDArray[np.floating]
    ) -> dict[str, npt.NDArray[np.floating]]:
        """`attention` (N,) of sum 1 over the slide, NaN for patches without prediction; places play no role."""
        scores = columns[ATTENTION_SCORE]
        weights = pooling_weights(scores, self.config.pooling, self.config.alpha)
        return {ATTENTION: np.where(np.isfinite(scores), weights, np.nan).astype(np.float32)}

    def raw(self, features: npt.NDArray[np.floating]) -> tuple[Floats, Floats]:
        """Attention scores (B,) and patch logits (B, K), the means over the members; NaN where features are not finite.

        For ordered classes and values K is 1. Values are in their own unit.
        """
        x = np.asarray(features, dtype=np.float32)
        if x.ndim != 2 or x.shape[1] != self.width:
            named = self.config.encoder.name if self.config.encoder else "its image encoder"
            raise ModelError(f"model {self.config.name}: takes features of {named}, (B, {self.width}), got {x.shape}.")
        scores, logits = np.full(len(x), np.nan), np.full((len(x), self.config.outputs), np.nan)
        finite = np.flatnonzero(np.isfinite(x).all(axis=1))
        for first in range(0, len(finite), AT_ONCE):
            rows = finite[first : first + AT_ONCE]
            parts = [self._member(index, x[rows]) for index in range(self.config.members)]
            logits[rows] = np.mean([part[1] for part in parts], axis=0)
            scores[rows] = np.mean([part[0] for part in parts], axis=0)
        if self.config.pooling in ("max", "alpha_beta") and len(finite):
            scores[finite] = evidence_scores(logits[finite], self.config.task, self.config.pooling)
        return scores, logits

    def probabilities(self, logits: npt.NDArray[np.floating]) -> Floats:
        """(…, C) class probabilities of the logits (B, K) of patches, or of slides."""
        z = np.asarray(logits, dtype=np.float64)
        if self.config.task == "classes":
            return softmax(z)
        if self.config.task == "ordinal":
            return ordered_classes(z - self.cuts[None])
        return ordered_classes((z - self.config.centre) / self.config.spread)

    def slide(self, features: npt.NDArray[np.floating]) -> dict[str, Any]:
        """The prediction of a slide from the features (N, D) of its patches.

        Returns
        -------
        dict
            `probability` (C,); `logits` (K,); `attention` (N,) of sum 1; `patch_probability` (N, C); of values also
            `value`.

        Raises
        ------
        ModelError
            If no patch has features.
        """
        scores, logits = self.raw(features)
        weights = pooling_weights(scores, self.config.pooling, self.config.alpha)
        if not weights.any():
            raise ModelError(f"model {self.config.name}: a slide without patches that have features.")
        pooled = weights @ np.nan_to_num(logits)
        found = {
            "probability": self.probabilities(pooled[None])[0],
            "logits": pooled,
            "attention": weights,
            "patch_probability": self.probabilities(logits),
        }
        return found | ({VALUE: float(pooled[0])} if self.config.task in ("regression", "survival") else {})

    @property
    def cuts(self) -> Floats:
        """(J,) thresholds, the mean over the members."""
        every = [self.arrays[f"{index}.cuts"] for index in range(self.config.members)]
        return np.asarray(np.mean(every, axis=0), dtype=np.float64)

    def _member(self, index: int, x: npt.NDArray[np.float32]) -> tuple[Floats, Floats]:
        """Attention scores (B,), 0 unless abmil, and logits (B, K) of one member."""

        def array(name: str) -> npt.NDArray[np.floating]:
            return self.arrays[f"{index}.{name}"]

        h = np.maximum((x - array("mean")) / array("scale") @ array("weight1") + array("bias1"), 0)
        logits = np.asarray(h @ array("weight") + array("bias"), dtype=np.float64)
        if self.config.pooling != "abmil":
            return np.zeros(len(x)), logits
        gate = 1 / (1 + np.exp(-np.clip(h @ array("u") + array("u_bias"), -80, 80)))
        return np.asarray((np.tanh(h @ array("v") + array("v_bias")) * gate) @ array("w"), np.float64), logits


def names_of(config: MilConfig) -> tuple[str, ...]:
    """Names of the arrays of one member."""
    return (*_LAYERS, *(_GATED if config.pooling == "abmil" else ()), *(("cuts",) if config.cuts else ()))


def _checked(config: MilConfig, arrays: Arrays) -> int:
    """The width of the features that the arrays read; ModelError if they do not fit the configuration."""
    wanted = {f"{member}.{name}" for member in range(config.members) for name in names_of(config)}
    if set(arrays) != wanted:
        odd = sorted(set(arrays) ^ wanted)
        raise ModelError(
            f"model {config.name}: {len(odd)} arrays missing or unknown, such as {odd[0]}. Copy the model's folder "
            "again."
        )
    if arrays["0.weight1"].ndim != 2 or (config.pooling == "abmil" and arrays["0.w"].ndim != 1):
        raise ModelError(f"model {config.name}: 0.weight1 or 0.w has another shape. Copy the model's folder again.")
    d, h = arrays["0.weight1"].shape
    width = d if config.encoder is None else config.encoder.width
    for member in range(config.members):
        shapes: dict[str, tuple[int, ...]] = {
            "mean": (width,), "scale": (width,), "weight1": (width, h), "bias1": (h,),
            "weight": (h, config.outputs), "bias": (config.outputs,),
        }  # fmt: skip
        if config.pooling == "abmil":
            a = len(arrays["0.w"])
            shapes |= {"v": (h, a), "v_bias": (a,), "u": (h, a), "u_bias": (a,), "w": (a,)}
        if config.cuts:
            shapes["cuts"] = (config.cuts,)
        for name, shape in shapes.items():
            found = arrays[f"{member}.{name}"].shape
            if found != shape:
                raise ModelError(
                    f"model {config.name}: {member}.{name} is {found}, expected {shape}. Copy the model's folder again."
                )
    return width
