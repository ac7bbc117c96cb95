"""`wsikit train` and `wsikit evaluate` as functions: from a configuration to a model folder, metrics and figures.

OUT holds config.yaml, splits.json and, during training, checkpoints/; at the end model/, metrics.json and figures/.
"""

from __future__ import annotations

import logging
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wsikit._version import __version__
from wsikit.errors import RequestError
from wsikit.inference.applicability import MPP_TOLERANCE
from wsikit.models.config import METRICS_FILE
from wsikit.models.io import save_model
from wsikit.models.mmlnb import MMLNB
from wsikit.models.model_folder import EncoderRecord
from wsikit.models.protocol import PatchModel
from wsikit.models.stored_features import StoredFeatures
from wsikit.store.atomic import write_json
from wsikit.training.branches import fusion_record, train_cross_fitted
from wsikit.training.calibration import at_temperature, fit_temperature
from wsikit.training.card import training_card
from wsikit.training.config import TrainConfig
from wsikit.training.cross_fit import FusionFit
from wsikit.training.data import PatchSet
from wsikit.training.evaluation import evaluate_model, evaluate_patch_model
from wsikit.training.evaluation_parts import RivalData, check_vote, fitted_on, further_results, temperature_of
from wsikit.training.factory import Loaded, build_model, load_data
from wsikit.training.figures import save_figures
from wsikit.training.forward import outputs_of
from wsikit.training.heads.data import Load
from wsikit.training.heads.join import check_encoder, standardise, with_features
from wsikit.training.module import EpochRecord
from wsikit.training.ood import fit_ood_detector
from wsikit.training.priors import prior_metrics, shift_of, with_prior
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
from wsikit.training.text_pretraining import VOCABULARY_FROM, drawn_captions, pretrain_text_encoder
from wsikit.training.texts import with_captions
from wsikit.training.trainer import train
from wsikit.voting.fitted_parameters import FittedVote
from wsikit.voting.prior import AUTO

__all__ = ["RunCallbacks", "run_evaluation", "run_training"]

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class RunCallbacks:
    """Functions that a run calls to report its progress."""

    message: Callable[[str], None] = lambda text: None
    """Called with one line of text."""
    epoch: Callable[[EpochRecord], None] = lambda record: None
    captioned: Callable[[int, int], None] = lambda done, total: None
    """Called with the number of further captioned patches and the total."""


def run_training(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    load: Load | None = None,
    callbacks: RunCallbacks | None = None,
) -> dict[str, Any]:
    """Train, then evaluate once on the test part; return the metrics as written.

    The test part is not used before weights, epoch and temperature are fixed. `load` gives the encoder of a name, for
    an image branch on features; default: `wsikit.encoders.registry.load_encoder`.

    Raises
    ------
    RequestError
        If `out` holds a finished run, or an unfinished one and `resume` is False.
    """
    callbacks = callbacks or RunCallbacks()
    check_out(out, resume)
    loaded, patches, encoder = _patches(config, callbacks, device, load)
    out.mkdir(parents=True, exist_ok=True)
    parts, record = split_of(config, patches, out)
    training, validation = patches.select(parts[TRAIN]), patches.select(parts[VALIDATION])
    callbacks.message(split_line(config.data.group, patches, parts))
    model = _untrained(config, training.captions, loaded.prepared.mpp, callbacks, encoder)
    begun = time.perf_counter()
    fitted: FusionFit | None = None
    if config.cross_fit is not None:
        texts = model.text.state_dict()

        def untrained(seed: int) -> MMLNB:
            settings = config.training.model_copy(update={"seed": seed})
            of_seed = config.model_copy(update={"training": settings, "reading": None})
            made = _untrained(of_seed, training.captions, loaded.prepared.mpp, callbacks, encoder, like=model)
            made.text.load_state_dict(texts)
            if isinstance(made.image, StoredFeatures):
                standardise(made.image, training)
            return made.to(_device(device))

        model, epochs, fitted = train_cross_fitted(
            untrained,
            training,
            config,
            on_epoch=callbacks.epoch,
            message=callbacks.message,
            checkpoints=out / CHECKPOINTS,
            resume=resume,
        )
    else:
        if isinstance(model.image, StoredFeatures):
            standardise(model.image, training)
        model = model.to(_device(device))
        epochs = train(
            model,
            training,
            config.training,
            curriculum=config.curriculum(),
            stages=config.plan(),
            on_epoch=callbacks.epoch,
            validation=validation,
            checkpoints=out / CHECKPOINTS,
            resume=resume,
        )
    seconds = time.perf_counter() - begun
    if fault := fit_ood_detector(model, training, validation):
        callbacks.message(fault)
    temperature = fit_temperature(validation.labels, outputs_of(model, validation).probs)
    balanced = config.training.class_weights == "balanced"
    model.config = with_prior(model.config, training.labels, balanced=balanced)

    test = patches.select(parts[TEST])
    measured = evaluate_model(
        model,
        test,
        classes=config.codes,
        n_ordinal=config.n_ordinal,
        temperature=temperature,
        training=training,
        facts=None if training.facts is None or test.facts is None else (training.facts, test.facts),
    )
    metrics = {
        "settings": without_places(config),
        "data": loaded.words(),
        "split": without_ids(record, config.split.fold),
        "patients": {name: patients_of(patches, parts[name]) for name in (TRAIN, VALIDATION)},
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": [asdict(epoch) for epoch in epochs],
        "kept_epoch": next(epoch.epoch for epoch in epochs if epoch.kept),
        "seconds": round(seconds, 1),
        "temperature": temperature,
        "fusion": None if fitted is None else fusion_record(fitted),
        "test": measured.record,
        "prior": prior_metrics(model.config, test.labels, measured.outputs.probs, test.groups),
        "versions": versions(),
    }
    probs = measured.outputs.probs
    save_figures(
        out / "figures",
        test.labels,
        probs,
        measured.outputs.gate,
        classes=config.codes,
        calibrated=at_temperature(probs, temperature),
    )
    write_json(out / METRICS_FILE, metrics)
    save_model(model.cpu(), out / "model", card=training_card(model.config, metrics), metrics=metrics)
    shutil.rmtree(out / CHECKPOINTS)  # written by this run, and no longer needed
    return metrics


