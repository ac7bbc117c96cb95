"""Fusion variants (arms of the ablation), fitted on the features of two trained branches: the last stage of MMLNB.

Both branches are frozen, so their features are computed once and shared by all arms. Axes: N patches, V views (rotated
and reflected).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from wsikit.models.concat import Concatenation
from wsikit.models.mmlnb import MMLNB
from wsikit.models.prmf import PRMF
from wsikit.training.augment import disturb
from wsikit.training.batches import Texts
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.data import PatchSet
from wsikit.training.fitting import fit
from wsikit.training.forward import branch_features, inputs_of, slide_contexts, softmax
from wsikit.training.losses import loss_of
from wsikit.training.settings import FitSettings

ArmName = Literal["concatenation", "PRMF paper", "PRMF robust"]
ARMS: tuple[ArmName, ...] = ("concatenation", "PRMF paper", "PRMF robust")

AT_ONCE = 256


class ArmSettings(FitSettings):
    """Settings for fitting an arm."""

    robust_lr: float = Field(2e-4, gt=0)
    """Peak learning rate of the robust arm, which continues from the image stage; the others start from scratch."""
    caption_drop: float = Field(0.1, ge=0, le=1)
    caption_swap: float = Field(0.2, ge=0, le=1)
    lambda_text: float = Field(0.3, ge=0)
    lambda_gate: float = Field(1.0, ge=0)
    views: int = Field(4, ge=1, le=8)
    """Number of rotated or reflected views of each training patch."""


@dataclass(frozen=True)
class Bank:
    """Features of patches and captions."""

    image: Tensor
    """float32 (N, V, d_img); view 0 is the unchanged patch."""
    text: Tensor
    """float32 (N, d_text)."""
    present: Tensor
    """bool (N,), whether there is a caption."""
    labels: Tensor
    """int64 (N,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: npt.NDArray[np.integer]) -> Bank:
        """Only these patches."""
        chosen = torch.from_numpy(np.asarray(rows, dtype=np.int64))
        return Bank(self.image[chosen], self.text[chosen], self.present[chosen], self.labels[chosen])

    def without_captions(self) -> Bank:
        """The same patches without captions."""
        return replace(self, present=torch.zeros_like(self.present))

    def shuffled(self, seed: int) -> Bank:
        """The same patches with shuffled captions."""
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(self)))
        return replace(self, text=self.text[order], present=self.present[order])


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each feature over the training patches, for standardisation before fusion."""

    image: tuple[Tensor, Tensor]
    text: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, bank: Bank) -> Scale:
        """Measure them on the first views and captions of these patches."""
        return cls(_moments(bank.image[:, 0]), _moments(bank.text[bank.present]))

    def apply(self, bank: Bank) -> Bank:
        """The features, standardised."""
        (m, s), (mt, st) = self.image, self.text
        return replace(bank, image=(bank.image - m) / s, text=(bank.text - mt) / st)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.mean(dim=0), features.std(dim=0).clamp(min=1e-3)  # a constant feature stays small


@torch.inference_mode()
def bank_of(model: MMLNB, data: PatchSet, *, views: int) -> Bank:
    """Run both branches, in eval mode, over a patch set."""
    model.eval()
    texts, context = Texts.of(model, data), slide_contexts(model, data)
    image, text = [], []
    for first in range(0, len(data), AT_ONCE):
        rows = np.arange(first, min(first + AT_ONCE, len(data)))
        inputs = inputs_of(data, texts, context, rows, torch.device("cpu"))
        first_view, of_text = branch_features(model, inputs)
        others = [_turned(inputs["images"], view) for view in range(1, views)]
        seen = [first_view, *(model.in_slide(model.image(turned), inputs.get("context")) for turned in others)]
        image.append(torch.stack(seen, dim=1))
        text.append(of_text)
    present = torch.from_numpy(texts.present)
    # clones: tensors made in inference mode cannot take part in training
    return Bank(torch.cat(image).clone(), torch.cat(text).clone(), present, torch.from_numpy(data.labels))


def _turned(pixels: Tensor, view: int) -> Tensor:
    """View 0 is unchanged, then rotations, then reflections; each (B, P, P, 3)."""
    turned = torch.rot90(pixels, view % 4, dims=(1, 2))
    return turned.flip(1) if view >= 4 else turned


class _Learner(nn.Module):
    """An arm with its losses; views, missing and swapped captions are drawn again at every step."""

    def __init__(
        self,
        fusion: PRMF | Concatenation,
        bank: Bank,
        settings: ArmSettings,
        curriculum: CurriculumSchedule,
        weight: Tensor,
        seed: int,
    ) -> None:
        super().__init__()
        self.fusion = fusion
        self._bank, self._settings, self._curriculum, self._weight = bank, settings, curriculum, weight
        self._rng = np.random.default_rng(seed)
        self._steps, self._per_epoch = 0, -(-len(bank) // settings.batch)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        bank, settings = self._bank, self._settings
        alpha = self._curriculum.alpha(self._steps // self._per_epoch)
        self._steps += 1
        b = len(rows)
        source, dropped, own = disturb(b, self._rng, drop=settings.caption_drop, swap=settings.caption_swap)
        view = torch.from_numpy(self._rng.integers(bank.image.shape[1], size=b))
        texts = rows[torch.from_numpy(source)]
        present = bank.present[texts] & ~torch.from_numpy(dropped)
        out = self.fusion(bank.text[texts], bank.image[rows, view], present=present, rho=alpha)
        plain = isinstance(self.fusion, Concatenation)  # it has neither gate nor curriculum
        loss = loss_of(
            out,
            bank.labels[rows],
            present=present,
            own=torch.from_numpy(own) & present,
            alpha=1.0 if plain else alpha,
            lambda_text=0.0 if plain else settings.lambda_text,
            lambda_gate=0.0 if plain else settings.lambda_gate,
            weight=self._weight,
        )
        return {"loss": loss}


@dataclass(frozen=True)
class ArmOutput:
    """Outputs for N patches."""

    probs: npt.NDArray[np.float64]
    """(N, C), fused prediction."""
    probs_image: npt.NDArray[np.float64]
    probs_text: npt.NDArray[np.float64]
    """(N, C), of each auxiliary head."""
    gate: npt.NDArray[np.float32]
    """(N,)"""


@dataclass(frozen=True)
class Arm:
    """A fitted fusion of both branches."""

    fusion: PRMF | Concatenation
    scale: Scale | None
    """Standardisation of the features; None: features are used as the branches give them."""

    @torch.inference_mode()
    def predict(self, bank: Bank) -> ArmOutput:
        """Predict patches from their unchanged view (view 0)."""
        if self.scale is not None:
            bank = self.scale.apply(bank)
        out = self.fusion(bank.text, bank.image[:, 0], present=bank.present)
        probs, image, text = (softmax(x.numpy()) for x in (out.logits, out.logits_img, out.logits_txt))
        return ArmOutput(probs, image, text, out.gate.numpy())


def image_stage(model: MMLNB) -> PRMF:
    """The fusion in mode "robust", first revision, after the image stage: the model's, or one with its image head."""
    if isinstance(model.fusion, PRMF):
        return model.fusion
    d, n_classes = model.fusion.head_image.in_features, model.fusion.head_image.out_features
    found = PRMF(model.d_text, model.image.width, d, mode="robust", n_classes=n_classes)
    for name in ("project_image", "head_image"):
        getattr(found, name).load_state_dict(getattr(model.fusion, name).state_dict())
    return found


