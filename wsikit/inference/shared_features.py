"""Places of a store's patches in the space that an encoder's images and texts share: column features_NAME-shared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from wsikit._lazy import Once
from wsikit.encoders.lazy import LazyEncoder
from wsikit.encoders.protocol import StoredInput
from wsikit.errors import ModelError
from wsikit.inference.feature_columns import PREFIX, encoder_record, how_to_compute
from wsikit.inference.features import FeatureSettings, features_stage
from wsikit.models.text_encoders import LazyTextEncoder
from wsikit.progress import SILENT, Progress
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable, coords_digest
from wsikit.tiling.columns import DeviceWork, fill_columns

PLACED, PLACED_REVISION = "placed-features", 1
"""Stage of the column where it is computed from stored features."""


def shared_features(
    store: SlideStore, table: PatchTable, encoder: LazyTextEncoder, *, progress: Progress = SILENT
) -> Receipt:
    """Bring the column up to date; return its receipt. A complete column of the same encoder is kept, of any precision.

    float16 (N, S), NaN where a patch could not be read.

    Raises
    ------
    ModelError
        The encoder reads stored features, and they are not there, or of another encoder.
    """
    info = encoder.info
    if info.reads is not None:
        return _placed(table, encoder, info.reads, progress)
    column = info.shared_column
    if column in table.columns():
        stored = table.attributes(column).get("encoder", {})
        known = table.receipt(column)
        if known is not None and isinstance(stored, dict) and stored.get("fingerprint") == info.fingerprint:
            return known
    lazy = LazyEncoder(info, Once(lambda: encoder.load()))
    stage = features_stage(table, lazy, FeatureSettings(shared=True))
    # only this column; wsikit features adds the other one under the same receipt
    assert isinstance(stage.work, DeviceWork)
    work: Any = stage.work.run
    specs = tuple(spec for spec in stage.specs if spec.name == column)
    stage = replace(stage, specs=specs, work=DeviceWork(replace(work, specs=specs)))
    fill_columns(store, table, [stage], progress=progress)
    return stage.receipt


def _placed(table: PatchTable, encoder: LazyTextEncoder, wanted: StoredInput, progress: Progress) -> Receipt:
    """The column from the stored features that the encoder reads; no pixel is read."""
    info, column = encoder.info, PREFIX + wanted.name
    source = _check(table, info.name, wanted)
    inputs = {"patches": coords_digest(table), "encoder": info.fingerprint, "features": source.digest}
    receipt = Receipt(PLACED, PLACED_REVISION, {"reads": column}, inputs)
    if table.is_current(info.shared_column, receipt):
        return receipt
    loaded: Any = encoder.load()
    spec = ColumnSpec(info.shared_column, "float16", info.shared_width, {"encoder": info.record()})
    progress.start(f"features {info.name}", len(table), "patches")
    for rows in table.prepare((spec,), receipt):
        features = np.asarray(table.read(column, rows), dtype=np.float32)
        table.write(spec.name, rows, loaded.place_features(features).astype(np.float16))
        progress.advance(rows.stop - rows.start)
    progress.finish()
    return receipt


def _check(table: PatchTable, name: str, wanted: StoredInput) -> Receipt:
    """Receipt of the stored features. ModelError if they are missing, or of another encoder."""
    column, how = PREFIX + wanted.name, how_to_compute(table, wanted.given_as or wanted.name)
    receipt = table.receipt(column)
    if column not in table.columns() or receipt is None:
        raise ModelError(f"{table.folder}: encoder {name} reads the column {column}, which is missing. {how}")
    found = str(encoder_record(table, column).get("fingerprint") or "")
    if table.width(column) != wanted.width or (found and wanted.fingerprint and found != wanted.fingerprint):
        raise ModelError(
            f"{table.folder}: column {column} has {table.width(column)} numbers of an encoder with the fingerprint "
            f"{found[:12] or 'unknown'}; {name} was trained on {wanted.width} of "
            f"{wanted.fingerprint[:12] or 'unknown'}. {how}"
        )
    return receipt
