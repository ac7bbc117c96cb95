"""Search in stores: patches by their captions and measured facts. Coordinates are level-0 px."""

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
from wsikit.tables import harmless


@dataclass(frozen=True, slots=True)
class PatchMatch:
    """A patch that matches a query."""

    slide_id: str
    row: int
    """Row in the patch table."""
    x: int
    y: int
    """Top-left corner, level-0 px."""
    side: tuple[float, float]
    """Width and height, level-0 px."""
    score: float
    """0 … 1."""
    why: str
    """Each term with its grade and the source of the grade: caption or measured."""
    caption: str


@dataclass(frozen=True)
class SearchResult:
    """Result of a search."""

    terms: dict[str, str]
    """The parsed query: grade by term."""
    matches: tuple[PatchMatch, ...]
    """The best matches, best first."""
    n_patches: int
    """Number of patches searched."""
    n_matches: int
    """Number of all matches, including those beyond `matches`."""
    n_by_term: dict[str, int]
    """Number of patches that match each term alone."""


def search(
    stores: StoreLike | Sequence[StoreLike], query: str, *, top: int = 20, grid: str | None = None
) -> SearchResult:
    """Find patches by a text query: "neuropil without rosettes", "abundant neuropil, no necrosis", "densely cellular".

    A patch matches if every term is stated in its caption or measured, and nothing contradicts it. Absence must be
    stated or measured too: a patch without caption and facts never matches.

    Parameters
    ----------
    stores
        Slide stores or their paths.
    top
        Maximum number of matches returned, over all stores.
    grid
        Name of the patch grid; not needed if each store has only one.

    Raises
    ------
    RequestError
        No word of the query is in the vocabulary.
    StoreError
        A store has neither captions nor facts.

    Examples
    --------
    >>> import tempfile, wsikit
    >>> folder = tempfile.mkdtemp()
    >>> _ = wsikit.make_phantom(f"{folder}/slide.tiff", size_px=(448, 448))
    >>> store = wsikit.tile(f"{folder}/slide.tiff", f"{folder}/slide.zarr")
    >>> _ = wsikit.caption(store)
    >>> result = wsikit.search(store, "neuropil without rosettes")
    >>> result.terms, result.n_patches == len(store.patches())
    ({'neuropil': 'present', 'rosettes': 'absent'}, True)
    """
    wanted = parse_query(query)
    matches: list[PatchMatch] = []
    total = 0
    n_by_term = dict.fromkeys(wanted, 0)
    for store in [stores] if isinstance(stores, SlideStore | str | os.PathLike) else stores:
        opened = open_store(store)
        table = opened.patches(grid)
        patches = _searchable(table)
        total += len(table)
        for term, number in count_terms(patches, wanted).items():
            n_by_term[term] += number
        coords, side = table.coords, table.grid.side
        for found in find(patches, wanted):
            x, y = coords[found.row].tolist()
            why = "; ".join(f"{_readable(term)} {known.grade} ({known.source})" for term, known in found.why.items())
            text = str(patches.texts[found.row])
            matches.append(PatchMatch(opened.slide_id, found.row, x, y, side, round(found.score, 4), why, text))
    matches.sort(key=lambda match: -match.score)  # stable: within a store, `find` has sorted them
    return SearchResult(wanted, tuple(matches[:top]), total, len(matches), n_by_term)


def write_matches(path: str | Path, matches: Sequence[PatchMatch]) -> None:
    """Write matches as CSV: slide_id, row, x, y, width, height (level-0 px), score, why, caption."""
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "row", "x", "y", "width", "height", "score", "why", "caption"])
        for one in matches:
            width, height = (round(side, 2) for side in one.side)
            cells = [one.slide_id, one.row, one.x, one.y, width, height, one.score, one.why, one.caption]
            writer.writerow([harmless(cell) for cell in cells])


def _searchable(table: PatchTable) -> Patches:
    """Captions and facts of a table, as the search reads them."""
    captions = read_captions(table)
    has_facts = "caption_facts" in table.columns()
    if captions is None and not has_facts:
        raise StoreError(f"{table.folder}: no captions to search. Run wsikit caption on the store first.")
    n = len(table)
    facts = table.read("caption_facts") if has_facts else np.empty((n, 0), np.float32)
    names = table.attributes("caption_facts")["names"] if has_facts else []
    if captions is None:
        return Patches([""] * n, np.ones(n, dtype=bool), facts, names)
    # words that name the class are hidden from the classifier, not from the user
    texts = [str(raw or text) if text else "" for text, raw in zip(captions.texts, captions.raw)]
    return Patches(texts, captions.rows == np.arange(n), facts, names)


def _readable(term: str) -> str:
    return term.replace("_", " ")
