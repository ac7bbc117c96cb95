"""Map layers of the report's viewer: per-patch values as small transparent PNGs over the slide, with legends.

Frame: one raster cell per stride of the patch grid (several where patches overlap), from the slide's top-left corner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.overlay import BORDER_TONE, HATCH_PX
from wsikit.exporters.palette import RGB, UNPREDICTED_COLOR, UNPREDICTED_NAME, hex_color
from wsikit.exporters.png import encode_png
from wsikit.exporters.quantity import Quantity
from wsikit.exporters.summary_text import MUTED_NOTE, class_title

Pixels = npt.NDArray[np.uint8]

CIVIDIS: tuple[RGB, ...] = (
    (0, 34, 78),
    (18, 53, 112),
    (59, 73, 108),
    (87, 93, 109),
    (112, 113, 115),
    (138, 134, 120),
    (165, 156, 116),
    (195, 179, 105),
    (225, 204, 85),
    (254, 232, 56),
)
"""Ten stops of cividis (Nuñez, Anderton, Renslow 2018): looks the same with and without colour-vision deficiency."""

CELL_PX = 32
"""Raster px per cell, so that smooth scaling in the browser blurs only the edge of a patch."""
RIM = 12
"""The rim of a region is 1/RIM of a cell wide, at least one raster px."""
RASTER_PX = 3072
"""Longest side of a raster; large slides get fewer px per cell."""
SPLIT = 4
"""Cells per stride where patches overlap: borders are within a fifth of a stride of the true ones."""
UNSURE, CERTAIN, BACKGROUND = 0.5, 1.0, 0.22
"""Opacity in the class layer, before the opacity slider of the page."""
SHADES, STEPS = 8, 64
"""Number of shades of a class colour and of steps of a value scale: few colours make small files."""

CONCEPT_NOTE = "Found by words; no annotation was used."

Palette = list[tuple[int, int, int, float]]
"""Red, green, blue from 0 to 255, opacity from 0 to 1."""
CLEAR, UNKNOWN, WHITE, FIRST = 0, 1, 2, 3
"""Entries of every palette: no patch, patch without value, hatching over it, first colour."""


@dataclass(frozen=True)
class LegendEntry:
    """One row of a layer's legend."""

    text: str
    color: str
    """CSS colour."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One map over the slide."""

    key: str
    """subtype, probability-UD, gate, …"""
    title: str
    short: str
    """Label of the button."""
    png: bytes
    """PNG with transparency."""
    width: float
    """Level-0 px that the image spans along x."""
    height: float
    """Level-0 px that the image spans along y."""
    legend: tuple[LegendEntry, ...] = ()
    """For a map of classes."""
    ramp: tuple[str, ...] = ()
    """For a map of values: colours from low to high."""
    low: str = ""
    high: str = ""
    note: str = ""


@dataclass(frozen=True)
class _Scale:
    """Mapping from values to colours."""

    key: str
    title: str
    short: str
    top: float = 1.0
    """Value at the upper end."""
    low: str = "0"
    """Label of the lower end."""
    high: str = "1"
    note: str = ""


_KNOWN = (
    _Scale("gate", "Weight of the text (gate)", "Gate", low="0: image alone", high="1: text alone"),
    _Scale(
        "ood_score",
        "Out-of-distribution score",
        "OOD score",
        top=2.0,
        low="0: in distribution",
        high="2 and more",
        note="Above 1 (the middle of the scale) a patch is out-of-distribution: not represented in the training data.",
    ),
    _Scale(
        "attention",
        "Attention: weight in the slide's result",
        "Attention",
        top=3.0,
        low="0",
        high="3 × the slide's mean and more",
    ),
)


def map_layers(
    class_map: ClassMap,
    values: Mapping[str, npt.NDArray[np.floating]] | None = None,
    concepts: Sequence[Quantity] = (),
) -> tuple[Layer, ...]:
    """The classes, the probability of each voting class, and further values per patch.

    Parameters
    ----------
    values
        (N,) per name: "gate", shown from 0 to 1, and "ood_score", from 0 to 2, where 1 is the out-of-distribution
        limit; "attention", from 0 to 3 × the slide's mean. Values without any finite number give no layer.
    concepts
        Maps of concepts, on their own scale; last.
    """
    if not len(class_map.labels):
        return ()
    raster = _Raster(class_map)
    if not (class_map.labels >= 0).any():
        return (_patches(class_map, raster), *_concepts(raster, concepts))
    layers = [_classes(class_map, raster)]
    if class_map.probs is not None:
        for index in class_map.voting:
            title = f"Probability of {class_title(class_map, index)}"
            column = np.asarray(class_map.probs[:, index], dtype=np.float64)
            code = class_map.classes[index]
            layers.append(_ramp(raster, _Scale(f"probability-{code}", title, f"p({code})"), column))
    for scale in _KNOWN:
        column = np.asarray((values or {}).get(scale.key, ()), dtype=np.float64)
        if np.isfinite(column).any():
            layers.append(_ramp(raster, scale, column))
    return (*layers, *_concepts(raster, concepts))


