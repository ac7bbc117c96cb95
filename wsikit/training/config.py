"""The YAML file of `wsikit train`: data, classes, captions, split, encoders, training. Strict: no unknown setting.

`${NAME}` in it is an environment variable; paths are relative to the file. No torch here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wsikit.captions.registry import IN_SLIDE, MEASURING
from wsikit.errors import RequestError
from wsikit.exporters.palette import class_colors, hex_color
from wsikit.models.config import PRMFConfig
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.datasets.table import Columns
from wsikit.training.settings import ReadingSettings, TrainingSettings
from wsikit.training.stages import Stage, StagePlan

_VARIABLE = re.compile(r"\$\{(\w+)\}")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TableSource(_Strict):
    """A CSV with a folder or a zip of images."""

    images: str
    csv: str | None = None
    """A path, or a member of the zip; default: the only CSV there."""
    columns: Columns = Columns()


class NamesSource(_Strict):
    """A folder or a zip of images whose names tell the class; see `wsikit.training.datasets.read_names`."""

    images: str
    pattern: str


class StoresSource(_Strict):
    """Slide stores with drawn regions; see `wsikit.training.datasets.read_stores`."""

    manifest: str


class DataConfig(_Strict):
    """Where the patches are, and what they are. One of table, names, stores."""

    table: TableSource | None = None
    names: NamesSource | None = None
    stores: StoresSource | None = None
    mpp: float | None = Field(None, gt=0)
    """µm/px of the images as they come. Stores know it themselves."""
    patch_px: int = Field(gt=0)
    """Side of a patch as the model sees it; images of another side are resampled."""
    stain: str = "H&E"
    group: Literal["patient", "slide", "file"] = "patient"
    """What no split cuts through."""
    odd_sizes: Literal["refuse", "drop", "mirror"] = "refuse"
    drop_others: bool = False
    """Leave out patches of classes that are not named below; default: refuse them."""

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if sum(source is not None for source in (self.table, self.names, self.stores)) != 1:
            raise ValueError("give one of table, names and stores")
        if self.stores is None and self.mpp is None:
            raise ValueError("give mpp, the µm/px of the images: files do not tell it")
        return self


class ClassConfig(_Strict):
    """One class of the model."""

    code: str = Field(min_length=1)
    name: str | None = None
    color: str | None = Field(None, pattern=r"^#[0-9a-fA-F]{6}$")
    values: tuple[str, ...] = ()
    """What stands in the data for it; default: its code."""
    background: bool = False
    """It takes no part in the vote over a slide."""


class CaptionsConfig(_Strict):
    """Whence the captions: `table` (the data's own), `captioner`, `csv` or `none`."""

    source: Literal["table", "captioner", "csv", "none"] = "table"
    captioner: str | None = None
    """As `wsikit caption --captioner` takes it."""
    csv: str | None = None
    """Columns file_name and description, one row per patch: out-of-fold captions, for instance."""

    @property
    def in_slide(self) -> bool:
        """Whether they place a patch among those of its slide."""
        return self.captioner == IN_SLIDE

    @model_validator(mode="after")
    def _what_it_needs(self) -> CaptionsConfig:
        for name in ("captioner", "csv"):
            if (getattr(self, name) is not None) != (self.source == name):
                raise ValueError(f"source {self.source!r} and {name} {getattr(self, name)!r} do not go together")
        return self


class SplitConfig(_Strict):
    """Shares, or one of K folds, or a file that was written before."""

    seed: int = Field(default=0, ge=0)
    validation: float = Field(default=0.15, gt=0, lt=1)
    test: float = Field(default=0.2, gt=0, lt=1)
    folds: int | None = Field(default=None, ge=3)
    """Instead of shares: one fold tests, the next validates."""
    fold: int = Field(default=0, ge=0)
    file: str | None = None
    """A splits.json."""


class ImageBranch(_Strict):
    """The image encoder."""

    name: str
    """As `timm.list_models()` spells it."""
    options: dict[str, Any] = {}
    weights: str | None = None
    """A safetensors file, or a hub id that is in the local cache. Nothing is downloaded. Default: random."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class TextBranch(_Strict):
    """The text encoder: from nothing with a vocabulary of its own, or a trained one."""

    model_type: str | None = None
    """As transformers' AutoConfig knows it, for one from nothing."""
    options: dict[str, Any] = {}
    vocabulary: int = Field(400, gt=10)
    """Most entries of the vocabulary learnt from the training captions."""
    pretrained: str | None = None
    """A local folder of transformers, or a hub id in the local cache; instead of the three above."""
    max_tokens: int = Field(128, gt=2)
    """Captions are cut there; how many are is told."""

    @model_validator(mode="after")
    def _one_of_two(self) -> TextBranch:
        if (self.model_type is None) == (self.pretrained is None):
            raise ValueError("give model_type (from nothing) or pretrained, one of them")
        return self


class StageShare(_Strict):
    """Which parts learn from which share of the epochs on."""

    name: str
    since: float = Field(ge=0, lt=1)
    learns: frozenset[Literal["image", "text", "fusion"]]


class TrainConfig(_Strict):
    """The whole file."""

    name: str = Field(min_length=1)
    version: str = "1"
    notice: str = "For research use only. Not for diagnosis."
    data: DataConfig
    classes: tuple[ClassConfig, ...] = Field(min_length=2)
    """In the order of the outputs; those that vote in biological order, if they have one."""
    ordered: bool = False
    """The voting classes have an order, so that kappa is told."""
    captions: CaptionsConfig = CaptionsConfig()
    split: SplitConfig = SplitConfig()
    image: ImageBranch
    text: TextBranch
    reading: ReadingSettings | None = None
    """Teach the text encoder the measuring captioner's language first; default: it starts from nothing."""
    prmf: PRMFConfig
    training: TrainingSettings
    rise: tuple[float, float] = (1 / 3, 2 / 3)
    """Between these shares of the epochs the weight of the text rises."""
    start: float = Field(0.3, ge=0, le=1)
    stages: tuple[StageShare, ...] = (StageShare(name="all", since=0.0, learns=frozenset({"image", "text", "fusion"})),)

    @model_validator(mode="after")
    def _classes_differ(self) -> TrainConfig:
        for names in (self.codes, tuple(self.values)):
            if len(set(names)) != len(names):
                raise ValueError(f"classes: {', '.join(names)} must differ")
        if len(self.values) != sum(len(c.values or (c.code,)) for c in self.classes):
            raise ValueError("classes: a value stands for two classes")
        voting = [c.background for c in self.classes]
        if self.reading is not None and (self.text.pretrained is not None or self.captions.captioner not in MEASURING):
            raise ValueError(f"reading: only for a text encoder from nothing that reads {' or '.join(MEASURING)}")
        if all(voting) or voting != sorted(voting):
            raise ValueError("classes: those that vote come first, background ones after them")
        self.curriculum()
        self.plan()
        return self

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(c.code for c in self.classes)

    @property
    def values(self) -> dict[str, str]:
        """What stands in the data, to the class's code."""
        return {value: c.code for c in self.classes for value in (c.values or (c.code,))}

    @property
    def background(self) -> tuple[str, ...]:
        return tuple(c.code for c in self.classes if c.background)

    @property
    def n_ordinal(self) -> int:
        """How many of the first classes are ordered."""
        return len(self.codes) - len(self.background) if self.ordered else 0

    @property
    def colors(self) -> tuple[str, ...]:
        """ "#rrggbb" per class."""
        usual = class_colors(self.codes, self.background)
        return tuple(c.color or hex_color(color) for c, color in zip(self.classes, usual, strict=True))

    def curriculum(self) -> CurriculumSchedule:
        return CurriculumSchedule.over(self.training.epochs, rise=self.rise, start=self.start)

    def plan(self) -> StagePlan:
        """The stages in epochs."""
        epochs = self.training.epochs
        return StagePlan(tuple(Stage(s.name, round(s.since * epochs), s.learns) for s in self.stages))


Kind = TypeVar("Kind", bound=TrainConfig)


def read_config(path: str | Path, kind: type[Kind], *, data: str | None = None) -> Kind:
    """Read and check a configuration of this kind; `data` takes the place of its images or manifest.

    Raises
    ------
    RequestError
        If it is missing, not YAML, names an unknown setting or variable, or contradicts itself.
    """
    path = Path(path)
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file. Give the configuration of a training run.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(record, dict):
        raise RequestError(f"{path}: expected settings by name, such as data: and classes:.")
    try:
        return kind.model_validate(_placed(_with_data(record, data), path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RequestError(f"{path}: {where}: {first['msg']} ({error.error_count()} problem(s)).") from error


def _with_data(record: dict[str, Any], place: str | None) -> dict[str, Any]:
    """The record with its images or manifest at `place`, before variables are filled in: theirs may not be set."""
    inner = record.get("data")
    if place is None or not isinstance(inner, dict):
        return record
    sources = {"table": "images", "names": "images", "stores": "manifest"}
    changed = {
        name: value | {sources[name]: str(Path(place).absolute())}
        for name, value in inner.items()
        if name in sources and isinstance(value, dict)
    }
    return record | {"data": inner | changed}


def _placed(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """Variables filled in; paths made absolute where something lies there, seen from the file or from here."""
    filled: dict[str, Any] = _filled(record, path)
    for keys in (
        ("data", "table", "images"),
        ("data", "table", "csv"),
        ("data", "names", "images"),
        ("data", "stores", "manifest"),
        ("captions", "csv"),
        ("split", "file"),
        ("image", "weights"),
        ("text", "pretrained"),
    ):
        inner: Any = filled
        for key in keys[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(value := inner.get(keys[-1]), str):
            places = (path.parent / Path(value).expanduser(), Path(value))
            inner[keys[-1]] = next((str(place.absolute()) for place in places if place.exists()), value)
    return filled


def _filled(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, path) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, path) for inner in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise RequestError(f"{path}: the variable {name} is not set. Set it, or give the data with --data.")
        return os.environ[name]

    return _VARIABLE.sub(variable, value)
