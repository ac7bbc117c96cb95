"""`wsikit train` and `wsikit evaluate` for heads: from features to a model folder, metrics and figures. Torch is not
imported, unless an encoder needs it.

OUT holds config.yaml, splits.json, model/, metrics.json and figures/; and features.npz, if an encoder was run.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from wsikit._version import __version__
from wsikit.encoders.protocol import COLUMN_PREFIX
from wsikit.errors import RequestError
from wsikit.inference.applicability import MPP_TOLERANCE
from wsikit.models.config import METRICS_FILE
from wsikit.models.head import HeadModel
from wsikit.models.head_config import HeadConfig
from wsikit.models.head_kind import save_head
from wsikit.models.model_folder import joined_notice
from wsikit.models.ood import OodDetector
from wsikit.models.protocol import PROBABILITY, PatchModel
from wsikit.store.atomic import write_json
from wsikit.training.baselines import floors_of
from wsikit.training.calibration import fit_temperature
from wsikit.training.figures import save_figures
from wsikit.training.heads.card import head_card
from wsikit.training.heads.config import HeadTrainConfig, KnnSettings, LinearSettings
from wsikit.training.heads.data import FeatureSet, Load, OnDone, load_features
from wsikit.training.heads.feature_file import write_feature_file
from wsikit.training.heads.fits import Fitted
from wsikit.training.heads.knn import fit_knn
from wsikit.training.heads.linear import fit_linear
from wsikit.training.heads.mlp import fit_mlp
from wsikit.training.priors import prevalence, prior_metrics, shift_of
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

HEAD_WAY, UNCALIBRATED = "head", "head, uncalibrated"
FEATURES_FILE = "features.npz"

Probs = npt.NDArray[np.floating]


@dataclass(frozen=True)
class HeadCallbacks:
    """Functions that a run calls to report its progress."""

    message: Callable[[str], None] = lambda text: None
    """Called with one line of text."""
    encoded: OnDone = lambda done, total: None
    """Called with the number of images that the encoder has done, and the total."""


def run_head_training(
    config: HeadTrainConfig,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    threads: int = 1,
    load: Load | None = None,
    callbacks: HeadCallbacks | None = None,
) -> dict[str, Any]:
    """Train a head, then evaluate it once on the test part; return the metrics as written.

    Parameters
    ----------
    out
        New folder. With `resume`, an existing split in it is used.
    device, load
        As for `wsikit.training.heads.data.load_features`.
    threads
        Of the fit. One is fastest for fits of seconds, above all where other programs run: more wait for each other.

    Raises
    ------
    RequestError
        If `out` holds a finished run, or an unfinished one and `resume` is False; if the data do not fit.
    """
    callbacks = callbacks or HeadCallbacks()
    check_out(out, resume)
    image = config.image
    if resume and image.file is None and config.data.stores is None and (out / FEATURES_FILE).is_file():
        image = image.model_copy(update={"file": str(out / FEATURES_FILE)})
    data = load_features(
        config, image, colours=config.colour_floor, device=device, load=load, on_done=callbacks.encoded
    )
    callbacks.message(data.words)
    if data.encoder.notice:
        callbacks.message(f"{data.encoder.name}: {data.encoder.notice}")
    out.mkdir(parents=True, exist_ok=True)
    if data.computed:
        write_feature_file(out / FEATURES_FILE, data.patches.ids, data.features, data.encoder.model_dump())
    parts, record = split_of(config, data.patches, out)
    callbacks.message(split_line(config.data.group, data.patches, parts))
    begun = time.perf_counter()
    training, validation, test = (data.select(parts[name]) for name in (TRAIN, VALIDATION, TEST))
    with threadpool_limits(threads):
        fitted = _fit(config, training, validation)
        model, ood_fault = _calibrated(config, data, fitted, training, validation)
        floors = floors_of(training.patches.labels, (training.colours, test.colours), len(test), len(config.codes))
    seconds = time.perf_counter() - begun
    for note in (*fitted.notes, *([ood_fault] if ood_fault else [])):
        callbacks.message(note)
    raw = _softmax_of(model, test)
    probs = model.predict(test.features)[PROBABILITY]
    ways: dict[str, Probs] = {HEAD_WAY: probs, UNCALIBRATED: raw, **floors}
    metrics = {
        "settings": without_places(config),
        "data": data.words,
        "encoder": data.encoder.model_dump(),
        "split": without_ids(record, config.split.fold),
        "patients": {name: patients_of(data.patches, parts[name]) for name in (TRAIN, VALIDATION)},
        "parameters": sum(values.size for values in fitted.arrays.values()),
        "selection": fitted.selection,
        "notes": list(fitted.notes),
        "seconds": round(seconds, 2),
        "temperature": model.config.temperature,
        "test": {name: level_report(config, test.patches, probs) for name, probs in ways.items()},
        "versions": versions_of_head(),
    }
    save_figures(out / "figures", test.patches.labels, raw, None, classes=config.codes, calibrated=probs)
    write_json(out / METRICS_FILE, metrics)
    save_head(model, out / "model", card=head_card(model.config, metrics), metrics=metrics)
    return metrics


def run_head_evaluation(
    model: PatchModel,
    config: HeadTrainConfig,
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
    callbacks: HeadCallbacks | None = None,
) -> dict[str, Any]:
    """Evaluate a model of stored features on the data of a configuration, or on one part of a split.

    Parameters
    ----------
    folder
        The model's, whose metrics name the patients of its training.
    prior
        Class frequencies that calibration is also measured at; see `wsikit.voting.prior`.

    Raises
    ------
    RequestError
        If the model was trained on one of the patients (unless `allow_seen`), has other classes, reads other features,
        or `out` already holds results.
    """
    callbacks = callbacks or HeadCallbacks()
    check_no_results(out)
    info = model.info
    if info.classes != config.codes or info.patch_px != config.data.patch_px:
        raise RequestError(
            f"model {info.name}: classes {info.classes} on {info.patch_px} px, the configuration says {config.codes} "
            f"on {config.data.patch_px} px. Give the configuration of its training."
        )
    shift_of(info, prior)  # a prior that cannot be applied is refused before features are computed
    data = load_features(config, config.image, colours=False, device=device, load=load, on_done=callbacks.encoded)
    callbacks.message(data.words)
    _check_source(model, data)
    rows, chosen = rows_to_evaluate(
        info.name, data.patches, folder=folder, split_file=split_file, part=part, fold=fold,
        group=config.data.group, allow_seen=allow_seen, message=callbacks.message,
    )  # fmt: skip
    data = data.select(rows)
    probs = np.asarray(model.predict(features=data.features)[PROBABILITY], np.float64)
    metrics = {
        "model": {"name": info.name, "fingerprint": info.fingerprint},
        "data": data.words,
        "patches": len(data),
        **chosen,
        "results": {HEAD_WAY: level_report(config, data.patches, probs)},
        "prior": prior_metrics(info, data.patches.labels, probs, data.patches.groups, asked=prior),
        "versions": versions_of_head(),
    }
    out.mkdir(parents=True, exist_ok=True)
    save_figures(out / "figures", data.patches.labels, probs, None, classes=config.codes)
    write_json(out / METRICS_FILE, metrics)
    return metrics


def _fit(config: HeadTrainConfig, training: FeatureSet, validation: FeatureSet) -> Fitted:
    settings, c = config.head, len(config.codes)
    x, labels = training.features, training.patches.labels
    if isinstance(settings, LinearSettings):
        return fit_linear(x, labels, training.patches.groups, n_classes=c, settings=settings, seed=config.seed)
    held = (validation.features, validation.patches.labels)
    if isinstance(settings, KnnSettings):
        return fit_knn(x, labels, held, n_classes=c, settings=settings, seed=config.seed)
    return fit_mlp(x, labels, held, n_classes=c, settings=settings, seed=config.seed)


def _calibrated(
    config: HeadTrainConfig, data: FeatureSet, fitted: Fitted, training: FeatureSet, validation: FeatureSet
) -> tuple[HeadModel, str]:
    """The model with its temperature and OOD detector, both of the validation part; why it has no detector, or ""."""
    knn = isinstance(config.head, KnnSettings)
    about = HeadConfig(
        name=config.name,
        version=config.version,
        classes=config.codes,
        class_names=tuple(c.name or c.code for c in config.classes),
        colors=config.colors,
        background=config.background,
        mpp=round(data.mpp, 6),
        patch_px=config.data.patch_px,
        stain=config.data.stain,
        notice=joined_notice(config.notice, data.encoder),
        kind=config.head.kind,
        encoder=data.encoder,
        temperature=1.0,
        neighbours=fitted.neighbours if knn else None,
        metric=config.head.metric if isinstance(config.head, KnnSettings) else None,
        prior=prevalence(training.patches.labels, len(config.codes)),
        balanced=getattr(config.head, "class_weights", None) == "balanced",
    )
    plain = HeadModel(about, fitted.arrays)
    temperature = fit_temperature(validation.patches.labels, _softmax_of(plain, validation))
    about = about.model_copy(update={"temperature": temperature})
    detector, fault = None, ""
    if config.ood:
        detector, fault = OodDetector.fit_if_enough(training.features, validation.features)
    return HeadModel(about, fitted.arrays, ood=detector), fault


def _softmax_of(model: HeadModel, data: FeatureSet) -> Probs:
    """Probabilities at temperature 1, (N, C)."""
    from wsikit.models.head import softmax

    return softmax(model.logits(data.features))


def _check_source(model: PatchModel, data: FeatureSet) -> None:
    """RequestError if the model reads other features than these, or patches of another scale."""
    info, found = model.info, data.encoder
    if info.feature_columns != (COLUMN_PREFIX + found.name,) or len(info.inputs) != 1:
        raise RequestError(
            f"model {info.name}: reads {', '.join(info.inputs)}, the configuration gives features:{found.name}. Give "
            "the configuration of its training."
        )
    for wanted in info.features:
        known = found.fingerprint and wanted.fingerprint
        if found.width != wanted.width or (known and found.fingerprint != wanted.fingerprint):
            raise RequestError(
                f"model {info.name}: trained on features of {wanted.name} ({wanted.width} numbers, fingerprint "
                f"{wanted.fingerprint[:12] or 'unknown'}), these are of {found.name} ({found.width}, "
                f"{found.fingerprint[:12] or 'unknown'}). Give features of the same encoder."
            )
    if abs(data.mpp / info.mpp - 1) > MPP_TOLERANCE:
        raise RequestError(
            f"model {info.name}: made for {info.mpp} µm/px, these patches are at {data.mpp:.4g}. Give patches of that "
            "scale."
        )


def versions_of_head() -> dict[str, str]:
    """Versions of what a head is fitted with."""
    import sklearn

    return {
        "python": platform.python_version(),
        "wsikit": __version__,
        "sklearn": str(sklearn.__version__),
        "numpy": np.__version__,
    }