def fit_arm(
    name: ArmName,
    bank: Bank,
    settings: ArmSettings,
    *,
    image_stage: PRMF,
    curriculum: CurriculumSchedule,
    weight: npt.NDArray[np.float32],
    seed: int,
) -> Arm:
    """Fit one arm.

    Parameters
    ----------
    image_stage
        The fusion in mode "robust" after the image stage. The robust arm continues from it: its image projection is
        frozen and its fused head is initialised with the image head, so that with a closed gate it predicts what the
        image branch predicts, and fitting learns when to deviate. The others are trained from scratch, as published.
    weight
        float32 (C,), class weights.
    """
    torch.manual_seed(seed)
    d_text, d_img, n_classes = bank.text.shape[1], bank.image.shape[2], len(weight)
    fusion: PRMF | Concatenation
    scale: Scale | None = Scale.of(bank)
    if name == "concatenation":
        fusion = Concatenation(d_text, d_img, n_classes=n_classes)
    elif name == "PRMF paper":
        fusion = PRMF(d_text, d_img, d_text, mode="paper", n_classes=n_classes)
    else:
        fusion, scale = copy.deepcopy(image_stage).requires_grad_(True), None
        fusion.head[-1].load_state_dict(fusion.head_image.state_dict())  # type: ignore[index]
        fusion.project_image.requires_grad_(False)
        fusion.head_image.requires_grad_(False)
        settings = settings.model_copy(update={"lr": settings.robust_lr})
    scaled = bank if scale is None else scale.apply(bank)
    learner = _Learner(fusion, scaled, settings, curriculum, torch.from_numpy(weight), seed)
    fit(learner, len(bank), settings, seed=seed)
    return Arm(fusion.requires_grad_(True).eval(), scale)
