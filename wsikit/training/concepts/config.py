"""The YAML file of `wsikit train` with `architecture: concepts`. No torch here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from wsikit.models.concept_config import CONCEPTS, Mode, Scores
from wsikit.training.task import FeatureInput, Strict, TaskConfig

__all__ = ["CONCEPTS", "AttendSettings", "ConceptLabels", "ConceptSettings", "ConceptTrainConfig", "LinearLayer"]

FitOn = Literal["scores", "truth", "both"]


class ConceptLabels(Strict):
    """Where the option of each axis comes from, for each labelled patch."""

    source: Literal["facts", "captions", "table", "class"]
    """Measured facts by the axes' limits; captions parsed to facts, likewise; columns of a table; or, against the
    meaning of a concept, the class of the patch."""
    csv: str | None = None
    """Table with file_name (of stores: SLIDE/X_Y) and a column per axis; default: that of the data."""
    of_class: dict[str, dict[str, str]] = {}
    """Class code to axis to option; of source `class`."""

    @model_validator(mode="after")
    def _of_class(self) -> ConceptLabels:
        if (self.source == "class") != bool(self.of_class):
            raise ValueError("of_class is for source class, which needs it")
        if self.csv is not None and self.source != "table":
            raise ValueError("csv is for source table")
        return self


class LinearLayer(Strict):
    """The linear layer from scores to classes: multinomial, mean loss + l1 · |weights|₁."""

    l1: float | None = Field(default=None, gt=0)
    """Default: the best in cross-validation over patients."""
    fit_on: FitOn | None = None
    """What the layer is fitted on: predicted scores (sequential bottleneck), true concepts (independent bottleneck), or
    each patch once with either. Default: the truth where the predictors of scores learned it, so that an intervention
    reaches a classifier on true concepts; else both."""
    folds: int = Field(default=5, ge=2)
    class_weights: Literal["none", "balanced"] = "none"


class AttendSettings(Strict):
    """Training of the attention over image tokens."""

    token_side: int | None = Field(default=None, gt=0)
    """Read the encoder's feature map from pixels, pooled to this many cells along each side; default: the features of a
    patch, stored or computed, are its one token."""
    anchors: str = "phantom-afloc"
    """Encoder of the options' texts, as `wsikit localize --encoder` takes it; or "lexicon", bags of words."""
    width: int = Field(default=64, gt=0)
    heads: int = Field(default=4, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    epochs: int = Field(default=60, gt=0)
    patience: int = Field(default=12, gt=0)
    """Epochs without a better balanced accuracy on the validation part."""
    batch: int = Field(default=64, gt=1)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    interventions: float = Field(default=0.25, ge=0, le=1)
    """Share of axes whose scores are replaced by those of the true option in training (RandInt of Espinosa Zarlenga et
    al. 2022, arXiv 2209.09056); 0: as published by Explicd."""
    refit: bool = True
    """Fit the linear layer (`linear`) again on the trained scores, so that it is right after an intervention as well;
    False: keep that of the training, as published by Explicd."""


class ConceptSettings(Strict):
    """The concepts and what scores them."""

    mode: Mode = "bottleneck"
    criteria: str = "inpc"
    """Packaged criteria, or a YAML or JSON file."""
    axes: tuple[str, ...] = ()
    """Use these axes only; default: all."""
    scores: Scores = "facts"
    """Of mode bottleneck: facts, learned or text."""
    facts: Literal["measured", "captions"] = "measured"
    """Of scores facts: measured ones, or those that the captions of the data state, parsed to intervals."""
    captioner: str = "morphometry"
    """Captioner whose facts score the concepts; of images, which measures them."""
    labels: ConceptLabels = ConceptLabels(source="facts")
    linear: LinearLayer = LinearLayer()
    attend: AttendSettings = AttendSettings()

    @model_validator(mode="before")
    @classmethod
    def _scores_of_mode(cls, value: Any) -> Any:
        """Mode attend has one kind of scores, which need not be written."""
        attends = isinstance(value, dict) and value.get("mode") == "attend"
        return {"scores": "attention"} | value if attends else value

    @model_validator(mode="after")
    def _fits_mode(self) -> ConceptSettings:
        if (self.mode == "attend") != (self.scores == "attention"):
            raise ValueError("mode attend goes with scores attention, mode bottleneck with facts, learned or text")
        if self.facts == "captions" and self.scores != "facts":
            raise ValueError("facts: captions is for scores facts")
        return self

    @property
    def layer(self) -> LinearLayer:
        """The settings of the linear layer, with what it is fitted on."""
        usual: FitOn = "truth" if self.scores == "learned" else "both"
        return self.linear.model_copy(update={"fit_on": self.linear.fit_on or usual})


class ConceptTrainConfig(TaskConfig):
    """All settings of the training of a concept head."""

    architecture: Literal["concepts"]
    image: FeatureInput | None = None
    """Whose features score the concepts; not of scores: facts."""
    concepts: ConceptSettings = ConceptSettings()
    seed: int = Field(default=0, ge=0)
    ood: bool = True
    """Fit an out-of-distribution detector, where features are read."""
    colour_floor: bool = True
    """Also evaluate the colour histogram as a baseline."""

    @model_validator(mode="after")
    def _image_or_facts(self) -> ConceptTrainConfig:
        if (self.concepts.scores == "facts") != (self.image is None):
            raise ValueError(
                "scores facts read no features: leave image out; all other scores need image: {features: …}"
            )
        if self.concepts.attend.token_side is not None and self.data.stores is not None:
            raise ValueError("token_side reads the pixels of image files; of stores, read features: leave it out")
        unknown = {code for code in self.concepts.labels.of_class if code not in self.codes}
        if unknown:
            raise ValueError(f"of_class: {', '.join(sorted(unknown))} is no class")
        return self
