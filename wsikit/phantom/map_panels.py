"""A picture of a synthetic slide: what is planted, next to the maps of a model, in one frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.overlay import paint_map, picture_size
from wsikit.exporters.page import png_of
from wsikit.exporters.palette import class_colors, hex_color
from wsikit.exporters.quantity import read_quantity
from wsikit.exporters.scalemap import COLORMAP, Scale, paint_values
from wsikit.models.mil_config import ATTENTION
from wsikit.phantom.facts import CLASSES
from wsikit.phantom.truth import PhantomTruth
from wsikit.results.load import StoredResults
from wsikit.store.atomic import write_bytes

SIDE_IN, DPI = 4.2, 110
_NAMES = {
    "UD": "undifferentiated",
    "PD": "poorly differentiated",
    "D": "differentiating",
    "other": "tissue or glass",
}


def planted_map(results: StoredResults, truth: PhantomTruth) -> ClassMap:
    """The planted classes of a store's patches, as a map."""
    own, labels = results.class_map, np.asarray(truth.labels, np.int64)
    return replace(
        own,
        labels=labels[truth.rows_at(own.coords)],
        probs=None,
        classes=CLASSES,
        class_names=tuple(_NAMES[code] for code in CLASSES),
        colors=tuple(class_colors(CLASSES, background=("other",))),
        background=("other",),
    )


def write_panels(path: Path, results: StoredResults, truth: PhantomTruth) -> None:
    """Slide, planted classes, class map and attention side by side, PNG. The store has predictions and a vote."""
    own, planted = results.class_map, planted_map(results, truth)
    size = picture_size(own.grid, round(SIDE_IN * DPI), round(SIDE_IN * DPI))
    quantity = read_quantity(results.table, ATTENTION)
    scale = Scale.of(quantity)
    result = results.result
    called = "no class called" if result is None or result.label is None else f"called {results.classes[result.label]}"
    panels = {
        f"{results.slide_id}: label {truth.subtype}, {called}": np.asarray(
            Image.fromarray(results.thumbnail).resize(size)
        ),
        "planted classes": paint_map(planted, results.thumbnail, size),
        "class map, from labels of slides": paint_map(own, results.thumbnail, size),
        "attention, × the slide's mean": paint_values(own, quantity.values, scale, results.thumbnail, size),
    }
    figure = Figure(figsize=(4 * SIDE_IN + 1, SIDE_IN * size[1] / size[0] + 1.2), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    across, down = (px * mpp / 1000 for px, mpp in zip(own.grid.slide_px, own.grid.slide_mpp, strict=True))
    axes = figure.subplots(1, len(panels))
    for part, (title, pixels) in zip(axes, panels.items(), strict=True):
        part.imshow(pixels, extent=(0, across, down, 0))
        part.set_title(title, fontsize=10)
        part.set_xlabel("mm")
    bar = ScalarMappable(Normalize(scale.low, scale.high), COLORMAP)
    figure.colorbar(bar, ax=axes[-1], shrink=0.7)
    keys = [
        Patch(color=hex_color(color), label=f"{code}: {_NAMES[code]}")
        for code, color in zip(planted.classes, planted.colors)
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), fontsize=9, frameon=False)
    write_bytes(path, png_of(figure))
