"""From labelled patches to a concept head: scores of the concepts, linear layer, temperature, detector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.models.concept_attention import ConceptAttention
from wsikit.models.concept_config import ConceptHeadConfig
from wsikit.models.concept_criteria import Criteria
from wsikit.models.concept_head import ATTENTION, ConceptHead, set_scores
from wsikit.models.concept_scores import knots_of
from wsikit.models.model_folder import joined_notice
from wsikit.models.ood import OodDetector
from wsikit.models.protocol import PROBABILITY
from wsikit.training.calibration import fit_temperature
from wsikit.training.concepts.anchors import anchors_of
from wsikit.training.concepts.attend import scores_of_tokens, train_attention
from wsikit.training.concepts.config import ConceptTrainConfig
from wsikit.training.concepts.data import ConceptData, words_of_labels
from wsikit.training.concepts.linear import LinearFit, fit_layer
from wsikit.training.concepts.predictors import fit_predictors
from wsikit.training.priors import prevalence

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FittedHead:
    """The head, and how it was chosen."""

    head: ConceptHead
    selection: dict[str, Any]
    notes: tuple[str, ...]


def fit_head(
    config: ConceptTrainConfig,
    criteria: Criteria,
    training: ConceptData,
    validation: ConceptData,
    *,
    device: str = "auto",
    on_epoch: Callable[[int, float, float], None] = lambda epoch, loss, accuracy: None,
) -> FittedHead:
    """Fit a concept head; temperature and detector come from the validation part."""
    settings, c = config.concepts, len(config.codes)
    selection: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    if settings.mode == "attend":
        arrays, selection = _attend(config, criteria, training, validation, device, on_epoch)
    else:
        arrays, scores = _bottleneck_scores(config, criteria, training, device, selection)
        truth = set_scores(scores, training.concepts, np.eye(criteria.n_options), criteria.columns)
        layer = fit_layer(
            scores, truth, training.patches.labels, training.patches.groups,
            n_classes=c, settings=settings.layer, seed=config.seed,
        )  # fmt: skip
        selection |= layer.selection
        notes = layer.notes
        arrays |= {"weight": layer.weight, "bias": layer.bias, "set_to": np.eye(criteria.n_options)}
        arrays["centre"] = scores.mean(axis=0)
    about = _about(config, criteria, training)
    plain = ConceptHead(about, arrays)
    temperature = fit_temperature(
        validation.patches.labels, plain.columns_of(scores_of(plain, validation))[PROBABILITY].astype(np.float64)
    )
    detector = None
    if config.ood and training.encoder is not None and settings.attend.token_side is None:
        detector, fault = OodDetector.fit_if_enough(training.inputs, validation.inputs)
        notes += (fault,) if fault else ()
    head = ConceptHead(about.model_copy(update={"temperature": temperature}), arrays, ood=detector)
    return FittedHead(head, selection, notes)


def scores_of(head: ConceptHead, data: ConceptData) -> Floats:
    """Scores (N, S) of patches, before any concept is set."""
    side = head.config.token_side
    inputs = data.inputs if side is None else tokens_of(data.inputs, side)
    return head.scores(inputs, data.uncertainty)


def tokens_of(inputs: npt.NDArray[np.float32], side: int | None) -> npt.NDArray[np.float32]:
    """Tokens (N, T, D) of what was loaded, (N, T · D)."""
    return inputs.reshape(len(inputs), 1 if side is None else side**2, -1)


def _bottleneck_scores(
    config: ConceptTrainConfig, criteria: Criteria, training: ConceptData, device: str, selection: dict[str, Any]
) -> tuple[dict[str, Any], Floats]:
    """Arrays of the scores, and scores of the training patches, on which the linear layer is fitted."""
    kind, seed = config.concepts.scores, config.seed
    s, c = criteria.n_options, len(config.codes)
    empty = {"weight": np.zeros((s, c)), "bias": np.zeros(c), "set_to": np.eye(s)}
    centre = np.concatenate([np.full(len(axis.options), 1 / len(axis.options)) for axis in criteria.axes.values()])
    if kind == "learned":
        arrays, unseen, chosen = fit_predictors(
            training.inputs, training.concepts, training.patches.groups, criteria,
            folds=config.concepts.linear.folds, seed=seed,
        )  # fmt: skip
        selection["predictors"] = chosen
        return arrays, unseen
    if kind == "text":
        assert config.image is not None
        places, scale, _ = anchors_of(criteria, config.image.features, device=device)
        arrays = {"places": places, "logit_scale": np.array([scale])}
    else:
        columns = {name: column for column, name in enumerate(criteria.facts)}
        knots = [
            knots_of(training.inputs[:, columns[str(axis.fact)]].astype(np.float64), axis)
            for axis in criteria.axes.values()
        ]
        arrays = {"knots": np.concatenate(knots)}
        # scores where a fact is missing: their mean over the training patches where it is not
        first = ConceptHead(_about(config, criteria, training), {**empty, **arrays, "centre": np.full(s, np.nan)})
        centre = np.nan_to_num(np.nanmean(first.scores(training.inputs, training.uncertainty), axis=0))
    head = ConceptHead(_about(config, criteria, training), {**empty, **arrays, "centre": centre})
    return arrays, head.scores(training.inputs, training.uncertainty)


def _attend(
    config: ConceptTrainConfig,
    criteria: Criteria,
    training: ConceptData,
    validation: ConceptData,
    device: str,
    on_epoch: Callable[[int, float, float], None],
) -> tuple[dict[str, Any], dict[str, Any]]:
    settings = config.concepts.attend
    places, _, fingerprint = anchors_of(criteria, settings.anchors, device=device)
    parts = [
        (tokens_of(part.inputs, settings.token_side), part.patches.labels, part.concepts)
        for part in (training, validation)
    ]
    found = train_attention(
        parts[0], parts[1], criteria, places, settings, n_classes=len(config.codes), seed=config.seed, on_epoch=on_epoch
    )
    arrays: dict[str, Any] = {
        ATTENTION + name: values.detach().cpu().numpy() for name, values in _state(found.attention).items()
    }
    scores = scores_of_tokens(found.attention, parts[0][0])
    arrays |= {"weight": found.weight, "bias": found.bias, "set_to": found.set_to, "centre": scores.mean(axis=0)}
    chosen = found.selection | {"anchors": settings.anchors, "anchors_fingerprint": fingerprint}
    if settings.refit:
        layer = _refitted(config, criteria, training, scores, found.set_to)
        arrays |= {"weight": layer.weight, "bias": layer.bias}
        chosen["layer"] = layer.selection
    return arrays, chosen


def _refitted(
    config: ConceptTrainConfig, criteria: Criteria, training: ConceptData, scores: Floats, set_to: Floats
) -> LinearFit:
    """The sparse layer on standardised scores, for the scores as they are."""
    mean, scale = scores.mean(axis=0), np.maximum(scores.std(axis=0), 1e-9)
    truth = set_scores(scores, training.concepts, set_to, criteria.columns)
    layer = fit_layer(
        (scores - mean) / scale, (truth - mean) / scale, training.patches.labels, training.patches.groups,
        n_classes=len(config.codes), settings=config.concepts.layer, seed=config.seed,
    )  # fmt: skip
    weight = layer.weight / scale[:, None]
    return replace(layer, weight=weight, bias=layer.bias - mean @ weight)


def _state(attention: ConceptAttention) -> dict[str, Any]:
    return dict(attention.state_dict())


def _about(config: ConceptTrainConfig, criteria: Criteria, data: ConceptData) -> ConceptHeadConfig:
    settings, encoder = config.concepts, data.encoder
    return ConceptHeadConfig(
        name=config.name,
        version=config.version,
        classes=config.codes,
        class_names=tuple(c.name or c.code for c in config.classes),
        colors=config.colors,
        background=config.background,
        mpp=round(data.mpp, 6),
        patch_px=config.data.patch_px,
        stain=config.data.stain,
        notice=joined_notice(config.notice, encoder),
        captioner=settings.captioner,
        mode=settings.mode,
        scores=settings.scores,
        criteria=criteria,
        stated=settings.facts == "captions",
        maps=dict(data.maps),
        labels=words_of_labels(settings.labels),
        encoder=encoder,
        token_side=settings.attend.token_side if settings.mode == "attend" else None,
        width=settings.attend.width,
        heads=settings.attend.heads,
        anchors=settings.attend.anchors if settings.mode == "attend" else "",
        temperature=1.0,
        prior=prevalence(data.patches.labels, len(config.codes)),
        balanced=settings.linear.class_weights == "balanced" and settings.mode == "bottleneck",
    )
