"""Train both branches of an MMLNB by themselves, and the pairs of branches that a cross-fitted fusion is fitted on."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wsikit.models.mmlnb import MMLNB
from wsikit.models.prmf_calibrated import CalibratedPRMF
from wsikit.training.checkpoints import prepare
from wsikit.training.config import TrainConfig
from wsikit.training.cross_fit import BranchOutputs, FusionFit, branch_outputs, fit_fusion, fit_surprise
from wsikit.training.data import PatchSet, class_weights
from wsikit.training.module import EpochRecord
from wsikit.training.settings import FitSettings, TrainingSettings
from wsikit.training.splits import TEST, folds
from wsikit.training.unimodal import train_image_branch, train_text_branch

_FINAL, _FOLDS, _FOLD = "branches", "folds", "fold{}.npz"
"""Below the checkpoints of a run: those of the final image branch; what the branches of each fold say."""


def train_branches(
    model: MMLNB,
    training: PatchSet,
    image: TrainingSettings,
    text: FitSettings,
    *,
    seed: int,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
) -> list[EpochRecord]:
    """Train the image branch, then the text branch, each by itself, in place; the fusion is left at the mean of both.

    `checkpoints` and `resume` are those of `wsikit.training.trainer.train`, for the image branch; the text branch takes
    a small part of the time, and is trained again. Returns the records of the image branch's epochs. The number of
    epochs is fixed: nothing is selected.
    """
    weight = class_weights(training.labels, len(model.config.classes))
    records = train_image_branch(
        model,
        training,
        image.model_copy(update={"seed": seed}),
        on_epoch=on_epoch,
        checkpoints=checkpoints,
        resume=resume,
    )
    if any(training.captions):
        train_text_branch(model, training, training.select([0]), text, weight=weight, seed=seed, head_lr=text.lr)
    if isinstance(model.fusion, CalibratedPRMF):
        fit_surprise(model, training)
    return records


@dataclass(frozen=True)
class _Fold:
    """What the process that trains the branches of one fold needs."""

    model: MMLNB
    """Untrained."""
    training: PatchSet
    held: PatchSet
    config: TrainConfig
    seed: int
    threads: int


def _outputs_of_fold(fold: _Fold) -> BranchOutputs:
    torch.set_num_threads(fold.threads)
    assert fold.config.cross_fit is not None
    train_branches(fold.model, fold.training, fold.config.training, fold.config.cross_fit.text, seed=fold.seed)
    return branch_outputs(fold.model, fold.held)


def train_cross_fitted(
    untrained: Callable[[int], MMLNB],
    training: PatchSet,
    config: TrainConfig,
    *,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    message: Callable[[str], None] = lambda text: None,
    checkpoints: Path | None = None,
    resume: bool = False,
) -> tuple[MMLNB, list[EpochRecord], FusionFit]:
    """Train a model whose fusion is fitted on patients whom its branches have not seen.

    Parameters
    ----------
    untrained
        Gives the untrained model for a seed.
    on_epoch, message
        Called after each epoch of the final image branch, and with a line on each further step.
    checkpoints
        Folder for checkpoints of the final image branch, and for what the branches of each finished fold say.
    resume
        Resume from what is there, if there is something: the result is the same.

    Returns
    -------
    MMLNB, list of EpochRecord, FusionFit
        The trained model, the epochs of its image branch, and what was fitted.

    Raises
    ------
    RequestError
        If `checkpoints` holds another run, or an unfinished one and `resume` is False.
    """
    settings, seed = config.cross_fit, config.training.seed
    assert settings is not None
    kept = None if checkpoints is None else checkpoints / _FOLDS
    if kept is not None:
        # the training patches and the image branch are those of the final branch, whose checkpoints are checked as well
        prepare(kept, {"cross_fit": settings.model_dump(mode="json", exclude={"workers", "field_um"})}, resume=resume)
    model = untrained(seed)
    records = train_branches(
        model,
        training,
        config.training,
        settings.text,
        seed=seed,
        on_epoch=on_epoch,
        checkpoints=None if checkpoints is None else checkpoints / _FINAL,
        resume=resume,
    )
    if not any(training.captions):
        message("no captions: the fusion is that of the image alone")
        assert isinstance(model.fusion, CalibratedPRMF)
        model.fusion.gate.fix(0.0)
        return model, records, FusionFit((1.0, 1.0), "image", {}, None)
    fold, outputs = cross_fitted_outputs(untrained, training, config, message=message, kept=kept)
    assert isinstance(model.fusion, CalibratedPRMF)
    fitted = fit_fusion(
        model.fusion,
        outputs,
        training,
        fold,
        weight=class_weights(training.labels, len(config.codes)),
        field_um=settings.field_um,
        seed=seed,
    )
    model.config = with_field_terms(model, fitted)
    message(words_of(fitted))
    return model, records, fitted


def cross_fitted_outputs(
    untrained: Callable[[int], MMLNB],
    training: PatchSet,
    config: TrainConfig,
    *,
    message: Callable[[str], None] = lambda text: None,
    kept: Path | None = None,
) -> tuple[npt.NDArray[np.int64], BranchOutputs]:
    """The fold of each training patch, and what branches that were trained on the other folds say about it.

    What the branches of a fold say is kept in the folder `kept`, and read from there if it is there already.
    """
    settings, seed = config.cross_fit, config.training.seed
    assert settings is not None
    threads = max(1, torch.get_num_threads() // settings.workers)
    of_fold = [parts[TEST] for parts in folds(training.labels, training.groups, settings.folds, seed=seed)]
    fold = np.empty(len(training), dtype=np.int64)
    tasks = []
    for index, rows in enumerate(of_fold):
        fold[rows] = index
        others = np.setdiff1d(np.arange(len(training)), rows)
        of_seed = 1000 * (seed + 1) + index
        tasks.append(
            _Fold(untrained(of_seed), training.select(others), training.select(rows), config, of_seed, threads)
        )
    found = {} if kept is None else _finished_folds(kept, len(tasks))
    if found:
        message(f"branches for the fusion: {len(found)} of {len(tasks)} folds are already done")

    def done(index: int, outputs: BranchOutputs) -> None:
        found[index] = outputs
        if kept is not None:
            _keep_fold(kept / _FOLD.format(index), outputs)
        message(f"branches for the fusion: {len(found)} of {len(tasks)} folds")

    missing = {index: task for index, task in enumerate(tasks) if index not in found}
    if settings.workers == 1:
        for index, task in missing.items():
            done(index, _outputs_of_fold(task))
    else:
        with ProcessPoolExecutor(settings.workers, mp_context=get_context("spawn")) as pool:
            running = {pool.submit(_outputs_of_fold, task): index for index, task in missing.items()}
            for future in as_completed(running):
                done(running[future], future.result())
    order = np.argsort(np.concatenate(of_fold))
    return fold, BranchOutputs.joined([found[index] for index in range(len(tasks))]).select(order)


def _keep_fold(path: Path, outputs: BranchOutputs) -> None:
    """Write what the branches of a fold say, whole or not at all."""
    staging = path.with_suffix(".partial")
    with open(staging, "wb") as file:
        arrays: dict[str, Any] = outputs.arrays()
        np.savez(file, **arrays)
    os.replace(staging, path)


def _finished_folds(folder: Path, n: int) -> dict[int, BranchOutputs]:
    """What the branches of the finished folds say, by fold."""
    found = {}
    for index in range(n):
        path = folder / _FOLD.format(index)
        if path.is_file():
            with np.load(path, allow_pickle=False) as saved:
                found[index] = BranchOutputs(**{name: saved[name] for name in BranchOutputs.__dataclass_fields__})
    return found


def with_field_terms(model: MMLNB, fitted: FusionFit) -> Any:
    """The configuration of the model with the weights of the field."""
    return model.config.model_copy(update={"prmf": model.config.prmf.model_copy(update={"field": fitted.field})})


def words_of(fitted: FusionFit) -> str:
    """What was fitted, in one line."""
    losses = ", ".join(f"{name} {value:.4f}" for name, value in fitted.losses.items())
    kept = {"gate": "a gate per patch", "mean": "the mean of both", "image": "the image alone"}[fitted.kept]
    field = "with the field" if fitted.field is not None else "without the field"
    return f"fusion: {kept}, {field}; loss on unseen patients: {losses}"


def fusion_record(fitted: FusionFit) -> dict[str, Any]:
    """What was fitted, for metrics.json."""
    return {
        "kept": fitted.kept,
        "temperatures": list(fitted.temperatures),
        "loss_on_unseen_patients": fitted.losses,
        "field": None if fitted.field is None else fitted.field.model_dump(),
    }


__all__ = [
    "cross_fitted_outputs",
    "fusion_record",
    "train_branches",
    "train_cross_fitted",
    "with_field_terms",
    "words_of",
]
