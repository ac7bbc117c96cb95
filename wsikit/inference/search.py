"""Search in stores: patches by what their captions say and what was measured on them. Coordinates are level-0 px."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsikit.captions.search import Patches, count_terms, find, parse_query
from wsikit.errors import StoreError
from wsikit.inference.caption_columns import read_captions
from wsikit.slides.store import SlideStore, StoreLike, open_store
from wsikit.store.atomic import atomic_write
from wsikit.store.table import PatchTable


@dataclass(frozen=True, slots=True)
class Hit:
    """A patch that was found."""

    slide_id: str
    row: int
    """In the patch table."""
    x: int
    y: int
    """Top-left corner, level-0 px."""
    side: tuple[float, float]
    """Width and height, level-0 px."""
    score: float
    """0 … 1."""
    why: str
    """Each term with what is known of it and whence."""
    caption: str


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    wanted: dict[str, str]
    """The query as it was understood: term to grade."""
    hits: tuple[Hit, ...]
    """The best first."""
    patches: int
    """All that were looked at."""
    matching: int
    """All that fit, also beyond `hits`."""
    alone: dict[str, int]
    """Patches that fit a term alone, by term."""


def search(
    stores: StoreLike | Sequence[StoreLike], query: str, *, top: int = 20, grid: str | None = None
) -> SearchResult:
    """Find patches by words: "neuropil without rosettes", "abundant neuropil, no necrosis", "densely cellular".

    Every term must hold, said in the caption or measured, and nothing may speak against it. What is not there must
    be stated or measured not to be there: a patch of which nothing is known never matches.

    Parameters
    ----------
    stores
        Slide stores or their paths.
    top
        So many of the best patches, of all stores together.
    grid
        Name of the patch grid; not needed where the stores have one only.

    Raises
    ------
    RequestError
        No word of the query is in the vocabulary.
    StoreError
        A store has neither captions nor facts.
    """
    wanted = parse_query(query)
    hits: list[Hit] = []
    total = 0
    alone = dict.fromkeys(wanted, 0)
    for store in [stores] if isinstance(stores, SlideStore | str | os.PathLike) else stores:
        opened = open_store(store)
        table = opened.patches(grid)
        patches = _known(table)
        total += len(table)
        for term, number in count_terms(patches, wanted).items():
            alone[term] += number
        coords, side = table.coords, table.grid.side
        for match in find(patches, wanted):
            x, y = coords[match.row].tolist()
            why = "; ".join(f"{_said(term)} {known.grade} ({known.source})" for term, known in match.why.items())
            text = str(patches.texts[match.row])
            hits.append(Hit(opened.slide_id, match.row, x, y, side, round(match.score, 4), why, text))
    hits.sort(key=lambda hit: -hit.score)  # stable: within a store, `find` has put them in order
    return SearchResult(wanted, tuple(hits[:top]), total, len(hits), alone)


def write_hits(path: str | Path, hits: Sequence[Hit]) -> None:
    """Write hits as CSV: slide_id, row, x, y, width, height (level-0 px), score, why, caption."""
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "row", "x", "y", "width", "height", "score", "why", "caption"])
        for hit in hits:
            width, height = (round(side, 2) for side in hit.side)
            writer.writerow([hit.slide_id, hit.row, hit.x, hit.y, width, height, hit.score, hit.why, hit.caption])


def _known(table: PatchTable) -> Patches:
    captions = read_captions(table)
    has_facts = "caption_facts" in table.columns()
    if captions is None and not has_facts:
        raise StoreError(f"{table.folder}: no captions to search. Run wsikit caption on the store first.")
    n = len(table)
    facts = table.read("caption_facts") if has_facts else np.empty((n, 0), np.float32)
    names = table.attributes("caption_facts")["names"] if has_facts else []
    if captions is None:
        return Patches([""] * n, np.ones(n, dtype=bool), facts, names)
    # label words are kept from the classifier, not from the reader
    texts = [str(raw or text) if text else "" for text, raw in zip(captions.texts, captions.raw)]
    return Patches(texts, captions.rows == np.arange(n), facts, names)


def _said(term: str) -> str:
    return term.replace("_", " ")
