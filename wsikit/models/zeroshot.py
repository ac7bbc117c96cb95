"""Classes by words: an encoder of images and texts as a patch model (`--model zeroshot:CONFIG`), without training.

CONFIG is a YAML or JSON file: the encoder, and per class its prompts, name and colour. A patch's probabilities are the
softmax over the classes of the cosines between the patch and the classes' texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from wsikit.encoders.concepts import CONCEPTS, TEMPLATES, lookup
from wsikit.encoders.prompts import PromptSet, check_templates, is_negated, prompts_of
from wsikit.encoders.protocol import TextImageEncoder
from wsikit.errors import ModelError, RequestError
from wsikit.models.config import MAX_PATCH_PX
from wsikit.models.protocol import PROBABILITY, Columns, ModelInfo, PatchModel
from wsikit.models.text_encoders import DEFAULT_TEXT_ENCODER, LazyTextEncoder, places_of
from wsikit.models.text_scores import Floats, probabilities, similarities
from wsikit.setting_faults import faults_in_words
from wsikit.store.receipts import digest_of

ZEROSHOT = "zeroshot"
PREFIX = ZEROSHOT + ":"
"""Before the path of a configuration, where a model is named."""

_COLORS = ("#d55e00", "#f0e442", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#000000")
_GREY = "#8c8c8c"
_REVISION = 1
_AT_ONCE = 64
_NOTICE = "Classes by words, not trained on labels. Research use only. Not for diagnosis."


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ZeroShotClass(_Strict):
    """One class."""

    prompts: tuple[str, ...] = ()
    """Texts without a template; empty: the synonyms of the lexicon for `name`."""
    concept: str | None = None
    """A concept of the lexicon, whose synonyms are added to the prompts."""
    name: str | None = None
    """For display; default: the concept's title, or the code."""
    color: str | None = Field(None, pattern=r"^#[0-9a-fA-F]{6}$")
    background: bool = False
    """Whether the class does not vote."""


