"""Models as folders: what all kinds of them have in common. No torch here.

A folder holds config.json, model.safetensors and, where there are any, README.md (the card), metrics.json and further
weights. It is written in one step, and nothing is overwritten.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsikit.errors import ModelError, WsikitError, reason_of
from wsikit.models.config import CARD_FILE, CONFIG_FILE, MAX_PATCH_PX, METRICS_FILE, WEIGHTS_FILE
from wsikit.models.protocol import FeatureSource
from wsikit.tensor_files import check_whole, no_larger_than


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Config = TypeVar("Config", bound=BaseModel)


class EncoderRecord(Strict):
    """The encoder whose features a model reads, as recorded with the features."""

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

    @classmethod
    def of_stored(cls, stored: Mapping[str, Any], width: int) -> EncoderRecord:
        """From what was recorded with features of this width; what is not known is empty."""
        names = ("name", "fingerprint", "given_as", "source", "licence", "notice")
        return cls(width=width, **{name: str(stored.get(name) or "") for name in names})

    @property
    def as_source(self) -> FeatureSource:
        """As in `ModelInfo.features`."""
        return FeatureSource(self.name, self.width, self.fingerprint, self.given_as)


class Described(Strict):
    """What the configuration of every classifier in a folder says about it."""

    name: str
    version: str
    classes: tuple[str, ...] = Field(min_length=2)
    """Codes in the order of the outputs."""
    class_names: tuple[str, ...]
    colors: tuple[str, ...]
    """One "#rrggbb" per class."""
    mpp: float = Field(gt=0)
    """µm/px of the patches."""
    patch_px: int = Field(gt=0, le=MAX_PATCH_PX)
    """Side of a patch in pixels at `mpp`."""
    stain: str
    notice: str = Field(min_length=1)
    """Shown on every output of the model."""
    prior: tuple[float, ...] | None = None
    """Frequency of each class in the training, sum 1; None: not recorded."""
    balanced: bool = False
    """Trained with balanced class weights: the probabilities assume equal frequencies, not `prior`."""

    @property
    def info_fields(self) -> dict[str, Any]:
        """These fields, by their names in `ModelInfo`."""
        return {name: getattr(self, name) for name in Described.model_fields}

    def check_classes(self) -> None:
        """ValueError unless classes differ, each has a name and a colour, and `prior` has one frequency for each."""
        n = len(self.classes)
        if len(set(self.classes)) != n or len(self.class_names) != n or len(self.colors) != n:
            raise ValueError("classes must differ, and class_names and colors must have one entry for each")
        if self.prior is not None and (len(self.prior) != n or abs(sum(self.prior) - 1) > 1e-3 or min(self.prior) < 0):
            raise ValueError(f"prior {self.prior} must have one frequency per class, of sum 1")


def joined_notice(own: str, encoder: EncoderRecord | None) -> str:
    """The notice of a model, with that of its encoder, if it has one: what the encoder was trained on is not what the
    model was trained on.
    """
    if encoder is None or not encoder.notice or encoder.notice in own:
        return own
    return f"{own} Its encoder {encoder.name}: {encoder.notice}"


def read_folder_config(folder: Path, schema: type[Config], what: str) -> Config:
    """The configuration of the model in `folder`, which is `what`, such as "a head".

    Raises
    ------
    ModelError
        If a file is missing, or config.json is not that of such a model.
    """
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder}: {', '.join(missing)} missing; copy the model's folder again.")
    path = folder / CONFIG_FILE
    try:
        return schema.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelError(
            f"{path}: {where}: {first['msg']} ({error.error_count()} problem(s)). "
            f"This is not {what} that this version of wsikit reads; train it again with it."
        ) from error


def check_weights(folder: Path, names: Sequence[str]) -> None:
    """ModelError if one of the files of weights `names`, as far as they exist, is not whole."""
    for name in names:
        if (folder / name).is_file():
            check_whole(folder / name)


@contextmanager
def weights_of(path: Path) -> Iterator[None]:
    """Names the file in a ModelError on what was read from it."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


@contextmanager
def building(path: Path, weights: Path) -> Iterator[None]:
    """Any error of a library on the sizes of a network in the configuration at `path`, as one ModelError; also where
    it would be much larger than the file of its `weights`."""
    try:
        with no_larger_than(weights):
            yield
    except WsikitError:
        raise
    except Exception as error:  # libraries check sizes as they like, by errors of every type
        raise ModelError(
            f"{path}: no network can be built with these settings ({type(error).__name__}: {reason_of(error)}); "
            "copy the model's folder again."
        ) from error


def write_folder(folder: str | Path, write: Callable[[Path], None]) -> Path:
    """Make a folder with the files that `write` puts into it, in one step; it must not exist yet, or be empty.

    Raises
    ------
    ModelError
        If it is not empty: nothing is overwritten.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder}: is not empty; give a new folder, nothing is overwritten.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        staging.chmod(0o755)  # mkdtemp makes it private; models are shared
        write(staging)
        for weights in staging.glob("*.safetensors"):
            weights.chmod(0o644)  # safetensors also writes for the owner only
        os.replace(staging, folder)
    except BaseException:
        shutil.rmtree(staging)  # made by this call
        raise
    return folder


def write_description(staging: Path, config: BaseModel, card: str, metrics: dict[str, Any] | None) -> None:
    """config.json, README.md and, if there are any, metrics.json."""
    from wsikit.store.atomic import write_json

    (staging / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (staging / CARD_FILE).write_text(card, encoding="utf-8")
    if metrics is not None:
        write_json(staging / METRICS_FILE, metrics)
