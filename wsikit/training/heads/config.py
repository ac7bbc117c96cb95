"""The YAML file of `wsikit train` for a head on features: data, classes, split, features, head. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from wsikit.errors import RequestError
from wsikit.training.concepts.config import CONCEPTS, ConceptTrainConfig
from wsikit.training.config import FeatureTrainConfig, TrainConfig
from wsikit.training.task import FeatureInput, Strict, TaskConfig, read_config, read_settings


class LinearSettings(Strict):
    """Multinomial logistic regression on standardised features."""

    kind: Literal["linear"] = "linear"
    l2: float | None = Field(default=None, gt=0)
    """Weight of the penalty: mean loss + l2 / 2 · |weights|². Default: chosen by cross-validation over patients."""
    folds: int = Field(default=5, ge=2)
    """Folds of this cross-validation, within the training part."""
    most: int = Field(default=20_000, gt=100)
    """Patches that are used for the choice of l2, drawn by class where there are more; the final fit uses all."""
    class_weights: Literal["none", "balanced"] = "none"


class MlpSettings(Strict):
    """One hidden layer on standardised features; the epoch is chosen on the validation part."""

    kind: Literal["mlp"] = "mlp"
    hidden: int = Field(128, gt=0)
    dropout: float = Field(0.25, ge=0, lt=1)
    """Of the hidden layer."""
    epochs: int = Field(100, gt=0)
    """At most."""
    patience: int = Field(10, gt=0)
    """Early stopping: epochs without a lower validation loss."""
    batch: int = Field(256, gt=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    class_weights: Literal["none", "balanced"] = "none"


class KnnSettings(Strict):
    """The k nearest training patches; k is chosen on the validation part."""

    kind: Literal["knn"] = "knn"
    metric: Literal["cosine", "euclidean"] = "cosine"
    k: tuple[int, ...] = (1, 3, 5, 9, 15, 25, 51, 101, 201)
    """To choose from; one: no choice."""
    most: int = Field(20_000, gt=0)
    """Training patches that the model keeps, drawn by class where there are more."""

    @field_validator("k")
    @classmethod
    def _positive(cls, k: tuple[int, ...]) -> tuple[int, ...]:
        if not k or min(k) < 1 or len(set(k)) != len(k):
            raise ValueError("give different numbers of neighbours, each 1 or more")
        return tuple(sorted(k))


HeadSettings = Annotated[LinearSettings | MlpSettings | KnnSettings, Field(discriminator="kind")]


class HeadTrainConfig(TaskConfig):
    """All settings of the training of a head."""

    image: FeatureInput
    head: HeadSettings
    seed: int = Field(0, ge=0)
    """Of the weights and batches of an mlp, and of patches that are drawn."""
    ood: bool = True
    """Fit an out-of-distribution detector on the features."""
    colour_floor: bool = True
    """Also evaluate the colour histogram as a baseline; False: no pixels are read where features are stored."""

    @field_validator("head", mode="before")
    @classmethod
    def _by_name(cls, head: Any) -> Any:
        """`head: linear` is short for `head: {kind: linear}`."""
        return {"kind": head} if isinstance(head, str) else head


def read_training_config(
    path: str | Path, *, data: str | None = None
) -> TrainConfig | HeadTrainConfig | ConceptTrainConfig:
    """Read a configuration of `wsikit train`: of a concept head with `architecture: concepts`, of a head if it has a
    section `head`, else of MMLNB, on features if its image branch names some.

    Raises
    ------
    RequestError
        As `read_config`; also if features are named with neither a head nor the parts of MMLNB.
    """
    record = read_settings(path)
    if record.get("architecture") == CONCEPTS:
        return read_config(path, ConceptTrainConfig, data=data)
    if "head" in record:
        return read_config(path, HeadTrainConfig, data=data)
    image = record.get("image")
    if not (isinstance(image, dict) and "features" in image):
        return read_config(path, TrainConfig, data=data)
    if "text" not in record and "prmf" not in record:
        raise RequestError(
            f"{path}: image: features {image['features']!r}, but no head to train on them. Add head: linear (or mlp, "
            "knn); or text and prmf, for a fusion with captions."
        )
    return read_config(path, FeatureTrainConfig, data=data)
