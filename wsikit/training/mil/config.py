"""The YAML file of `wsikit train` for a model on slide labels (`architecture: mil`). No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from wsikit.exporters.palette import class_colors, hex_color
from wsikit.models.config import ImageEncoderConfig
from wsikit.models.mil_config import GROUPS, Pooling, SurvivalLoss, Task
from wsikit.training.task import ClassConfig, Strict, read_config


class PhantomSource(Strict):
    """Synthetic slides, made when the training begins: one per seed, the subtypes in turn; one patient each."""

    seeds: tuple[int, int]
    """First seed, and one past the last."""
    slide_px: int = Field(2240, gt=0)
    """Side of a slide at 0.5 µm/px."""
    min_tissue: float = Field(0.25, ge=0, le=1)
    """Minimum tissue fraction of a patch."""


class MilData(Strict):
    """The slides. Give one of manifest and phantoms."""

    manifest: str | None = None
    """CSV with one row per slide: store or features, label (or value; or time and event), patient, slide. See
    `wsikit.training.mil.cohort`."""
    phantoms: PhantomSource | None = None
    grid: str | None = None
    """Patch grid of the stores, where they have several."""
    mpp: float | None = Field(None, gt=0)
    """µm/px of the patches. Stores record it; files of features do not."""
    patch_px: int | None = Field(None, gt=0)
    """Side of the patches. Stores record it."""
    stain: str = "H&E"

    @model_validator(mode="after")
    def _one_source(self) -> MilData:
        if (self.manifest is None) == (self.phantoms is None):
            raise ValueError("give one of manifest and phantoms")
        return self


class MilSettings(Strict):
    """The network."""

    pooling: Pooling = "abmil"
    alpha: float = Field(default=0.1, gt=0, le=1)
    """alpha_beta: least share of a positive slide's patches that are positive."""
    beta: float = Field(default=0.0, ge=0, le=1)
    """alpha_beta: least share of them that are negative; 0: none is assumed."""
    hidden: int = Field(default=64, gt=0)
    """Width of the embedding."""
    attention: int = Field(default=32, gt=0)
    """Width of the gated attention."""
    dropout: float = Field(default=0.25, ge=0, lt=1)
    survival: SurvivalLoss = "discrete"
    """survival: likelihood of discrete times, or Cox's partial likelihood among the slides of a step (Efron ties)."""
    intervals: int = Field(default=4, ge=2)
    """discrete: intervals of time, with equally many events of the training slides in each."""


class MilTraining(Strict):
    """How it is trained."""

    epochs: int = Field(default=60, gt=0)
    """At most."""
    patience: int = Field(default=12, gt=0)
    """Early stopping: epochs without a lower loss on the validation slides."""
    batch: int = Field(default=8, gt=0)
    """Slides per step."""
    patches: int | None = Field(default=None, gt=0)
    """Patches per slide and step, drawn at random; None: all."""
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    class_weights: Literal["none", "balanced"] = "none"
    seed: int = Field(default=0, ge=0)


class MilSplit(Strict):
    """Held-out patients, and folds of the others: each fold stops one network, which learns on the other folds."""

    seed: int = Field(default=0, ge=0)
    test: float = Field(default=0.25, gt=0, lt=1)
    """Share of the slides that no network sees."""
    folds: int = Field(default=5, ge=2)
    """With an image encoder the first fold alone is used: one network and one encoder."""


class MilTrainConfig(Strict):
    """All settings of a training on slide labels."""

    architecture: Literal["mil"]
    name: str = Field(min_length=1)
    version: str = "1"
    notice: str = "For research use only. Not for diagnosis."
    task: Task = "classes"
    data: MilData
    classes: tuple[ClassConfig, ...] = ()
    """In the order of the outputs: for `ordinal` from lowest to highest, for alpha_beta the negative one first."""
    features: str | None = Field(None, min_length=1)
    """Of stores: NAME of the column `features_NAME`; of phantoms: an encoder; of files: the name of their encoder."""
    image: ImageEncoderConfig | None = None
    """Instead of features: an image encoder that is trained along, on patches of stores."""
    mil: MilSettings = MilSettings()
    training: MilTraining = MilTraining()
    split: MilSplit = MilSplit()
    unit: str = ""
    """Of the values, such as months."""
    maps: int = Field(0, ge=0)
    """Test slides of stores whose maps are written to OUT/maps."""

    @model_validator(mode="after")
    def _fits(self) -> MilTrainConfig:
        if (self.features is None) == (self.image is None):
            raise ValueError("give features, or an image encoder to train")
        of_classes = self.task in ("classes", "ordinal")
        if of_classes != (len(self.classes) >= 2):
            raise ValueError(f"task {self.task}: {'list two or more' if of_classes else 'leave out the'} classes")
        if any(one.background for one in self.classes):
            raise ValueError("classes: all classes of a slide vote; none is background")
        values = [value for one in self.classes for value in (one.values or (one.code,))]
        if len(set(values)) != len(values) or len({one.code for one in self.classes}) != len(self.classes):
            raise ValueError("classes: codes and values must differ")
        if self.task != "classes" and self.mil.pooling == "alpha_beta":
            raise ValueError("alpha_beta is for task classes, of which the first is the negative one")
        if self.mil.survival == "cox" and self.task != "survival":
            raise ValueError("survival: cox is for task survival")
        if self.mil.survival == "cox" and self.training.batch < 2:
            raise ValueError("survival: cox compares the slides of a step: give a batch of 2 or more")
        if not of_classes and self.training.class_weights != "none":
            raise ValueError("class_weights are for classes")
        if self.image is not None and not of_classes:
            raise ValueError("an image encoder is trained for classes; of values give features")
        if self.data.phantoms is not None and self.task not in ("classes", "ordinal"):
            raise ValueError("phantoms have classes, and neither values nor times")
        return self

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of the classes; of values those of the two groups that a slide can be in."""
        return tuple(one.code for one in self.classes) or GROUPS

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names for display."""
        if self.classes:
            return tuple(one.name or one.code for one in self.classes)
        what = "risk" if self.task == "survival" else "value"
        return (f"lower {what}", f"higher {what}")

    @property
    def values(self) -> dict[str, str]:
        """Value in the manifest to class code."""
        return {value: one.code for one in self.classes for value in (one.values or (one.code,))}

    @property
    def colors(self) -> tuple[str, ...]:
        """ "#rrggbb" per class."""
        usual = [hex_color(color) for color in class_colors(self.codes, ())]
        given = [one.color for one in self.classes] or [None] * len(usual)
        return tuple(own or color for own, color in zip(given, usual, strict=True))


def read_mil_config(path: str | Path, *, data: str | None = None) -> MilTrainConfig:
    """Read a configuration; `data` replaces its manifest. RequestError as for `wsikit.training.task.read_config`."""
    return read_config(path, MilTrainConfig, data=data)
