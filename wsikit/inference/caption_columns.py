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

SOURCE_COLUMNS = ("caption_failure", "caption_source", "caption_raw")
"""Further columns, where some patches have no caption of their own: failures, shared and rewritten captions."""

NO_ROW = -1
"""Used instead of a row number: no caption."""

UNREADABLE = "the patch could not be read"
SHARE_FAILED = "the caption it was to share failed"


@dataclass(frozen=True)
class CaptionWriter:
    """The columns that a captioner gives, and how a caption is put into them.

    Attributes
    ----------
    fact_names
        Facts that the captioner may measure, in the order of the column `caption_facts`.
    with_sources
        Whether `SOURCE_COLUMNS` are written too: for captions that may fail, be filtered, or be shared between patches.
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
        """Write the facts of one patch into row `index`; a fact that was not measured is NaN."""
        columns["caption_facts"][index] = [facts.get(name, np.nan) for name in self.fact_names]


@dataclass(frozen=True)
class CaptionColumns:
    """The captions of a table, by any captioner. All arrays are (N,)."""

    texts: npt.NDArray[Any]
    """The text given to a classifier; empty if there is none."""
    rows: npt.NDArray[np.int64]
    """The row of the patch that the text describes: its own, that of the patch whose caption is shared, -1 for none."""
    failures: npt.NDArray[Any]
    """Why a requested caption is missing; else empty."""
    raw: npt.NDArray[Any]
    """The captioner's output, where it differs from `texts`; else empty."""


@dataclass(frozen=True)
class CaptionSummary:
    """Numbers of patches by state of their caption."""

    patches: int
    described: int
    """With a caption of their own."""
    shared: int
    """With the caption of a similar patch."""
    failures: Mapping[str, int]
    """Number of failures by reason."""
    scrubbed: int
    """With a caption that named the diagnosis; those words were removed."""

    @property
    def without_text(self) -> int:
        """Patches for which no caption was requested."""
        return self.patches - self.described - self.shared - sum(self.failures.values())


def drop_stale(table: PatchTable) -> None:
    """Remove columns of an earlier captioner whose captions have been replaced."""
    known = table.receipt("caption")
    for name in SOURCE_COLUMNS:
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
    receipts = [table.receipt(name) for name in SOURCE_COLUMNS if name in there]
    if len(receipts) == len(SOURCE_COLUMNS) and all(found == known for found in receipts):
        return CaptionColumns(
            texts, table.read("caption_source"), table.read("caption_failure"), table.read("caption_raw")
        )
    has_text = np.array([bool(text) for text in texts], dtype=bool)
    none = np.full(len(texts), "", dtype=object)
    return CaptionColumns(texts, np.where(has_text, np.arange(len(texts)), NO_ROW), none, none.copy())


def summarize_captions(table: PatchTable) -> CaptionSummary | None:
    """Numbers of a table's captions; None if there are none."""
    found = read_captions(table)
    if found is None:
        return None
    own = found.rows == np.arange(len(found.rows))
    failed = [str(reason) for reason in found.failures if reason]
    shared = (found.rows != NO_ROW) & ~own
    scrubbed = sum(bool(text) and judge(str(raw)).scrubbed for raw, text in zip(found.raw, found.texts))
    return CaptionSummary(len(own), int(own.sum()), int(shared.sum()), Counter(failed), scrubbed)
