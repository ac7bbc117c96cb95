"""The features stage: what an encoder gives for each patch of a store, by any `PatchEncoder`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from wsikit.encoders.engine import Engine, Waits, describe
from wsikit.encoders.lazy import LazyEncoder
from wsikit.encoders.precision import PRECISIONS
from wsikit.encoders.protocol import EncoderInfo, PatchEncoder
from wsikit.errors import ModelError, RequestError
from wsikit.inference.feature_grid import GridRequest, feature_table, scale_warning
from wsikit.progress import SILENT, Progress
from wsikit.slides.composite import channel_words
from wsikit.slides.store import SlideStore, StoreLike, open_store
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable, coords_digest
from wsikit.tiling.columns import ColumnStage, DeviceWork, fill_columns
from wsikit.tiling.stream import iterate_patches

logger = logging.getLogger(__name__)

FEATURES_REVISION = 1
STAGE = "features"
"""Stage of the receipts. Columns of features with another one were imported."""

DTYPES = ("float16", "float32")
LARGEST_FLOAT16 = 65504.0


@dataclass(frozen=True)
class FeatureSettings:
    """How features are computed and stored."""

    dtype: str = "float16"
    """Type of the column."""
    shared: bool = False
    """Whether the places in the space shared with texts are stored too."""
    engine: str = "auto"
    """See `wsikit.encoders.engine_choice.choose_engine`. Not in the receipt: engines agree to float tolerance."""
    precision: str = "auto"
    """See `wsikit.encoders.precision.precision_on`."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise RequestError(f"dtype {self.dtype!r}: features are stored as {' or '.join(DTYPES)}.")
        if self.precision not in PRECISIONS:
            raise RequestError(f"precision {self.precision!r}: expected {', '.join(PRECISIONS)}.")


@dataclass
class Done:
    """What a computation of features did; all zero if everything was there."""

    patches: int = 0
    seconds: float = 0.0
    waits: Waits = field(default_factory=Waits)
    engine: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    """Why this engine."""


def features(
    store: StoreLike,
    *,
    encoder: PatchEncoder | str,
    grid: str | None = None,
    mpp: float | None = None,
    patch_px: int | None = None,
    overlap_px: int | None = None,
    device: str = "auto",
    dtype: str = "float16",
    shared: bool = False,
    engine: str = "auto",
    precision: str = "auto",
    download: bool = False,
    progress: Progress = SILENT,
) -> PatchTable:
    """Compute the features of every readable patch by an encoder: column `features_<name>`.

    Complete features with an equal receipt are kept; the encoder is then not loaded. After an interruption, the next
    call computes only the chunks of rows that are missing.

    Parameters
    ----------
    store
        A slide store, or its path.
    encoder
        A `PatchEncoder`, or what `wsikit.encoders.registry.load_encoder` takes: the name of a preset, a folder,
        "hf-hub:ID", "random:TIMM_NAME".
    grid
        Name of the patch grid. Without it, the grid of the size and scale that the encoder was made for is used, and
        made if the store has none. An encoder that states no scale takes the store's only grid.
    mpp, patch_px, overlap_px
        Patches of another scale (µm/px), side or overlap (px at `mpp`); this grid is made if the store has none.
    device
        "auto", "cpu", "cuda".
    dtype
        Type of the column: "float16" or "float32".
    shared
        Also store the patches' places in the space shared with texts: column `features_<name>-shared`.
    engine, precision
        How they are computed: `wsikit.encoders.engine_choice.choose_engine`.
    download
        Fetch weights that are missing; else nothing touches the network.

    Returns
    -------
    PatchTable
        With `features_<name>`, (N, D), NaN where a patch could not be read. Its attribute `encoder` is
        `EncoderInfo.record()`, and `engine`, `precision` and `device` state how it was computed.

    Raises
    ------
    ModelError
        There is no such encoder, or its features are not finite, or too large for float16.
    StoreError
        There is no such grid, or the column holds features of another source under this name.
    RequestError
        The encoder has no texts (`shared`), or a setting is unknown.
    ScaleError
        The slide was scanned too coarsely for the patches.

    Examples
    --------
    >>> import tempfile, wsikit
    >>> from wsikit.encoders.protocol import EncoderInfo
    >>> class MeanColour:
    ...     info = EncoderInfo("mean-colour", 3, 224, None, "1")
    ...     def encode(self, images):
    ...         return images.mean(axis=(1, 2)).astype("float32")
    >>> folder = tempfile.mkdtemp()
    >>> slide = wsikit.make_phantom(f"{folder}/slide.tiff", size_px=(448, 448)).path
    >>> table = wsikit.features(wsikit.tile(slide, f"{folder}/slide.zarr"), encoder=MeanColour())
    >>> table.read("features_mean-colour").shape == (len(table), 3)
    True
    """
    settings = FeatureSettings(dtype, shared, engine, precision)
    lazy = LazyEncoder.of(encoder, device=device, download=download)
    opened = open_store(store)
    request = GridRequest(grid, mpp, patch_px, overlap_px)
    table, _, notes = compute_features(opened, lazy, request, settings, progress=progress)
    for note in notes:
        logger.warning("%s: %s", opened.folder, note)
    return table


