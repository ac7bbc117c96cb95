"""The subtype map as one PNG: image, scale bar, legend with areas and probabilities, the vote as text. Matplotlib, Agg.

The layout is computed in inches from the slide's shape, so that every slide keeps its aspect ratio and text its size.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from wsikit.exporters.classmap import ClassMap, ClassShare, composition
from wsikit.exporters.overlay import class_tags, paint_map, picture_size, swatch
from wsikit.exporters.page import INK, QUIET, WARN, Line, Pen, block_height, ellipsis, png_of, wrap
from wsikit.exporters.palette import UNPREDICTED_NAME
from wsikit.exporters.summary_text import MUTED_NOTE, REGIONS_NOTE, RESEARCH_USE, class_title, state
from wsikit.exporters.units import format_areas, format_length, format_prob, format_share, nice_length_um
from wsikit.store.atomic import atomic_write
from wsikit.voting.result import SlideResult

Pixels = npt.NDArray[np.uint8]

DPI = 150
PICTURE_IN = 8.0  # longest side of the image
MARGIN_IN = 0.35
GAP_IN = 0.3
SCALE_IN = 0.5  # height of the strip with the scale bar
SCALE_BAR_IN = 2.0  # maximum length
LEGEND_IN = 5.0  # width of the legend
ROW_IN = 0.27  # height of one of its rows
THUMBNAIL_IN = 0.8  # a smaller thumbnail is left out
TAG_IN = 0.09  # a region with less space around its centre is shown without its code
LEGEND_RIGHT_BELOW = 1.25  # images with a smaller ratio of width to height have the legend on their right


def write_map_png(
    path: str | os.PathLike[str],
    class_map: ClassMap,
    thumbnail: Pixels,
    result: SlideResult | None = None,
    *,
    reason: str = "",
) -> None:
    """Write the slide's subtype map, atomically. Equal input gives equal bytes.

    Parameters
    ----------
    path
        The PNG to write.
    class_map
        Patches and their classes; may have no predictions or no patches.
    thumbnail
        uint8 (h, w, 3) RGB of the whole slide; sharp from 1,200 px along the longer side.
    result
        The slide's vote over `class_map.voting`.
    reason
        Why there is no vote, where `result` is None.
    """
    figure = draw_map(class_map, thumbnail, result, reason=reason)
    with atomic_write(path) as partial:
        partial.write_bytes(png_of(figure))


def draw_map(class_map: ClassMap, thumbnail: Pixels, result: SlideResult | None = None, *, reason: str = "") -> Figure:
    """The figure that `write_map_png` writes; needs no display and does not touch pyplot."""
    class_map = class_map.as_voted(result)
    layout = _Layout.of(class_map, result, reason)
    figure = Figure(figsize=layout.page, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    pen = Pen(figure, layout.page)
    pen.lines(layout.head, MARGIN_IN, MARGIN_IN)
    _place_picture(pen, layout, class_map, thumbnail)
    _place_thumbnail(pen, layout, class_map, thumbnail)
    draw_scale_bar(pen, class_map, layout.picture)
    _write_legend(pen, layout, class_map)
    pen.lines(layout.foot, MARGIN_IN, layout.page[1] - MARGIN_IN - block_height(layout.foot))
    return figure


@dataclass(frozen=True)
class _Layout:
    """Positions of all parts, inches from the page's top-left corner."""

    page: tuple[float, float]  # width, height
    picture: tuple[float, float, float, float]  # x, y, width, height
    picture_px: tuple[int, int]
    legend: tuple[float, float]  # x, y
    thumbnail_room: tuple[float, float, float, float]  # x, y, width, height; space left by the legend
    head: list[Line]
    foot: list[Line]

    @classmethod
    def of(cls, class_map: ClassMap, result: SlideResult | None, reason: str) -> _Layout:
        side_px = round(PICTURE_IN * DPI)
        picture_px = picture_size(class_map.grid, side_px, side_px)
        width, height = picture_px[0] / DPI, picture_px[1] / DPI
        legend_right = width < LEGEND_RIGHT_BELOW * height
        text_in = width + GAP_IN + LEGEND_IN if legend_right else max(width, LEGEND_IN)
        head, foot = _head(class_map, result, reason, text_in), [Line(RESEARCH_USE, 9.5, INK, bold=True)]
        top = MARGIN_IN + block_height(head) + 0.2
        legend_in = _legend_height(class_map)
        if legend_right:
            legend = (MARGIN_IN + width + GAP_IN, top)
            bottom = top + max(height + SCALE_IN, legend_in)
            y = top + legend_in + GAP_IN
            room = (legend[0], y, LEGEND_IN, top + height - y)
        else:
            legend = (MARGIN_IN, top + height + SCALE_IN + 0.1)
            bottom = legend[1] + legend_in
            x = MARGIN_IN + LEGEND_IN + GAP_IN
            room = (x, legend[1], MARGIN_IN + text_in - x, legend_in)
        page_height = bottom + 0.2 + block_height(foot) + MARGIN_IN
        return cls(
            # whole pixels, so that the image's pixels coincide with the page's
            page=(round((text_in + 2 * MARGIN_IN) * DPI) / DPI, round(page_height * DPI) / DPI),
            picture=(MARGIN_IN, top, width, height),
            picture_px=picture_px,
            legend=legend,
            thumbnail_room=room,
            head=head,
            foot=foot,
        )


