"""Settings of a training run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer


class ContrastSettings(BaseModel):
    """Settings of the supervised contrastive loss on the features of the image encoder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(0.5, gt=0)
    """Of this loss, which is added to those of the heads."""
    temperature: float = Field(0.1, gt=0)


class TrainingSettings(BaseModel):
    """Settings of `train`. The default learning rates are for pretrained encoders."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(gt=0)
    batch: int = Field(32, gt=1)
    seed: int = Field(0, ge=0)
    lr: dict[str, float] = {"image": 1e-4, "text": 2e-5, "fusion": 1e-3}
    """Peak learning rate of each part."""
    weight_decay: float = Field(1e-2, ge=0)
    """Weight decay of matrices and filters; none for biases and norms."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Fraction of all steps for warm-up; then cosine decay."""
    clip: float = Field(1.0, gt=0)
    """Maximum norm of the gradient (clipping)."""
    caption_drop: float = Field(0.1, ge=0, le=1)
    caption_swap: float = Field(0.1, ge=0, le=1)
    stain_scale: float = Field(0.0, ge=0, lt=1)
    stain_shift: float = Field(0.0, ge=0)
    lambda_text: float = Field(0.0, ge=0)
    """Weight of the text head's loss."""
    lambda_gate: float = Field(0.0, ge=0)
    """Weight of the loss that teaches the gate whether the text head is right."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: all classes have equal weight in the losses, whatever their number of patches."""
    contrast: ContrastSettings | None = None
    """Also draw the image features of a class together and those of others apart; default: cross-entropy only."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the forward pass; weights stay fp32. fp16 needs a GPU."""
    select_by: Literal["nll", "auc", "balanced_accuracy"] = "nll"
    """Metric of the validation set that selects the epoch whose weights are kept."""
    patience: int | None = Field(None, gt=0)
    """Early stopping: number of epochs without improvement, counted after the end of the curriculum."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Settings without contrast are written as before there was one, so that unfinished runs can be resumed."""
        return {name: value for name, value in handler(self).items() if name != "contrast" or value is not None}


class FitSettings(BaseModel):
    """Settings for fitting one part."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(gt=0)
    batch: int = Field(64, gt=1)
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate; warm-up over a tenth of all steps, then cosine decay."""
    weight_decay: float = Field(0.05, ge=0)


class ReadingSettings(FitSettings):
    """Settings for pretraining a text encoder on measured captions, before patches are used."""

    captions: int = Field(20_000, gt=100)
    """Number of captions, of randomly drawn facts."""
