"""Settings of fine-tuning. No torch is imported, so a wrong setting is reported before anything heavy starts."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator

PROJECTIONS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
LANGUAGE_TARGETS = rf"(?:.+\.)?(?:language_model|text_model)\.(?:.+\.)?(?:{PROJECTIONS})"
"""The seven projections of the language part. Vision MLPs have three of these names but are not included."""
VISION_MLPS = r"(?:.+\.)?visual\.(?:.+\.)?(?:gate_proj|up_proj|down_proj)"
"""The MLPs of Qwen2.5-VL's vision part, which MMLNB's official code also adapts, without documenting it."""


class FinetuneSettings(BaseModel):
    """LoRA fine-tuning of a captioner. Defaults are those of MMLNB's official code unless stated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str | None = None
    """Prompt for each image, in training and afterwards. None: the prompt of the base's training, or wsikit's."""
    image_px: int | None = Field(default=None, ge=28)
    """Side to which every image is resized, in training and afterwards. None: the base's, or 224. MMLNB: 256."""
    mpp: float | None = Field(default=None, gt=0)
    """µm/px of the images on disk; recorded, so that a warning can be given at another scale."""
    max_new_tokens: int = Field(default=128, gt=0)
    """Maximum number of tokens of a caption; MMLNB generates up to 256, of which its text branch reads 128."""

    rank: int = Field(default=64, gt=0)
    alpha: float = Field(default=16, gt=0)
    """LoRA alpha (scaling = alpha / rank); 0.25 with MMLNB's values, while 1 or 2 is usual."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: str = LANGUAGE_TARGETS
    """Regular expression that the full name of a linear layer must match. The matching layers are recorded."""
    vision_mlps: bool = False
    """Adapt the MLPs of Qwen2.5-VL's vision part too."""

    epochs: int = Field(default=5, gt=0)
    lr: float = Field(default=1e-4, gt=0)
    schedule: str = "linear"
    """Of transformers' schedulers: linear (MMLNB), cosine, constant …"""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the steps for warm-up."""
    weight_decay: float = Field(default=0.0, ge=0)
    batch: int = Field(default=4, gt=0)
    accumulate: int = Field(default=4, gt=0)
    """Gradient accumulation: batches per step."""
    gradient_checkpointing: bool = True
    turns: bool = False
    """Rotate and reflect training images at random (eight symmetries); not part of MMLNB."""
    seed: int = Field(default=2024, ge=0)

    validation_share: float = Field(default=0.15, gt=0, lt=0.9)
    """Fraction of the rows, by whole patients, held out to select the epoch."""
    score_at_most: int = Field(default=200, gt=0)
    """Validation captions generated after each epoch for fact-F1; the loss uses all rows."""

    @field_validator("targets")
    @classmethod
    def _is_a_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value

    @property
    def pattern(self) -> str:
        """The regular expression in effect."""
        return rf"(?:{self.targets})|(?:{VISION_MLPS})" if self.vision_mlps else self.targets
