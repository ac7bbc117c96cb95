"""The config.json of a model folder: classes, scale, encoders, fusion, notice. No torch here.

`find_model` and `read_config` import nothing heavy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from wsikit.errors import ModelError
from wsikit.facts import FACTS, STATED

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
METRICS_FILE = "metrics.json"
TOKENIZER_FILE = "tokenizer.json"
OOD_FILE = "novelty.safetensors"
DEFAULT_MODEL = "phantom-mmlnb"

MAX_PATCH_PX = 4096
"""Side of the patches of a model: a network is tried on one patch when it is loaded, a larger one takes gigabytes."""

_ZOO = Path(__file__).parent / "zoo"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_IF_USED = ("context", "numbers", "field_um", "revision", "field", "prior", "balanced")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A model without these writes the file it always wrote, with the same fingerprint."""
        written: dict[str, Any] = handler(self)
        return {name: value for name, value in written.items() if value is not None or name not in _IF_USED}


Context = Literal["slide"] | None
"""What the image branch sees besides the patch: "slide", mean and spread of the image features of its slide."""


class ImageEncoderConfig(_Strict):
    """An image encoder without its classifier, by the name of a timm model or of a plug-in."""

    name: str
    """As in `timm.list_models()`, of `wsikit.models.swin_kan`, or a plug-in of `wsikit.encoders`; never fetched."""
    options: dict[str, Any] = {}
    """Further arguments of `timm.create_model` or of the plug-in, such as channels or img_size."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Mean and standard deviation for input normalisation, RGB in [0, 1]. Default: ImageNet's."""
    context: Context = None


class FeatureBranchConfig(_Strict):
    """Stored features of a frozen encoder and a linear projection, instead of an image encoder."""

    name: str
    """The features are the column `features_<name>`."""
    width: int = Field(gt=0)
    project: int = Field(gt=0)
    """Width of the projection."""
    fingerprint: str = ""
    """Of the encoder; empty: not recorded."""
    given_as: str = ""
    """How the encoder was named in the training; empty: as `name`."""
    context: Context = None


class TextEncoderConfig(_Strict):
    """A text encoder of transformers, built from its configuration."""

    model_type: str
    """Model type of transformers' AutoConfig: bert, roberta, modernbert …"""
    options: dict[str, Any] = {}
    """The configuration's own fields: vocab_size, hidden_size, num_hidden_layers …"""


class NumbersConfig(_Strict):
    """Numbers of the captions as an input of the text branch: see `wsikit.models.fact_values.FactValues`."""

    facts: tuple[str, ...] = Field(min_length=1)
    """Names of `wsikit.facts.FACTS` or `STATED`."""
    width: int = Field(64, gt=0)
    """Width of the feature of the numbers."""
    bins: int = Field(16, gt=1)
    """Quantile bins per number, at most."""
    in_slide: bool = True
    """Whether the numbers are also read relative to the other patches of the slide."""
    field_um: float | None = Field(None, gt=0)
    """Standard deviation, µm, of the field around a patch whose mean numbers are also read; None: none."""
    words: bool = True
    """Whether the words are read as well; else the text branch reads the numbers only, and has no text encoder."""

    @model_validator(mode="after")
    def _known_facts(self) -> NumbersConfig:
        known = FACTS | STATED
        unknown = sorted(set(self.facts) - known.keys())
        if unknown or len(set(self.facts)) != len(self.facts):
            raise ValueError(f"facts: unknown {unknown}, or named twice; known: {', '.join(known)}")
        return self


class FieldTermsConfig(_Strict):
    """What the patches around add to the logits of a patch: see `wsikit.models.field_terms`."""

    sd_um: float = Field(gt=0)
    """Standard deviation of the field, µm."""
    image: float
    text: float
    """Weights of the mean logits of both branches over the field."""
    image_slide: float
    text_slide: float
    """Weights of their mean over the slide."""


class PRMFConfig(_Strict):
    """The fusion: see `wsikit.models.prmf.PRMF`."""

    d: int = Field(768, gt=0)
    gate: Literal["scalar", "vector"] = "scalar"
    mode: Literal["paper", "robust"] = "robust"
    revision: Literal[2] | None = None
    """Of the robust mode: 2 starts from the mean of both branches (`wsikit.models.prmf_calibrated`); None is the first,
    which projects both features and mixes them."""
    field: FieldTermsConfig | None = None
    """Of revision 2: what the patches around add; None: nothing."""

    @model_validator(mode="after")
    def _of_the_robust_mode(self) -> PRMFConfig:
        if self.revision is not None and self.mode != "robust":
            raise ValueError(f"revision {self.revision} is one of the robust mode, not of {self.mode!r}")
        if self.field is not None and self.revision is None:
            raise ValueError("field: only for revision 2 of the robust mode")
        return self


