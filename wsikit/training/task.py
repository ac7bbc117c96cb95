"""The part of a training configuration that all kinds of training share: data, classes, split; and how a file is read.

`${NAME}` in a file is an environment variable; paths are relative to the file. No torch here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wsikit.errors import RequestError
from wsikit.exporters.palette import class_colors, hex_color
from wsikit.setting_faults import faults_in_words
from wsikit.training.datasets.table import Columns

_VARIABLE = re.compile(r"\$\{(\w+)\}")


class Strict(BaseModel):
    """Unknown settings are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TableSource(Strict):
    """A CSV with a folder or a zip of images."""

    images: str
    csv: str | None = None
    """A path, or a member of the zip; default: the only CSV there."""
    columns: Columns = Columns()


class NamesSource(Strict):
    """A folder or a zip of images whose names contain the class; see `wsikit.training.datasets.read_names`."""

    images: str
    pattern: str


class StoresSource(Strict):
    """Slide stores with annotated regions; see `wsikit.training.datasets.read_stores`."""

    manifest: str


class DataConfig(Strict):
    """Location and scale of the patches. Give one of table, names, stores."""

    table: TableSource | None = None
    names: NamesSource | None = None
    stores: StoresSource | None = None
    mpp: float | None = Field(None, gt=0)
    """µm/px of the images as stored. Not needed for stores, which record it."""
    patch_px: int = Field(gt=0)
    """Side of the model's input patches; images of another side are resampled."""
    stain: str = "H&E"
    group: Literal["patient", "slide", "file"] = "patient"
    """Grouping unit of splits: all patches of a group are in one part."""
    odd_sizes: Literal["refuse", "drop", "mirror"] = "refuse"
    drop_others: bool = False
    """Leave out patches of classes that are not listed below; default: an error."""

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if sum(source is not None for source in (self.table, self.names, self.stores)) != 1:
            raise ValueError("give one of table, names and stores")
        if self.stores is None and self.mpp is None:
            raise ValueError("give mpp, the µm/px of the images: image files do not state it")
        return self


class ClassConfig(Strict):
    """One class of the model."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # a class may be called 0 or 1

    code: str = Field(min_length=1)
    name: str | None = None
    color: str | None = Field(None, pattern=r"^#[0-9a-fA-F]{6}$")
    values: tuple[str, ...] = ()
    """Values of the class column for this class; default: its code."""
    background: bool = False
    """True: the class does not vote in the slide-level aggregation."""

    @model_validator(mode="before")
    @classmethod
    def _by_code(cls, given: Any) -> Any:
        """`classes: [tumour, stroma]` is short for `classes: [{code: tumour}, {code: stroma}]`."""
        return {"code": given} if isinstance(given, str | int) and not isinstance(given, bool) else given


class SplitConfig(Strict):
    """Fractions, or one of K folds, or an existing split file."""

    seed: int = Field(default=0, ge=0)
    validation: float = Field(default=0.15, gt=0, lt=1)
    test: float = Field(default=0.2, gt=0, lt=1)
    folds: int | None = Field(default=None, ge=3)
    """Instead of fractions: one fold is the test part, the next one the validation part."""
    fold: int = Field(default=0, ge=0)
    file: str | None = None
    """An existing splits.json."""


class FeatureInput(Strict):
    """Whose features, and where they are."""

    features: str = Field(min_length=1)
    """Of stores: NAME of the column `features_NAME`. Of images: an encoder, as in `wsikit features --encoder`."""
    file: str | None = None
    """Features of images that were computed before: see `wsikit.training.heads.feature_file`."""
    batch: int = Field(64, gt=0)
    """Images that the encoder is given at a time."""


class TaskConfig(Strict):
    """What is to be learnt from which patches: the part of a configuration that all kinds of training share."""

    name: str = Field(min_length=1)
    version: str = "1"
    notice: str = "For research use only. Not for diagnosis."
    data: DataConfig
    classes: tuple[ClassConfig, ...] = Field(min_length=2)
    """In the order of the outputs; voting classes in biological order, if they have one."""
    ordered: bool = False
    """The voting classes are ordered, so kappa is reported."""
    split: SplitConfig = SplitConfig()

    @model_validator(mode="after")
    def _classes_differ(self) -> Self:
        for names in (self.codes, tuple(self.values)):
            if len(set(names)) != len(names):
                raise ValueError(f"classes: {', '.join(names)} must differ")
        if len(self.values) != sum(len(c.values or (c.code,)) for c in self.classes):
            raise ValueError("classes: one value is mapped to two classes")
        voting = [c.background for c in self.classes]
        if all(voting) or voting != sorted(voting):
            raise ValueError("classes: list voting classes first, then background classes")
        return self

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(c.code for c in self.classes)

    @property
    def values(self) -> dict[str, str]:
        """Value in the data to class code."""
        return {value: c.code for c in self.classes for value in (c.values or (c.code,))}

    @property
    def background(self) -> tuple[str, ...]:
        return tuple(c.code for c in self.classes if c.background)

    @property
    def n_ordinal(self) -> int:
        """Number of leading classes that are ordered."""
        return len(self.codes) - len(self.background) if self.ordered else 0

    @property
    def colors(self) -> tuple[str, ...]:
        """ "#rrggbb" per class."""
        usual = class_colors(self.codes, self.background)
        return tuple(c.color or hex_color(color) for c, color in zip(self.classes, usual, strict=True))


Kind = TypeVar("Kind", bound=BaseModel)


def read_config(path: str | Path, kind: type[Kind], *, data: str | None = None) -> Kind:
    """Read and check a configuration of this kind; `data` replaces its images or manifest.

    Raises
    ------
    RequestError
        If it is missing, not YAML, names an unknown setting or variable, or contradicts itself.
    """
    path = Path(path)
    try:
        return kind.model_validate(_placed(_with_data(read_settings(path), data), path))
    except ValidationError as error:
        raise RequestError(f"{path}: {faults_in_words(error, kind)}.") from error


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings of a file as they are written, unchecked.

    Raises
    ------
    RequestError
        If it is missing, or not a YAML mapping.
    """
    try:
        record = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file. Give the configuration of a training run.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(record, dict):
        raise RequestError(f"{path}: expected a mapping of settings, such as data: and classes:.")
    return record


