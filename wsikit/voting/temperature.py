"""Temperature scaling of probabilities. NumPy only; `wsikit.training.calibration` fits the temperature."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def at_temperature(probs: npt.NDArray[np.floating], temperature: float) -> npt.NDArray[np.float64]:
    """`probs` (N, C) softened (temperature above 1) or sharpened (below 1); the ranking of the classes is kept.

    >>> at_temperature(np.array([[0.9, 0.1]]), 2.0).round(3).tolist()
    [[0.75, 0.25]]
    """
    scaled = np.log(np.maximum(np.asarray(probs, dtype=np.float64), 1e-12)) / temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))