def _head(class_map: ClassMap, result: SlideResult | None, reason: str, width_in: float) -> list[Line]:
    verdict = state(class_map, result, reason)
    notice = wrap(Line(class_map.notice, 10.5, WARN, bold=True), width_in) if class_map.notice else []
    name = Line(ellipsis(class_map.slide_id, width_in, 10.5), 10.5, QUIET)
    headline = Line(verdict.headline, 17, INK, bold=True)
    return [
        name,
        *wrap(headline, width_in),
        *wrap(Line(verdict.detail, 10.5, INK), width_in),
        *notice,
    ]


def _place_picture(pen: Pen, layout: _Layout, class_map: ClassMap, thumbnail: Pixels) -> None:
    pen.image(paint_map(class_map, thumbnail, layout.picture_px), layout.picture)
    pen.frame(layout.picture, "#c8c8c8")
    x, y, width, _ = layout.picture
    mpp_x, mpp_y = class_map.grid.slide_mpp
    in_per_um = width / (class_map.grid.slide_px[0] * mpp_x)
    for tag in class_tags(class_map):
        style = Line(class_map.classes[tag.index], 10, INK, bold=True)
        if tag.room * min(mpp_x, mpp_y) * in_per_um >= TAG_IN:
            pen.tag(style, x + tag.x * mpp_x * in_per_um, y + tag.y * mpp_y * in_per_um)


def _place_thumbnail(pen: Pen, layout: _Layout, class_map: ClassMap, thumbnail: Pixels) -> None:
    """The slide in its own colours, bottom right, if there is enough space."""
    x, y, room_width, room_height = layout.thumbnail_room
    if min(room_width, room_height) <= 0:
        return
    size = picture_size(class_map.grid, round(room_width * DPI), round(room_height * DPI))
    width, height = size[0] / DPI, size[1] / DPI
    if min(width, height) < THUMBNAIL_IN:
        return
    pixels = np.asarray(Image.fromarray(thumbnail).resize(size, Image.Resampling.LANCZOS))
    box = (x + room_width - width, y + room_height - height, width, height)
    pen.image(pixels, box)
    pen.frame(box, "#c8c8c8")