def run_evaluation(
    model: MMLNB | PatchModel,
    config: TrainConfig,
    out: Path,
    *,
    split_file: Path | None = None,
    part: str = TEST,
    fold: int = 0,
    allow_seen: bool = False,
    prior: str = AUTO,
    device: str = "auto",
    load: Load | None = None,
    rivals: RivalData | None = None,
    vote: FittedVote | None = None,
    callbacks: RunCallbacks | None = None,
) -> dict[str, Any]:
    """Evaluate a trained model on the data of a configuration, or on one part of a split; return the metrics.

    Of an MMLNB each branch is evaluated as well; of any other `PatchModel` its output. Metrics include paired
    differences to the image alone and to each rival, and errors of the shares by slide and patient.
    Metrics are of the probabilities as the model gives them; under "prior", calibration before and after the correction
    to the class frequencies `prior` (see `wsikit.voting.prior`), which votes apply.

    Parameters
    ----------
    rivals
        Patches that the rivals and baselines are fitted on: those of the training. Default: only what needs no fit.
    vote
        Voting parameters that were fitted for this model: the errors of their shares are measured as well.

    Raises
    ------
    RequestError
        If the model was trained on one of the patients (unless `allow_seen`), has other classes, or `out` already
        holds results.
    """
    callbacks = callbacks or RunCallbacks()
    check_no_results(out)
    about = model.config if isinstance(model, MMLNB) else model.info
    if about.classes != config.codes or about.patch_px != config.data.patch_px:
        raise RequestError(
            f"model {about.name}: classes {about.classes} on {about.patch_px} px, the "
            f"configuration says {config.codes} on {config.data.patch_px} px. Give the configuration of its training."
        )
    loaded, patches, encoder = _patches(config, callbacks, device, load)
    if isinstance(model, MMLNB):
        check_encoder(model.config, encoder)
    if abs(loaded.prepared.mpp / about.mpp - 1) > MPP_TOLERANCE:
        raise RequestError(
            f"model {about.name}: made for {about.mpp} µm/px, these patches are at "
            f"{loaded.prepared.mpp:.4g}. Give patches of that scale."
        )
    rows, chosen = rows_to_evaluate(
        about.name, patches, folder=model.folder if isinstance(model, MMLNB) else None, split_file=split_file,
        part=part, fold=fold, group=config.data.group, allow_seen=allow_seen, message=callbacks.message,
    )  # fmt: skip
    if split_file is not None:
        patches = patches.select(rows)
    shift = shift_of(about, prior)  # a prior that cannot be applied is refused before the model runs
    fingerprint = model.fingerprint if isinstance(model, MMLNB) else model.info.fingerprint
    voting = [code for code in about.classes if code not in about.background]
    check_vote(vote, classes=voting, fingerprint=fingerprint, prior=prior)
    sizes: dict[str, Any] = {"classes": config.codes, "n_ordinal": config.n_ordinal}
    if isinstance(model, MMLNB):
        known = fitted_on(rivals, patches, config, mpp=loaded.prepared.mpp)
        evaluated = evaluate_model(
            model.to(_device(device)), patches, **sizes, **known, temperature=temperature_of(model.folder)
        )
        ways = evaluated.ways
        probs: npt.NDArray[np.floating] = evaluated.outputs.probs
        results, gate = evaluated.record, evaluated.outputs.gate
    else:
        measured = evaluate_patch_model(model, patches, **sizes)
        results, probs, gate = measured.record, measured.probs, measured.gate
        ways = measured.ways
    metrics = {
        "model": {"name": about.name, "fingerprint": fingerprint},
        "data": loaded.words(),
        "patches": len(patches),
        **chosen,
        "results": results,
        **further_results(
            config,
            about.background,
            patches,
            ways,
            gate,
            shift,
            mpp=loaded.prepared.mpp,
            vote=None if vote is None else vote.parameters,
        ),
        "prior": prior_metrics(about, patches.labels, probs, patches.groups, asked=prior),
        "versions": versions(),
    }
    out.mkdir(parents=True, exist_ok=True)
    save_figures(out / "figures", patches.labels, probs, gate, classes=config.codes)
    write_json(out / METRICS_FILE, metrics)
    return metrics


