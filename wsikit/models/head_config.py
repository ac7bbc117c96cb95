"""The config.json of a head: a classifier on stored features of an encoder. No torch here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wsikit.errors import ModelError
from wsikit.models.config import CONFIG_FILE, OOD_FILE, WEIGHTS_FILE
from wsikit.models.protocol import FEATURES, OOD_SCORE, PROBABILITY, FeatureSource, ModelColumn, ModelInfo

HEAD = "head"
"""Architecture in config.json."""

Kind = Literal["linear", "mlp", "knn"]

_OOD_COLUMN = ModelColumn(OOD_SCORE, unit="above 1: out of the distribution of the training patches")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderRecord(Strict):
    """The encoder whose features a head reads, as recorded with the features."""

    name: str
    """The features are the column `features_<name>`."""
    width: int = Field(gt=0)
    fingerprint: str = ""
    """Empty: not recorded, as for features of other tools."""
    given_as: str = ""
    """How it was named in the training, for `load_encoder`; empty: as `name`, or by a path."""
    source: str = ""
    licence: str = ""
    notice: str = ""


class HeadConfig(Strict):
    """Everything that describes a head, except its weights."""

    format: Literal[1] = 1
    architecture: Literal["head"] = "head"
    name: str
    version: str
    classes: tuple[str, ...] = Field(min_length=2)
    """Codes in the order of the outputs."""
    class_names: tuple[str, ...]
    colors: tuple[str, ...]
    """One "#rrggbb" per class."""
    background: tuple[str, ...] = ()
    """Codes of the classes that do not vote, such as other tissue."""
    mpp: float = Field(gt=0)
    """µm/px of the patches."""
    patch_px: int = Field(gt=0)
    """Side of a patch in pixels at `mpp`."""
    stain: str
    notice: str = Field(min_length=1)
    """Shown on every output of the model."""
    kind: Kind
    encoder: EncoderRecord
    temperature: float = Field(gt=0)
    """Logits are divided by it; fitted on the validation part."""
    neighbours: int | None = Field(None, gt=0)
    """k; of `knn` only."""
    metric: Literal["cosine", "euclidean"] | None = None
    """Of `knn` only."""
    prior: tuple[float, ...] | None = None
    """Frequency of each class among the training patches, sum 1; None: not recorded."""
    balanced: bool = False
    """Trained with balanced class weights: the probabilities assume equal frequencies, not `prior`."""

    @model_validator(mode="after")
    def _consistent(self) -> HeadConfig:
        n = len(self.classes)
        if len(set(self.classes)) != n or len(self.class_names) != n or len(self.colors) != n:
            raise ValueError("classes must differ, and class_names and colors must have one entry for each")
        unknown = set(self.background) - set(self.classes)
        if unknown or len(self.background) >= n:
            raise ValueError(f"background {self.background} must name some, not all, of the classes {self.classes}")
        if (self.kind == "knn") != (self.neighbours is not None and self.metric is not None):
            raise ValueError("neighbours and metric are for knn, and knn needs both")
        if self.prior is not None and (len(self.prior) != n or abs(sum(self.prior) - 1) > 1e-3 or min(self.prior) < 0):
            raise ValueError(f"prior {self.prior} must have one frequency per class, of sum 1")
        return self


def joined_notice(own: str, of_encoder: str) -> str:
    """The notice of a model, with that of its encoder."""
    return f"{own} {of_encoder}" if of_encoder and of_encoder not in own else own


def info_of_head(config: HeadConfig, fingerprint: str, *, has_ood: bool) -> ModelInfo:
    """A head's configuration as `ModelInfo`."""
    encoder = config.encoder
    columns = (ModelColumn(PROBABILITY, per_class=True),)
    return ModelInfo(
        name=config.name,
        version=config.version,
        architecture=config.architecture,
        fingerprint=fingerprint,
        patch_px=config.patch_px,
        mpp=config.mpp,
        stain=config.stain,
        classes=config.classes,
        class_names=config.class_names,
        colors=config.colors,
        background=config.background,
        notice=config.notice,
        inputs=(FEATURES + encoder.name,),
        columns=(*columns, _OOD_COLUMN) if has_ood else columns,
        features=(FeatureSource(encoder.name, encoder.width, encoder.fingerprint, encoder.given_as),),
        prior=config.prior,
        balanced=config.balanced,
    )


def read_head_config(folder: Path) -> HeadConfig:
    """The configuration of the head in `folder`.

    Raises
    ------
    ModelError
        If a file is missing, or config.json is not that of a head.
    """
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder}: {', '.join(missing)} missing; copy the model's folder again.")
    path = folder / CONFIG_FILE
    try:
        return HeadConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelError(
            f"{path}: {where}: {first['msg']} ({error.error_count()} problem(s)). "
            "This is not a head that this version of wsikit reads; train it again with it."
        ) from error


def head_fingerprint(folder: Path) -> str:
    """sha256 over the files that determine predictions: configuration, weights, OOD detector."""
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE, OOD_FILE):
        if not (folder / name).is_file():
            continue
        with open(folder / name, "rb") as file:
            digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
