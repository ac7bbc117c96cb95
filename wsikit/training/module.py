"""The model with its losses, curriculum and stages, one epoch at a time; no loop, no optimiser (see trainer.py)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from wsikit.errors import ModelError
from wsikit.models.mmlnb import MMLNB
from wsikit.training.batches import Drawer, EpochOrder, Rows, Texts
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.data import PatchSet, class_weights
from wsikit.training.forward import slide_contexts
from wsikit.training.losses import loss_of, supervised_contrast
from wsikit.training.numbers import learn_bins
from wsikit.training.settings import TrainingSettings
from wsikit.training.stages import StagePlan

logger = logging.getLogger(__name__)

GATE_BINS = 20

CONTEXT_PATCHES = 64
"""Patches per slide whose image features are averaged before each epoch, for an image branch that sees the slide."""


@dataclass(frozen=True)
class EpochRecord:
    """Results of one epoch."""

    epoch: int
    stage: str
    alpha: float
    loss: float
    """Mean over the patches, in training mode."""
    gate: float
    """Mean over the patches."""
    seconds: float
    """Seconds of training, without validation."""
    gate_histogram: tuple[int, ...] = ()
    """Patches by gate, 20 bins over [0, 1]: shows a gate that is stuck at 0 or 1."""
    validation: dict[str, float] | None = None
    """nll, auc and balanced_accuracy on the validation set, with the text at full weight, as at prediction."""
    kept: bool = False
    """Whether the weights of this epoch were selected."""


class Learner(nn.Module):
    """The model with its losses, curriculum and stages, in the form of transformers' Trainer: batch in, loss out.

    Trainer calls `train()` before every step; here this applies the stage table, so frozen parts stay in eval mode.
    """

    accepts_loss_kwargs = False  # else Trainer adds one of its own to `inputs`

    def __init__(
        self,
        model: MMLNB,
        data: PatchSet,
        settings: TrainingSettings,
        curriculum: CurriculumSchedule,
        stages: StagePlan,
    ) -> None:
        super().__init__()
        self.model = model
        self.settings, self.curriculum, self.stages = settings, curriculum, stages
        self.device = next(model.parameters()).device
        learn_bins(model, data)
        self.texts = Texts.of(model, data)
        if self.texts.truncated:
            logger.warning(
                "%d of %d captions are longer than %d tokens and are truncated",
                self.texts.truncated,
                len(data),
                model.config.text_max_tokens,
            )
        self._data = data
        self.order = EpochOrder(len(data), settings)
        self._drawer = Drawer(data, self.texts, self.order, settings, self.device)
        self.loader = DataLoader(
            Rows(len(data)),
            batch_sampler=self.order,
            collate_fn=self._drawer,
        )
        self._weight = (
            torch.from_numpy(class_weights(data.labels, len(model.config.classes))).to(self.device)
            if settings.class_weights == "balanced"
            else None
        )
        self._applied: int | None = None
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Prepare an epoch: order, stage, weight of the text."""
        self.order.epoch = self.epoch = epoch
        self._drawer.context = slide_contexts(self.model, self._data, most=CONTEXT_PATCHES)
        self.alpha = self.curriculum.alpha(epoch)
        self._applied = None
        self._loss = torch.zeros((), device=self.device)
        self._gates = torch.zeros(GATE_BINS, device=self.device)
        self._gate = torch.zeros((), device=self.device)
        self._seen = 0

    def train(self, mode: bool = True) -> Learner:
        if not mode:
            self._applied = None
            return super().train(False)
        if self._applied != self.epoch:
            self.training = True
            self.model.training = True
            self.stages.apply(self.epoch, self.model.parts())
            self._applied = self.epoch
        return self

    def forward(self, images: Tensor, own: Tensor, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """The loss of a batch; `inputs` are the other arguments of `MMLNB.forward`."""
        if self._seen == 0:  # not in `begin`: a resumed Trainer restores torch's random state after it
            torch.manual_seed(self.settings.seed * 1_000_003 + self.epoch)
        features = self.model.image(images)
        out = self.model.fuse(features, **inputs, rho=self.alpha)
        loss = loss_of(
            out,
            labels,
            present=inputs["present"],
            own=own,
            alpha=self.alpha,
            lambda_text=self.settings.lambda_text,
            lambda_gate=self.settings.lambda_gate,
            weight=self._weight,
        )
        if (contrast := self.settings.contrast) is not None:
            loss = loss + contrast.weight * supervised_contrast(features, labels, temperature=contrast.temperature)
        gate = out.gate.detach().float()
        self._loss += loss.detach().float() * len(labels)
        self._gate += gate.sum()
        self._gates += torch.histc(gate, GATE_BINS, 0.0, 1.0)
        self._seen += len(labels)
        return {"loss": loss}

    def record(self, seconds: float, validation: dict[str, float] | None) -> EpochRecord:
        """Results of the current epoch so far."""
        loss = self._loss.item() / self._seen
        if not np.isfinite(loss):
            raise ModelError(
                f"epoch {self.epoch}: the loss is {loss}. Use lower learning rates (lr), or precision fp32 or bf16."
            )
        return EpochRecord(
            epoch=self.epoch,
            stage=self.stages.at(self.epoch).name,
            alpha=self.alpha,
            loss=loss,
            gate=self._gate.item() / self._seen,
            seconds=seconds,
            gate_histogram=tuple(int(n) for n in self._gates.tolist()),
            validation=validation,
        )
