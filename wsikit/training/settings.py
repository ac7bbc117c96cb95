"""What a user may set of a training run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingSettings(BaseModel):
    """What a user may set. The learning rates' defaults are for pretrained encoders."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(gt=0)
    batch: int = Field(32, gt=1)
    seed: int = Field(0, ge=0)
    lr: dict[str, float] = {"image": 1e-4, "text": 2e-5, "fusion": 1e-3}
    """Peak learning rate of each part."""
    weight_decay: float = Field(1e-2, ge=0)
    """Of matrices and filters; biases and norms do not decay."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of all steps over which the learning rate rises; then it falls as a cosine."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    caption_drop: float = Field(0.1, ge=0, le=1)
    caption_swap: float = Field(0.1, ge=0, le=1)
    stain_scale: float = Field(0.0, ge=0, lt=1)
    stain_shift: float = Field(0.0, ge=0)
    lambda_text: float = Field(0.0, ge=0)
    """Weight of the text head's loss."""
    lambda_gate: float = Field(0.0, ge=0)
    """Weight of the loss that teaches the gate whether the text head is right."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: every class counts alike in the losses, however many patches it has."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward pass; weights stay fp32. fp16 needs a GPU."""
    select_by: Literal["nll", "auc", "balanced_accuracy"] = "nll"
    """Which figure of the validation set picks the epoch whose weights are kept."""
    patience: int | None = Field(None, gt=0)
    """Stop after so many epochs without a better one, counted once the curriculum has reached its end."""


class FitSettings(BaseModel):
    """How a part is fitted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(gt=0)
    batch: int = Field(64, gt=1)
    lr: float = Field(1e-3, gt=0)
    """Peak; it rises over a tenth of all steps and falls as a cosine."""
    weight_decay: float = Field(0.05, ge=0)


class ReadingSettings(FitSettings):
    """How a text encoder from nothing is taught to read measured captions before it meets a patch."""

    captions: int = Field(20_000, gt=100)
    """Drawn at random."""
