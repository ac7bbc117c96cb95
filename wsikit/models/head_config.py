"""The config.json of a head: a classifier on stored features of an encoder. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from wsikit.models.config import CONFIG_FILE, OOD_FILE, WEIGHTS_FILE, folder_fingerprint
from wsikit.models.model_folder import Described, EncoderRecord, read_folder_config
from wsikit.models.protocol import FEATURES, OOD_SCORE, PROBABILITY, ModelColumn, ModelInfo

HEAD = "head"
"""Architecture in config.json."""

Kind = Literal["linear", "mlp", "knn"]

_OOD_COLUMN = ModelColumn(OOD_SCORE, unit="above 1: out of the distribution of the training patches")


class HeadConfig(Described):
    """Everything that describes a head, except its weights."""

    format: Literal[1] = 1
    architecture: Literal["head"] = "head"
    background: tuple[str, ...] = ()
    """Codes of the classes that do not vote, such as other tissue."""
    kind: Kind
    encoder: EncoderRecord
    temperature: float = Field(gt=0)
    """Logits are divided by it; fitted on the validation part."""
    neighbours: int | None = Field(None, gt=0)
    """k; of `knn` only."""
    metric: Literal["cosine", "euclidean"] | None = None
    """Of `knn` only."""

    @model_validator(mode="after")
    def _consistent(self) -> HeadConfig:
        self.check_classes()
        unknown = set(self.background) - set(self.classes)
        if unknown or len(self.background) >= len(self.classes):
            raise ValueError(f"background {self.background} must name some, not all, of the classes {self.classes}")
        if (self.kind == "knn") != (self.neighbours is not None and self.metric is not None):
            raise ValueError("neighbours and metric are for knn, and knn needs both")
        return self


def info_of_head(config: HeadConfig, fingerprint: str, *, has_ood: bool) -> ModelInfo:
    """A head's configuration as `ModelInfo`."""
    encoder = config.encoder
    columns = (ModelColumn(PROBABILITY, per_class=True),)
    return ModelInfo(
        **config.info_fields,
        architecture=config.architecture,
        fingerprint=fingerprint,
        background=config.background,
        inputs=(FEATURES + encoder.name,),
        columns=(*columns, _OOD_COLUMN) if has_ood else columns,
        features=(encoder.as_source,),
    )


def read_head_config(folder: Path) -> HeadConfig:
    """The configuration of the head in `folder`.

    Raises
    ------
    ModelError
        If a file is missing, or config.json is not that of a head.
    """
    return read_folder_config(folder, HeadConfig, "a head")


def head_fingerprint(folder: Path) -> str:
    """sha256 over the files that determine predictions: configuration, weights, OOD detector."""
    return folder_fingerprint(folder, (CONFIG_FILE, WEIGHTS_FILE, OOD_FILE))
