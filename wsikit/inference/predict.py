"""The predict stage: class probabilities for the patches of a store, by any `PatchModel`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ModelError
from wsikit.inference.applicability import why_not_applicable
from wsikit.inference.fact_columns import FactSource, fact_source
from wsikit.inference.feature_columns import check_features
from wsikit.inference.left_out import LeftOut, left_out
from wsikit.inference.sample import sample_of_slide
from wsikit.inference.slide_value import write_slide_value
from wsikit.inference.stain import parse_stain
from wsikit.models.lazy import LazyModel, ModelLike
from wsikit.models.mil_config import ATTENTION, VALUE
from wsikit.models.protocol import (
    IMAGE,
    NUMBERS,
    OOD_SCORE,
    TEXT,
    Finishes,
    FitsToSlide,
    ModelColumn,
    ModelInfo,
    PatchModel,
)
from wsikit.progress import SILENT, Progress
from wsikit.slides.store import SlideStore, StoreLike, open_store
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable, coords_digest
from wsikit.tiling.columns import ColumnStage, DeviceWork, fill_columns
from wsikit.tiling.stream import iterate_patches

logger = logging.getLogger(__name__)

PREDICT_REVISION = 1

_AT_ONCE = 256
"""Patches given to the model at a time, and between two steps of the progress: some batches, so that all cores work."""

_Batch = tuple[slice, npt.NDArray[np.uint8] | None, npt.NDArray[np.bool_]]


def predict(
    store: StoreLike,
    *,
    model: ModelLike | None = None,
    stain: str | None = None,
    concepts: Mapping[str, str] | None = None,
    without: Mapping[str, float] | None = None,
    grid: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> PatchTable:
    """Classify every readable patch from the model's inputs: image, caption, stored features.

    Complete predictions with an equal receipt are kept; the model is then not loaded.

    Parameters
    ----------
    store
        A slide store, or its path.
    model
        A `PatchModel`, the name of a packaged model or plug-in, or a model's folder; by default the packaged one.
    stain
        Normalise the stain of the patches before the model sees them: "macenko" or "reinhard", with the reference after
        a colon (`wsikit.inference.stain.parse_stain`); None: as scanned.
    concepts
        Of a model with concepts (`ModelInfo.axes`): options by axis that are taken for given in all patches, such as
        {"neuropil": "absent"}. They are in the receipt, so that results with and without are not confused.
    without
        Limits by fact: patches above one get no prediction, such as {"necrosis_share": 0.5}. Facts are shares that are
        measured for captions (`wsikit.facts`), or `localize:CONCEPT`, a map of `wsikit.localize`.
    grid
        Name of the patch grid; not needed if the store has only one.
    device
        "auto", "cpu", "cuda".

    Returns
    -------
    PatchTable
        With the columns of the model (`ModelInfo.columns`): `probability`, float32 (N, C) in the model's class order,
        NaN where a patch could not be read or is left out (`without`). MMLNB adds `gate`, float32 (N,), the weight of
        the text, 0 without text; `probability_image` and `probability_text`, float32 (N, C), each branch alone; and
        `ood_score`, float32 (N,), above 1 where a patch is out of the distribution of the training patches.

    Raises
    ------
    ModelError
        The model does not apply (other patch size, scale or type of stain than it was trained on), or cannot be loaded;
        or features that it reads are not in the table, or are of another encoder than it was trained on.
    RequestError
        The model has no such concept, or no such option of it; or `without` names no such fact.
    StoreError
        The captions or the map that `without` names are not in the table.

    Examples
    --------
    >>> import tempfile, wsikit
    >>> folder = tempfile.mkdtemp()
    >>> slide = wsikit.make_phantom(f"{folder}/slide.tiff", size_px=(448, 448)).path
    >>> table = wsikit.predict(wsikit.tile(slide, f"{folder}/slide.zarr"))
    >>> table.read("probability").shape[1]
    4
    """
    lazy = LazyModel.of(model, device=device).with_concepts(concepts or {})
    opened = open_store(store)
    table = opened.patches(grid)
    fault = why_not_applicable(lazy.info, opened, table)
    if fault:
        raise ModelError(f"{opened.folder}: model {lazy.info.name} does not apply: {fault}.")
    fill_columns(opened, table, [predict_stage(table, lazy, stain=stain, without=without)], progress=progress)
    return table


def predict_stage(
    table: PatchTable, model: LazyModel, *, stain: str | None = None, without: Mapping[str, float] | None = None
) -> ColumnStage:
    """The stage that `predict` runs. The caller has checked that the model applies (`why_not_applicable`)."""
    info = model.info
    check_features(table, info)
    there = set(table.columns())
    inputs = {"patches": coords_digest(table), "model": info.fingerprint}
    needs = ["pixels"] if IMAGE in info.inputs else []
    read = list(info.feature_columns)
    if TEXT in info.inputs and "caption" in there:
        _warn_captioner_mismatch(str(table.attributes("caption").get("captioner", "")), info)
        read.append("caption")
    facts = fact_source(table, info) if info.facts else None
    if facts is not None:
        read += [name for name in facts.columns if name not in read]
    outside = left_out(table, without or {})
    if outside is not None:
        read += [name for name in outside.columns if name not in read]
    for name in read:
        known = table.receipt(name)
        assert known is not None  # it is complete
        inputs[name] = known.digest
    if stain is not None and IMAGE not in info.inputs:
        raise ModelError(
            f"{table.folder}: model {info.name} reads stored features and no pixels, so stain normalisation ({stain}) "
            "would have no effect. Leave it out."
        )
    normalisation = parse_stain(stain) if stain is not None else None
    parameters: dict[str, Any] = {} if normalisation is None else {"stain": normalisation.fingerprint()}
    if facts is not None:
        parameters["facts"] = facts.record()
        if info.field_um is not None:
            parameters["field_um"] = info.field_um
    if info.concepts_set:
        parameters["set"] = dict(info.concepts_set)
    if outside is not None:
        parameters["without"] = outside.record()
    receipt = Receipt("predict", PREDICT_REVISION, parameters, inputs)
    attributes = {"names": list(info.classes), "model": info.record()}
    specs = tuple(
        ColumnSpec(column.name, "float32", len(info.classes), _about(column) | attributes)
        if column.per_class
        else ColumnSpec(column.name, "float32", column.width(len(info.classes)), _about(column))
        for column in info.columns
    )
    work = _Predict(model, specs, receipt, tuple(read), normalisation, facts, outside)
    return ColumnStage("predictions", specs, receipt, DeviceWork(work, work), needs=(*needs, *read))


@dataclass(frozen=True)
class _Predict:
    """Updates the prediction columns of a table."""

    model: LazyModel
    specs: tuple[ColumnSpec, ...]
    receipt: Receipt
    reads: tuple[str, ...]
    """Columns of the table that the model reads."""
    normalisation: Any
    facts: FactSource | None
    """Where the numbers of the captions are; None: there are none, or the model reads none."""
    outside: LeftOut | None = None
    """Which patches get no prediction; None: all that are readable get one."""

    def __call__(self, store: SlideStore, table: PatchTable, progress: Progress) -> None:
        progress.start("model", 1, "model")
        self.model.load()
        progress.advance()
        progress.finish()
        ranges = self.begin(store, table)
        progress.start("predictions", sum(rows.stop - rows.start for rows in ranges), "patches")
        self.rows(store, table, ranges, progress)
        progress.finish()
        self.end(store, table)

    def begin(self, store: SlideStore, table: PatchTable) -> list[slice]:
        """Prepare the columns; the chunks of rows that are to be computed."""
        ranges = table.prepare(self._of_rows(), self.receipt)
        own = {spec.name for spec in self.specs}
        for name in table.columns():
            if name not in own and (name == OOD_SCORE or _is_prediction(table, name)):
                table.drop(name)  # from another model
        return ranges

    def rows(self, store: SlideStore, table: PatchTable, chunks: Sequence[slice], progress: Progress = SILENT) -> None:
        """Compute some chunks of rows and write them."""
        transform = self._stain_transform(store, table)
        model = self._fitted(self.model.load(), store, table, transform)
        around = self._around(table)
        for rows, images, readable in self._batches(store, table, list(chunks), transform):
            readable = readable if self.outside is None else readable & ~self.outside.rows(table, rows)
            columns = self._rows(model, table, rows, images, readable, around, progress)
            for spec in self._of_rows():
                table.write(spec.name, rows, columns[spec.name])

    def end(self, store: SlideStore, table: PatchTable) -> None:
        """Compute the columns that depend on the predictions of all patches."""
        last = [spec for spec in self.specs if spec.name in self.model.info.whole_slide]
        if last:
            model = self._fitted(self.model.load(), store, table, self._stain_transform(store, table))
            self._finish(model, table, last)

    def _of_rows(self) -> list[ColumnSpec]:
        """The columns that depend on the rows alone."""
        return [spec for spec in self.specs if spec.name not in self.model.info.whole_slide]

    def _finish(self, model: PatchModel, table: PatchTable, specs: list[ColumnSpec]) -> None:
        """Write the columns that depend on the predictions of all patches; the others are complete by now."""
        if not isinstance(model, Finishes):
            raise ModelError(f"model {self.model.info.name}: states whole_slide columns and has no method finish.")
        ranges = table.prepare(specs, self.receipt)
        names = {spec.name for spec in self.specs} - {spec.name for spec in specs}
        centres = (table.coords + np.asarray(table.grid.side) / 2) * np.asarray(table.grid.slide_mpp)
        found = model.finish({name: table.read(name) for name in names}, centres)
        for spec in specs:
            for rows in ranges:
                table.write(spec.name, rows, np.asarray(found[spec.name], dtype=np.float32)[rows])
        columns = {column.name: column for column in self.model.info.columns}
        if VALUE in columns and ATTENTION in columns:
            write_slide_value(table, self.model.info.record(), columns[VALUE])

    def _batches(
        self, store: SlideStore, table: PatchTable, ranges: list[slice], transform: Callable[[Any], Any] | None
    ) -> Iterator[_Batch]:
        """(rows, images or None, readable) of each range; pixels are read only for a model with image input."""
        if IMAGE not in self.model.info.inputs:
            readable = table.read("readable") > 0 if "readable" in table.columns() else np.ones(len(table), bool)
            yield from ((rows, None, readable[rows]) for rows in ranges)
            return
        for rows, batch in iterate_patches(store, table.grid, table.coords, ranges):
            images = batch.images if transform is None else transform(batch.images)
            yield rows, images, batch.readable

    def _fitted(
        self, model: PatchModel, store: SlideStore, table: PatchTable, transform: Callable[[Any], Any] | None
    ) -> PatchModel:
        """The model for this slide, if its predictions depend on the slide."""
        info = self.model.info
        if not info.fits_to or not isinstance(model, FitsToSlide):
            return model
        seen: dict[str, Any] = {}
        if IMAGE in info.fits_to:
            sample = sample_of_slide(store, table)
            seen["images"] = sample if transform is None or not len(sample) else transform(sample)
        if set(info.fits_to) - {IMAGE, TEXT, NUMBERS}:
            seen["features"] = np.concatenate([table.read(name) for name in info.feature_columns], axis=1)
        if NUMBERS in info.fits_to and self.facts is not None:
            seen["facts"], seen["uncertainty"] = self.facts.read(table)
        return model.fit(**seen) if seen else model

    def _around(self, table: PatchTable) -> npt.NDArray[np.float32] | None:
        """Means of the facts in the field around every patch, (N, F), if the model reads them."""
        info = self.model.info
        if info.field_um is None:
            return None
        if self.facts is None:
            return np.full((len(table), len(info.facts)), np.nan, dtype=np.float32)
        return self.facts.around(table, info.field_um)

    def _stain_transform(self, store: SlideStore, table: PatchTable) -> Callable[[Any], Any] | None:
        """The stain normalisation fitted to this slide, on a fixed sample of its patches."""
        if self.normalisation is None:
            return None
        fitted: Callable[[Any], Any] = self.normalisation.fit(sample_of_slide(store, table))
        return fitted

    def _rows(
        self,
        model: PatchModel,
        table: PatchTable,
        rows: slice,
        images: npt.NDArray[np.uint8] | None,
        readable: npt.NDArray[np.bool_],
        around: npt.NDArray[np.float32] | None,
        progress: Progress,
    ) -> dict[str, npt.NDArray[np.float32]]:
        """The columns of some rows, NaN where a patch is not to be classified; progress after some patches each."""
        columns: dict[str, npt.NDArray[np.float32]] = {}
        for spec in self.specs:
            shape = (len(readable),) if spec.width is None else (len(readable), spec.width)
            columns[spec.name] = np.full(shape, np.nan, dtype=np.float32)
        every = np.flatnonzero(readable)
        progress.advance(len(readable) - len(every))
        for seen in (every[first : first + _AT_ONCE] for first in range(0, len(every), _AT_ONCE)):
            inputs = self._inputs(table, rows, images, seen)
            if around is not None:
                inputs["around"] = around[rows][seen]
            found = model.predict(**inputs)
            for spec in self.specs:
                values = np.asarray(found[spec.name], dtype=np.float32)
                if values.shape != columns[spec.name][seen].shape:
                    raise ModelError(
                        f"model {self.model.info.name}: column {spec.name} has shape {values.shape}, expected "
                        f"{columns[spec.name][seen].shape}, as its description states."
                    )
                columns[spec.name][seen] = values
            progress.advance(len(seen))
        return columns

    def _inputs(
        self, table: PatchTable, rows: slice, images: npt.NDArray[np.uint8] | None, seen: npt.NDArray[np.intp]
    ) -> dict[str, Any]:
        info = self.model.info
        inputs: dict[str, Any] = {}
        if images is not None:
            inputs["images"] = images[seen]
        if TEXT in info.inputs:
            texts = table.read("caption", rows)[seen] if "caption" in self.reads else [None] * len(seen)
            inputs["captions"] = [str(text) if text else None for text in texts]
        if info.feature_columns:
            parts = [table.read(name, rows)[seen] for name in info.feature_columns]
            inputs["features"] = np.concatenate(parts, axis=1).astype(np.float32)
        if self.facts is not None:
            values, uncertainty = self.facts.read(table, rows)
            inputs |= {"facts": values[seen], "uncertainty": uncertainty[seen]}
        elif info.facts:
            unknown = np.full((len(seen), len(info.facts)), np.nan, dtype=np.float32)
            inputs |= {"facts": unknown, "uncertainty": np.zeros_like(unknown)}
        return inputs


def _about(column: ModelColumn) -> dict[str, Any]:
    """What a column states of itself."""
    return ({"names": list(column.names)} if column.names else {}) | ({"unit": column.unit} if column.unit else {})


def _is_prediction(table: PatchTable, name: str) -> bool:
    """Whether a column was made by a model; a column of the same name that was imported is not."""
    receipt = table.receipt(name)
    return receipt is not None and receipt.stage == "predict"


def _warn_captioner_mismatch(captioner: str, model: ModelInfo) -> None:
    """Warn if a model reads captions of another captioner than it was trained on: its gate may be wrong for them."""
    from wsikit.captions.registry import name_of

    expected = name_of(model.captioner)
    if captioner and captioner != expected:
        logger.warning("model %s was trained on captions by %s, these are by %s", model.name, expected, captioner)
