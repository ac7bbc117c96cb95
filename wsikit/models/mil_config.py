"""The config.json of a model trained on slide labels (multiple instance learning, MIL). No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from wsikit.errors import ModelError
from wsikit.models.config import CONFIG_FILE, WEIGHTS_FILE, ImageEncoderConfig, folder_fingerprint
from wsikit.models.model_folder import Described, EncoderRecord, read_folder_config
from wsikit.models.protocol import FEATURES, IMAGE, PROBABILITY, ModelColumn, ModelInfo

MIL = "mil"
"""Architecture in config.json and in the settings of a training."""

Pooling = Literal["abmil", "mean", "max", "alpha_beta"]
Task = Literal["classes", "ordinal", "regression", "survival"]
SurvivalLoss = Literal["discrete", "cox"]

ATTENTION, ATTENTION_SCORE, VALUE = "attention", "attention_score", "value"
"""Columns: attention, of sum 1 over the slide; its score before it is normalised; the additive part of a value."""

RISK, EXPECTED_GRADE = "risk", "expected_grade"
"""What the number of a slide is, where it is not a measured value: of survival, and of ordered classes."""

IMAGE_WEIGHTS = "image.safetensors"
"""Weights of the image encoder of a model that was trained end to end."""

GROUPS = ("low", "high")
"""Classes of a model of values: below and above the median of its training slides."""


class MilConfig(Described):
    """Everything that describes such a model, except its weights."""

    format: Literal[1] = 1
    architecture: Literal["mil"] = "mil"
    task: Task
    """"classes"; "ordinal": classes in their order; "regression", "survival": one value per slide."""
    pooling: Pooling
    """How patches become a slide; see `wsikit.models.mil_pooling`."""
    alpha: float = Field(0.1, gt=0, le=1)
    """alpha_beta: least share of the patches of a positive slide that are positive."""
    captioner: str = "morphometry"
    """Default captioner of a run, for the report; the model reads no captions."""
    encoder: EncoderRecord | None = None
    """Whose stored features are read; None: the model has an image encoder of its own."""
    image: ImageEncoderConfig | None = None
    """That encoder."""
    members: int = Field(gt=0)
    """Networks whose patch logits and attention scores are averaged: one per fold."""
    centre: float = 0.0
    """Of values: the median of the training slides."""
    spread: float = Field(1.0, gt=0)
    """Of values: P(high) = σ((value − centre) / spread)."""
    unit: str = ""
    """Of the values of a regression, or of the times of survival."""
    survival: SurvivalLoss = "discrete"
    """What the risk is: "discrete", the log odds of the hazard in an interval of time; "cox", the log hazard ratio."""
    times: tuple[float, ...] = ()
    """discrete: inner ends of the intervals of time, ascending; the hazard of each has its own level."""

    @model_validator(mode="after")
    def _consistent(self) -> MilConfig:
        self.check_classes()
        if (self.encoder is None) == (self.image is None):
            raise ValueError("give the encoder of the features that are read, or an image encoder of its own")
        if self.task in ("regression", "survival") and self.classes != GROUPS:
            raise ValueError(f"a model of values has the classes {GROUPS}")
        if self.task != "classes" and self.pooling == "alpha_beta":
            raise ValueError("alpha_beta is for classes, of which the first is the negative one")
        if self.survival == "cox" and (self.task != "survival" or self.times):
            raise ValueError("survival: cox is for task survival, and has no intervals of time")
        return self

    @property
    def scalar(self) -> bool:
        """Whether each patch has one score (ordinal, values), not one per class."""
        return self.task != "classes"

    @property
    def outputs(self) -> int:
        """Numbers per patch of the linear layer."""
        return 1 if self.scalar else len(self.classes)

    @property
    def cuts(self) -> int:
        """Thresholds of the score: between ordered classes, or levels of the hazard."""
        if self.survival == "cox":
            return 0
        return {"ordinal": len(self.classes) - 1, "survival": len(self.times) + 1}.get(self.task, 0)

    @property
    def value_column(self) -> ModelColumn | None:
        """The column with each patch's part of the slide's value; None for classes. A risk has no unit of time."""
        if self.task == "survival":
            unit = "log hazard ratio" if self.survival == "cox" else "log odds of the hazard"
            return ModelColumn(VALUE, unit=unit, kind=RISK)
        return ModelColumn(VALUE, unit=self.unit) if self.task == "regression" else None

    @property
    def vote(self) -> dict[str, Any]:
        """The vote that gives the model's own prediction of a slide, exactly.

        No weights but attention: the network saw every patch. At least one effective patch: attention may rest on few.
        """
        pool = "ordinal" if self.task == "ordinal" else "log"
        prior = "balanced" if self.balanced else "auto"
        return {"method": "attention", "pool": pool, "weights": (), "min_patches": 1.0, "prior": prior}


def info_of_mil(config: MilConfig, fingerprint: str) -> ModelInfo:
    """The configuration as `ModelInfo`."""
    columns = [ModelColumn(PROBABILITY, per_class=True), ModelColumn(ATTENTION_SCORE), ModelColumn(ATTENTION)]
    if config.value_column is not None:
        columns.append(config.value_column)
    encoder = config.encoder
    return ModelInfo(
        **config.info_fields,
        architecture=config.architecture,
        fingerprint=fingerprint,
        captioner=config.captioner,
        inputs=(IMAGE,) if encoder is None else (FEATURES + encoder.name,),
        columns=tuple(columns),
        features=() if encoder is None else (encoder.as_source,),
        whole_slide=(ATTENTION,),
        vote=config.vote,
    )


def read_mil_config(folder: Path) -> MilConfig:
    """The configuration of the model in `folder`.

    Raises
    ------
    ModelError
        If a file is missing, or config.json is not that of such a model.
    """
    config = read_folder_config(folder, MilConfig, "a MIL model")
    if config.image is not None and not (folder / IMAGE_WEIGHTS).is_file():
        raise ModelError(f"{folder}: {IMAGE_WEIGHTS} missing; copy the model's folder again.")
    return config


def mil_fingerprint(folder: Path) -> str:
    """sha256 over the files that determine predictions: configuration and weights."""
    return folder_fingerprint(folder, (CONFIG_FILE, WEIGHTS_FILE, IMAGE_WEIGHTS))
