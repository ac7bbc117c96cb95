"""What a store holds of one grid, read once for all outputs: classes, vote, picture of the whole slide."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ReadError
from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.palette import parse_color
from wsikit.inference.vote import stored_vote
from wsikit.slides.store import SlideStore
from wsikit.store.table import PatchTable
from wsikit.tissue.overview import read_overview
from wsikit.voting import SlideResult, vote_inputs

THUMBNAIL_PX = 1600


@dataclass(frozen=True)
class StoredResults:
    """What the store holds of one grid, read once for all exporters."""

    store: SlideStore
    table: PatchTable
    class_map: ClassMap
    result: SlideResult | None
    reason: str
    """Why there is no vote, where `result` is None."""
    model: dict[str, Any] = field(default_factory=dict)
    """What is kept of the model beside its predictions; empty without predictions."""


def load_results(
    store: SlideStore, table: PatchTable, *, method: str = "mean", not_predicted: str | None = None
) -> StoredResults:
    """Read a store's predictions and vote.

    Parameters
    ----------
    method
        Which vote to show, where there are several.
    not_predicted
        Why no model was run; predictions that may be there from before are then left aside.
    """
    coords = table.coords
    predicted = not_predicted is None and "probability" in table.columns()
    common: dict[str, Any] = {
        "slide_id": store.slide_id,
        "grid": table.grid,
        "mpp_source": store.mpp_source,
        "coords": coords,
    }
    if not predicted:
        none = np.full(len(coords), -1, dtype=np.int64)
        empty = ClassMap(**common, labels=none, probs=None, classes=(), class_names=(), colors=())
        return StoredResults(store, table, empty, None, not_predicted or "no model was run")
    attributes = table.attributes("probability")
    model = attributes["model"]
    classes, background = tuple(attributes["names"]), tuple(model["background"])
    probs = table.read("probability")
    inputs = vote_inputs(probs, classes, background)
    class_map = ClassMap(
        **common,
        labels=inputs.labels,
        probs=probs,
        classes=classes,
        class_names=tuple(model["class_names"]),
        colors=tuple(parse_color(color) for color in model["colors"]),
        background=background,
        notice=model["notice"],
    )
    if method not in table.votes():
        return StoredResults(store, table, class_map, None, f"no vote by {method} yet", model)
    return StoredResults(store, table, class_map, stored_vote(table, method), "", model)


def whole_slide(store: SlideStore) -> npt.NDArray[np.uint8]:
    """The slide at `THUMBNAIL_PX` or less along its longer side, uint8 (h, w, 3); unreadable parts hatched."""
    try:
        return store.thumbnail(THUMBNAIL_PX)
    except ReadError:
        mpp = max(size * scale for size, scale in zip(store.dimensions, store.mpp, strict=True)) / THUMBNAIL_PX
        picture, unreadable = read_overview(store, max(mpp, *store.mpp))
        rows, cols = np.nonzero(unreadable)
        picture[rows, cols] = np.where((rows + cols) % 12 < 4, 90, 170)[:, None]
        return picture


def unreadable_fraction(found: StoredResults) -> float:
    """Share of the patches that could not be read; of the tissue search where there are no patches."""
    readable = found.table.read("readable") if len(found.table) else np.empty(0)
    return float(1 - readable.mean()) if len(readable) else float(found.store.tissue_record()["unreadable_fraction"])
