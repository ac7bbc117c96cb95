"""What `wsikit predict` writes about each patient of UMEML: columns of prototypes in the slides' stores, and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.palette import BACKGROUND_COLOR, CLASS_COLORS, RGB
from wsikit.exporters.patient_page import PatchPicture, PatientPage, PrototypePart, write_patient_page
from wsikit.results.load import StoredResults
from wsikit.slides.store import SlideStore
from wsikit.training.cohort.bags import SlideBag, bag_rows
from wsikit.training.cohort.protocol import Bag
from wsikit.training.umeml.maps import write_prototype_maps
from wsikit.training.umeml.views import PatientView

PATCHES = 6
"""Shown of each prototype."""
COLOURED = len(CLASS_COLORS) - 1
"""Prototypes with a colour of their own: those of the most patches."""
FROM_SHARE = 0.01
"""Prototypes of fewer patches are not shown by themselves."""


def write_page(
    path: Path,
    view: PatientView,
    bag: Bag | None,
    *,
    model: str,
    fingerprint: str,
    notice: str,
    facts: Sequence[tuple[str, str]],
    curve: tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]] | None,
) -> Path:
    """Write the page of one patient; the stores of the patient's slides get the column `prototypes_<model>`.

    Parameters
    ----------
    path
        The file to write.
    view, bag
        From `wsikit.training.umeml.views.explain`, and the patient's patches in the same order.
    model, fingerprint, notice
        Of the model: its name (lower case, digits, dots, hyphens), what tells it from others, its notice.
    facts, curve
        Prediction in words, and months with survival, (T,) each.
    """
    order = np.argsort(-view.shares_of_patches, kind="stable")
    colors: list[RGB] = [BACKGROUND_COLOR] * view.prototypes
    for color, index in zip(CLASS_COLORS, order[:COLOURED]):
        colors[int(index)] = color
    maps: list[tuple[ClassMap, npt.NDArray[np.uint8]]] = []
    pictures: dict[int, list[PatchPicture]] = {}
    without: list[str] = []
    if isinstance(bag, SlideBag) and len(view.assignment):
        write_prototype_maps(view, bag, name=model, model=fingerprint)
        maps, pictures, without = _of_slides(view, bag, colors, order)
    parts = [
        PrototypePart(
            view.nodes[int(index)],
            float(view.shares_of_patches[index]),
            colors[int(index)],
            view.tied(int(index)),
            pictures.get(int(index), ()),
        )
        for index in order
        if view.shares_of_patches[index] >= FROM_SHARE
    ]
    page = PatientPage(view.id, model, notice, facts, curve, maps, parts, view.relevance, without)
    return write_patient_page(path, page)


def _of_slides(
    view: PatientView, bag: SlideBag, colors: list[RGB], order: npt.NDArray[np.int64]
) -> tuple[list[tuple[ClassMap, npt.NDArray[np.uint8]]], dict[int, list[PatchPicture]], list[str]]:
    """Maps of the slides that have a store, pictures of the strongest patches there, and the names of other files."""
    maps: list[tuple[ClassMap, npt.NDArray[np.uint8]]] = []
    pictures: dict[int, list[PatchPicture]] = {}
    without: list[str] = []
    wanted = {int(index): view.top_patches(int(index), PATCHES) for index in order[:COLOURED]}
    start = 0
    for path in bag.files:
        rows = bag_rows(path, column=bag.column)
        here = slice(start, start + int(rows.sum()))
        start = here.stop
        if path.suffix.lower() != ".zarr":
            without.append(path.name)
            continue
        with SlideStore(path) as store:
            results = StoredResults(store)
            table = results.table
            maps.append((_class_map(results, rows, view.assignment[here], colors), results.thumbnail))
            captions = table.read("caption") if "caption" in table.columns() else None
            places = np.flatnonzero(rows)
            for index, chosen in wanted.items():
                for number in chosen[(chosen >= here.start) & (chosen < here.stop)]:
                    row = int(places[int(number) - here.start])
                    caption = "" if captions is None else str(captions[row])
                    pictures.setdefault(index, []).append(_picture(store, results, row, caption))
    return maps, pictures, without


def _class_map(
    results: StoredResults, rows: npt.NDArray[np.bool_], assignment: npt.NDArray[np.floating], colors: list[RGB]
) -> ClassMap:
    """The strongest prototype of each patch, as a map of classes."""
    names = tuple(f"prototype {index + 1}" for index in range(len(colors)))
    probs = np.zeros((len(rows), len(colors)), dtype=np.float32)
    probs[rows] = assignment
    labels = np.where(rows, probs.argmax(axis=1), -1).astype(np.int64)
    grey = tuple(name for name, color in zip(names, colors, strict=True) if color == BACKGROUND_COLOR)
    common: dict[str, Any] = {"grid": results.table.grid, "mpp_source": results.store.mpp_source}
    return ClassMap(
        results.slide_id,
        coords=results.table.coords,
        labels=labels,
        probs=probs,
        classes=names,
        class_names=names,
        colors=tuple(colors),
        background=grey,
        **common,
    )


def _picture(store: SlideStore, results: StoredResults, row: int, caption: str) -> PatchPicture:
    grid = results.table.grid
    x, y = (int(value) for value in results.table.coords[row])
    side = grid.patch_px
    return PatchPicture(
        store.read_region(x, y, side, side, mpp=grid.target_mpp),
        results.slide_id,
        (x, y),
        side * grid.target_mpp,
        caption,
    )
