"""Figures of a store for notebooks: the slide with its map, and patches with their captions.

`SlideStore.show` and `SlideStore.gallery` return what is drawn here. Jupyter displays the figures without pyplot.
"""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from wsikit.errors import RequestError
from wsikit.exporters.classmap import ClassMap, composition
from wsikit.exporters.overlay import paint_map, picture_size
from wsikit.exporters.palette import UNPREDICTED_COLOR, UNPREDICTED_NAME, hex_color
from wsikit.exporters.quantity import Quantity, read_quantity
from wsikit.exporters.scalemap import COLORMAP, OPACITY, Scale, paint_values
from wsikit.exporters.summary_text import RESEARCH_USE, class_title, state
from wsikit.exporters.units import format_share
from wsikit.results.load import StoredResults
from wsikit.slides.store import SlideStore
from wsikit.store.table import PatchTable
from wsikit.tiling.stream import read_patches

DPI = 110
SHOWN_IN = 7.0
"""Longest side of the slide in the figure, inches."""
GALLERY_COLUMNS = 4
PATCH_IN = 2.6
CAPTION_CHARS, CAPTION_LINES = 44, 6
"""Of a caption below its patch: characters per line, and lines; the rest is left out."""


class NotebookFigure(Figure):
    """A figure that Jupyter shows without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
        return buffer.getvalue()


def show(store: SlideStore, *, grid: str | None = None, column: str | None = None, method: str | None = None) -> Figure:
    """The slide with the subtype map over it, or with a column as a heat map; axes in mm.

    Parameters
    ----------
    grid
        Name of the patch grid. Not needed where the store has one only, or predictions for one only.
    column
        Quantity to draw in place of the classes, such as "ood_score" or "caption_facts:nuclei_per_mm2".
    method
        Vote that is stated in the title; None: that of the model.

    Returns
    -------
    Figure
        Without patches to draw: the thumbnail alone.

    Raises
    ------
    StoreError
        There is no such grid or column, or several grids could be meant.
    """
    picture = StoredResults(store).thumbnail
    name = _grid_to_show(store, grid)
    if name is None and column is None:
        return _slide_figure(store, picture, store.slide_id).figure
    found = StoredResults(store, name, method)
    class_map = found.class_map.as_voted(found.result)
    size = picture_size(class_map.grid, round(SHOWN_IN * 2 * DPI), round(SHOWN_IN * 2 * DPI))
    if column is not None:
        quantity = read_quantity(found.table, column)
        scale = Scale.of(quantity)
        drawn = _slide_figure(store, paint_values(class_map, quantity.values, scale, picture, size), store.slide_id)
        _color_bar(drawn, quantity, scale)
        _footnote(drawn.figure, class_map.notice if quantity.of_model else "")
        return drawn.figure
    if not class_map.classes:
        return _slide_figure(store, picture, store.slide_id).figure
    verdict = state(class_map, found.result, found.reason)
    title = "\n".join((store.slide_id, verdict.headline, textwrap.fill(verdict.detail, 100)))
    drawn = _slide_figure(store, paint_map(class_map, picture, size), title)
    _class_legend(drawn, class_map)
    _footnote(drawn.figure, class_map.notice)
    return drawn.figure


def gallery(
    store: SlideStore, n: int = 12, by: str | None = None, *, grid: str | None = None, lowest: bool = False
) -> Figure:
    """Some patches of a store with their captions.

    Parameters
    ----------
    n
        Number of patches.
    by
        Quantity to choose them by, such as "probability:PD" or "caption_facts:nuclei_per_mm2": those of the highest
        values, highest first. None: patches evenly spaced over the table.
    grid
        Name of the patch grid; not needed where the store has one only.
    lowest
        With `by`: those of the lowest values, lowest first.

    Raises
    ------
    StoreError
        The store has no patches, no such column, or several grids and none is named.
    RequestError
        `n` is less than 1, or `by` is not a column of numbers.
    """
    if n < 1:
        raise RequestError(f"a gallery of {n} patches: ask for 1 or more")
    if lowest and by is None:
        raise RequestError('a gallery of the lowest values needs a column to choose by, such as by="ood_score"')
    table = store.patches(grid)
    quantity = None if by is None else read_quantity(table, by)
    rows = _chosen_rows(table, n, quantity, lowest)
    batch = read_patches(store, table.grid, table.coords[rows])
    captions = table.read("caption") if "caption" in table.columns() else np.full(len(table), "", dtype=object)
    n_columns = max(1, min(GALLERY_COLUMNS, len(rows)))
    n_lines = max(1, -(-len(rows) // n_columns))
    texts = [_caption_lines(str(captions[row])) for row in rows]
    of_model = quantity is not None and quantity.of_model
    height = PATCH_IN + 0.35 + 0.12 * max((text.count("\n") + 1 for text in texts if text), default=0)
    figure = NotebookFigure(
        figsize=(PATCH_IN * n_columns, height * n_lines + (0.9 if of_model else 0.5)), dpi=DPI, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(n_lines, n_columns, squeeze=False)
    for axis in axes.flat[len(rows) :]:
        axis.set_axis_off()
    for axis, row, image, text in zip(axes.flat, rows, batch.images, texts):
        x, y = (int(value) for value in table.coords[row])
        value = "" if quantity is None else _value_words(quantity, int(row)) + " · "
        axis.imshow(image)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color("#c8c8c8")
        axis.set_title(f"{value}x {x}, y {y}", fontsize=8)
        axis.set_xlabel(text, fontsize=7, loc="left")
    if of_model:
        _footnote(figure, str(table.attributes("probability")["model"]["notice"]), 44 * n_columns)
    figure.suptitle(_gallery_title(store, table, len(rows), quantity, lowest), fontsize=10)
    return figure


@dataclass(frozen=True)
class _Drawn:
    """A figure and the axes with the slide."""

    figure: NotebookFigure
    axes: Axes


def _grid_to_show(store: SlideStore, grid: str | None) -> str | None:
    """The grid whose map is drawn; None: there are no patches. Several grids with predictions are ambiguous."""
    names = store.grids()
    if grid is not None or not names:
        return grid
    predicted = [name for name in names if "probability" in store.patches(name).columns()]
    if len(predicted) == 1:
        return predicted[0]
    return names[0] if len(names) == 1 or not predicted else store.patches(None).name


def _slide_figure(store: SlideStore, picture: npt.NDArray[np.uint8], title: str) -> _Drawn:
    """A figure with the whole slide, uint8 (h, w, 3); axes in mm, or in level-0 px where the pixel size is unknown."""
    width, height = store.dimensions
    unit = "level-0 px"
    extent = (0.0, float(width), float(height), 0.0)
    if store.info.mpp is not None:
        mpp_x, mpp_y = store.mpp
        unit, extent = "mm", (0.0, width * mpp_x / 1000, height * mpp_y / 1000, 0.0)
    scale = SHOWN_IN / max(extent[1], extent[2])
    size = (max(2.5, extent[1] * scale) + 3.0, max(2.0, extent[2] * scale) + 1.0)
    figure = NotebookFigure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(picture, extent=extent, interpolation="antialiased")
    axes.set_xlabel(f"x, {unit}")
    axes.set_ylabel(f"y, {unit}")
    axes.set_title(title, fontsize=10, loc="left")
    return _Drawn(figure, axes)


def _class_legend(drawn: _Drawn, class_map: ClassMap) -> None:
    """Colour, name and share of each class that was found, right of the slide."""
    handles = []
    for share in composition(class_map):
        if share.n_patches:
            name = class_title(class_map, share.index) if share.index >= 0 else UNPREDICTED_NAME
            color = hex_color(class_map.colors[share.index] if share.index >= 0 else UNPREDICTED_COLOR)
            words = f"{name}: {format_share(share.share)}" if share.index >= 0 else name
            handles.append(Patch(color=color, label=words))
    if handles:
        title = "No subtype called:\nmuted colours.\nShare of area" if class_map.muted else "Share of area"
        drawn.figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False, title=title)


def _color_bar(drawn: _Drawn, quantity: Quantity, scale: Scale) -> None:
    shades = ScalarMappable(Normalize(scale.low, scale.high), COLORMAP)
    named = not quantity.unit or quantity.title.endswith(quantity.unit)
    label = quantity.title if named else f"{quantity.title}, {quantity.unit}"
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(
        (scale.below, scale.above), "neither"
    )
    drawn.figure.colorbar(shades, ax=drawn.axes, label=label, extend=extend, shrink=0.8, alpha=OPACITY)


def _footnote(figure: Figure, notice: str, characters: int = 110) -> None:
    """The notice that the model's output carries, and that all of this is for research only."""
    figure.supxlabel(textwrap.fill(f"{notice} {RESEARCH_USE}".strip(), characters), fontsize=7, x=0.01, ha="left")


