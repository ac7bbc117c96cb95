"""Places of a store's patches in the space that an encoder's images and texts share: column features_NAME-shared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsikit.errors import ModelError
from wsikit.models.text_encoders import LazyTextEncoder
from wsikit.progress import SILENT, Progress
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable, coords_digest
from wsikit.tiling.columns import ColumnStage, DeviceWork, fill_columns
from wsikit.tiling.stream import iterate_patches

SHARED_REVISION = 1
_AT_ONCE = 256


def shared_features(
    store: SlideStore, table: PatchTable, encoder: LazyTextEncoder, *, progress: Progress = SILENT
) -> Receipt:
    """Bring the column up to date; return its receipt. A complete column of the same encoder is kept.

    float16 (N, S), NaN where a patch could not be read.
    """
    info = encoder.info
    column = info.shared_column
    if column in table.columns():
        stored = table.attributes(column).get("encoder", {})
        known = table.receipt(column)
        if known is not None and isinstance(stored, dict) and stored.get("fingerprint") == info.fingerprint:
            return known
    receipt = Receipt(
        "features", SHARED_REVISION, {"shared": True}, {"patches": coords_digest(table), "encoder": info.fingerprint}
    )
    spec = ColumnSpec(column, "float16", info.shared_width, {"encoder": info.record()})
    stage = ColumnStage("features", (spec,), receipt, DeviceWork(_Encode(encoder, spec, receipt)))
    fill_columns(store, table, [stage], progress=progress)
    return receipt


@dataclass(frozen=True)
class _Encode:
    """Fills the column, chunk by chunk."""

    encoder: LazyTextEncoder
    spec: ColumnSpec
    receipt: Receipt

    def __call__(self, store: SlideStore, table: PatchTable, progress: Progress) -> None:
        encoder = self.encoder.load()
        ranges = table.prepare((self.spec,), self.receipt)
        progress.start("features", sum(rows.stop - rows.start for rows in ranges), "patches")
        for rows, batch in iterate_patches(store, table.grid, table.coords, ranges):
            values = np.full((len(batch.readable), self.spec.width or 0), np.nan, dtype=np.float16)
            every = np.flatnonzero(batch.readable)
            for first in range(0, len(every), _AT_ONCE):
                seen = every[first : first + _AT_ONCE]
                found = np.asarray(encoder.encode_shared(batch.images[seen]))
                if found.shape != (len(seen), values.shape[1]):
                    raise ModelError(
                        f"encoder {encoder.info.name}: {len(seen)} patches gave an array of shape {found.shape}, "
                        f"expected {(len(seen), values.shape[1])}, as its description states."
                    )
                values[seen] = found
            table.write(self.spec.name, rows, values)
            progress.advance(len(values))
        progress.finish()
