"""The caption columns of a patch table, read together: whoever wrote them, whatever was left by somebody before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.captions.filter import judge
from wsikit.store.table import PatchTable

OWN_COLUMNS = ("caption_failure", "caption_source", "caption_raw")
"""Beside `caption`, where not every patch simply has its own."""

NO_ROW = -1
"""In place of a row number: no caption."""

UNREADABLE = "the patch could not be read"
SHARE_FAILED = "the caption it was to share failed"


@dataclass(frozen=True)
class CaptionColumns:
    """The captions of a table, whoever wrote them. All (N,)."""

    texts: npt.NDArray[Any]
    """What a classifier may read; empty where there is none."""
    rows: npt.NDArray[np.int64]
    """The row whose patch is described: the own, another's whose caption is shared, -1 for none."""
    failures: npt.NDArray[Any]
    """Why there is none where one was asked for; else empty."""
    raw: npt.NDArray[Any]
    """What the captioner wrote, where that is not what `texts` holds; else empty."""


@dataclass(frozen=True)
class CaptionSummary:
    """The captions of a table in numbers of patches."""

    patches: int
    own: int
    """Described themselves."""
    shared: int
    """Given the caption of a patch like them."""
    failures: Mapping[str, int]
    """Reason to number."""
    scrubbed: int
    """Whose captioner named the diagnosis; those words were taken out."""

    @property
    def silent(self) -> int:
        """Patches without text for which none was asked for."""
        return self.patches - self.own - self.shared - sum(self.failures.values())


def drop_stale(table: PatchTable) -> None:
    """Remove what an earlier captioner left beside captions that are no longer its own."""
    known = table.receipt("caption")
    for name in OWN_COLUMNS:
        other = table.receipt(name)
        if other is not None and (known is None or other.digest != known.digest):
            table.drop(name)


def read_captions(table: PatchTable) -> CaptionColumns | None:
    """The captions of a table; None if it has none, or none that are complete."""
    there = table.columns()
    if "caption" not in there:
        return None
    texts = table.read("caption")
    known = table.receipt("caption")
    receipts = [table.receipt(name) for name in OWN_COLUMNS if name in there]
    if len(receipts) == len(OWN_COLUMNS) and all(found == known for found in receipts):
        return CaptionColumns(
            texts, table.read("caption_source"), table.read("caption_failure"), table.read("caption_raw")
        )
    said = np.array([bool(text) for text in texts], dtype=bool)
    none = np.full(len(texts), "", dtype=object)
    return CaptionColumns(texts, np.where(said, np.arange(len(texts)), NO_ROW), none, none.copy())


def summarize_captions(table: PatchTable) -> CaptionSummary | None:
    """The captions of a table in numbers; None if there are none."""
    found = read_captions(table)
    if found is None:
        return None
    own = found.rows == np.arange(len(found.rows))
    failed = [str(reason) for reason in found.failures if reason]
    shared = (found.rows != NO_ROW) & ~own
    scrubbed = sum(bool(text) and judge(str(raw)).scrubbed for raw, text in zip(found.raw, found.texts))
    return CaptionSummary(len(own), int(own.sum()), int(shared.sum()), Counter(failed), scrubbed)
