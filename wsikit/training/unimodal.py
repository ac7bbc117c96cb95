"""Unimodal training of the two branches of MMLNB: the stages before fusion, shared by all arms of an ablation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.models.mmlnb import MMLNB
from wsikit.models.prmf_calibrated import CalibratedPRMF
from wsikit.training.batches import Texts
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.data import PatchSet
from wsikit.training.fitting import fit
from wsikit.training.forward import outputs_of, softmax
from wsikit.training.numbers import learn_bins
from wsikit.training.settings import FitSettings, TrainingSettings
from wsikit.training.stages import Stage, StagePlan
from wsikit.training.trainer import EpochRecord, train

_IMAGE_STAGE = StagePlan((Stage("image", 0, frozenset({"image", "fusion"})),))


def train_image_branch(
    model: MMLNB,
    data: PatchSet,
    settings: TrainingSettings,
    *,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
) -> list[EpochRecord]:
    """Train the image encoder with its own head, in place; no captions are used (alpha is 0). Other parameters as for
    `wsikit.training.trainer.train`."""
    silent = data.with_captions([""] * len(data))
    flat = CurriculumSchedule((0, 1), start=0.0, end=0.0, steps=1)
    return train(
        model,
        silent,
        settings,
        curriculum=flat,
        stages=_IMAGE_STAGE,
        on_epoch=on_epoch,
        checkpoints=checkpoints,
        resume=resume,
    )


def image_probs(model: MMLNB, data: PatchSet) -> npt.NDArray[np.float64]:
    """Probabilities of the image branch, (N, C)."""
    return softmax(outputs_of(model, data.with_captions([""] * len(data))).logits_image)


class _TextLearner(nn.Module):
    """The text branch with a head of its own, on captions only."""

    def __init__(self, model: MMLNB, data: PatchSet, weight: Tensor) -> None:
        super().__init__()
        self.encoder, self.numbers = model.text, model.numbers
        if isinstance(model.fusion, CalibratedPRMF):
            self.head = model.fusion.head_text.requires_grad_(True)
            self._width = model.fusion.d_read
        else:
            self._width = model.d_text
            self.head = nn.Sequential(
                nn.Linear(model.d_text, model.d_text), nn.GELU(), nn.Linear(model.d_text, len(weight))
            )
        self._encode = model.text_features
        self._texts, self._labels, self._weight = Texts.of(model, data), torch.from_numpy(data.labels), weight

    def logits(self, rows: Tensor) -> Tensor:
        """(B, C)"""
        tokens = self._texts(rows.numpy())
        numbers = None if tokens.numbers is None else torch.from_numpy(tokens.numbers)
        read = self._encode(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask), numbers)
        logits: Tensor = self.head(read[:, : self._width])
        return logits

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(self.logits(rows), self._labels[rows], weight=self._weight)}


def train_text_branch(
    model: MMLNB,
    training: PatchSet,
    test: PatchSet,
    settings: FitSettings,
    *,
    weight: npt.NDArray[np.float32],
    seed: int,
    head_lr: float = 2e-3,
) -> npt.NDArray[np.float64]:
    """Train the text branch on captions only, in place; return its probabilities for the captions of `test`, (M, C).

    `weight` is float32 (C,), class weights; the new head, and the part that reads numbers,
    have the learning rate `head_lr`.
    """
    torch.manual_seed(seed)
    model.parts()["text"].requires_grad_(True)  # the image branch's stage has frozen it
    learn_bins(model, training)
    learner = _TextLearner(model, training, torch.from_numpy(weight))
    fit(learner, len(training), settings, rates={"head": head_lr, "numbers": head_lr}, seed=seed)
    learner._texts = Texts.of(model, test)
    with torch.inference_mode():
        parts = [learner.logits(rows) for rows in torch.split(torch.arange(len(test)), 256)]
    return softmax(torch.cat(parts).numpy())
