"""The table of encoders that have a name: `presets.toml`, checked. No torch here."""

from __future__ import annotations

import difflib
import functools
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from wsikit.encoders.recipe import Pooling
from wsikit.encoders.transform import IMAGENET_MEAN, IMAGENET_STD, RGB, Interpolation, Transform
from wsikit.errors import ModelError

FILE = Path(__file__).parent / "presets.toml"

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Transform(_Strict):
    crop: int = Field(gt=0)
    resize: int | None = Field(None, gt=0)
    interpolation: Interpolation
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD

    @field_validator("mean", mode="before")
    @classmethod
    def _mean(cls, value: Any) -> Any:
        return OPENAI_MEAN if value == "openai" else value

    @field_validator("std", mode="before")
    @classmethod
    def _std(cls, value: Any) -> Any:
        return OPENAI_STD if value == "openai" else value


class Preset(_Strict):
    """One encoder with a name: what it is built with, and where each fact comes from."""

    name: str
    hub: str
    """Id of the weights at the hub."""
    cached_as: tuple[str, ...] = ()
    """Other ids under which the same weights may be in the local cache."""
    files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    """Files of weights, the preferred one first."""
    licence: str
    gated: bool
    """Whether the hub asks for an account that has accepted the licence."""
    patch_px: int = Field(gt=0)
    mpp: float | None = Field(None, gt=0)
    width: int = Field(gt=0)
    parameters: str | None = Field(None, pattern=r"^[0-9.]+[MB]$")
    """As published."""
    shared_width: int | None = Field(None, gt=0)
    kind: Literal["timm", "transformers", "clip", "open-clip", "tower"]
    architecture: str
    options: dict[str, Any] = {}
    pooling: Pooling = "model"
    transform_: _Transform = Field(alias="transform")
    source: dict[Literal["build", "transform", "mpp", "licence", "parameters"], str]
    note: tuple[str, ...] = ()

    @property
    def transform(self) -> Transform:
        return Transform(**self.transform_.model_dump())

    @property
    def page(self) -> str:
        """Page of the model at the hub."""
        return f"https://huggingface.co/{self.hub}"


@functools.cache
def presets() -> dict[str, Preset]:
    """All encoders that have a name, in the order of the file.

    >>> presets()["virchow2"].pooling, presets()["virchow2"].width
    ('cls+mean', 2560)
    """
    held = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {name: Preset(name=name, **record) for name, record in held["presets"].items()}


@functools.cache
def sources() -> dict[str, str]:
    """Addresses of the sources that presets name."""
    return dict(tomllib.loads(FILE.read_text(encoding="utf-8"))["sources"])


def close_names(name: str) -> str:
    """Advice for a name that is no preset."""
    given = name.lower().replace("_", "-")
    begin = [known for known in presets() if len(given) > 2 and known.startswith(given)]
    close = begin or difflib.get_close_matches(given, presets(), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def preset_of_hub(hub_id: str) -> Preset | None:
    """The preset of an id at the hub."""
    wanted = hub_id.lower()
    for preset in presets().values():
        if wanted in {preset.hub.lower(), *(other.lower() for other in preset.cached_as)}:
            return preset
    return None


class FileCard(_Strict):
    """The record next to a TorchScript or ONNX file, `<file>.json`: what cannot be read from the file itself."""

    width: int = Field(gt=0)
    patch_px: int = Field(gt=0)
    mpp: float | None = Field(None, gt=0)
    licence: str = ""
    source: str = ""
    transform_: _Transform = Field(alias="transform")

    @property
    def transform(self) -> Transform:
        return Transform(**self.transform_.model_dump())


def read_card(file: Path) -> FileCard:
    """The card of a TorchScript or ONNX file.

    Raises
    ------
    ModelError
        It is missing or wrong.
    """
    path = file.with_name(file.name + ".json")
    try:
        return FileCard.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        example = (
            '{"width": 1024, "patch_px": 224, "mpp": 0.5, "transform": {"crop": 224, "interpolation": "bilinear"}}'
        )
        raise ModelError(
            f"{file}: how its patches are prepared is not in it. Write {path.name} next to it, such as {example}; mean "
            "and std in it are ImageNet's by default."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ModelError(f"{path}: {place}: {first['msg']}. See docs/encoders.md.") from error
