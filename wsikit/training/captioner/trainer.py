"""Train a model to caption with transformers' Trainer: loss and fact-F1 after each epoch; the best epoch is kept.

The same code trains an adapter or a full model: parameters with a gradient are trained. A stopped run resumes from its
last complete checkpoint.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from wsikit.captions.parser import fact_f1
from wsikit.captions.vlm.chat import Batch, Chat
from wsikit.captions.vlm.decoding import Decoding
from wsikit.captions.vlm.loading import Place
from wsikit.captions.vlm.model import VisionLanguage
from wsikit.training.captioner.settings import FinetuneSettings

logger = logging.getLogger(__name__)

Read = Callable[[Sequence[int]], Sequence[npt.NDArray[np.uint8]]]
EpochCallback = Callable[[float, dict[str, float]], None]

CHECKPOINTS = "training"


@dataclass(frozen=True)
class Examples:
    """Images with their target captions."""

    read: Read
    """Rows to images, uint8 (H, W, 3) each."""
    answers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.answers)


@dataclass(frozen=True)
class Epoch:
    """Validation metrics after an epoch."""

    epoch: int
    loss: float
    """Mean cross-entropy of the answers' tokens."""
    fact_f1: float
    """Presence only: amounts are ignored."""
    fact_f1_graded: float
    """Amounts must agree as well."""
    train_loss: float


@dataclass(frozen=True)
class Fitted:
    """Result of training; the model in memory has the weights of the best epoch."""

    epochs: tuple[Epoch, ...]
    best: Epoch
    """The epoch with the lowest validation loss."""


def fit(
    model: Any,
    chat: Chat,
    place: Place,
    *,
    training: Examples,
    validation: Examples,
    settings: FinetuneSettings,
    folder: Path,
    on_epoch: EpochCallback | None = None,
) -> Fitted:
    """Train, validate after each epoch, and leave the weights of the best epoch in `model`.

    Parameters
    ----------
    model
        On `place`; parameters that require a gradient are trained.
    training, validation
        Rows of different patients.
    folder
        Its sub-folder `training` gets one checkpoint per epoch; training resumes from checkpoints found there.
    on_epoch
        Called after each epoch with the fraction done and its metrics.
    """
    _checkpoint_gradients(model, settings.gradient_checkpointing)
    arguments = _arguments(settings, place, folder / CHECKPOINTS)
    rows = [{"row": row} for row in range(len(training))]
    trainer = _CaptionTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,  # a list is a dataset
        eval_dataset=[{"row": -1 - row} for row in range(len(validation))],
        data_collator=_Collator(chat, training, validation, settings.turns),
        callbacks=[_OnEpoch(on_epoch)] if on_epoch else None,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.prepare_scores(chat, place, validation, settings)
    checkpoint = last_checkpoint(folder / CHECKPOINTS)
    if checkpoint is not None:
        logger.info("resuming from %s", checkpoint.name)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    epochs = _epochs(trainer.state.log_history)
    _checkpoint_gradients(model, False)
    model.eval()
    return Fitted(epochs, min(epochs, key=lambda epoch: epoch.loss))


def _checkpoint_gradients(model: Any, on: bool) -> None:
    """Gradient checkpointing: layers are recomputed in the backward pass to save memory; the key-value cache is off."""
    model.config.get_text_config().use_cache = not on
    word = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # renamed by 5.x
    if on:
        getattr(model, f"{word}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{word}_checkpointing_disable")()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; incomplete ones are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        try:  # the state is written last
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.warning("%s is incomplete; removed", path.name)
            shutil.rmtree(path)
            continue
        return path
    return None


class _Collator:
    """Rows to a training batch. Rows below zero are validation's: -1 - row."""

    def __init__(self, chat: Chat, training: Examples, validation: Examples, turns: bool) -> None:
        self._chat, self._training, self._validation, self._turns = chat, training, validation, turns

    def __call__(self, rows: list[dict[str, int]]) -> Batch:
        numbers = [row["row"] for row in rows]
        learning = numbers[0] >= 0
        examples = self._training if learning else self._validation
        numbers = numbers if learning else [-1 - number for number in numbers]
        images = list(examples.read(numbers))
        if learning and self._turns:
            # torch's generator: checkpoints keep its state, so a resumed run draws the same rotations
            images = [_turned(image, int(way)) for image, way in zip(images, torch.randint(8, (len(images),)))]
        return self._chat.training_batch(images, [examples.answers[number] for number in numbers])


def _turned(image: npt.NDArray[np.uint8], way: int) -> npt.NDArray[np.uint8]:
    turned = np.rot90(image, way % 4)
    return np.ascontiguousarray(turned[:, ::-1] if way >= 4 else turned)


class _CaptionTrainer(Trainer):
    """Adds fact-F1 of generated captions to each evaluation."""

    def prepare_scores(self, chat: Chat, place: Place, validation: Examples, settings: FinetuneSettings) -> None:
        n = min(len(validation), settings.score_at_most)
        self._rows = np.linspace(0, len(validation) - 1, n).round().astype(int).tolist()
        self._references = [validation.answers[row] for row in self._rows]
        self._validation = validation
        self._chat, self._place, self._asked = chat, place, self.model
        self._decoding = Decoding(settings.max_new_tokens)
        self._batch = max(8, settings.batch)

    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        metrics: dict[str, float] = super().evaluate(*arguments, **named)
        self._asked.eval()  # type: ignore[union-attr]  # there is a model
        asked = VisionLanguage(self._asked, self._chat, self._place, decoding=self._decoding, batch=self._batch)
        captions: list[str] = []
        for first in range(0, len(self._rows), self._batch):
            captions += asked.describe(self._validation.read(self._rows[first : first + self._batch]))
        scores = {
            "eval_fact_f1": fact_f1(self._references, captions).f1,
            "eval_fact_f1_graded": fact_f1(self._references, captions, graded=True).f1,
        }
        self.log(scores)
        return metrics | scores


class _OnEpoch(TrainerCallback):
    """Calls the callback with the metrics of an epoch."""

    def __init__(self, on_epoch: EpochCallback) -> None:
        self._on_epoch = on_epoch

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "eval_fact_f1" in logs:
            self._on_epoch(state.global_step / max(1, state.max_steps), _epochs(state.log_history)[-1].__dict__)


def _epochs(history: list[dict[str, float]]) -> tuple[Epoch, ...]:
    """Trainer's log, epoch by epoch."""
    merged: dict[int, dict[str, float]] = {}
    for entry in history:
        if "epoch" in entry:
            merged.setdefault(round(entry["epoch"]), {}).update(entry)
    return tuple(
        Epoch(
            epoch,
            entry["eval_loss"],
            entry["eval_fact_f1"],
            entry["eval_fact_f1_graded"],
            entry.get("loss", float("nan")),
        )
        for epoch, entry in sorted(merged.items())
        if "eval_loss" in entry and "eval_fact_f1" in entry
    )


def _arguments(settings: FinetuneSettings, place: Place, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        learning_rate=settings.lr,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        per_device_train_batch_size=settings.batch,
        per_device_eval_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulate,
        bf16=place.dtype == torch.bfloat16,
        fp16=place.dtype == torch.float16 and place.device.type == "cuda",
        use_cpu=place.device.type == "cpu",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        prediction_loss_only=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=place.device.type == "cuda",
        seed=settings.seed,
        data_seed=settings.seed,
        report_to=[],
        disable_tqdm=True,
    )
