"""The caption columns of a patch table: one writer and one reader for all captioners."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import Captioner
from wsikit.captions.filter import judge
from wsikit.store.table import ColumnSpec, PatchTable

OWN_COLUMNS = ("caption_failure", "caption_source", "caption_raw")
"""Beside `caption`, where not every patch simply has its own."""

NO_ROW = -1
"""In place of a row number: no caption."""

UNREADABLE = "the patch could not be read"
SHARE_FAILED = "the caption it was to share failed"


@dataclass(frozen=True)
class CaptionWriter:
    """The columns that a captioner gives, and how a caption is put into them.

    Attributes
    ----------
    fact_names
        Facts that the captioner may state, in the order of the column `caption_facts`.
    with_sources
        Whether `OWN_COLUMNS` are written too: for captions that may fail, be rewritten, or be shared between patches.
    """

    captioner: str
    fact_names: tuple[str, ...]
    with_sources: bool = False
    made_by: Mapping[str, Any] | None = None
    """Fingerprint of the captioner, stored with the columns."""

    @classmethod
    def of(cls, captioner: Captioner, *, with_sources: bool = False) -> CaptionWriter:
        """The writer for a captioner."""
        made_by = captioner.fingerprint() if with_sources else None
        return cls(captioner.name, tuple(captioner.fact_names), with_sources, made_by)

    @property
    def specs(self) -> tuple[ColumnSpec, ...]:
        """The columns."""
        writer: dict[str, Any] = {"captioner": self.captioner}
        if self.made_by is not None:
            writer["made"] = dict(self.made_by)
        specs = [ColumnSpec("caption", "str", attributes=writer)]
        if self.with_sources:
            specs += [
                ColumnSpec(
                    "caption_failure", "str", attributes={"meaning": "why there is no caption; empty: no failure"}
                ),
                ColumnSpec(
                    "caption_raw", "str", attributes={"meaning": "what was written, where it is not the caption"}
                ),
                ColumnSpec("caption_source", "int64", attributes={"meaning": "row that is described; -1: no caption"}),
            ]
        if self.fact_names or not self.with_sources:
            names = list(self.fact_names)
            specs.append(ColumnSpec("caption_facts", "float32", len(names), {"names": names, **writer}))
        return tuple(specs)

    def blank(self, n: int) -> dict[str, npt.NDArray[Any]]:
        """Columns of `n` rows without captions."""
        columns: dict[str, npt.NDArray[Any]] = {
            "caption": np.full(n, "", dtype=object),
            "caption_facts": np.full((n, len(self.fact_names)), np.nan, dtype=np.float32),
        }
        if self.with_sources:
            columns["caption_failure"] = np.full(n, "", dtype=object)
            columns["caption_raw"] = np.full(n, "", dtype=object)
            columns["caption_source"] = np.full(n, NO_ROW, dtype=np.int64)
        return columns

    def put_facts(self, columns: Mapping[str, npt.NDArray[Any]], index: int, facts: Mapping[str, float]) -> None:
        """Put the facts of one patch into row `index`; a fact that was not measured is NaN."""
        columns["caption_facts"][index] = [facts.get(name, np.nan) for name in self.fact_names]


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
