"""What the patches around a patch add to its prediction: mean logits of both branches over the field and the slide.

A tumour is larger than a patch, so the prediction of a patch gains from those around it. This is the last step of a
fusion of revision 2, after all patches of a slide have been predicted by themselves. NumPy only. Axes: N patches of one
slide, C classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.models.config import FieldTermsConfig
from wsikit.models.field_context import field_means

Floats = npt.NDArray[np.float64]

TERMS = ("image", "text", "image_slide", "text_slide")
"""In the order of `terms`, and of the weights."""

_LEAST = 1e-7


def logits_of(probs: npt.NDArray[np.floating]) -> Floats:
    """Centred logits (N, C) of probabilities, NaN where these are.

    >>> logits_of(np.array([[0.5, 0.5]])).tolist()
    [[0.0, 0.0]]
    """
    logs = np.log(np.clip(np.asarray(probs, dtype=np.float64), _LEAST, None))
    centred: Floats = logs - logs.mean(axis=1, keepdims=True)
    return centred


def terms(
    image: npt.NDArray[np.floating],
    text: npt.NDArray[np.floating],
    gate: npt.NDArray[np.floating],
    centres_um: npt.NDArray[np.floating],
    sd_um: float,
) -> Floats:
    """The terms before they are weighted, (N, 4, C), in the order of `TERMS`.

    Parameters
    ----------
    image, text
        Probabilities (N, C) of each branch, NaN where a patch has no prediction, or no caption.
    gate
        (N,), the weight of each caption: a caption that does not fit its image does not count for its neighbours.
    centres_um
        (N, 2).
    sd_um
        Standard deviation of the field, µm.
    """
    z_v, z_t = logits_of(image), logits_of(text) * np.asarray(gate, dtype=np.float64)[:, None]
    n, c = z_v.shape
    found = np.zeros((n, len(TERMS), c))
    for place, z in enumerate((z_v, z_t)):
        known = np.isfinite(z).all(axis=1)
        if known.any():
            found[:, place] = np.nan_to_num(field_means(np.where(known[:, None], z, np.nan), centres_um, sd_um))
            found[:, 2 + place] = z[np.flatnonzero(known)].mean(axis=0)
    return found


def with_field(
    config: FieldTermsConfig,
    image: npt.NDArray[np.floating],
    text: npt.NDArray[np.floating],
    gate: npt.NDArray[np.floating],
    centres_um: npt.NDArray[np.floating],
) -> npt.NDArray[np.float32]:
    """Fused probabilities of the patches of one slide, with what the patches around add, float32 (N, C).

    A patch without caption has the image's, NaN without prediction. Parameters as for `terms`.

    Examples
    --------
    >>> config = FieldTermsConfig(sd_um=1000.0, image=1.0, text=0.0, image_slide=0.0, text_slide=0.0)
    >>> probs = np.array([[0.5, 0.5], [0.1, 0.9]])
    >>> centres = np.array([[0.0, 0.0], [100.0, 0.0]])
    >>> with_field(config, probs, probs, np.ones(2), centres).argmax(axis=1).tolist()
    [1, 1]
    """
    weights = np.array([getattr(config, name) for name in TERMS])
    added = np.einsum("t,ntc->nc", weights, terms(image, text, gate, centres_um, config.sd_um))
    found = softmax(fused_logits(image, text, gate) + added)
    alone = np.isnan(np.asarray(text)).any(axis=1, keepdims=True)
    return np.where(alone, image, found).astype(np.float32)


def fused_logits(
    image: npt.NDArray[np.floating], text: npt.NDArray[np.floating], gate: npt.NDArray[np.floating]
) -> Floats:
    """Centred logits (N, C) of the fusion of each patch by itself, z_v + g·(z_t − z_v); parameters as for `terms`."""
    z_v, z_t = logits_of(image), logits_of(text)
    return z_v + np.asarray(gate, dtype=np.float64)[:, None] * (z_t - z_v)


def softmax(logits: Floats) -> Floats:
    """Probabilities (N, C) of logits."""
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Floats = exponent / exponent.sum(axis=1, keepdims=True)
    return found
