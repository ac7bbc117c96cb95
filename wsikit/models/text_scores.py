"""Scores of patches for texts, in the space that images and texts share. NumPy only.

A concept's place is the mean of the places of its prompts, each of length 1; its score is the softmax, at the scale
that the encoder was trained with, over the concept and its competitors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from wsikit.errors import ModelError, RequestError

Floats = npt.NDArray[np.float64]
Similarity = Literal["cosine", "dot"]
SIMILARITIES: tuple[str, ...] = get_args(Similarity)


def concept_places(groups: Sequence[npt.NDArray[np.floating]]) -> Floats:
    """Places of K concepts, float64 (K, S), each of length 1.

    Parameters
    ----------
    groups
        Per concept the places of its prompts, (n, S); their order changes nothing but the last digits.

    Raises
    ------
    ModelError
        A text has no place (not finite, or of length 0), or the prompts of a concept cancel out.

    >>> concept_places([np.array([[2.0, 0.0], [0.0, 5.0]])]).round(3).tolist()
    [[0.707, 0.707]]
    """
    return np.stack(
        [_unit(_unit(group, "a prompt").mean(axis=0)[None], "the prompts of a concept")[0] for group in groups]
    )


def similarities(features: npt.ArrayLike, places: npt.ArrayLike, *, similarity: str = "cosine") -> Floats:
    """Similarity of N patches, (N, S), with K concepts, (K, S): float64 (N, K). A row with a NaN stays NaN.

    "dot": the raw scalar product, as the code of AFLoc has it; it grows with the length of a patch's vector.

    >>> similarities([[3.0, 4.0], [np.nan, 0.0]], [[1.0, 0.0]]).tolist()
    [[0.6], [nan]]
    """
    if similarity not in SIMILARITIES:
        raise RequestError(f"similarity {similarity!r}: choose one of {', '.join(SIMILARITIES)}")
    vectors = np.asarray(features, dtype=np.float64)
    texts = np.asarray(places, dtype=np.float64)
    if vectors.ndim != 2 or vectors.shape[1] != texts.shape[1]:
        raise ModelError(
            f"features of shape {vectors.shape} and texts of shape {texts.shape} do not share a space: other encoders"
        )
    if similarity == "cosine":
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.where(length > 0, length, np.nan)
    with np.errstate(invalid="ignore"):
        return np.asarray(vectors @ texts.T)


def probabilities(scores: npt.ArrayLike, logit_scale: float) -> Floats:
    """Softmax over the concepts (last axis) at `logit_scale`; rows sum to 1, a row with a NaN stays NaN.

    >>> probabilities([[0.5, 0.5]], 100.0).tolist()
    [[0.5, 0.5]]
    """
    if not (np.isfinite(logit_scale) and logit_scale > 0):
        raise RequestError(f"scale of the logits {logit_scale}: expected a positive number")
    logits = np.asarray(scores, dtype=np.float64) * logit_scale
    missing = np.isnan(logits).any(axis=-1, keepdims=True)
    logits = np.where(missing, 0.0, logits)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.where(missing, np.nan, powers / powers.sum(axis=-1, keepdims=True))


def log_odds(scores: npt.ArrayLike, logit_scale: float) -> Floats:
    """Log odds of each concept against all others (last axis) at `logit_scale`: `probabilities` before the sigmoid.
    They tell patches apart whose probabilities are all 1 or 0 in floating point. A row with a NaN stays NaN.

    >>> log_odds([[0.9, 0.1], [0.5, 0.5]], 100.0).round(6).tolist()
    [[80.0, -80.0], [0.0, 0.0]]
    """
    if not (np.isfinite(logit_scale) and logit_scale > 0):
        raise RequestError(f"scale of the logits {logit_scale}: expected a positive number")
    logits = np.asarray(scores, dtype=np.float64) * logit_scale
    found = [
        logits[..., k] - np.logaddexp.reduce(np.delete(logits, k, axis=-1), axis=-1) for k in range(logits.shape[-1])
    ]
    return np.stack(found, axis=-1)


def _unit(vectors: npt.ArrayLike, what: str) -> Floats:
    found = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(found, axis=-1, keepdims=True)
    if not (np.isfinite(length).all() and (length > 0).all()):
        raise ModelError(f"{what} has no place in the space of the encoder: its vector is not finite, or 0.")
    return np.asarray(found / length)