class Computed(NamedTuple):
    """What `compute_features` gives."""

    table: PatchTable
    done: Done
    notes: tuple[str, ...]
    """Warnings, one sentence each."""


def compute_features(
    store: SlideStore,
    encoder: LazyEncoder,
    request: GridRequest,
    settings: FeatureSettings,
    *,
    progress: Progress = SILENT,
) -> Computed:
    """`features` for callers inside the package."""
    fault = why_not_encoded(store)
    if fault is not None:
        raise ModelError(f"{store.folder}: {fault}.")
    check_settings(encoder.info, settings)
    table = feature_table(store, encoder.info, request, progress=progress)
    done = Done()
    fill_columns(store, table, [features_stage(table, encoder, settings, done)], progress=progress)
    warning = scale_warning(encoder.info, table.grid)
    return Computed(table, done, (warning,) if warning else ())


def why_not_encoded(store: SlideStore) -> str | None:
    """Why the patches of a store have no features, or None: encoders read RGB, not fluorescence channels."""
    if not store.info.channels:
        return None
    return f"encoders read RGB patches of brightfield slides, this slide has {channel_words(store.info.channels)}"


def check_settings(info: EncoderInfo, settings: FeatureSettings) -> None:
    """RequestError if the encoder reads stored features, or has no space shared with texts and this is asked for."""
    if info.reads is not None:
        raise RequestError(
            f"encoder {info.name} reads stored features of {info.reads.name}, not pixels: it is for wsikit localize."
        )
    if settings.shared and info.shared_width is None:
        raise RequestError(f"encoder {info.name} has no texts: leave out --shared.")


def features_stage(
    table: PatchTable, encoder: LazyEncoder, settings: FeatureSettings, done: Done | None = None
) -> ColumnStage:
    """The stage that `features` runs. `done` is filled in.

    Raises
    ------
    StoreError
        The column holds features that were imported.
    """
    info = encoder.info
    specs = [ColumnSpec(info.column, settings.dtype, info.width)]
    if settings.shared:
        assert info.shared_width is not None
        specs.append(ColumnSpec(info.shared_column, settings.dtype, info.shared_width))
    receipt = Receipt(
        STAGE,
        FEATURES_REVISION,
        {"dtype": settings.dtype, "precision": settings.precision},
        {"patches": coords_digest(table), "encoder": info.fingerprint},
    )
    work = _Features(encoder, tuple(specs), receipt, settings, done or Done())
    return ColumnStage(f"features {info.name}", tuple(specs), receipt, DeviceWork(work, work))


def imported(table: PatchTable, column: str) -> bool:
    """Whether a column is complete and was not made by this stage: features of another program."""
    known = table.receipt(column)
    return known is not None and known.stage != STAGE and column in table.columns()


_Part = tuple[slice, slice, npt.NDArray[np.bool_]]
"""A chunk of rows; a part of it; which of its patches could be read."""


