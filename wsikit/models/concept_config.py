"""The config.json of a concept head: classes, criteria, and what its concepts are scored from. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from wsikit.models.concept_criteria import Criteria
from wsikit.models.concept_setting import CONCEPT_COLUMN, CONTRIBUTION_COLUMN
from wsikit.models.model_folder import Described, EncoderRecord, read_folder_config
from wsikit.models.protocol import (
    FEATURES,
    IMAGE,
    NUMBERS,
    OOD_SCORE,
    PROBABILITY,
    Input,
    ModelColumn,
    ModelInfo,
)

CONCEPTS = "concepts"
"""Architecture in config.json."""
Mode = Literal["bottleneck", "attend"]
Scores = Literal["facts", "learned", "text", "attention"]


class ConceptHeadConfig(Described):
    """Everything that describes a concept head, except its weights."""

    format: Literal[1] = 1
    architecture: Literal["concepts"] = "concepts"
    background: tuple[str, ...] = ()
    captioner: str = "morphometry"
    """Captioner whose facts the scores were fitted on."""
    mode: Mode
    scores: Scores
    """What scores the concepts: facts of captions; a linear predictor on features; cosines of features with texts;
    attention over image tokens (mode `attend`)."""
    criteria: Criteria
    stated: bool = False
    """The facts are those that captions state in words."""
    maps: dict[str, str] = {}
    """Fact to fingerprint of the encoder, of facts that are maps of concepts (`localize:KEY`)."""
    labels: str
    """Where the concept labels of the training came from, in words."""
    encoder: EncoderRecord | None = None
    """Of the features or tokens; None for facts."""
    token_side: int | None = Field(None, gt=0)
    """Tokens are the encoder's feature map, pooled to this many cells along each side, read from pixels; None: the
    stored features of a patch are its one token."""
    width: int = Field(64, gt=0)
    """Of the attention."""
    heads: int = Field(4, gt=0)
    anchors: str = ""
    """Encoder of the texts, or "lexicon"."""
    temperature: float = Field(gt=0)
    """Logits are divided by it; fitted on the validation part."""

    @model_validator(mode="after")
    def _consistent(self) -> ConceptHeadConfig:
        self.check_classes()
        if (self.mode == "attend") != (self.scores == "attention"):
            raise ValueError("scores are attention in mode attend, and only there")
        if (self.scores == "facts") != (self.encoder is None):
            raise ValueError("facts have no encoder, all other scores need one")
        if self.token_side is not None and self.mode != "attend":
            raise ValueError("token_side is of mode attend")
        if self.scores == "facts" and any(axis.fact is None for axis in self.criteria.axes.values()):
            raise ValueError("every axis must name a fact where facts score the concepts")
        return self

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Of `PatchModel.predict`."""
        if self.encoder is None:
            return (NUMBERS,)
        return (IMAGE,) if self.token_side is not None else (FEATURES + self.encoder.name,)


def info_of_concepts(config: ConceptHeadConfig, fingerprint: str, *, has_ood: bool = False) -> ModelInfo:
    """A concept head's configuration as `ModelInfo`."""
    columns = [ModelColumn(PROBABILITY, per_class=True)]
    for key, axis in config.criteria.axes.items():
        columns.append(ModelColumn(CONCEPT_COLUMN + key, names=tuple(axis.options), unit="probability"))
        columns.append(ModelColumn(CONTRIBUTION_COLUMN + key, per_class=True, unit="logit"))
    if has_ood:
        columns.append(ModelColumn(OOD_SCORE, unit="above 1: out of the distribution of the training patches"))
    encoder = config.encoder
    stored = encoder is not None and config.token_side is None
    return ModelInfo(
        **config.info_fields,
        architecture=CONCEPTS,
        fingerprint=fingerprint,
        background=config.background,
        captioner=config.captioner,
        inputs=config.inputs,
        columns=tuple(columns),
        features=(encoder.as_source,) if stored and encoder is not None else (),
        facts=config.criteria.facts if config.scores == "facts" else (),
        stated=config.stated,
        maps=tuple(sorted(config.maps.items())),
        axes=config.criteria.public(),
    )


def read_concept_config(folder: Path) -> ConceptHeadConfig:
    """The configuration of the concept head in `folder`.

    Raises
    ------
    ModelError
        If a file is missing, or config.json is not that of a concept head.
    """
    return read_folder_config(folder, ConceptHeadConfig, "a concept head")