def _with_data(record: dict[str, Any], place: str | None) -> dict[str, Any]:
    """The record with its images or manifest replaced by `place`, before variables are expanded (they may be unset)."""
    inner = record.get("data")
    if place is None or not isinstance(inner, dict):
        return record
    sources = {"table": "images", "names": "images", "stores": "manifest"}
    changed: dict[str, Any] = {
        name: value | {sources[name]: str(Path(place).absolute())}
        for name, value in inner.items()
        if name in sources and isinstance(value, dict)
    }
    if "manifest" in inner or "phantoms" in inner:  # of slides
        kept = {name: value for name, value in inner.items() if name not in ("manifest", "phantoms")}
        return record | {"data": kept | {"manifest": str(Path(place).absolute())}}
    if isinstance(inner.get("csv"), str):  # a cohort
        changed["csv"] = str(Path(place).absolute())
    return record | {"data": inner | changed}


def _placed(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """Expand variables; make paths absolute if they exist relative to the file or to the working directory."""
    filled: dict[str, Any] = _filled(record, path)
    for keys in (
        ("data", "table", "images"),
        ("data", "table", "csv"),
        ("data", "names", "images"),
        ("data", "stores", "manifest"),
        ("data", "manifest"),
        ("data", "csv"),
        ("data", "features"),
        ("captions", "csv"),
        ("split", "file"),
        ("image", "weights"),
        ("image", "file"),
        ("text", "pretrained"),
        ("concepts", "criteria"),
        ("concepts", "labels", "csv"),
    ):
        inner: Any = filled
        for key in keys[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        _place(inner, keys[-1], path)
    data = filled.get("data")
    joined = data.get("join") if isinstance(data, dict) else None
    for table in joined if isinstance(joined, list) else ():
        _place(table, "csv", path)
    network = filled.get("umeml")
    tables = network.get("tables") if isinstance(network, dict) else None
    for one in tables.values() if isinstance(tables, dict) else ():
        for tokens in one if isinstance(one, list) else (one,):  # a table may have several token sets
            _place(tokens, "gene_sets", path)
    return filled


def _place(record: Any, key: str, path: Path) -> None:
    """Make the path under `key` absolute, if it exists relative to the file or to the working directory."""
    if isinstance(record, dict) and isinstance(value := record.get(key), str):
        places = (path.parent / Path(value).expanduser(), Path(value))
        record[key] = next((str(place.absolute()) for place in places if place.exists()), value)


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