def draw_scale_bar(pen: Pen, class_map: ClassMap, picture: tuple[float, float, float, float]) -> None:
    """Scale bar and pixel size below the image (x, y, width, height in inches), not hidden by tissue."""
    x, y, width, height = picture
    um_per_in = class_map.grid.slide_px[0] * class_map.grid.slide_mpp[0] / width
    length_um = nice_length_um(um_per_in * SCALE_BAR_IN, share=1.0)
    y_bar = y + height + 0.17
    pen.box((x, y_bar, length_um / um_per_in, 0.06), INK)
    label = format_length(length_um)
    mpp_x, mpp_y = class_map.grid.slide_mpp
    mpp = f"{mpp_x:.4g}" if mpp_x == mpp_y else f"{mpp_x:.4g} × {mpp_y:.4g}"
    pen.text(label, x, y_bar + 0.1, Line(label, 9.5, INK))
    note = f"{mpp} µm/px · {class_map.mpp_source}"
    pen.text(note, x + max(length_um / um_per_in, 0.6) + 0.2, y_bar + 0.1, Line(note, 8.5, QUIET))


# ---- legend: swatch, class, area, share, mean probability

_COLUMNS = {"mm²": 3.1, "share": 3.95, "mean prob.": 4.95}
"""Right edges, inches from the legend's left one."""
_SWATCH_IN, _NAME_IN = 0.5, 0.62


def _rows(class_map: ClassMap) -> list[ClassShare]:
    """Every class, including absent ones; patches without prediction only if there are any."""
    shares = composition(class_map)
    return [share for share in shares if share.index >= 0 or share.n_patches]


def _notes(class_map: ClassMap) -> list[Line]:
    if not (class_map.labels >= 0).any():
        return []
    notes = [
        "Colour deepens with the probability of the patch's own class.",
        "Areas are those of whole patches; overlaps count once.",
    ]
    if class_map.muted:
        notes.insert(0, MUTED_NOTE)
    if class_map.regions_only:
        notes.insert(0, REGIONS_NOTE)
    if class_map.background:
        background = (class_title(class_map, class_map.classes.index(code)) for code in class_map.background)
        notes.append(ellipsis(f"Does not vote: {', '.join(background)}.", LEGEND_IN, 8.5))
    return [Line(note, 8.5, QUIET) for note in notes]


def _legend_height(class_map: ClassMap) -> float:
    return ROW_IN * (len(_rows(class_map)) + 1) + 0.12 + block_height(_notes(class_map))


def _write_legend(pen: Pen, layout: _Layout, class_map: ClassMap) -> None:
    x, y = layout.legend
    rows = _rows(class_map)
    predicted = bool((class_map.labels >= 0).any())
    for column, right in list(_COLUMNS.items())[: None if predicted else 1]:
        pen.text(column, x + right, y, Line(column, 8.5, QUIET), align="right")
    areas = format_areas([share.area_mm2 for share in rows])
    for number, (share, area) in enumerate(zip(rows, areas), start=1):
        _write_row(pen, class_map, share, area, x, y + number * ROW_IN, predicted)
    pen.lines(_notes(class_map), x, y + (len(rows) + 1) * ROW_IN + 0.06)


def _write_row(
    pen: Pen, class_map: ClassMap, share: ClassShare, area: str, x: float, y: float, predicted: bool
) -> None:
    pen.image(swatch(class_map, share.index, (round(_SWATCH_IN * DPI), 24)), (x, y, _SWATCH_IN, 24 / DPI))
    pen.frame((x, y, _SWATCH_IN, 24 / DPI), "#9a9a9a")
    if share.index >= 0:
        name = class_title(class_map, share.index)
    else:
        name = UNPREDICTED_NAME if predicted else "Tissue patches"
    ink = INK if share.n_patches else QUIET
    name = ellipsis(name, _COLUMNS["mm²"] - 0.75 - _NAME_IN, 9.5)
    pen.text(name, x + _NAME_IN, y, Line(name, 9.5, ink))
    cells = [area]
    if share.index >= 0:
        cells += [format_share(share.share) if np.isfinite(share.share) else "–", format_prob(share.mean_prob)]
    for cell, right in zip(cells, _COLUMNS.values()):
        pen.text(cell, x + right, y, Line(cell, 9.5, ink), align="right")
