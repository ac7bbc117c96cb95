"""`wsikit train` and `wsikit evaluate` for concept heads: from a configuration to a model folder, metrics, figures.

OUT holds config.yaml, splits.json, model/, metrics.json and figures/.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from wsikit.errors import RequestError
from wsikit.models.concept_criteria import UNKNOWN, Criteria, read_criteria
from wsikit.models.concept_head import ConceptHead
from wsikit.models.concept_setting import CONCEPT_COLUMN
from wsikit.models.config import METRICS_FILE
from wsikit.models.head_kind import save_head
from wsikit.models.protocol import PROBABILITY
from wsikit.store.atomic import write_json
from wsikit.training.baselines import fit_on_histograms, floors_of, spread
from wsikit.training.concepts.card import concept_card
from wsikit.training.concepts.checks import concept_agreement, interventions
from wsikit.training.concepts.config import ConceptTrainConfig
from wsikit.training.concepts.data import ConceptData, chosen_axes, load_concept_data
from wsikit.training.concepts.fit import fit_head, scores_of, tokens_of
from wsikit.training.figures import save_figures
from wsikit.training.heads.data import Load, OnDone
from wsikit.training.heads.run import versions_of_head
from wsikit.training.priors import prior_metrics, shift_of
from wsikit.training.report import level_report
from wsikit.training.run_record import (
    check_no_results,
    check_out,
    patients_of,
    rows_to_evaluate,
    split_line,
    split_of,
    without_ids,
    without_places,
)
from wsikit.training.splits import TEST, TRAIN, VALIDATION
from wsikit.voting.prior import AUTO

WAY, ALL_SET = "through concepts", "all concepts set to the truth"
ORACLE, ON_INPUTS = "rival: classifier on the true concepts", "rival: linear, on the same inputs"

Probs = npt.NDArray[np.floating]


@dataclass(frozen=True)
class ConceptCallbacks:
    """Functions that a run calls to report its progress."""

    message: Callable[[str], None] = lambda text: None
    """Called with one line of text."""
    encoded: OnDone = lambda done, total: None
    """Called with the number of images that the encoder has done, and the total."""
    epoch: Callable[[int, float, float], None] = lambda epoch, loss, accuracy: None
    """Called after an epoch of mode attend: its number from 0, loss, balanced accuracy on the validation part."""


def run_concept_training(
    config: ConceptTrainConfig,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    threads: int = 1,
    load: Load | None = None,
    callbacks: ConceptCallbacks | None = None,
) -> dict[str, Any]:
    """Train a concept head, then evaluate it once on the test part; return the metrics as written.

    Parameters
    ----------
    out
        New folder. With `resume`, an existing split in it is used.
    device, load
        As for `wsikit.training.heads.data.load_features`.

    Raises
    ------
    RequestError
        If `out` holds a finished run, or an unfinished one and `resume` is False; if the data do not fit.
    """
    callbacks = callbacks or ConceptCallbacks()
    check_out(out, resume)
    criteria = chosen_axes(read_criteria(config.concepts.criteria), config, callbacks.message)
    data = load_concept_data(config, criteria, device=device, load=load, on_done=callbacks.encoded)
    callbacks.message(data.words)
    out.mkdir(parents=True, exist_ok=True)
    parts, record = split_of(config, data.patches, out)
    callbacks.message(split_line(config.data.group, data.patches, parts))
    training, validation, test = (data.select(parts[name]) for name in (TRAIN, VALIDATION, TEST))
    begun = time.perf_counter()
    with threadpool_limits(threads):
        fitted = fit_head(config, criteria, training, validation, device=device, on_epoch=callbacks.epoch)
        rivals = _rivals(config, criteria, training, test)
    seconds = time.perf_counter() - begun
    for note in fitted.notes:
        callbacks.message(note)
    results = evaluate_concepts(fitted.head, test, config, rivals)
    probs = fitted.head.columns_of(scores_of(fitted.head, test))[PROBABILITY]
    encoder = None if data.encoder is None else data.encoder.model_dump()
    metrics = {
        "settings": without_places(config),
        "data": data.words,
        "encoder": encoder,
        "split": without_ids(record, config.split.fold),
        "patients": {name: patients_of(data.patches, parts[name]) for name in (TRAIN, VALIDATION)},
        "selection": fitted.selection,
        "notes": list(fitted.notes),
        "seconds": round(seconds, 2),
        "temperature": fitted.head.config.temperature,
        **results,
        "versions": versions_of_head(),
    }
    save_figures(out / "figures", test.patches.labels, probs, None, classes=config.codes)
    write_json(out / METRICS_FILE, metrics)
    save_head(fitted.head, out / "model", card=concept_card(fitted.head, metrics), metrics=metrics)
    return metrics


def run_concept_evaluation(
    model: ConceptHead,
    config: ConceptTrainConfig,
    out: Path,
    *,
    folder: Path | None = None,
    split_file: Path | None = None,
    part: str = TEST,
    fold: int = 0,
    allow_seen: bool = False,
    prior: str = AUTO,
    device: str = "auto",
    load: Load | None = None,
    callbacks: ConceptCallbacks | None = None,
) -> dict[str, Any]:
    """Evaluate a concept head on the data of a configuration, or on one part of a split: classes, concepts, and what
    changes when concepts are set to the truth.

    Raises
    ------
    RequestError
        If the model was trained on one of the patients (unless `allow_seen`), has other classes or axes, reads other
        inputs, or `out` already holds results.
    """
    callbacks = callbacks or ConceptCallbacks()
    check_no_results(out)
    info, settings = model.info, config.concepts
    own = model.config
    if info.classes != config.codes or info.patch_px != config.data.patch_px or own.scores != settings.scores:
        raise RequestError(
            f"model {info.name}: classes {info.classes} on {info.patch_px} px, scores of {own.scores}; the "
            f"configuration says {config.codes} on {config.data.patch_px} px, {settings.scores}. Give that of its "
            "training."
        )
    shift_of(info, prior)  # a prior that cannot be applied is refused before features are computed
    data = load_concept_data(config, own.criteria, device=device, load=load, on_done=callbacks.encoded)
    callbacks.message(data.words)
    if own.encoder is not None and data.encoder is not None:
        prints = {own.encoder.fingerprint, data.encoder.fingerprint} - {""}
        if (own.encoder.name, own.encoder.width) != (data.encoder.name, data.encoder.width) or len(prints) > 1:
            raise RequestError(
                f"model {info.name}: trained on features of {own.encoder.name} ({own.encoder.width} numbers), these "
                f"are of {data.encoder.name} ({data.encoder.width}), or of other weights. Give those of its training."
            )
    rows, chosen = rows_to_evaluate(
        info.name, data.patches, folder=folder, split_file=split_file, part=part, fold=fold,
        group=config.data.group, allow_seen=allow_seen, message=callbacks.message,
    )  # fmt: skip
    data = data.select(rows)
    results = evaluate_concepts(model, data, config, {})
    probs = model.columns_of(scores_of(model, data))[PROBABILITY]
    metrics = {
        "model": {"name": info.name, "fingerprint": info.fingerprint},
        "data": data.words,
        "patches": len(data),
        **chosen,
        "results": results.pop("test"),
        **results,
        "prior": prior_metrics(info, data.patches.labels, probs, data.patches.groups, asked=prior),
        "versions": versions_of_head(),
    }
    out.mkdir(parents=True, exist_ok=True)
    save_figures(out / "figures", data.patches.labels, probs, None, classes=config.codes)
    write_json(out / METRICS_FILE, metrics)
    return metrics


def evaluate_concepts(
    head: ConceptHead, data: ConceptData, config: ConceptTrainConfig, rivals: dict[str, Probs]
) -> dict[str, Any]:
    """`test`: metrics of the classes by way; `concepts`: agreement with the truth by axis; `interventions`: accuracy
    by number of axes that are set to the truth."""
    scores, labels, groups = scores_of(head, data), data.patches.labels, data.patches.groups
    found = head.columns_of(scores)
    ways: dict[str, Probs] = {WAY: found[PROBABILITY]}
    if (data.concepts != UNKNOWN).any():
        ways[ALL_SET] = head.columns_of(scores, data.concepts)[PROBABILITY]
    ways |= rivals
    shown = np.concatenate([found[CONCEPT_COLUMN + key] for key in head.config.criteria.axes], axis=1)
    return {
        "test": {name: level_report(config, data.patches, probs) for name, probs in ways.items()},
        "concepts": concept_agreement(head.config.criteria, shown.astype(np.float64), data.concepts, labels, groups),
        "interventions": interventions(head, scores, data.concepts, labels) if ALL_SET in ways else [],
    }


def one_hot(concepts: npt.NDArray[np.int64], criteria: Criteria) -> npt.NDArray[np.float64]:
    """True options (N, K) as columns (N, S); 0 throughout an axis whose option is not known."""
    found = np.zeros((len(concepts), criteria.n_options))
    for axis, columns in enumerate(criteria.columns):
        rows = np.flatnonzero(concepts[:, axis] >= 0)
        found[rows, columns.start + concepts[rows, axis]] = 1
    return found


def _rivals(
    config: ConceptTrainConfig, criteria: Criteria, training: ConceptData, test: ConceptData
) -> dict[str, Probs]:
    """Probabilities of what the head is compared with: true concepts, the inputs without concepts, floors."""
    from sklearn.linear_model import LogisticRegression

    labels, c = training.patches.labels, len(config.codes)
    found: dict[str, Probs] = {}
    if (training.concepts != UNKNOWN).any():
        oracle = LogisticRegression(C=10.0, max_iter=2000).fit(one_hot(training.concepts, criteria), labels)
        found[ORACLE] = spread(oracle, one_hot(test.concepts, criteria), c)
    filled = [_numbers(part, config) for part in (training, test)]
    middle = np.nan_to_num(np.nanmean(filled[0], axis=0))
    seen, asked = (np.where(np.isfinite(part), part, middle) for part in filled)
    found[ON_INPUTS] = spread(fit_on_histograms(seen, labels), asked, c)
    return found | floors_of(labels, (training.colours, test.colours), len(test), c)


def _numbers(data: ConceptData, config: ConceptTrainConfig) -> npt.NDArray[np.floating]:
    """What a classifier without concepts reads: facts, features, or the mean of the tokens."""
    if config.concepts.scores == "facts":
        return data.inputs
    side = config.concepts.attend.token_side if config.concepts.mode == "attend" else None
    mean: npt.NDArray[np.floating] = tokens_of(data.inputs, side).mean(axis=1)
    return mean
