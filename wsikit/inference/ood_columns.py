"""Is the tissue of a slide like that which an encoder of texts was trained on? Column ood_NAME of the patch table.

A map of tissue that is unlike the training tissue is still made, but it states so and gives no presence score: an
encoder of a few tissues finds one of them in everything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.encoders.protocol import COLUMN_PREFIX
from wsikit.models.text_encoders import LazyTextEncoder
from wsikit.progress import Progress
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable, coords_digest
from wsikit.tiling.stream import iterate_patches
from wsikit.voting.parameters import VoteParameters

OOD_PREFIX, OOD_STAGE, OOD_REVISION = "ood_", "ood", 1
MOST = 512
"""Patches that are looked at, evenly over the rows of the table: enough for the share to ± 0.05."""
MAX_OOD = VoteParameters.max_ood
"""Share of out-of-distribution patches above which no presence is stated, as a vote then abstains."""
STATED = 0.1
"""Share from which on it is stated with the map."""

_AT_ONCE = 64


@dataclass(frozen=True)
class Unlike:
    """How much of a slide's tissue is unlike that of an encoder's training."""

    receipt: Receipt
    share: float | None
    """Of the patches looked at; None if none could be read."""
    looked_at: int

    @property
    def abstains(self) -> bool:
        """Whether presence is not to be stated."""
        return self.share is not None and self.share > MAX_OOD

    def notice(self, encoder: str) -> str:
        """A sentence for every output of the map; empty if nearly all tissue is like the training tissue."""
        if self.share is None or self.share < STATED:
            return ""
        percent = math.floor(100 * self.share) if self.abstains else round(100 * self.share)
        said = (
            f"Out of distribution: {percent} % of patches ({self.looked_at} looked at) are unlike the tissue that "
            f"{encoder} was trained on"
        )
        return f"{said}: the map is not reliable, presence is not stated." if self.abstains else f"{said}."


def unlike_training(
    store: SlideStore, table: PatchTable, encoder: LazyTextEncoder, source: Receipt, progress: Progress
) -> Unlike | None:
    """Bring the column up to date, float32 (N,): above 1, farther from the training patches than 99 % of held-out ones;
    NaN where a patch was not looked at, or could not be read. None: the encoder has no detector.

    `source` is the receipt of the encoder's features on this table.
    """
    info = encoder.info
    if not info.detector:
        return None
    spec = ColumnSpec(OOD_PREFIX + info.name, "float32", attributes={"encoder": info.record(), "most": MOST})
    inputs = {"patches": coords_digest(table), "encoder": info.fingerprint, "detector": info.detector}
    inputs |= {"features": source.digest} if info.reads is not None else {}
    receipt = Receipt(OOD_STAGE, OOD_REVISION, {"most": MOST}, inputs)
    if not table.is_current(spec.name, receipt):
        count = min(MOST, len(table))
        rows = np.unique(np.linspace(0, max(len(table) - 1, 0), count).astype(np.int64))
        values = np.full(len(table), np.nan, np.float32)
        progress.start(f"ood {info.name}", len(rows), "patches")
        for some, scores in _scores(store, table, encoder, rows):
            values[some] = scores
            progress.advance(len(some))
        progress.finish()
        for chunk in table.prepare((spec,), receipt):
            table.write(spec.name, chunk, values[chunk])
    scores = table.read(spec.name)
    known = scores[np.isfinite(scores)]
    return Unlike(receipt, float((known > 1).mean()) if len(known) else None, len(known))


def _scores(
    store: SlideStore, table: PatchTable, encoder: LazyTextEncoder, rows: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Rows, and their scores, batch by batch."""
    if not len(rows):
        return
    loaded: Any = encoder.load()
    parts = [slice(first, min(first + _AT_ONCE, len(rows))) for first in range(0, len(rows), _AT_ONCE)]
    if encoder.info.reads is not None:
        features = np.asarray(table.read(COLUMN_PREFIX + encoder.info.reads.name), dtype=np.float32)
        for part in parts:
            yield rows[part], loaded.ood_scores(features[rows[part]])
        return
    store.check_complete()  # patches on lost files would be recorded as unreadable for good
    for part, batch in iterate_patches(store, table.grid, table.coords[rows], parts):
        scores = np.full(len(rows[part]), np.nan, np.float32)
        if batch.readable.any():
            scores[batch.readable] = loaded.ood_scores(batch.images[batch.readable])
        yield rows[part], scores
