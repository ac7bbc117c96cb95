"""The YAML file of `wsikit train` for MMLNB: data, classes, captions, split, encoders, training. Unknown settings are
errors. No torch here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from wsikit.captions.registry import IN_SLIDE, MEASURING
from wsikit.models.config import Context, NumbersConfig, PRMFConfig
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.settings import FitSettings, ReadingSettings, TrainingSettings
from wsikit.training.stages import Stage, StagePlan
from wsikit.training.task import DataConfig, FeatureInput, Strict, TaskConfig, read_config

__all__ = [
    "CaptionsConfig",
    "DataConfig",
    "FeatureBranch",
    "FeatureTrainConfig",
    "ImageBranch",
    "StageShare",
    "TextBranch",
    "TrainConfig",
    "read_config",
]


class CaptionsConfig(Strict):
    """Source of the captions: `table` (the data's own), `captioner`, `csv` or `none`."""

    source: Literal["table", "captioner", "csv", "none"] = "table"
    captioner: str | None = None
    """As in `wsikit caption --captioner`."""
    csv: str | None = None
    """CSV with the columns file_name and description, one row per patch; for example out-of-fold captions."""

    @property
    def in_slide(self) -> bool:
        """Whether the captions describe a patch relative to its slide."""
        return self.captioner == IN_SLIDE

    @model_validator(mode="after")
    def _what_it_needs(self) -> CaptionsConfig:
        for name in ("captioner", "csv"):
            if (getattr(self, name) is not None) != (self.source == name):
                raise ValueError(f"source {self.source!r} and {name} {getattr(self, name)!r} cannot be combined")
        return self


class ImageBranch(Strict):
    """The image encoder."""

    name: str
    """As in `timm.list_models()`, swin_kan_micro, _mini or _tiny, or the name of a plug-in of `wsikit.encoders`."""
    options: dict[str, Any] = {}
    weights: str | None = None
    """A safetensors file, or a hub id in the local cache; nothing is downloaded. Default: random weights."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    context: Context = None
    """slide: the branch also sees mean and spread of the image features of the patch's slide."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_unused(handler(self), "context")


class FeatureBranch(ImageBranch, FeatureInput):
    """Features of a frozen encoder and a linear projection, instead of an image encoder that is trained."""

    name: str = "features"
    project: int = Field(128, gt=0)
    """Width of the projection."""

    @model_validator(mode="after")
    def _nothing_else(self) -> FeatureBranch:
        unused = self.model_fields_set & (set(ImageBranch.model_fields) - {"context"})
        if unused:
            raise ValueError(f"features and {', '.join(sorted(unused))} cannot be combined: the encoder is not trained")
        return self


class TextBranch(Strict):
    """The text encoder: trained from scratch with its own vocabulary, or pretrained."""

    model_type: str | None = None
    """Model type of transformers' AutoConfig, for training from scratch."""
    options: dict[str, Any] = {}
    vocabulary: int = Field(400, gt=10)
    """Maximum size of the vocabulary learnt from the training captions."""
    pretrained: str | None = None
    """A local folder of transformers, or a hub id in the local cache; instead of the three above."""
    max_tokens: int = Field(128, gt=2)
    """Captions are truncated to this number of tokens; the number of truncated captions is logged."""

    @model_validator(mode="after")
    def _one_of_two(self) -> TextBranch:
        if (self.model_type is None) == (self.pretrained is None):
            raise ValueError("give either model_type (training from scratch) or pretrained")
        return self


class NumbersSettings(NumbersConfig):
    """Numbers of the captions as an input of the text branch."""

    facts: tuple[str, ...] = ()
    """Names of `wsikit.facts.FACTS` or `STATED`; default: all that are measured at the scale of the patches."""


class CrossFitSettings(Strict):
    """Train each branch by itself, then fit the fusion on patients whom its branches have not seen.

    See `wsikit.training.cross_fit`. `training` is then for the image branch; `rise`, `start` and `stages` are not used.
    """

    text: FitSettings
    """Of the text branch."""
    folds: int = Field(4, ge=3)
    """Folds of the training patients: so many further pairs of branches are trained."""
    field_um: float | None = Field(None, gt=0)
    """Standard deviation, µm, of the field whose mean predictions may be added to those of a patch; None: none."""
    workers: int = Field(1, ge=1)
    """Processes that train the pairs of branches."""


class StageShare(Strict):
    """Which parts are trained, from which fraction of the epochs on."""

    name: str
    since: float = Field(ge=0, lt=1)
    learns: frozenset[Literal["image", "text", "fusion"]]


class TrainConfig(TaskConfig):
    """All settings of a training of MMLNB."""

    captions: CaptionsConfig = CaptionsConfig()
    image: ImageBranch
    text: TextBranch
    numbers: NumbersSettings | None = None
    """Also read the numbers of the captions; default: their words only."""
    reading: ReadingSettings | None = None
    """Pretrain the text encoder on measured captions; default: no pretraining."""
    prmf: PRMFConfig
    cross_fit: CrossFitSettings | None = None
    """Fit the fusion on unseen patients, starting from the mean; default: branches and fusion are trained together."""
    training: TrainingSettings
    rise: tuple[float, float] = (1 / 3, 2 / 3)
    """Fractions of the epochs between which the weight of the text rises."""
    start: float = Field(0.3, ge=0, le=1)
    stages: tuple[StageShare, ...] = (StageShare(name="all", since=0.0, learns=frozenset({"image", "text", "fusion"})),)

    @model_validator(mode="after")
    def _parts_fit(self) -> TrainConfig:
        if self.reading is not None and (self.text.pretrained is not None or self.captions.captioner not in MEASURING):
            raise ValueError(
                f"reading: only for a text encoder trained from scratch on captions of {' or '.join(MEASURING)}"
            )
        if self.numbers is not None and self.captions.source == "none":
            raise ValueError("numbers: there are no captions (source none) whose numbers could be read")
        if self.numbers is not None and not self.numbers.words and (self.reading or self.text.pretrained):
            raise ValueError(
                "numbers: with words: false there is no text encoder; leave out reading and text.pretrained"
            )
        if self.cross_fit is not None and self.prmf.mode != "robust":
            raise ValueError(f"cross_fit: fits the robust fusion, not prmf.mode {self.prmf.mode!r}")
        self.curriculum()
        self.plan()
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_unused(handler(self), "numbers")

    def curriculum(self) -> CurriculumSchedule:
        return CurriculumSchedule.over(self.training.epochs, rise=self.rise, start=self.start)

    def plan(self) -> StagePlan:
        """The stages in epochs."""
        epochs = self.training.epochs
        return StagePlan(tuple(Stage(s.name, round(s.since * epochs), s.learns) for s in self.stages))


class FeatureTrainConfig(TrainConfig):
    """All settings of a training of MMLNB on features of a frozen encoder."""

    image: FeatureBranch


def without_unused(written: dict[str, Any], *names: str) -> dict[str, Any]:
    """Settings that do not use one of `names` are written as before there was one, so that unfinished runs can be
    resumed.

    >>> without_unused({"numbers": None, "rise": 1}, "numbers")
    {'rise': 1}
    """
    return {key: value for key, value in written.items() if key not in names or value is not None}
