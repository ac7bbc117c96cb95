"""The config.json of a concept head: classes, criteria, and what its concepts are scored from. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from wsikit.errors import ModelError
from wsikit.models.concept_criteria import Criteria
from wsikit.models.concept_setting import CONCEPT_COLUMN, CONTRIBUTION_COLUMN
from wsikit.models.config import CONFIG_FILE, WEIGHTS_FILE
from wsikit.models.head_config import EncoderRecord, Strict
from wsikit.models.protocol import (
    FEATURES,
    IMAGE,
    NUMBERS,
    OOD_SCORE,
    PROBABILITY,
    FeatureSource,
    Input,
    ModelColumn,
    ModelInfo,
)

CONCEPTS = "concepts"
"""Architecture in config.json."""
Mode = Literal["bottleneck", "attend"]
Scores = Literal["facts", "learned", "text", "attention"]


class ConceptHeadConfig(Strict):
    """Everything that describes a concept head, except its weights."""

    format: Literal[1] = 1
    architecture: Literal["concepts"] = "concepts"
    name: str
    version: str
    classes: tuple[str, ...] = Field(min_length=2)
    class_names: tuple[str, ...]
    colors: tuple[str, ...]
    background: tuple[str, ...] = ()
    mpp: float = Field(gt=0)
    """µm/px of the patches."""
    patch_px: int = Field(gt=0)
    stain: str
    notice: str = Field(min_length=1)
    captioner: str = "morphometry"
    """Captioner whose facts the scores were fitted on."""
    mode: Mode
    scores: Scores
    """What scores the concepts: facts of captions; a linear predictor on features; cosines of features with texts;
    attention over image tokens (mode `attend`)."""
    criteria: Criteria
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
    prior: tuple[float, ...] | None = None
    balanced: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> ConceptHeadConfig:
        n = len(self.classes)
        if len(set(self.classes)) != n or len(self.class_names) != n or len(self.colors) != n:
            raise ValueError("classes must differ, and class_names and colors must have one entry for each")
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
        name=config.name,
        version=config.version,
        architecture=CONCEPTS,
        fingerprint=fingerprint,
        patch_px=config.patch_px,
        mpp=config.mpp,
        stain=config.stain,
        classes=config.classes,
        class_names=config.class_names,
        colors=config.colors,
        background=config.background,
        notice=config.notice,
        captioner=config.captioner,
        inputs=config.inputs,
        columns=tuple(columns),
        features=(FeatureSource(encoder.name, encoder.width, encoder.fingerprint, encoder.given_as),)
        if stored and encoder is not None
        else (),
        prior=config.prior,
        balanced=config.balanced,
        facts=config.criteria.facts if config.scores == "facts" else (),
        axes=config.criteria.public(),
    )


def read_concept_config(folder: Path) -> ConceptHeadConfig:
    """The configuration of the concept head in `folder`.

    Raises
    ------
    ModelError
        If a file is missing, or config.json is not that of a concept head.
    """
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder}: {', '.join(missing)} missing; copy the model's folder again.")
    path = folder / CONFIG_FILE
    try:
        return ConceptHeadConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelError(
            f"{path}: {where}: {first['msg']} ({error.error_count()} problem(s)). This is not a concept head that this "
            "version of wsikit reads; train it again with it."
        ) from error