def _chosen_rows(table: PatchTable, n: int, quantity: Quantity | None, lowest: bool) -> npt.NDArray[np.int64]:
    """Table rows to show: readable ones, by value or evenly spaced."""
    readable = np.ones(len(table), dtype=bool)
    if "readable" in table.columns():
        readable = table.read("readable") == 1
    if quantity is None:
        rows = np.flatnonzero(readable)
        return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(np.int64)]
    rows = np.flatnonzero(readable & np.isfinite(quantity.values))
    values = quantity.values[rows] if lowest else -quantity.values[rows]
    return rows[np.argsort(values, kind="stable")[:n]]


def _caption_lines(text: str) -> str:
    lines = textwrap.wrap("".join(one if one.isprintable() else " " for one in text), CAPTION_CHARS)
    return "\n".join(
        lines if len(lines) <= CAPTION_LINES else [*lines[: CAPTION_LINES - 1], lines[CAPTION_LINES - 1] + " …"]
    )


def _value_words(quantity: Quantity, row: int) -> str:
    """Value of one patch with its unit, to three digits."""
    value = float(quantity.values[row])
    if quantity.limits is not None:
        return f"{value:.3f}"
    return f"{value:,.0f} {quantity.unit}".rstrip() if abs(value) >= 100 else f"{value:.3g} {quantity.unit}".rstrip()


def _gallery_title(store: SlideStore, table: PatchTable, n: int, quantity: Quantity | None, lowest: bool) -> str:
    grid = table.grid
    title = f"{store.slide_id}: {n} of {len(table):,} patches, {grid.patch_px} px at {grid.target_mpp:g} µm/px"
    if quantity is None:
        return title
    return f"{title}\n{'lowest' if lowest else 'highest'} first: {quantity.title}"
