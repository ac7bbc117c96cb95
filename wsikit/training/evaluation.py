"""Evaluation of a trained model: fused, each branch alone, without captions and with shuffled captions.

The last two are control conditions: the gain from the text must vanish if the captions are removed or shuffled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.models.mmlnb import MMLNB
from wsikit.training.baselines import colour_histogram, fit_histogram_baseline, fit_text_baseline
from wsikit.training.calibration import at_temperature
from wsikit.training.data import PatchSet
from wsikit.training.forward import Outputs, outputs_of, softmax
from wsikit.training.report import report

FUSED = "fused"


@dataclass(frozen=True)
class Evaluation:
    """Metrics and outputs of a model."""

    record: dict[str, Any]
    """By condition (see `evaluate_model`): the levels of `report`, and the mean gate."""
    outputs: Outputs
    """Outputs of the fused model, one row per patch."""


def evaluate_model(
    model: MMLNB,
    data: PatchSet,
    *,
    classes: Sequence[str],
    n_ordinal: int,
    temperature: float | None = None,
    training: PatchSet | None = None,
    seed: int = 0,
) -> Evaluation:
    """Evaluate `model` on `data`.

    Parameters
    ----------
    temperature
        Fitted on the validation set; the calibrated probabilities are reported as well.
    training
        Training data of the baselines (colours only, words only). Default: no baselines.
    """
    captions = any(data.captions)
    whole = outputs_of(model, data)
    ways: dict[str, npt.NDArray[np.floating]] = {FUSED: whole.probs, "image alone": softmax(whole.logits_image)}
    gates = {FUSED: float(whole.gate.mean())}
    if temperature is not None:
        ways["fused, calibrated"] = at_temperature(whole.probs, temperature)
    if captions:
        order = np.random.default_rng(seed).permutation(len(data))
        silent = outputs_of(model, data.with_captions([""] * len(data)))
        others = outputs_of(model, data.with_captions([data.captions[row] for row in order]))
        ways |= {"without captions": silent.probs, "with others' captions": others.probs}
        gates |= {"without captions": float(silent.gate.mean()), "with others' captions": float(others.gate.mean())}
        if np.isfinite(whole.logits_text).all():
            ways["text alone"] = softmax(whole.logits_text)
    if training is not None:
        ways |= baseline_probs(training, data, len(classes))
    record = {
        name: {**report(data, probs, classes=classes, n_ordinal=n_ordinal), "gate": gates.get(name)}
        for name, probs in ways.items()
    }
    return Evaluation(record, whole)


def baseline_probs(training: PatchSet, data: PatchSet, n_classes: int) -> dict[str, npt.NDArray[np.floating]]:
    """Probabilities (N, C) of the baselines: colours only; words only, as the model reads them and as written.

    If words as written predict the class much better than as read, the captions name the class and must be scrubbed.
    """
    found = {}
    colours = fit_histogram_baseline(training.images, training.labels)
    found["floor: colour histogram"] = _spread(colours, colour_histogram(data.images), n_classes)
    if any(training.captions):
        for name, scrubbed in (("floor: words, as the model reads them", True), ("floor: words, as written", False)):
            words = fit_text_baseline(training.captions, training.labels, scrubbed=scrubbed)
            found[name] = _spread(words, list(data.captions), n_classes)
    return found


def _spread(fitted: Any, inputs: Any, n_classes: int) -> npt.NDArray[np.floating]:
    """(N, C), with zeros for classes that did not occur in training."""
    probs = np.zeros((len(inputs), n_classes))
    probs[:, fitted.classes_] = fitted.predict_proba(inputs)
    return probs
