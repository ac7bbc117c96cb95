"""One quantity of all patches as a heat map (PNG): image, colour bar with unit, scale bar, missing values.

Colours are viridis: perceptually uniform, increasing in lightness, safe for colour-deficient eyes, and never grey like
the tissue below. The layout is computed in inches, as for the class map.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.heatmap import DPI, GAP_IN, MARGIN_IN, PICTURE_IN, SCALE_IN, draw_scale_bar
from wsikit.exporters.overlay import cells_of_pixels, grey_slide, hatch, picture_size
from wsikit.exporters.page import INK, QUIET, WARN, Line, Pen, block_height, ellipsis, png_of, wrap
from wsikit.exporters.quantity import Quantity
from wsikit.exporters.summary_text import RESEARCH_USE
from wsikit.store.atomic import atomic_write

Pixels = npt.NDArray[np.uint8]

COLORMAP = "viridis"
OPACITY = 0.85
"""Opacity of a patch's colour: high, so that colours match the colour bar, with the tissue still visible."""
MISSING_COLOR = (128, 128, 128)
TRIM_PERCENT = 1.0
"""Percentage of the patches at either end that is excluded from the scale of a quantity without natural limits."""

SLIDE_BELOW = 1.6
"""Slides with a larger ratio of width to height are shown below their map."""

_BAR_IN = 0.28
_BAR_HEIGHT_IN = 3.4
_SIDE_IN = 3.2
_STEPS = 256


