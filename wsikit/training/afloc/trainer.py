"""The loop of AFLoc's training: transformers' Trainer over bags of patches, with checkpoints from which it resumes.

After each epoch the loss is measured on validation patches, with the same draws every time; the best epoch is kept.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from wsikit.errors import ModelError
from wsikit.models.afloc import AFLoc
from wsikit.training.afloc.learner import Learner, Rows
from wsikit.training.afloc.settings import LEVELS, AflocSettings
from wsikit.training.afloc.statements import Statements
from wsikit.training.batches import EpochOrder
from wsikit.training.batches import Rows as RowData
from wsikit.training.checkpoints import digest, prepare, read_state
from wsikit.training.data import PatchSet, refuse_shared_groups
from wsikit.training.fitting import adamw, older_objects_kept

logger = logging.getLogger(__name__)

_RECORD = "wsikit"


@dataclass(frozen=True)
class AflocEpoch:
    """Results of one epoch."""

    epoch: int
    loss: float
    """Mean over the steps, weighted sum of the levels."""
    levels: dict[str, float]
    """Mean loss of each level, unweighted."""
    validation: float
    """Loss on the validation patches."""
    temperatures: dict[str, float]
    """Factor of the cosines of each level, and inverse temperatures of attention and aggregation."""
    seconds: float
    kept: bool = False
    """Whether the weights of this epoch were selected."""


@older_objects_kept()
def train_afloc(
    model: AFLoc,
    data: PatchSet,
    statements: Statements,
    settings: AflocSettings,
    *,
    validation: PatchSet,
    of_validation: Statements,
    on_epoch: Callable[[AflocEpoch], None] | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
) -> list[AflocEpoch]:
    """Train `model` in place, on its device; it has the weights of the best epoch and is in eval mode afterwards.

    With the same seed, data, number of threads and versions the weights are the same on a CPU, also if the run was
    stopped and resumed.

    Raises
    ------
    RequestError
        If a patient is in `data` and in `validation`, or `checkpoints` holds another run.
    ModelError
        If the loss is no longer a number.
    """
    refuse_shared_groups(data, validation)
    with TemporaryDirectory(prefix="wsikit-train-") as scratch:
        last = None
        if checkpoints is not None:
            last = prepare(checkpoints, _identity(model, data, settings, validation, statements), resume=resume)
        order = EpochOrder(len(data), settings)
        learner = Learner(model, data, statements, settings, neighbours_of(data, settings.bag))
        watch = _Watch(learner, order, validation, of_validation, on_epoch)
        if last is not None:
            log = (read_state(last) or {}).get("log_history", [])
            watch.records = [AflocEpoch(**entry[_RECORD]) for entry in log if _RECORD in entry]
        loader = DataLoader(
            RowData(len(data)), batch_sampler=order, collate_fn=lambda rows: {"rows": torch.tensor(rows)}
        )
        trainer = _Trainer(learner, loader, _arguments(settings, checkpoints or Path(scratch), learner, order), watch)
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    model.eval()
    best = int(np.argmin([record.validation for record in watch.records]))
    return [replace(record, kept=n == best) for n, record in enumerate(watch.records)]


class _Watch(TrainerCallback):
    """Begins and ends epochs; holds all records, including those from before the run was resumed."""

    def __init__(
        self,
        learner: Learner,
        order: EpochOrder,
        validation: PatchSet,
        statements: Statements,
        on_epoch: Callable[[AflocEpoch], None] | None,
    ) -> None:
        self._learner, self._order, self._on_epoch = learner, order, on_epoch
        plain = learner.settings.model_copy(
            update={"stain_scale": 0.0, "stain_shift": 0.0, "queue": 0, "quality_negatives": None}
        )
        bags = neighbours_of(validation, plain.bag)
        self._validation = Learner(learner.model, validation, statements, plain, bags)
        self._bags = bags
        self.records: list[AflocEpoch] = []
        self._begun = 0.0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        epoch = round(state.epoch or 0)
        self._order.epoch = epoch
        self._learner.begin(epoch)
        self._begun = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        learner, seconds = self._learner, time.perf_counter() - self._begun
        means = {name: value / max(1, learner.steps) for name, value in learner.sums.items()}
        if not np.isfinite(means["loss"]):
            raise ModelError(f"epoch {learner.epoch}: the loss is {means['loss']}. Use lower learning rates (lr).")
        temperatures = learner.model.heads.log_temperatures
        record = AflocEpoch(
            epoch=learner.epoch,
            loss=means["loss"],
            levels={name: means[name] for name in LEVELS if learner.settings.weights.get(name, 0) > 0},
            validation=self._measured(),
            temperatures={name: float(learner.model.heads.temperature(name).detach()) for name in temperatures},
            seconds=seconds,
        )
        self.records.append(record)
        state.log_history.append({_RECORD: asdict(record)})
        if self._on_epoch:
            self._on_epoch(record)

    @torch.no_grad()
    def _measured(self) -> float:
        """Loss on the validation patches, in eval mode, in the same batches and draws after every epoch."""
        learner, settings = self._validation, self._validation.settings
        learner.eval()
        losses = []
        n = max(1, len(self._bags) // settings.batch)
        for number, rows in enumerate(
            np.array_split(np.random.default_rng(settings.seed).permutation(len(self._bags)), n)
        ):
            found = learner.losses(self._bags[rows], np.random.default_rng([settings.seed, number]))
            losses.append(math.fsum(settings.weights[name] * float(value) for name, value in found.items()))
        learner.train()
        return float(np.mean(losses))


class _Trainer(Trainer):
    """transformers' loop over our batches, with our parameter groups and validation."""

    def __init__(self, learner: Learner, loader: DataLoader[int], arguments: TrainingArguments, watch: _Watch) -> None:
        self._loader, self._watch = loader, watch
        parts = {name: part for name, part in learner.model.parts().items() if learner.settings.lr[name] > 0}
        super().__init__(
            model=learner,
            args=arguments,
            train_dataset=loader.dataset,
            eval_dataset=loader.dataset,  # never read: `evaluate` below returns the loss already measured
            callbacks=[watch],
            optimizers=(adamw(parts, learner.settings.lr, learner.settings.weight_decay), None),
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[int]:
        return self._loader

    def evaluate(self, *arguments: Any, **others: Any) -> dict[str, float]:
        metrics = {"eval_loss": self._watch.records[-1].validation}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def neighbours_of(data: PatchSet, m: int) -> Rows:
    """Bags: for each patch the `m` nearest of its slide, itself first, int64 (N, m); repeated where there are fewer.

    Without coordinates, those that follow it in the patch set.
    """
    n = len(data)
    if m == 1:
        return np.arange(n, dtype=np.int64)[:, None]
    slides = data.groups if data.slides is None else data.slides
    bags = np.empty((n, m), dtype=np.int64)
    for slide in np.unique(slides):
        rows = np.flatnonzero(slides == slide)
        places = np.arange(len(rows), dtype=np.float64)[:, None] if data.coords is None else data.coords[rows]
        for place, row in enumerate(rows):
            distance = np.linalg.norm(places - places[place], axis=1)
            distance[place] = -1
            bags[row] = np.resize(rows[np.argsort(distance, kind="stable")[:m]], m)
    return bags


def _arguments(settings: AflocSettings, output: Path, learner: Learner, order: Sequence[Any] | EpochOrder) -> Any:
    steps = len(order) * settings.epochs
    device = next(learner.model.parameters()).device
    arguments = TrainingArguments(
        output_dir=str(output),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch,
        seed=settings.seed,
        max_grad_norm=settings.clip,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup * steps),
        use_cpu=device.type == "cpu",
        save_strategy="epoch",
        save_total_limit=2,
        eval_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
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


def _identity(
    model: AFLoc, data: PatchSet, settings: AflocSettings, validation: PatchSet, statements: Statements
) -> dict[str, Any]:
    """Everything that determines the weights; a run that differs in any of it is another run."""

    def of(patches: PatchSet) -> str:
        texts = "\x1f".join(patches.captions).encode()
        return digest(*(np.ascontiguousarray(image).tobytes() for image in patches.images), texts)

    phrases = [phrase.model_dump(mode="json") for phrase in statements.phrases]
    return {
        **({"phrases": phrases} if phrases else {}),
        "model": model.config.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
        "training patches": of(data),
        "validation patches": of(validation),
    }