class ZeroShotConfig(_Strict):
    """The file."""

    name: str | None = None
    """Default: the file's name."""
    encoder: str = DEFAULT_TEXT_ENCODER
    classes: dict[str, ZeroShotClass]
    """By code, in the order of the probabilities."""
    templates: tuple[str, ...] = TEMPLATES
    temperature: float | None = Field(None, gt=0)
    """Of the softmax over cosines; None: the encoder's own. Below: more certain."""
    mpp: float | None = Field(None, gt=0)
    """µm/px of the patches; None: the encoder's."""
    patch_px: int | None = Field(None, ge=8, le=MAX_PATCH_PX)
    stain: str = "H&E"
    captioner: str = "morphometry"
    notice: str = _NOTICE

    @field_validator("classes", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """A class may be a list of prompts alone."""
        if not isinstance(value, dict):
            return value
        return {str(code): {"prompts": entry} if isinstance(entry, list) else entry for code, entry in value.items()}


def read_zeroshot(path: Path) -> ZeroShotConfig:
    """The configuration at `path`; ModelError if it cannot be read, or a setting is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            record = json.loads(text)
        else:
            import yaml

            record = yaml.safe_load(text)
        return ZeroShotConfig.model_validate(record)
    except ValidationError as error:
        faults = faults_in_words(error, ZeroShotConfig)
        raise ModelError(f"{path}: {faults}. See docs/localize.md for the settings.") from error
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; give the configuration of classes as zeroshot:FILE.") from error
    except Exception as error:  # errors of two parsers, and of the disk
        raise ModelError(f"{path}: neither YAML nor JSON that can be read ({' '.join(str(error).split())}).") from error


def class_prompts(config: ZeroShotConfig, path: Path) -> tuple[PromptSet, ...]:
    """The texts of each class, in order. ModelError for a class without any, and for negated ones."""
    found = []
    try:
        check_templates(config.templates)
        for code, one in config.classes.items():
            concept = CONCEPTS.get(one.concept) if one.concept is not None else None
            if one.concept is not None and concept is None:
                concept = lookup(one.concept)
                if concept is None:
                    raise RequestError(
                        f"class {code}: no concept {one.concept!r} in the lexicon ({', '.join(CONCEPTS)})"
                    )
            synonyms = [*one.prompts, *(concept.synonyms if concept is not None else ())]
            if not synonyms:
                raise RequestError(f"class {code}: no prompts; give prompts, or a concept of the lexicon")
            negated = [text for text in synonyms if is_negated(text)]
            if negated:
                raise RequestError(
                    f"class {code}: {negated[0]!r} is negated, and would ask for what it denies. Describe what is seen "
                    "instead"
                )
            title = one.name or (concept.title if concept is not None else code)
            found.append(PromptSet(code, title, prompts_of(synonyms, config.templates)))
    except RequestError as error:
        raise ModelError(f"{path}: {error}") from error
    double = [one.key for one in found if sum(set(one.prompts) == set(other.prompts) for other in found) > 1]
    if double:
        raise ModelError(f"{path}: classes {' and '.join(double)} have equal prompts, and cannot be distinguished.")
    return tuple(found)


@dataclass(frozen=True)
class _Described:
    config: ZeroShotConfig
    classes: tuple[PromptSet, ...]
    encoder: LazyTextEncoder
    info: ModelInfo


def describe_zeroshot(path: Path, *, encoder: TextImageEncoder | None = None, device: str = "auto") -> _Described:
    """The model of a configuration, its encoder not loaded; `encoder` replaces the one that the file names."""
    config = read_zeroshot(path)
    classes = class_prompts(config, path)
    lazy = LazyTextEncoder.of(encoder or config.encoder, device=device)
    if lazy.info.reads is not None:
        raise ModelError(
            f"{path}: encoder {lazy.info.name} reads stored features, classes by words need one that reads pixels."
        )
    mpp = config.mpp or lazy.info.mpp
    if mpp is None:
        raise ModelError(f"{path}: the encoder {lazy.info.name} states no pixel size; give mpp, µm/px.")
    record = config.model_dump(mode="json", exclude={"name", "notice", "encoder"})
    record |= {"prompts": [[one.key, list(one.prompts)] for one in classes], "revision": _REVISION}
    names = list(config.classes)
    voting = [code for code in names if not config.classes[code].background]
    usual = dict(zip(voting, _COLORS, strict=False))
    notice = " ".join(part for part in (lazy.info.notice, config.notice) if part)
    info = ModelInfo(
        name=config.name or re.sub(r"\.(ya?ml|json)$", "", path.name, flags=re.IGNORECASE),
        version=str(_REVISION),
        architecture=ZEROSHOT,
        fingerprint=digest_of([record, lazy.info.fingerprint]),
        patch_px=config.patch_px or lazy.info.patch_px,
        mpp=mpp,
        stain=config.stain,
        classes=tuple(names),
        class_names=tuple(one.title for one in classes),
        colors=tuple(
            config.classes[code].color or (_GREY if config.classes[code].background else usual.get(code, _GREY))
            for code in names
        ),
        background=tuple(code for code in names if config.classes[code].background),
        notice=notice,
        captioner=config.captioner,
    )
    if not voting:
        raise ModelError(f"{path}: every class is background; at least one must vote.")
    return _Described(config, classes, lazy, info)


class ZeroShotModel:
    """A `PatchModel` whose classes are texts."""

    def __init__(self, described: _Described) -> None:
        self.info = described.info
        self._encoder = described.encoder.load()
        self._places: Floats = places_of(self._encoder, described.classes)  # once; texts do not change
        temperature = described.config.temperature
        self._scale = float(self._encoder.logit_scale) if temperature is None else 1 / temperature

    @property
    def predict(self) -> Callable[..., Columns]:
        """See `PatchModel.predict`."""
        return self._predict

    def _predict(self, *, images: npt.NDArray[np.uint8]) -> Columns:
        parts = [
            probabilities(
                similarities(self._encoder.encode_shared(images[first : first + _AT_ONCE]), self._places), self._scale
            )
            for first in range(0, len(images), _AT_ONCE)
        ]
        found = np.concatenate(parts) if parts else np.empty((0, len(self.info.classes)))
        return {PROBABILITY: found.astype(np.float32)}

    def image_features(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Features (B, D), to find similar patches."""
        return self._encoder.encode_shared(images)


class ZeroShotKind:
    """Describes and loads configurations; see `wsikit.models.registry`."""

    def describe(self, folder: Path | None) -> ModelInfo:
        assert folder is not None
        return describe_zeroshot(folder).info

    def load(self, folder: Path | None, *, device: Literal["auto", "cpu", "cuda"]) -> PatchModel:
        assert folder is not None
        return ZeroShotModel(describe_zeroshot(folder, device=device))


ZEROSHOT_KIND = ZeroShotKind()
