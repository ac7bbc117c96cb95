"""One HTML page per patient: prediction, survival curve, maps of prototypes with their patches, and genes tied to them.

The page is one file; nothing is fetched, no script runs, and all text is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.overlay import paint_map, picture_size
from wsikit.exporters.palette import RGB, hex_color
from wsikit.exporters.report import content_policy, environment
from wsikit.exporters.report_parts import data_uri
from wsikit.exporters.summary_text import RESEARCH_USE
from wsikit.exporters.units import format_length, nice_length_um
from wsikit.store.atomic import write_bytes

MAP_PX = (760, 560)
"""Maximum width and height of a map."""
CURVE_PX = (560, 240)
SHOWN_COLUMNS = 10
"""Columns of the strongest relevance that a table shows, per modality."""


@dataclass(frozen=True)
class PatchPicture:
    """One patch of a prototype."""

    image: npt.NDArray[np.uint8]
    """(side, side, 3) RGB."""
    slide: str
    xy: tuple[int, int]
    """Left and top edge, level-0 px."""
    side_um: float
    caption: str = ""


@dataclass(frozen=True)
class PrototypePart:
    """One prototype of the patient."""

    name: str
    share: float
    """Of the patient's patches, 0 to 1."""
    color: RGB
    tied: Sequence[str]
    """Tokens of other tables in its community."""
    patches: Sequence[PatchPicture] = ()


@dataclass(frozen=True)
class PatientPage:
    """What the page shows."""

    patient: str
    model: str
    notice: str
    facts: Sequence[tuple[str, str]]
    """Name and value: risk, group, survival at the horizons, class probabilities."""
    curve: tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]] | None
    """Months and survival, both (T,); None: no survival is predicted."""
    maps: Sequence[tuple[ClassMap, npt.NDArray[np.uint8]]]
    """Of each slide: the prototype of each patch, and a picture of the slide."""
    prototypes: Sequence[PrototypePart]
    relevance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Per table and column: what it adds to the first task's score, by the gradient."""
    without_map: Sequence[str] = ()
    """Names of slides without a store, of which no map can be drawn."""


def write_patient_page(path: Path, page: PatientPage) -> Path:
    """Write the page of one patient as one HTML file."""
    text = (
        environment()
        .get_template("patient.html.jinja")
        .render(
            page=page,
            research_use=RESEARCH_USE,
            policy=content_policy([], pictures="data:", loads=False),
            maps=[_map(*one) for one in page.maps],
            prototypes=[_prototype(one) for one in page.prototypes],
            curve=None if page.curve is None else _curve(*page.curve),
            relevance={name: _rows(columns) for name, columns in page.relevance.items() if columns},
        )
    )
    write_bytes(path, text.encode("utf-8"))
    return path


def _map(class_map: ClassMap, thumbnail: npt.NDArray[np.uint8]) -> dict[str, Any]:
    size = picture_size(class_map.grid, *MAP_PX)
    width_um = class_map.grid.slide_px[0] * class_map.grid.slide_mpp[0]
    length_um = nice_length_um(width_um)
    return {
        "slide": class_map.slide_id,
        "image": data_uri(paint_map(class_map, thumbnail, size), "jpeg"),
        "width": size[0],
        "height": size[1],
        "bar_percent": 100 * length_um / width_um,
        "bar_label": format_length(length_um),
    }


def _prototype(part: PrototypePart) -> dict[str, Any]:
    return {
        "name": part.name,
        "share": f"{100 * part.share:.1f} %",
        "color": hex_color(part.color),
        "tied": list(part.tied),
        "patches": [
            {
                "image": data_uri(one.image, "jpeg"),
                "place": f"{one.slide}, x {one.xy[0]:,} · y {one.xy[1]:,} px",
                "side": format_length(one.side_um),
                "caption": one.caption,
            }
            for one in part.patches
        ],
    }


def _curve(months: npt.NDArray[np.floating], survival: npt.NDArray[np.floating]) -> dict[str, Any]:
    """Points and ticks of the survival curve, px from the top left of an image of `CURVE_PX`."""
    width, height = CURVE_PX
    left, bottom, top, right = 46.0, height - 34.0, 10.0, width - 14.0
    end = max(float(months[-1]), 1e-9)
    x = left + (right - left) * np.asarray(months, dtype=float) / end
    y = bottom - (bottom - top) * np.asarray(survival, dtype=float)
    step = next(one for one in (1, 2, 3, 6, 12, 24, 36, 60, 120, 240, 600) if end / one <= 10 or one == 600)
    ticks = [(left + (right - left) * at / end, f"{at:g}") for at in np.arange(0, end + 1e-9, step)]
    return {
        "width": width,
        "height": height,
        "points": " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)),
        "x_ticks": [(f"{at:.1f}", text) for at, text in ticks],
        "y_ticks": [(f"{bottom - (bottom - top) * at:.1f}", f"{100 * at:.0f} %") for at in (0, 0.25, 0.5, 0.75, 1)],
        "left": left,
        "right": right,
        "top": top,
        "bottom": bottom,
    }


def _rows(columns: Mapping[str, float]) -> list[tuple[str, str]]:
    chosen = sorted(columns, key=lambda name: -abs(columns[name]))[:SHOWN_COLUMNS]
    return [(name, f"{columns[name]:+.3f}") for name in chosen]
