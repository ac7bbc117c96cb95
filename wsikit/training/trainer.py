"""Train a dual-branch model on patches with captions. The loop is transformers' Trainer; this module adds MMLNB's
curriculum, stages and losses, the record of each epoch, and the selection of the epoch whose weights are kept.

Without a validation set the weights of the last epoch are kept, with one those of the best epoch. No test set is used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from wsikit.errors import RequestError
from wsikit.models.mmlnb import MMLNB
from wsikit.training.batches import Texts
from wsikit.training.checkpoints import digest, prepare, read_state
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.data import PatchSet, refuse_shared_groups
from wsikit.training.fitting import adamw, older_objects_kept
from wsikit.training.forward import outputs_of
from wsikit.training.losses import loss_of
from wsikit.training.metrics import value_of
from wsikit.training.module import EpochRecord, Learner
from wsikit.training.numbers import numbers_of
from wsikit.training.settings import TrainingSettings
from wsikit.training.stages import StagePlan

__all__ = ["EpochRecord", "TrainingSettings", "loss_of", "train"]

logger = logging.getLogger(__name__)

_RECORD = "wsikit"
_HIGHER_IS_BETTER = {"nll": False, "auc": True, "balanced_accuracy": True}


@older_objects_kept()
def train(
    model: MMLNB,
    data: PatchSet,
    settings: TrainingSettings,
    *,
    curriculum: CurriculumSchedule,
    stages: StagePlan,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    validation: PatchSet | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
) -> list[EpochRecord]:
    """Train `model` in place, on its device; it is in eval mode afterwards.

    With the same seed, data, number of threads and versions the weights are the same on a CPU, also if the run
    was stopped and resumed.

    Parameters
    ----------
    curriculum
        Weight of the text by epoch. It must reach its end within the epochs.
    on_epoch
        Called with the record of each finished epoch.
    validation
        Patches of other patients. The weights of the best epoch on them are kept.
    checkpoints
        Folder for one checkpoint per epoch (the last and the best are kept).
    resume
        Resume from the last checkpoint there, if there is one.

    Raises
    ------
    RequestError
        If the settings contradict each other, a patient is in `data` and in `validation`, or `checkpoints` holds
        another run.
    ModelError
        If the loss is no longer a number.
    """
    _check(model, data, settings, curriculum, validation)
    with TemporaryDirectory(prefix="wsikit-train-") as scratch:
        last = None
        if checkpoints is not None:
            last = prepare(checkpoints, _identity(model, data, settings, curriculum, stages, validation), resume=resume)
        learner = Learner(model, data, settings, curriculum, stages)
        watch = _Watch(learner, settings, validation, curriculum, on_epoch)
        done = [_record(entry) for entry in (read_state(last) or {}).get("log_history", [])] if last else []
        watch.records = [record for record in done if record is not None]
        over = bool(watch.records) and watch.is_over()
        arguments = _arguments(
            settings,
            output=checkpoints or Path(scratch),
            device=learner.device,
            steps=len(learner.order) * settings.epochs,
            # a run that stopped early does not continue when resumed
            epochs=len(watch.records) if over else settings.epochs,
            keeps=checkpoints is not None,
            validates=validation is not None,
        )
        trainer = _Trainer(learner, arguments, watch)
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    model.eval()
    best = watch.best()
    return [replace(record, kept=record.epoch == best) for record in watch.records]


class _Watch(TrainerCallback):
    """Begins and ends epochs; holds all records, including those from before the run was resumed."""

    def __init__(
        self,
        learner: Learner,
        settings: TrainingSettings,
        validation: PatchSet | None,
        curriculum: CurriculumSchedule,
        on_epoch: Callable[[EpochRecord], None] | None,
    ) -> None:
        self._learner, self._settings, self._curriculum = learner, settings, curriculum
        self._validation, self._on_epoch = validation, on_epoch
        self._texts = None if validation is None else Texts.of(learner.model, validation)
        self.records: list[EpochRecord] = []
        self._begun = 0.0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._learner.begin(round(state.epoch or 0))
        self._begun = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        seconds = time.perf_counter() - self._begun
        record = self._learner.record(seconds, self._validate())
        self.records.append(record)
        state.log_history.append({_RECORD: asdict(record)})
        logger.info(
            "epoch %d %s: loss %.3f, gate %.2f, %.0f s %s",
            record.epoch,
            record.stage,
            record.loss,
            record.gate,
            seconds,
            record.validation or "",
        )
        if self._on_epoch:
            self._on_epoch(record)
        control.should_training_stop = control.should_training_stop or self.is_over()

    def best(self) -> int:
        """The epoch whose weights are kept: the last, or the first with the best validation metric."""
        name = self._settings.select_by
        values = [record.validation[name] for record in self.records if record.validation]
        if not values:
            return self.records[-1].epoch
        return int(np.argmax(values) if _HIGHER_IS_BETTER[name] else np.argmin(values))

    def is_over(self) -> bool:
        """Whether early stopping applies; never before the end of the curriculum."""
        patience, last = self._settings.patience, self.records[-1]
        if patience is None or last.validation is None:
            return False
        return last.epoch - max(self.best(), self._curriculum.milestones[1]) >= patience

    def _validate(self) -> dict[str, float] | None:
        if self._validation is None:
            return None
        learner = self._learner
        out = outputs_of(learner.model, self._validation, self._texts, precision=self._settings.precision)
        learner.train(False)
        probs = out.probs
        found = {name: value_of(self._validation.labels, probs, name) for name in _HIGHER_IS_BETTER}
        if not np.isfinite(found[self._settings.select_by]):
            raise RequestError(
                f"validation: {self._settings.select_by} is not defined (a class is missing); set select_by to nll."
            )
        return {name: value for name, value in found.items() if np.isfinite(value)}


class _Trainer(Trainer):
    """transformers' loop over our batches, with our parameter groups and validation."""

    def __init__(self, learner: Learner, arguments: TrainingArguments, watch: _Watch) -> None:
        self._learner, self._watch = learner, watch
        super().__init__(
            model=learner,
            args=arguments,
            train_dataset=learner.loader.dataset,
            eval_dataset=learner.loader.dataset,  # never read: `evaluate` below returns the metrics already measured
            callbacks=[watch],
            optimizers=(adamw(learner.model.parts(), learner.settings.lr, learner.settings.weight_decay), None),
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[int]:
        return self._learner.loader

    def evaluate(self, *arguments: Any, **others: Any) -> dict[str, float]:
        found = self._watch.records[-1].validation or {}
        metrics = {f"eval_{name}": value for name, value in found.items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _arguments(
    settings: TrainingSettings,
    *,
    output: Path,
    device: torch.device,
    steps: int,
    epochs: int,
    keeps: bool,
    validates: bool,
) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(output),
        num_train_epochs=epochs,
        per_device_train_batch_size=settings.batch,
        seed=settings.seed,
        max_grad_norm=settings.clip,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup * steps),
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        use_cpu=device.type == "cpu",
        save_strategy="epoch" if keeps or validates else "no",
        save_total_limit=2,
        save_only_model=not keeps,
        eval_strategy="epoch" if validates else "no",
        load_best_model_at_end=validates,
        metric_for_best_model=settings.select_by if validates else None,
        greater_is_better=_HIGHER_IS_BETTER[settings.select_by] if validates else None,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        log_level="error",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs would split batches and change the result
    return arguments


def _check(
    model: MMLNB,
    data: PatchSet,
    settings: TrainingSettings,
    curriculum: CurriculumSchedule,
    validation: PatchSet | None,
) -> None:
    if lacking := sorted(model.parts().keys() - settings.lr.keys()):
        raise RequestError(f"training: no learning rate (lr) for {', '.join(lacking)}.")
    if settings.epochs <= curriculum.milestones[1]:
        raise RequestError(
            f"training: {settings.epochs} epochs end before the curriculum does (epoch {curriculum.milestones[1]}); "
            "use more epochs or an earlier rise."
        )
    if settings.precision == "fp16" and next(model.parameters()).device.type == "cpu":
        raise RequestError("training: precision fp16 needs a GPU; use bf16 or fp32.")
    if settings.patience is not None and validation is None:
        raise RequestError("training: patience needs a validation set.")
    if validation is not None:
        refuse_shared_groups(data, validation)
    if len(data) < 2:
        raise RequestError(f"training: {len(data)} training patch(es); expected 2 or more.")


def _identity(
    model: MMLNB,
    data: PatchSet,
    settings: TrainingSettings,
    curriculum: CurriculumSchedule,
    stages: StagePlan,
    validation: PatchSet | None,
) -> dict[str, Any]:
    """Everything that determines the weights; a run that differs in any of it is another run."""

    def of(patches: PatchSet) -> str:
        texts = "\x1f".join(patches.captions).encode()
        pixels = (np.ascontiguousarray(image).tobytes() for image in patches.images)
        numbers = numbers_of(model.config, patches)
        read = [] if numbers is None else [numbers.tobytes()]
        return digest(*pixels, patches.labels.tobytes(), texts, *read)

    return {
        "model": model.config.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
        "curriculum": asdict(curriculum),
        "stages": [[stage.name, stage.from_epoch, sorted(stage.learns)] for stage in stages.stages],
        "training patches": of(data),
        "validation patches": None if validation is None else of(validation),
    }


def _record(entry: dict[str, Any]) -> EpochRecord | None:
    """The epoch record of an entry of the trainer's log; None for other entries."""
    if _RECORD not in entry:
        return None
    values = dict(entry[_RECORD])
    return EpochRecord(**values | {"gate_histogram": tuple(values["gate_histogram"])})
