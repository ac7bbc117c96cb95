"""The config.json of an AFLoc model's folder. No torch here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsikit.encoders.protocol import EncoderInfo, StoredInput
from wsikit.errors import ModelError
from wsikit.models.config import (
    CONFIG_FILE,
    MAX_PATCH_PX,
    OOD_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    FeatureBranchConfig,
    ImageEncoderConfig,
    TextEncoderConfig,
    fingerprint,
)

AFLOC = "afloc"


class AflocConfig(BaseModel):
    """Everything needed to rebuild an AFLoc model, and to describe its use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    architecture: Literal["afloc"] = "afloc"
    name: str = Field(pattern=r"^[a-z0-9.-]+$")
    """Also the name of its columns: lower case, digits, dots and hyphens."""
    version: str
    mpp: float = Field(gt=0)
    """µm/px of the patches."""
    patch_px: int = Field(gt=0, le=MAX_PATCH_PX)
    """Side of a patch in pixels at `mpp`."""
    stain: str
    captioner: str
    """Source of the captions that it was trained on."""
    text_max_tokens: int = Field(gt=2)
    width: int = Field(gt=0)
    """Width of the space shared by images and texts."""
    image: ImageEncoderConfig | FeatureBranchConfig
    """An image encoder, or stored features of a frozen encoder."""
    image_width: int = Field(gt=0)
    """Width of the image encoder's features."""
    text: TextEncoderConfig
    terms: tuple[str, ...] = ()
    """Terms that its training texts name, as the parser of captions finds them; others were never seen."""
    competitors: Literal["lexicon", "negation", "both"] = "lexicon"
    """What a concept competes with by default, see `wsikit.encoders.protocol.EncoderInfo`."""
    licence: str = ""
    notice: str = Field(min_length=1)
    """Shown on every output of the model."""


def read_afloc_config(folder: Path) -> AflocConfig:
    """The configuration in a folder of an AFLoc model.

    Raises
    ------
    ModelError
        If files are missing, or config.json is not the configuration of an AFLoc model.
    """
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE) if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder}: not an AFLoc model of wsikit, {', '.join(missing)} missing. Give a folder that `wsikit train` "
            "wrote (OUT/model), or copy the complete folder again."
        )
    path = folder / CONFIG_FILE
    try:
        return AflocConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelError(
            f"{path}: {where}: {first['msg']} ({error.error_count()} problem(s)); expected the configuration of an "
            "AFLoc model. Train it again with this version."
        ) from error


def afloc_info(folder: Path) -> EncoderInfo:
    """Description of the AFLoc model in a folder as an encoder; no torch is imported.

    Raises
    ------
    ModelError
        As for `read_afloc_config`.
    """
    config = read_afloc_config(folder)
    return EncoderInfo(
        name=config.name,
        width=config.image_width,
        patch_px=config.patch_px,
        mpp=config.mpp,
        fingerprint=fingerprint(folder, detector=False),
        source=f"trained by wsikit on captions of {config.captioner}, version {config.version}",
        licence=config.licence,
        notice=config.notice,
        shared_width=config.width,
        competitors=config.competitors,
        reads=_stored_input(config.image),
        detector=_detector(folder),
    )


def _stored_input(image: ImageEncoderConfig | FeatureBranchConfig) -> StoredInput | None:
    if isinstance(image, ImageEncoderConfig):
        return None
    return StoredInput(image.name, image.width, image.fingerprint, image.given_as)


def _detector(folder: Path) -> str:
    path = folder / OOD_FILE
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