@dataclass(frozen=True)
class Scale:
    """Mapping from values to colours."""

    low: float
    high: float
    below: bool
    """Whether there are values below `low`, drawn as `low`."""
    above: bool

    @classmethod
    def of(cls, quantity: Quantity) -> Scale:
        """The natural limits if there are any; else the range without `TRIM_PERCENT` of the patches at either end."""
        found = quantity.values[np.isfinite(quantity.values)]
        if quantity.limits is not None:
            low, high = quantity.limits
        elif len(found):
            low, high = (float(value) for value in np.percentile(found, [TRIM_PERCENT, 100 - TRIM_PERCENT]))
        else:
            low, high = 0.0, 1.0
        if not high > low:
            low, high = low - 0.5, low + 0.5
        return cls(low, high, bool((found < low).any()), bool((found > high).any()))

    def colors(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """(…, 3) RGB, 0 to 255, of `values`; values beyond the scale get the colours of its ends."""
        share = np.clip((np.nan_to_num(values, nan=self.low) - self.low) / (self.high - self.low), 0, 1)
        return (np.asarray(colormaps[COLORMAP](share))[..., :3] * 255).astype(np.float32)


def write_scale_png(path: str | os.PathLike[str], class_map: ClassMap, quantity: Quantity, thumbnail: Pixels) -> None:
    """Write the heat map of `quantity`, one value per patch of `class_map`, atomically.

    Parameters
    ----------
    class_map
        Coordinates of the patches, in the table's order; their classes are not shown.
    thumbnail
        uint8 (h, w, 3) RGB of the whole slide.
    """
    figure = draw_scale_map(class_map, quantity, thumbnail)
    with atomic_write(path) as partial:
        partial.write_bytes(png_of(figure))


def paint_values(
    class_map: ClassMap, values: npt.NDArray[np.float64], scale: Scale, thumbnail: Pixels, size: tuple[int, int]
) -> Pixels:
    """uint8 (height, width, 3): colours over the grey slide; patches without a value are hatched grey.

    `values` is (N,), NaN = none; `size` is width and height in px (`picture_size`).
    """
    base = grey_slide(thumbnail, size)
    cells = cells_of_pixels(class_map, size)
    if cells is None:
        return base.round().astype(np.uint8)
    row_index, col_index, inside = cells
    owner = np.where(inside, class_map.partition.patch[np.ix_(row_index, col_index)], -1)
    missing = ~np.isfinite(values)
    colors = np.vstack([scale.colors(values), np.zeros((1, 3))]).astype(np.float32)
    colors[:-1][missing] = MISSING_COLOR
    alpha = np.append(np.full(len(values), OPACITY), 0.0).astype(np.float32)  # the last for no patch
    painted = base * (1 - alpha[owner])[..., None] + colors[owner] * alpha[owner][..., None]
    state = np.where(owner < 0, -2, np.where(np.append(missing, False)[owner], -1, 0))
    return hatch(painted.astype(np.float32), state).round().astype(np.uint8)


def draw_scale_map(class_map: ClassMap, quantity: Quantity, thumbnail: Pixels) -> Figure:
    """The figure that `write_scale_png` writes.

    With `Quantity.with_slide` the slide is on the right of the map, or below it if it is wide, in the same frame.
    """
    side_px = round(PICTURE_IN * DPI)
    size = picture_size(class_map.grid, side_px, side_px)
    width, height = size[0] / DPI, size[1] / DPI
    below = width > SLIDE_BELOW * height
    across = 2 * width + GAP_IN if quantity.with_slide and not below else width
    text_in = across + GAP_IN + _SIDE_IN
    head, foot = _head(class_map, quantity, text_in), [Line(RESEARCH_USE, 9.5, INK, bold=True)]
    top = MARGIN_IN + block_height(head) + 0.2
    scale = Scale.of(quantity)
    notes = _notes(quantity, scale, overlapping=class_map.grid.overlap_px > 0)
    side_height = _BAR_HEIGHT_IN + 0.9 + block_height(notes)
    rows = 2 if quantity.with_slide and below else 1
    bottom = top + max(rows * (height + SCALE_IN), side_height)
    page_height = bottom + 0.2 + block_height(foot) + MARGIN_IN
    # whole pixels, so that the picture's pixels fall on the page's
    page = (round((text_in + 2 * MARGIN_IN) * DPI) / DPI, round(page_height * DPI) / DPI)
    figure = Figure(figsize=page, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    pen = Pen(figure, page)
    pen.lines(head, MARGIN_IN, MARGIN_IN)
    picture = (MARGIN_IN, top, width, height)
    pen.image(paint_values(class_map, quantity.values, scale, thumbnail, size), picture)
    pen.frame(picture, "#c8c8c8")
    draw_scale_bar(pen, class_map, picture)
    if quantity.with_slide:
        x, y = (MARGIN_IN, top + height + SCALE_IN) if below else (MARGIN_IN + width + GAP_IN, top)
        pen.image(np.asarray(Image.fromarray(thumbnail).resize(size, Image.Resampling.LANCZOS)), (x, y, width, height))
        pen.frame((x, y, width, height), "#c8c8c8")
        draw_scale_bar(pen, class_map, (x, y, width, height))
    _draw_side(pen, quantity, scale, notes, MARGIN_IN + across + GAP_IN, top)
    pen.lines(foot, MARGIN_IN, page[1] - MARGIN_IN - block_height(foot))
    return figure


def _head(class_map: ClassMap, quantity: Quantity, width_in: float) -> list[Line]:
    text = quantity.notice or (class_map.notice if quantity.of_model else "")
    notice = wrap(Line(text, 10.5, WARN, bold=True), width_in) if text else []
    return [
        Line(ellipsis(class_map.slide_id, width_in, 10.5), 10.5, QUIET),
        *wrap(Line(quantity.title, 17, INK, bold=True), width_in),
        *wrap(Line(quantity.summary or _summary(quantity), 10.5, INK), width_in),
        *notice,
    ]


def _summary(quantity: Quantity) -> str:
    found = quantity.values[np.isfinite(quantity.values)]
    patches = f"{len(found):,} of {len(quantity.values):,} patches"
    if not len(found):
        return f"{patches} have a value"
    unit = f" {quantity.unit}" if quantity.unit and quantity.limits is None else ""
    low, middle, high = np.percentile(found, [25, 50, 75])
    return f"Median {_number(middle)}{unit}, interquartile range {_number(low)} to {_number(high)}{unit} · {patches}"


def _notes(quantity: Quantity, scale: Scale, *, overlapping: bool) -> list[Line]:
    found = quantity.values[np.isfinite(quantity.values)]
    notes = []
    if scale.below or scale.above:
        notes.append(f"Scale: {100 - 2 * TRIM_PERCENT:g} % of the patches.")
        notes.append(f"Range: {_number(found.min())} to {_number(found.max())}.")
    if overlapping:
        notes += ["Where patches overlap, one is shown."]
    lines = [Line(note, 8.5, QUIET) for note in notes]
    return lines + (wrap(Line(quantity.remark, 8.5, QUIET), _SIDE_IN) if quantity.remark else [])


def _draw_side(pen: Pen, quantity: Quantity, scale: Scale, notes: list[Line], x: float, y: float) -> None:
    """Colour bar, ticks with the unit, the colour of missing values, notes."""
    unit = ellipsis(quantity.unit, _SIDE_IN, 9.5)
    pen.text(unit, x, y, Line(unit, 9.5, INK))
    y += 0.3
    ramp = scale.colors(np.linspace(scale.high, scale.low, _STEPS))[:, None, :]
    over_tissue = 235.0 * (1 - OPACITY) + ramp * OPACITY
    pen.image(np.repeat(over_tissue.round().astype(np.uint8), 8, axis=1), (x, y, _BAR_IN, _BAR_HEIGHT_IN))
    pen.frame((x, y, _BAR_IN, _BAR_HEIGHT_IN), "#9a9a9a")
    for tick, label in _ticks(scale):
        at = y + (scale.high - tick) / (scale.high - scale.low) * _BAR_HEIGHT_IN
        pen.box((x + _BAR_IN, at - 0.005, 0.06, 0.01), INK)
        pen.text(label, x + _BAR_IN + 0.12, at - 0.07, Line(label, 9.5, INK))
    y += _BAR_HEIGHT_IN + 0.2
    missing = int((~np.isfinite(quantity.values)).sum())
    if missing:
        paint = np.full((24, round(_BAR_IN * DPI), 3), MISSING_COLOR, dtype=np.float32)
        box = (x, y, _BAR_IN, 24 / DPI)
        pen.image(hatch(paint, np.full(paint.shape[:2], -1)).round().astype(np.uint8), box)
        pen.frame(box, "#9a9a9a")
        label = f"No value ({missing:,} {'patch' if missing == 1 else 'patches'})"
        pen.text(label, x + _BAR_IN + 0.12, y, Line(label, 9.5, INK))
        y += 0.3
    pen.lines(notes, x, y)


def _ticks(scale: Scale) -> list[tuple[float, str]]:
    """Round values within the scale; its ends are marked ≤ and ≥ where there are values beyond them."""
    span = scale.high - scale.low
    inner = [float(t) for t in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(scale.low, scale.high)]
    inside = [t for t in inner if scale.low - 1e-9 * span <= t <= scale.high + 1e-9 * span]
    ticks = {t: f"{0.0 if abs(t) < 1e-9 * span else t:,g}" for t in inside}
    for end, beyond, sign in ((scale.low, scale.below, "≤"), (scale.high, scale.above, "≥")):
        if beyond:
            ticks = {t: label for t, label in ticks.items() if abs(t - end) > 0.06 * span}
            ticks[end] = f"{sign} {_number(end)}"
    return sorted(ticks.items())


def _number(value: float) -> str:
    """Three significant digits, without an exponent up to a million."""
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.2e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"