@dataclass(frozen=True)
class _Features:
    """Updates the columns of one encoder in a table."""

    encoder: LazyEncoder
    specs: tuple[ColumnSpec, ...]
    receipt: Receipt
    settings: FeatureSettings
    done: Done

    def __call__(self, store: SlideStore, table: PatchTable, progress: Progress) -> None:
        for spec in self.specs:
            if imported(table, spec.name):
                known = table.receipt(spec.name)
                raise ModelError(
                    f"{table.folder}: {spec.name} holds features that were not computed here (stage "
                    f"{known.stage if known else ''}); they are not replaced. Delete the folder of this column to "
                    "compute them."
                )
        progress.start("encoder", 1, "encoder")
        settings = self.settings
        choice = self.encoder.engine(settings.engine, settings.precision, patch_px=table.grid.patch_px, rows=len(table))
        progress.advance()
        progress.finish()
        specs, missing = self._prepare(table, choice.engine)
        total = sum(rows.stop - rows.start for rows in {(c.start, c.stop): c for of in missing for c in of}.values())
        self.done.engine, self.done.reason = describe(choice.engine), choice.reason
        choice.engine.waits = self.done.waits
        progress.start(f"features {self.encoder.info.name}", total, "patches")
        begun = time.perf_counter()
        for chunks, wanted in _by_columns(missing, specs):
            self._compute(store, table, choice.engine, chunks, wanted, progress)
        self.done.patches, self.done.seconds = total, time.perf_counter() - begun
        progress.finish()

    def begin(self, store: SlideStore, table: PatchTable) -> list[slice]:
        """Prepare the columns, in the precision of the first process; the chunks of rows that are to be computed."""
        settings, patch_px = self.settings, table.grid.patch_px
        choice = self.encoder.engine(settings.engine, settings.precision, patch_px=patch_px, rows=len(table))
        _, missing = self._prepare(table, choice.engine)
        wanted = {(rows.start, rows.stop) for chunks in missing for rows in chunks}
        return [slice(*rows) for rows in sorted(wanted)]

    def rows(self, store: SlideStore, table: PatchTable, chunks: Sequence[slice]) -> None:
        """Compute some chunks of rows and write them, in the precision in which the columns were begun."""
        precision = str(table.attributes(self.specs[0].name)["precision"])
        patch_px = table.grid.patch_px
        choice = self.encoder.engine(self.settings.engine, precision, patch_px=patch_px, rows=len(table))
        self.done.engine = describe(choice.engine)
        self._compute(store, table, choice.engine, list(chunks), list(self.specs), SILENT)

    def end(self, store: SlideStore, table: PatchTable) -> None:
        """Nothing depends on all rows."""

    def _prepare(self, table: PatchTable, engine: Engine) -> tuple[list[ColumnSpec], list[list[slice]]]:
        """The columns with their attributes, and the chunks that each lacks. Rows of two precisions are not mixed."""
        made = describe(engine)
        attributes = {"encoder": self.encoder.info.record(), **made}
        specs = [ColumnSpec(spec.name, spec.dtype, spec.width, attributes) for spec in self.specs]
        missing: list[list[slice]] = []
        for spec in specs:
            known = table.receipt(spec.name)
            if known is not None and known.digest == self.receipt.digest and spec.name not in table.columns():
                begun_with = table.attributes(spec.name).get("precision")
                if begun_with != made["precision"]:
                    table.drop(spec.name)
            missing.append(table.prepare([spec], self.receipt))
        return specs, missing

    def _compute(
        self,
        store: SlideStore,
        table: PatchTable,
        engine: Engine,
        chunks: list[slice],
        specs: list[ColumnSpec],
        progress: Progress,
    ) -> None:
        """Compute the columns of some chunks; each chunk is written when all of its parts are there."""
        names = {spec.name for spec in specs}
        stream = engine.stream(
            _batches(store, table, chunks, engine),
            features=self.encoder.info.column in names,
            shared=self.encoder.info.shared_column in names,
        )
        values: list[npt.NDArray[np.floating[Any]]] = []
        for (chunk, rows, readable), found in stream:
            if rows.start == chunk.start:
                values = [np.full((chunk.stop - chunk.start, spec.width or 1), np.nan, spec.dtype) for spec in specs]
            for spec, into, part in zip(specs, values, found, strict=True):
                self._check(table, spec, part, rows)
                into[rows.start - chunk.start : rows.stop - chunk.start][readable] = part
            if rows.stop == chunk.stop:
                for spec, whole in zip(specs, values, strict=True):
                    table.write(spec.name, chunk, whole)
            progress.advance(rows.stop - rows.start)

    def _check(self, table: PatchTable, spec: ColumnSpec, part: npt.NDArray[np.float32], rows: slice) -> None:
        """ModelError for features that are not finite, or that the column's type does not hold."""
        if not part.size:
            return
        name = self.encoder.info.name
        largest = float(np.abs(part).max())
        where = f"{table.folder}: encoder {name}: patches {rows.start}–{rows.stop - 1}"
        if not np.isfinite(largest):
            raise ModelError(
                f"{where}: features that are not finite. Its weights are damaged, or too large for the precision "
                f"{self.done.engine.get('precision')}; try --precision float32."
            )
        if spec.dtype == "float16" and largest > LARGEST_FLOAT16:
            raise ModelError(
                f"{where}: a feature of {largest:.6g} is above {LARGEST_FLOAT16:g}, the largest float16. Store them as "
                "float32: --dtype float32."
            )


def _by_columns(missing: list[list[slice]], specs: list[ColumnSpec]) -> Iterator[tuple[list[slice], list[ColumnSpec]]]:
    """Chunks that lack the same columns, with these columns."""
    lacking: dict[tuple[int, int], list[int]] = {}
    for number, chunks in enumerate(missing):
        for chunk in chunks:
            lacking.setdefault((chunk.start, chunk.stop), []).append(number)
    for wanted in sorted({tuple(numbers) for numbers in lacking.values()}, key=len, reverse=True):
        chunks = [slice(*place) for place, numbers in sorted(lacking.items()) if tuple(numbers) == wanted]
        yield chunks, [specs[number] for number in wanted]


def _batches(
    store: SlideStore, table: PatchTable, chunks: list[slice], engine: Engine
) -> Iterator[tuple[_Part, npt.NDArray[np.uint8]]]:
    """The readable patches of parts of chunks, read ahead of the engine."""
    whole = [
        (chunk, slice(first, min(first + engine.batch, chunk.stop)))
        for chunk in chunks
        for first in range(chunk.start, chunk.stop, engine.batch)
    ]
    read = iterate_patches(store, table.grid, table.coords, [rows for _, rows in whole])
    for (chunk, _), (rows, batch) in zip(whole, read, strict=True):
        images = batch.images if batch.readable.all() else batch.images[batch.readable]
        yield (chunk, rows, batch.readable), images