def versions() -> dict[str, str]:
    """Versions of the packages that affect the results."""
    import sklearn
    import timm
    import transformers

    modules = (torch, timm, transformers, sklearn, np)
    return {"python": platform.python_version(), "wsikit": __version__} | {
        m.__name__: str(m.__version__) for m in modules
    }


def _patches(
    config: TrainConfig, callbacks: RunCallbacks, device: str, load: Load | None
) -> tuple[Loaded, PatchSet, EncoderRecord | None]:
    loaded = load_data(config)
    callbacks.message(loaded.words())
    total = len(loaded.prepared.patches)
    patches = with_captions(
        loaded.prepared.patches,
        config.captions,
        mpp=loaded.prepared.mpp,
        numbers=config.numbers is not None,
        on_done=lambda done: callbacks.captioned(done, total),
    )
    if config.numbers is not None and config.numbers.field_um is not None:
        patches = patches.with_field(config.numbers.field_um)
    if config.captions.source != "none" and not any(patches.captions):
        raise RequestError(
            f"captions: none of the {total} patches has one (source {config.captions.source}). Set a captioner or a "
            "column, or source none."
        )
    return loaded, *with_features(patches, config, device=device, load=load, message=callbacks.message)


def _untrained(
    config: TrainConfig,
    captions: tuple[str, ...],
    mpp: float,
    callbacks: RunCallbacks,
    encoder: EncoderRecord | None,
    like: MMLNB | None = None,
) -> MMLNB:
    """The untrained model, with a pretrained text encoder if the configuration asks for it; with the vocabulary of
    another model if one is given."""
    if like is not None:
        return build_model(config, captions, mpp=mpp, encoder=encoder, tokenizer=like.tokenizer)
    if config.reading is None:
        return build_model(config, captions, mpp=mpp, encoder=encoder)
    words, _, _ = drawn_captions(VOCABULARY_FROM, mpp=mpp, seed=config.training.seed, in_slide=config.captions.in_slide)
    model = build_model(config, words, mpp=mpp, encoder=encoder)
    share = pretrain_text_encoder(
        model.text,
        model.tokenizer,
        mpp=mpp,
        n=config.reading.captions,
        settings=config.reading,
        seed=config.training.seed,
        in_slide=config.captions.in_slide,
    )
    callbacks.message(
        f"text pretraining: the encoder explains {100 * share:.0f} % of the facts' variance on held-out captions"
    )
    return model


def _device(name: str) -> torch.device:
    cuda = torch.cuda.is_available()
    if name == "cuda" and not cuda:
        raise RequestError("device 'cuda': torch finds no GPU here; use 'cpu' or 'auto'.")
    return torch.device("cuda" if cuda and name != "cpu" else "cpu")
