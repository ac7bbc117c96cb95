"""Evaluation of a trained model: fused, each branch alone, means of both, without captions and with shuffled captions.

The last two are control conditions: the gain from the text must vanish if the captions are removed or shuffled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.models.mmlnb import MMLNB
from wsikit.models.protocol import IMAGE, PROBABILITY, TEXT, PatchModel
from wsikit.training.baselines import (
    colour_histogram,
    fit_histogram_baseline,
    fit_on_histograms,
    fit_text_baseline,
    spread,
)
from wsikit.training.calibration import at_temperature
from wsikit.training.data import PatchSet
from wsikit.training.forward import Outputs, outputs_of, softmax
from wsikit.training.report import report
from wsikit.training.rivals import ON_FACTS, ON_FIELD, TITLES, Rivals, mean_of_logits

FUSED, IMAGE_ALONE = "fused", "image alone"
COLOURS = "floor: colour histogram"

_BATCH = 64


@dataclass(frozen=True)
class Evaluation:
    """Metrics and outputs of a model."""

    record: dict[str, Any]
    """By condition (see `evaluate_model`): the levels of `report`, and the mean gate."""
    outputs: Outputs
    """Outputs of the fused model, one row per patch."""
    ways: Mapping[str, npt.NDArray[np.floating]]
    """Probabilities (N, C) by condition."""


def evaluate_model(
    model: MMLNB,
    data: PatchSet,
    *,
    classes: Sequence[str],
    n_ordinal: int,
    temperature: float | None = None,
    training: PatchSet | None = None,
    facts: tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Evaluate `model` on `data`: fused, each branch alone, the means of both branches, and the control conditions.

    Parameters
    ----------
    temperature
        Fitted on the validation set; the calibrated probabilities are reported as well.
    training
        Training data of the baselines (colours only, words only). Default: no baselines.
    facts
        Measured facts (N, F) of `training` and of `data`, for the rivals on facts. Default: none of these rivals.
    """
    whole = outputs_of(model, data)
    image = softmax(whole.logits_image)
    ways: dict[str, npt.NDArray[np.floating]] = {FUSED: whole.probs, IMAGE_ALONE: image}
    gates = {FUSED: float(whole.gate.mean())}
    if temperature is not None:
        ways["fused, calibrated"] = at_temperature(whole.probs, temperature)
    if any(data.captions):
        order = np.random.default_rng(seed).permutation(len(data))
        silent = outputs_of(model, data.with_captions([""] * len(data)))
        others = outputs_of(model, data.captioned_as(order))
        ways |= {"without captions": silent.probs, "with others' captions": others.probs}
        gates |= {"without captions": float(silent.gate.mean()), "with others' captions": float(others.gate.mean())}
        text = softmax(whole.logits_text)
        if np.isfinite(text).all():
            ways["text alone"] = text
        there = np.where(np.isfinite(text), text, image)  # without a caption, the image alone
        ways |= {"mean of both": (image + there) / 2, "mean of both, logits": mean_of_logits(image, there)}
    if training is not None:
        ways |= baseline_probs(training, data, len(classes))
        if COLOURS in ways:
            ways[TITLES["image_and_colours"]] = mean_of_logits(image, ways[COLOURS])
        if facts is not None and np.isfinite(facts[0]).any():
            rivals = Rivals(training, data, len(classes), seed, image=image, facts=facts)
            in_field = training.around is not None and data.around is not None
            on_facts = [name for name in TITLES if name in ON_FACTS and (in_field or name not in ON_FIELD)]
            ways |= {TITLES[name]: rivals.probs(name) for name in on_facts}
    record = {
        name: {**report(data, probs, classes=classes, n_ordinal=n_ordinal), "gate": gates.get(name)}
        for name, probs in ways.items()
    }
    return Evaluation(record, whole, ways)


def baseline_probs(training: PatchSet, data: PatchSet, n_classes: int) -> dict[str, npt.NDArray[np.floating]]:
    """Probabilities (N, C) of the baselines: colours only; words only, as the model reads them and as written.

    If words as written predict the class much better than as read, the captions name the class and must be scrubbed.
    """
    found: dict[str, npt.NDArray[np.floating]] = {}
    if training.images.ndim == 4:
        colours = fit_histogram_baseline(training.images, training.labels)
        found[COLOURS] = spread(colours, colour_histogram(data.images), n_classes)
    else:
        linear = fit_on_histograms(training.images, training.labels)
        found["floor: linear, on the features"] = spread(linear, data.images, n_classes)
    if any(training.captions):
        for name, scrubbed in (("floor: words, as the model reads them", True), ("floor: words, as written", False)):
            words = fit_text_baseline(training.captions, training.labels, scrubbed=scrubbed)
            found[name] = spread(words, list(data.captions), n_classes)
    return found


@dataclass(frozen=True)
class PatchModelEvaluation:
    """Metrics and outputs of any model of patches."""

    record: dict[str, Any]
    """By condition: "fused" (the model as it is), and for a model that reads text "without captions" and "with others'
    captions"."""
    probs: npt.NDArray[np.floating]
    """(N, C)"""
    gate: npt.NDArray[np.floating]
    """(N,): weight of the text, as far as the model gives it; else 0."""
    ways: Mapping[str, npt.NDArray[np.floating]]
    """Probabilities (N, C) by condition."""


def evaluate_patch_model(
    model: PatchModel, data: PatchSet, *, classes: Sequence[str], n_ordinal: int, seed: int = 0
) -> PatchModelEvaluation:
    """Evaluate any `PatchModel` on labelled patches.

    Raises
    ------
    RequestError
        If it reads stored features, which labelled patches do not have, or facts, or depends on the slide.
    """
    info = model.info
    if info.feature_columns:
        raise RequestError(
            f"model {info.name}: reads stored features ({', '.join(info.feature_columns)}); labelled images have none. "
            "Give a configuration with a section head, which says where they are."
        )
    if info.facts or info.fits_to:
        raise RequestError(
            f"model {info.name}: reads measured facts, or depends on the slide, and is not an MMLNB; such a model is "
            "evaluated on the predictions of stores (wsikit predict)."
        )
    whole = _predictions(model, data, list(data.captions))
    ways = {FUSED: whole}
    if TEXT in info.inputs and any(data.captions):
        order = np.random.default_rng(seed).permutation(len(data))
        ways["without captions"] = _predictions(model, data, [""] * len(data))
        ways["with others' captions"] = _predictions(model, data, [data.captions[row] for row in order])
    record = {
        name: {
            **report(data, columns[PROBABILITY], classes=classes, n_ordinal=n_ordinal),
            "gate": float(columns["gate"].mean()) if "gate" in columns else None,
        }
        for name, columns in ways.items()
    }
    probs = {name: columns[PROBABILITY] for name, columns in ways.items()}
    return PatchModelEvaluation(record, whole[PROBABILITY], whole.get("gate", np.zeros(len(data))), probs)


def _predictions(model: PatchModel, data: PatchSet, captions: list[str]) -> dict[str, npt.NDArray[np.float64]]:
    """The columns of a model for all patches, batch by batch."""
    inputs = model.info.inputs
    parts: list[Mapping[str, npt.NDArray[np.floating]]] = []
    for first in range(0, len(data), _BATCH):
        rows = slice(first, first + _BATCH)
        batch: dict[str, Any] = {}
        if IMAGE in inputs:
            batch["images"] = data.images[rows]
        if TEXT in inputs:
            batch["captions"] = [text or None for text in captions[rows]]
        parts.append(model.predict(**batch))
    return {name: np.concatenate([np.asarray(part[name], np.float64) for part in parts]) for name in parts[0]}