class _Raster:
    """The patch of each raster cell."""

    def __init__(self, class_map: ClassMap) -> None:
        grid = class_map.grid
        self._slide_px = grid.slide_px
        overlapping = grid.stride[0] < grid.side[0] * (1 - 1e-9)
        per_stride = SPLIT if overlapping else 1
        n_cells = [max(1, int(np.ceil(px / stride - 1e-9))) for px, stride in zip(grid.slide_px, grid.stride)]
        self.zoom = max(1, min(CELL_PX, RASTER_PX // (max(n_cells) * per_stride)))
        partition = class_map.partition
        picks = []
        for axis, edges in ((1, partition.y_edges), (0, partition.x_edges)):
            borders = np.arange(n_cells[axis] * per_stride + 1) * (grid.stride[axis] / per_stride)
            # clipped to the slide: the last cells may extend beyond its edge
            borders = np.minimum(borders, grid.slide_px[axis])
            centres = (borders[:-1] + borders[1:]) / 2
            index = np.searchsorted(edges, centres, side="right") - 1
            picks.append(np.where((index >= 0) & (index < len(edges) - 1), index, -1))
        rows, cols = picks
        patch = partition.patch[np.clip(rows, 0, None)][:, np.clip(cols, 0, None)]
        self.patch: npt.NDArray[np.int64] = np.where((rows < 0)[:, None] | (cols < 0)[None, :], -1, patch)
        """(n_rows, n_cols) row in the patch table, -1 = no patch."""
        self.span = n_cells[0] * grid.stride[0], n_cells[1] * grid.stride[1]
        """Width and height, level-0 px."""

    def enlarge(self, cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return cells.repeat(self.zoom, axis=0).repeat(self.zoom, axis=1)

    def png(self, indices: Pixels, palette: Palette) -> bytes:
        """The image, transparent where the last patches extend beyond the slide's edge.

        `indices` (h, w) point into `palette`, whose first entry is transparent.
        """
        for axis, (slide_px, span) in enumerate(zip(self._slide_px[::-1], self.span[::-1])):
            inside = round(slide_px / span * indices.shape[axis])
            np.swapaxes(indices, 0, axis)[inside:] = CLEAR
        colors = [(red, green, blue) for red, green, blue, _ in palette]
        return encode_png(indices, palette=colors, alphas=bytes(round(255 * alpha) for *_, alpha in palette))


def _classes(class_map: ClassMap, raster: _Raster) -> Layer:
    n_classes = len(class_map.classes)
    background = [class_map.classes.index(code) for code in class_map.background]
    palette: Palette = [(0, 0, 0, 0.0), (*UNPREDICTED_COLOR, 1.0), (255, 255, 255, 1.0)]
    for index, color in enumerate(class_map.colors):
        shares = np.linspace(UNSURE, CERTAIN, SHADES) if index not in background else [BACKGROUND] * SHADES
        palette += [(*color, float(share)) for share in shares]
    rims = len(palette)
    palette += [(*(int(value * BORDER_TONE) for value in color), 1.0) for color in class_map.colors]  # type: ignore[misc]

    certainty = (np.nan_to_num(class_map.top_probs, nan=1.0) - 1 / n_classes) / (1 - 1 / n_classes)
    shade = np.rint(np.clip(certainty, 0, 1) * (SHADES - 1)).astype(np.int64)
    index_of = np.where(class_map.labels < 0, UNKNOWN, FIRST + class_map.labels * SHADES + shade)
    picture = raster.enlarge(np.append(index_of, CLEAR)[raster.patch].astype(np.uint8))
    labels = raster.enlarge(np.append(class_map.labels, -2)[raster.patch].astype(np.int16))
    if raster.zoom >= RIM // 2:
        edge = _rims(labels, class_map, max(1, raster.zoom // RIM))
        picture[edge] = (rims + labels[edge]).astype(np.uint8)
    _hatch(picture)
    legend = [
        LegendEntry(class_title(class_map, index), hex_color(class_map.colors[index]))
        for index in range(n_classes)
        if (class_map.labels == index).any()
    ]
    if (class_map.labels < 0).any():
        legend.append(LegendEntry(f"{UNPREDICTED_NAME} (hatched)", hex_color(UNPREDICTED_COLOR)))
    note = "The deeper the colour, the more probable the patch's own class."
    note = f"{MUTED_NOTE} {note}" if class_map.muted else note
    png = raster.png(picture, palette)
    return Layer("subtype", "Class of each patch", "Class", png, *raster.span, legend=tuple(legend), note=note)


def _rims(labels: npt.NDArray[np.int16], class_map: ClassMap, width: int) -> npt.NDArray[np.bool_]:
    """Rims of `width` px inside the regions of voting classes, so that regions are visible without colour, too."""
    edge = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        differs = np.swapaxes(np.diff(labels, axis=axis) != 0, 0, axis)
        sides = np.swapaxes(edge, 0, axis)
        for step in range(width):
            sides[: len(sides) - 1 - step] |= differs[step:]
            sides[1 + step :] |= differs[: len(differs) - step]
    votes = np.zeros(len(class_map.classes) + 2, dtype=bool)  # -1 and -2 pick the last two
    votes[list(class_map.voting)] = True
    edge &= votes[labels]
    return edge


def _ramp(raster: _Raster, scale: _Scale, values: npt.NDArray[np.float64]) -> Layer:
    """A map of values (N,)."""
    palette: Palette = [(0, 0, 0, 0.0), (*UNPREDICTED_COLOR, 0.5), (255, 255, 255, 1.0)]
    stops = np.array(CIVIDIS, dtype=np.float64)
    at = np.linspace(0, len(stops) - 1, STEPS)
    for channels in zip(*(np.interp(at, np.arange(len(stops)), stops[:, channel]) for channel in range(3))):
        red, green, blue = (round(value) for value in channels)
        palette.append((red, green, blue, 1.0))
    step = np.rint(np.clip(np.nan_to_num(values / scale.top), 0, 1) * (STEPS - 1)).astype(np.int64)
    index_of = np.where(np.isfinite(values), FIRST + step, UNKNOWN)
    picture = raster.enlarge(np.append(index_of, CLEAR)[raster.patch].astype(np.uint8))
    _hatch(picture)
    return Layer(
        scale.key,
        scale.title,
        scale.short,
        raster.png(picture, palette),
        *raster.span,
        ramp=tuple(hex_color(stop) for stop in CIVIDIS),
        low=scale.low,
        high=scale.high,
        note=scale.note,
    )


def _concepts(raster: _Raster, concepts: Sequence[Quantity]) -> list[Layer]:
    """Maps of concepts; without limits of their own, from their least to their greatest value."""
    layers = []
    for quantity in concepts:
        found = quantity.values[np.isfinite(quantity.values)]
        if not len(found):
            continue
        low, high = quantity.limits or (float(found.min()), float(found.max()))
        share = (quantity.values - low) / (high - low) if high > low else np.zeros_like(quantity.values)
        note = " ".join(part for part in (CONCEPT_NOTE, quantity.remark, quantity.notice) if part)
        scale = _Scale(
            quantity.name.replace("_", "-"),
            quantity.title,
            quantity.title.partition(":")[0],
            low=f"{low:.3g}",
            high=f"{high:.3g}",
            note=note,
        )
        layers.append(_ramp(raster, scale, np.clip(share, 0, 1)))
    return layers


def _patches(class_map: ClassMap, raster: _Raster) -> Layer:
    """The patches of a slide without predictions."""
    palette: Palette = [(0, 0, 0, 0.0), (86, 110, 140, 1.0)]
    picture = raster.enlarge((raster.patch >= 0).astype(np.uint8))
    legend = (LegendEntry("Tissue patches", "#566e8c"),)
    return Layer("patches", "Tissue patches", "Patches", raster.png(picture, palette), *raster.span, legend=legend)


def _hatch(picture: Pixels) -> None:
    """White diagonals over unknown values, so that they are not mistaken for a value."""
    unknown = np.flatnonzero(picture == UNKNOWN)
    if len(unknown):
        rows, cols = np.divmod(unknown, picture.shape[1])
        picture.flat[unknown[(rows + cols) % HATCH_PX < 2]] = WHITE
