"""Places of a store's patches in the space that an encoder's images and texts share: column features_NAME-shared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wsikit._lazy import Once
from wsikit.encoders.lazy import LazyEncoder
from wsikit.inference.features import FeatureSettings, features_stage
from wsikit.models.text_encoders import LazyTextEncoder
from wsikit.progress import SILENT, Progress
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import PatchTable
from wsikit.tiling.columns import DeviceWork, fill_columns


def shared_features(
    store: SlideStore, table: PatchTable, encoder: LazyTextEncoder, *, progress: Progress = SILENT
) -> Receipt:
    """Bring the column up to date; return its receipt. A complete column of the same encoder is kept, of any precision.

    float16 (N, S), NaN where a patch could not be read.
    """
    info = encoder.info
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
