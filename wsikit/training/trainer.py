"""Trains a dual-branch model on patches with captions: curriculum, stages, losses, optimiser. Evaluates nothing.

The weights of the last epoch are the result: no epoch is picked by its figures, so no test set is used up.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from wsikit.models.mmlnb import MMLNB
from wsikit.models.prmf import PRMFOutput
from wsikit.training.augment import disturb_captions, jitter_stain, turn
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.data import PatchSet
from wsikit.training.stages import StagePlan

logger = logging.getLogger(__name__)


class TrainingSettings(BaseModel):
    """What a user may set. The learning rates' defaults are for pretrained encoders."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(gt=0)
    batch: int = Field(32, gt=1)
    seed: int = 0
    lr: dict[str, float] = {"image": 1e-4, "text": 2e-5, "fusion": 1e-3}
    """Peak learning rate of each part."""
    weight_decay: float = 1e-2
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of all steps over which the learning rate rises; then it falls as a cosine."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    caption_drop: float = 0.1
    caption_swap: float = 0.1
    stain_scale: float = 0.0
    stain_shift: float = 0.0
    lambda_text: float = 0.0
    """Weight of the text head's loss."""
    lambda_gate: float = 0.0
    """Weight of the loss that teaches the gate whether the text head is right."""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch came to."""

    epoch: int
    stage: str
    alpha: float
    loss: float
    """Mean over the patches, in training mode."""
    gate: float
    """Mean over the patches."""
    seconds: float


@dataclass(frozen=True)
class _Batch:
    images: Tensor
    ids: Tensor
    mask: Tensor
    present: Tensor
    own: Tensor
    labels: Tensor


def loss_of(
    out: PRMFOutput,
    labels: Tensor,
    *,
    present: Tensor,
    own: Tensor,
    alpha: float,
    lambda_text: float = 0.0,
    lambda_gate: float = 0.0,
) -> Tensor:
    """alpha·CE(fused) + (1−alpha)·CE(image) + lambda_text·CE(text) + lambda_gate·BCE(c, own text, head right).

    `labels` is int64 (B,); `present` and `own` are bool (B,): there is a caption, and it is the patch's own. A swapped
    caption teaches the gate to close, whatever it says, and the text head nothing; a missing one teaches neither.
    """
    loss = alpha * functional.cross_entropy(out.logits, labels)
    loss = loss + (1 - alpha) * functional.cross_entropy(out.logits_img, labels)
    if lambda_text and own.any():
        loss = loss + lambda_text * functional.cross_entropy(out.logits_txt[own], labels[own])
    if lambda_gate and present.any():
        right = ((out.logits_txt.detach().argmax(dim=1) == labels) & own)[present].float()
        c = out.reliability[present].mean(dim=1).clamp(1e-6, 1 - 1e-6)
        loss = loss + lambda_gate * functional.binary_cross_entropy(c, right)
    return loss


def train(
    model: MMLNB,
    data: PatchSet,
    settings: TrainingSettings,
    *,
    curriculum: CurriculumSchedule,
    stages: StagePlan,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> list[EpochRecord]:
    """Train `model` in place, on the device it is on; it is in eval mode afterwards.

    With the same seed, data, number of threads and versions the weights come out the same on a CPU.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    steps_per_epoch = math.ceil(len(data) / settings.batch)
    optimiser = _optimiser(model.parts(), settings)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, _course(settings, settings.epochs * steps_per_epoch))
    records = []
    for epoch in range(settings.epochs):
        stage = stages.apply(epoch, model.parts())
        alpha = curriculum.alpha(epoch)
        begun, losses, gates = time.perf_counter(), 0.0, 0.0
        for rows in np.array_split(rng.permutation(len(data)), steps_per_epoch):
            batch = _draw(model, data, rows, rng, settings)
            out = model(batch.images, batch.ids, batch.mask, batch.present, rho=alpha)
            loss = loss_of(
                out,
                batch.labels,
                present=batch.present,
                own=batch.own,
                alpha=alpha,
                lambda_text=settings.lambda_text,
                lambda_gate=settings.lambda_gate,
            )
            optimiser.zero_grad(set_to_none=True)  # None, not 0: weight decay must not move what is frozen
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimiser.step()
            rate.step()
            losses += loss.item() * len(rows)
            gates += out.gate.sum().item()
        n, seconds = len(data), time.perf_counter() - begun
        records.append(EpochRecord(epoch, stage.name, alpha, losses / n, gates / n, seconds))
        logger.info("epoch %d %s: loss %.3f, gate %.2f, %.0f s", epoch, stage.name, losses / n, gates / n, seconds)
        if on_epoch:
            on_epoch(records[-1])
    model.eval()
    return records


def _draw(
    model: MMLNB, data: PatchSet, rows: np.ndarray, rng: np.random.Generator, settings: TrainingSettings
) -> _Batch:
    """A batch, augmented, on the model's device."""
    images = turn(torch.from_numpy(data.images[rows]), rng)
    if settings.stain_scale or settings.stain_shift:
        images = jitter_stain(images, rng, scale=settings.stain_scale, shift=settings.stain_shift)
    captions, own = disturb_captions(
        [data.captions[row] for row in rows], rng, drop=settings.caption_drop, swap=settings.caption_swap
    )
    tokens = model.read(captions)
    device = next(model.parameters()).device
    arrays = (tokens.ids, tokens.mask, tokens.present, own & tokens.present, data.labels[rows])
    return _Batch(images.to(device), *(torch.from_numpy(array).to(device) for array in arrays))


def _optimiser(parts: dict[str, nn.Module], settings: TrainingSettings) -> torch.optim.AdamW:
    groups = [{"params": list(part.parameters()), "lr": settings.lr[name]} for name, part in parts.items()]
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay)


def _course(settings: TrainingSettings, steps: int) -> Callable[[int], float]:
    """Factor on the learning rate by step: linear rise, then a cosine down to 0."""
    rise = max(1, round(settings.warmup * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor
