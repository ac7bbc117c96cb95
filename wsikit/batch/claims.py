"""Which slide an id belongs to in an output folder, so that the results of one slide never replace those of another.

While a slide is processed, and afterwards, slides/.ID.slide.json states its path and fingerprint. It is read and
written under the slide's lock. A slide that was moved keeps its id: the old path is gone, and the content is equal.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsikit.batch import records
from wsikit.batch.entry import SlideEntry
from wsikit.batch.ids import real_path, with_digest
from wsikit.store.atomic import write_json
from wsikit.store.paths import is_url


@dataclass(frozen=True)
class Claim:
    """The slide that an id belongs to."""

    path: str | None
    """Its path without links; None if only its content is known."""
    fingerprint: str | None

    def is_of(self, path: str) -> bool:
        """Whether it is the slide at `path`: the same file, also if it was replaced or moved."""
        if self.path is not None:
            if self.path == _text(real_path(path)):
                return True
            if is_url(self.path) or os.path.exists(self.path):
                return False
        return self.fingerprint is not None and self.fingerprint == _fingerprint(path)


def write_claim(out: Path, entry: SlideEntry) -> None:
    """State that the id of `entry` belongs to its slide. The caller holds the slide's lock."""
    claim = {"path": _text(real_path(entry.path)), "fingerprint": _fingerprint(entry.path)}
    path = _claim_path(out, entry.slide_id)
    if _read(path) != claim:
        write_json(path, claim, sync=False)  # the row and the store name the slide too


def holder(out: Path, slide_id: str, *, in_work: bool = False) -> Claim | None:
    """The slide that the id belongs to; None if it is free.

    `in_work`: another run is working on the id, so that its claim holds although nothing may be written yet.
    """
    store, results = out / "slides" / f"{slide_id}.zarr", out / "results" / slide_id
    if not in_work and not store.exists() and not results.exists():
        return None
    claim = _read(_claim_path(out, slide_id))
    if claim is not None:
        return Claim(claim.get("path"), claim.get("fingerprint"))
    row = records.read_row(out, slide_id)
    source = (_read(store / "zarr.json") or {}).get("attributes", {}).get("wsikit", {}).get("source", {})
    fingerprint = source.get("fingerprint") if isinstance(source, dict) else None
    if row is not None:
        return Claim(real_path(row.path), fingerprint)
    return None if fingerprint is None else Claim(None, fingerprint)


def belongs(out: Path, slide_id: str, path: str, known: str | None = None) -> bool:
    """Whether the slide at `path` may have the id; `known` is the path in the row of its results, if it is known."""
    if known is not None and real_path(known) == real_path(path):
        return True
    claim = holder(out, slide_id)
    return claim is None or claim.is_of(path)


def with_other_id(entry: SlideEntry) -> SlideEntry:
    """The entry with the id that its slide gets where its own belongs to another slide."""
    return replace(entry, slide_id=with_digest(entry.slide_id, entry.path))


def conflict(out: Path, entry: SlideEntry) -> str:
    """The error of a slide whose requested id belongs to another slide."""
    found = holder(out, entry.slide_id, in_work=True)
    whose = "another slide" if found is None or found.path is None else found.path
    store, results = out / "slides" / f"{entry.slide_id}.zarr", out / "results" / entry.slide_id
    return (
        f"{entry.path}: the slide_id {entry.slide_id} belongs to {whose} in {out}. Give another slide_id or another "
        f"-o; or delete {store} and {results} to replace it."
    )


def _text(path: str) -> str:
    """A path as text that JSON can hold; a byte that is not UTF-8 is written as its escape."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _claim_path(out: Path, slide_id: str) -> Path:
    return out / "slides" / f".{slide_id}.slide.json"


def _fingerprint(path: str) -> str | None:
    """Of a slide's file; None if it cannot be read."""
    from wsikit.errors import WsikitError
    from wsikit.slides.fingerprint import fingerprint

    try:
        return fingerprint(path)
    except (OSError, WsikitError):
        return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