class ModelConfig(_Strict):
    """Everything needed to rebuild a model, and to describe its use."""

    format: Literal[1] = 1
    architecture: Literal["mmlnb"] = "mmlnb"
    name: str
    version: str
    classes: tuple[str, ...] = Field(min_length=2)
    """Codes in the order of the outputs; the voting classes are in biological order (UD < PD < D)."""
    class_names: tuple[str, ...]
    colors: tuple[str, ...]
    """One "#rrggbb" per class."""
    background: tuple[str, ...] = ()
    """Codes of the classes that do not vote, such as other tissue."""
    mpp: float = Field(gt=0)
    """µm/px of the patches."""
    patch_px: int = Field(gt=0, le=MAX_PATCH_PX)
    """Side of a patch in pixels at `mpp`."""
    stain: str
    captioner: str
    """Name of the captioner whose captions the model was trained on."""
    text_max_tokens: int = Field(gt=2)
    prmf: PRMFConfig
    image: ImageEncoderConfig | FeatureBranchConfig
    text: TextEncoderConfig
    numbers: NumbersConfig | None = None
    """Numbers of the captions that the text branch reads; None: words only."""
    notice: str = Field(min_length=1)
    """Shown on every output of the model."""
    prior: tuple[float, ...] | None = None
    """Frequency of each class among the training patches, sum 1; None: not recorded."""
    balanced: bool | None = None
    """Trained with balanced class weights: the probabilities assume equal frequencies, not `prior`."""

    @model_validator(mode="after")
    def _one_name_and_color_per_class(self) -> ModelConfig:
        n = len(self.classes)
        if len(set(self.classes)) != n or len(self.class_names) != n or len(self.colors) != n:
            raise ValueError("classes must differ, and class_names and colors must have one entry for each")
        unknown = set(self.background) - set(self.classes)
        if unknown or len(self.background) >= n:
            raise ValueError(f"background {self.background} must name some, not all, of the classes {self.classes}")
        if self.prior is not None and (len(self.prior) != n or abs(sum(self.prior) - 1) > 1e-3 or min(self.prior) < 0):
            raise ValueError(f"prior {self.prior} must have one frequency per class, of sum 1")
        return self

    @property
    def voting(self) -> tuple[str, ...]:
        """Codes of the classes that vote, in biological order."""
        return tuple(code for code in self.classes if code not in self.background)


def packaged_models() -> tuple[str, ...]:
    """Names of the models that come with the package."""
    return tuple(sorted(path.parent.name for path in _ZOO.glob(f"*/{CONFIG_FILE}")))


def packaged_folder(name: str) -> Path:
    """Folder of the packaged model `name`."""
    return _ZOO / name


def fingerprint(folder: str | Path, *, detector: bool = True) -> str:
    """`folder_fingerprint` of a model with a tokenizer; with `detector`, its OOD detector counts, too."""
    names = (CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, *((OOD_FILE,) if detector else ()))
    return folder_fingerprint(Path(folder), names)


def folder_fingerprint(folder: Path, names: Sequence[str]) -> str:
    """sha256 over those files of `names` that exist: the ones that determine predictions."""
    digest = hashlib.sha256()
    for name in names:
        if not (folder / name).is_file():
            continue
        with open(folder / name, "rb") as file:
            digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def find_model(name_or_dir: str | Path) -> Path:
    """Folder of a packaged model or of a path. A packaged name has priority; write ./name for a folder.

    Raises
    ------
    ModelError
        If there is no such model, or files of the model are missing.
    """
    packaged = packaged_models()
    if str(name_or_dir) in packaged:
        return _ZOO / str(name_or_dir)
    folder = Path(name_or_dir)
    if not folder.is_dir():
        raise ModelError(
            f"model {str(name_or_dir)!r} not found: neither a folder nor one of the packaged models "
            f"({', '.join(packaged) or 'none'}). Give a folder written by save_model, or one of these names; "
            "nothing is ever downloaded."
        )
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE) if not (folder / name).is_file()]
    if missing:
        raise ModelError(_what_is_missing(folder, missing))
    return folder


def read_config(name_or_dir: str | Path) -> ModelConfig:
    """The configuration of a packaged model or a folder, without loading its weights.

    Raises
    ------
    ModelError
        If the model is missing or its config.json is not a model configuration of wsikit.
    """
    path = find_model(name_or_dir) / CONFIG_FILE
    try:
        return ModelConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelError(
            f"{path}: {where}: {first['msg']} ({error.error_count()} problem(s)). "
            "This is not a model configuration that this version of wsikit reads; save the model again with it."
        ) from error


def _what_is_missing(folder: Path, missing: list[str]) -> str:
    there = sorted(path.name for path in folder.iterdir() if path.is_file())
    pickled = [name for name in there if name.endswith(_PICKLED)]
    message = f"{folder}: not a model of wsikit, {', '.join(missing)} missing (found: {', '.join(there) or 'nothing'})."
    if pickled and WEIGHTS_FILE in missing:
        return f"{message} Pickled weights ({pickled[0]}) are never opened: convert them to {WEIGHTS_FILE}."
    return f"{message} Give a folder written by save_model, or copy the complete folder again."
