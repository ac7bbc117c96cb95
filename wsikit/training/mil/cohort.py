"""A cohort of slides with one label each: the bags of features that a model on slide labels is trained on.

A manifest CSV has one row per slide. Columns: `store` (a slide store) or `features` (a file of another tool: TRIDENT,
CLAM, STAMP, AtlasPatch, Parquet, AnnData, bags of torchmil and soma); `label`, `value`, or `time` and `event` (1: it
happened, 0: censored); optionally `patient` (default: the slide) and `slide` (default: the store's, or the file's
name). Paths are relative to the manifest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.encoders.protocol import COLUMN_PREFIX
from wsikit.errors import RequestError
from wsikit.inference.feature_columns import encoder_record, how_to_compute
from wsikit.models.model_folder import EncoderRecord
from wsikit.results.interop import read_external
from wsikit.slides.store import SlideStore
from wsikit.tables import read_table
from wsikit.training.data import PatchSet
from wsikit.training.mil.config import MilTrainConfig

COLUMNS = ("store", "features", "label", "value", "time", "event", "patient", "slide")
_STRATA = 4


@dataclass(frozen=True, eq=False)
class Bag:
    """The patches of one slide, and what is known of the slide."""

    slide: str
    patient: str
    features: npt.NDArray[np.float32]
    """(N, D), finite; (N, 0) where pixels are read."""
    coords: npt.NDArray[np.int64]
    """(N, 2) top-left corners, level-0 px."""
    label: int = 0
    """Index of the class."""
    value: float = math.nan
    """Of a regression; of survival the time."""
    event: bool = False
    """survival: whether the event happened at this time."""
    store: str = ""
    """Folder of the store; empty for a file of features."""
    grid: str = ""


@dataclass(frozen=True, eq=False)
class Cohort:
    """All bags, with what their patches are."""

    bags: tuple[Bag, ...]
    encoder: EncoderRecord | None
    """None where pixels are read."""
    mpp: float
    patch_px: int
    classes: tuple[str, ...]
    words: str
    """In one line."""

    def patch_set(self, task: str) -> PatchSet:
        """Slides in place of patches, for the splits: ids, strata and patients; no pixels."""
        values = np.array([bag.value for bag in self.bags])
        labels = np.array([bag.label for bag in self.bags], dtype=np.int64)
        if task == "survival":
            labels = np.array([bag.event for bag in self.bags], dtype=np.int64)
        elif task == "regression":
            labels = np.searchsorted(np.quantile(values, np.arange(1, _STRATA) / _STRATA), values).astype(np.int64)
        return PatchSet(
            images=np.zeros((len(self.bags), 0, 0, 3), np.uint8),
            labels=labels,
            groups=np.array([bag.patient for bag in self.bags], dtype=np.str_),
            captions=("",) * len(self.bags),
            ids=tuple(bag.slide for bag in self.bags),
            classes=self.classes if task in ("classes", "ordinal") else tuple(map(str, range(int(labels.max()) + 1))),
        )


def read_cohort(config: MilTrainConfig, manifest: str | Path) -> Cohort:
    """Read the bags of a manifest.

    Raises
    ------
    RequestError
        If a row lacks its slide or its label, a class or a value is not known, a slide is named twice or has no patch
        with features, features are of different encoders, or patches of different scales.
    """
    path = Path(manifest)
    if not path.is_file():
        raise RequestError(f"{path}: no such file. Give a CSV with the columns store (or features), label, patient.")
    table = read_table(path, COLUMNS, what="manifest")
    if not table.rows:
        raise RequestError(f"{path}: no rows. Name one slide per row.")
    for line, fault in table.faults.items():
        raise RequestError(f"{path}, line {line}: {fault}")
    reader = _Reader(config, path)
    for line, row in table.rows:
        reader.add(line, row)
    reader.refuse_empty()
    return reader.cohort()


class _Reader:
    """Collects bags and checks that they fit each other."""

    def __init__(self, config: MilTrainConfig, path: Path) -> None:
        self._config, self._path = config, path
        self._bags: list[Bag] = []
        self._encoder: EncoderRecord | None = None
        self._scale: tuple[float, int] | None = None
        self._seen: set[str] = set()
        self._empty: list[str] = []

    def add(self, line: int, row: dict[str, str]) -> None:
        where = f"{self._path}, line {line}"
        place = row.get("store") or row.get("features")
        if not place or (row.get("store") and row.get("features")):
            raise RequestError(f"{where}: give a store, or a file of features, and not both.")
        target = self._path.parent / Path(place).expanduser()
        bag = self._of_store(target, row) if row.get("store") else self._of_file(target, row)
        if not len(bag.coords):
            self._empty.append(f"{bag.slide} (line {line})")
            return
        if bag.slide in self._seen:
            raise RequestError(f"{where}: slide {bag.slide} is named twice. Keep one row per slide.")
        self._seen.add(bag.slide)
        self._bags.append(self._labelled(where, bag, row))

    def refuse_empty(self) -> None:
        """All slides without patches at once: one look at each, and one correction of the table."""
        if self._empty:
            features = "" if self._config.image else " with features"
            raise RequestError(
                f"{self._path}: no patch{features} in {', '.join(self._empty)}. No tissue was found there, or "
                "none of it could be read: look at the slide, or remove the row."
            )

    def cohort(self) -> Cohort:
        config = self._config
        if config.classes:
            counts = np.bincount([bag.label for bag in self._bags], minlength=len(config.codes))
            if absent := [code for code, count in zip(config.codes, counts, strict=True) if not count]:
                raise RequestError(f"{self._path}: no slide of class {', '.join(absent)}. Leave it out, or add slides.")
        if self._scale is None:
            raise RequestError(f"{self._path}: files of features state no scale: give data: mpp and patch_px.")
        n, patients = sum(len(bag.coords) for bag in self._bags), len({bag.patient for bag in self._bags})
        of = "pixels" if self._encoder is None else f"{self._encoder.width} features each, of {self._encoder.name}"
        words = f"{len(self._bags)} slides of {patients} patients, {n:,} patches; {of}."
        mpp, patch_px = self._scale
        return Cohort(tuple(self._bags), self._encoder, mpp, patch_px, config.codes, words)

    def _of_store(self, target: Path, row: dict[str, str]) -> Bag:
        if not target.exists():
            raise RequestError(f"{target}: no such store (named in {self._path}).")
        with SlideStore(target) as store:
            table = store.patches(self._config.data.grid)
            self._same_scale(str(table.folder), table.grid.target_mpp, table.grid.patch_px)
            place, grid = str(store.folder), table.name
            slide, coords = row.get("slide") or store.slide_id, np.asarray(table.coords)
            patient = row.get("patient") or slide
            if self._config.features is None:
                readable = table.read("readable") > 0 if "readable" in table.columns() else np.ones(len(table), bool)
                nothing = np.empty((int(readable.sum()), 0), np.float32)
                return Bag(slide, patient, nothing, coords[readable], store=place, grid=grid)
            column = COLUMN_PREFIX + self._config.features
            if column not in table.columns():
                raise RequestError(
                    f"{table.folder}: no complete column {column}. {how_to_compute(table, self._config.features)}"
                )
            record = encoder_record(table, column) | {"name": self._config.features}
            self._same_encoder(str(table.folder), record, table.width(column) or 0)
            values = np.asarray(table.read(column), dtype=np.float32)
        known = np.isfinite(values).all(axis=1)
        return Bag(slide, patient, values[known], coords[known], store=place, grid=grid)

    def _of_file(self, target: Path, row: dict[str, str]) -> Bag:
        if self._config.features is None:
            raise RequestError(f"{target}: a file of features; an image encoder is trained on stores only.")
        mpp = self._config.data.mpp
        found = read_external(target, slide_mpp=(mpp or 1.0, mpp or 1.0), features=None)
        if found.features is None:
            raise RequestError(f"{target}: holds no features. Name the file of features, not that of coordinates.")
        self._same_encoder(str(target), {"name": self._config.features} | dict(found.column), found.features.shape[1])
        if found.grid is not None:
            self._same_scale(str(target), found.grid.target_mpp, found.grid.patch_px)
        elif mpp is not None and self._config.data.patch_px is not None:
            self._same_scale(str(target), mpp, self._config.data.patch_px)
        values = np.asarray(found.features, dtype=np.float32)
        known = np.isfinite(values).all(axis=1)
        slide = row.get("slide") or target.stem
        coords = np.rint(found.coords[known]).astype(np.int64)
        return Bag(slide, row.get("patient") or slide, values[known], coords)

    def _labelled(self, where: str, bag: Bag, row: dict[str, str]) -> Bag:
        from dataclasses import replace

        config = self._config
        if config.task in ("classes", "ordinal"):
            text = row.get("label", "").strip()
            if text not in config.values:
                known = ", ".join(config.values)
                raise RequestError(f"{where}: slide {bag.slide}: label {text!r}; expected one of {known}.")
            return replace(bag, label=config.codes.index(config.values[text]))
        if config.task == "regression":
            return replace(bag, value=_number(where, row, "value"))
        event = row.get("event", "").strip()
        if event not in ("0", "1"):
            raise RequestError(
                f"{where}: slide {bag.slide}: event {event!r}; expected 1 (it happened) or 0 (censored)."
            )
        time = _number(where, row, "time")
        if time < 0:
            raise RequestError(f"{where}: slide {bag.slide}: time {time:g}; expected 0 or more.")
        return replace(bag, value=time, event=event == "1")

    def _same_scale(self, where: str, mpp: float, patch_px: int) -> None:
        scale = (round(mpp, 6), patch_px)
        self._scale = self._scale or scale
        if scale != self._scale:
            raise RequestError(
                f"{where}: patches of {patch_px} px at {mpp:g} µm/px, other slides have {self._scale[1]} px at "
                f"{self._scale[0]:g}. Use one grid for all."
            )

    def _same_encoder(self, where: str, record: dict[str, object], width: int) -> None:
        stored = record.get("encoder")
        record = record | (stored if isinstance(stored, dict) else {}) | {"name": self._config.features}
        found = EncoderRecord.of_stored(record, width)
        first = self._encoder = self._encoder or found
        if (found.width, found.fingerprint) != (first.width, first.fingerprint):
            raise RequestError(
                f"{where}: {found.width} features of an encoder with the fingerprint "
                f"{found.fingerprint[:12] or 'unknown'}, other slides have {first.width} of "
                f"{first.fingerprint[:12] or 'unknown'}. Compute the features of all slides with one encoder."
            )


def _number(where: str, row: dict[str, str], column: str) -> float:
    text = row.get(column, "").strip()
    try:
        found = float(text.replace(",", "."))
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise RequestError(f"{where}: {column} {text!r}; expected a number.")
    return found
