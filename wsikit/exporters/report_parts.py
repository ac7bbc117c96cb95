"""The parts of a report as plain values: images, composition, patches, quality. `report` puts them into the page."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsikit.errors import RequestError
from wsikit.exporters.classmap import ClassMap, ClassShare, composition
from wsikit.exporters.overlay import class_tags, paint_map, picture_size, swatch
from wsikit.exporters.palette import UNPREDICTED_NAME, hex_color
from wsikit.exporters.png import encode_png
from wsikit.exporters.report_data import PatchExample, ReportData
from wsikit.exporters.summary_text import class_title
from wsikit.exporters.units import format_areas, format_length, format_prob, format_share, nice_length_um

Pixels = npt.NDArray[np.uint8]

PICTURE_PX = (1200, 1000)
"""Maximum width and height of the two static images: twice their size on the page, to stay sharp when zoomed."""
SIDE_BY_SIDE = 1.9
"""Slides with a larger ratio of width to height have their two images one below the other."""
FACTS_SHOWN = 6
JPEG_QUALITY = 90
TAG_ROOM = 0.012
"""Fraction of the slide's width: a region with less space around its centre is shown without its code."""
PIN_LABEL_ROOM = 0.08
"""Fraction of the slide's height: a pin closer to the upper edge has its label below it."""
GIVEN_SCALES = ("assumed", "option", "manifest", "sidecar")
"""Prefixes of the sources of a pixel size that is not stated in the slide's file."""


# ---- pictures


def data_uri(pixels: Pixels, kind: str) -> str:
    """The image as a data URI: JPEG for tissue, PNG for flat colour."""
    if kind == "png":
        data = encode_png(pixels)
    else:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format=kind, quality=JPEG_QUALITY, subsampling=0)
        data = file.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def pictures(data: ReportData) -> dict[str, Any]:
    """Slide and map at one size, with the positions of pins and tags over them in percent of that size."""
    class_map = data.class_map
    size = picture_size(class_map.grid, *PICTURE_PX)
    slide = np.asarray(Image.fromarray(data.thumbnail).resize(size, Image.Resampling.LANCZOS))
    width_um = class_map.grid.slide_px[0] * class_map.grid.slide_mpp[0]
    height_um = class_map.grid.slide_px[1] * class_map.grid.slide_mpp[1]
    length_um = nice_length_um(width_um)
    mpp_x, mpp_y = class_map.grid.slide_mpp
    return {
        "slide": data_uri(slide, "jpeg"),
        "map": data_uri(paint_map(class_map, data.thumbnail, size), "jpeg"),
        "width": size[0],
        "height": size[1],
        "side_by_side": width_um < SIDE_BY_SIDE * height_um,
        "bar_percent": 100 * length_um / width_um,
        "bar_label": format_length(length_um),
        "mpp": f"{mpp_x:.4g} µm/px" if mpp_x == mpp_y else f"{mpp_x:.4g} × {mpp_y:.4g} µm/px",
        "size_mm": f"{width_um / 1000:.3g} × {height_um / 1000:.3g} mm",
        "pins": _pins(data),
        "tags": _tags(class_map),
        "predicted": bool((class_map.labels >= 0).any()),
        "n_patches": len(class_map.labels),
    }


def _pins(data: ReportData) -> list[dict[str, Any]]:
    """Positions on the slide of the patches that are shown below."""
    grid = data.class_map.grid
    pins = []
    for example, name in zip(data.examples, pin_names(data)):
        x, y = data.class_map.coords[example.row]
        label = int(data.class_map.labels[example.row])
        pins.append(
            {
                "name": name,
                "label_below": float(y) < PIN_LABEL_ROOM * grid.slide_px[1],
                "left": 100 * float(x) / grid.slide_px[0],
                "top": 100 * float(y) / grid.slide_px[1],
                "width": 100 * grid.side[0] / grid.slide_px[0],
                "height": 100 * grid.side[1] / grid.slide_px[1],
                "color": hex_color(data.class_map.colors[label]),
            }
        )
    return pins


def pin_names(data: ReportData) -> list[str]:
    """ "PD 1", "PD 2", "UD 1": counted per class in the order given."""
    counts: dict[int, int] = {}
    names = []
    for example in data.examples:
        label = int(data.class_map.labels[example.row])
        if label < 0:
            raise RequestError(f"{data.class_map.slide_id}: patch {example.row} has no prediction and cannot be shown")
        counts[label] = counts.get(label, 0) + 1
        names.append(f"{data.class_map.classes[label]} {counts[label]}")
    return names


def _tags(class_map: ClassMap) -> list[dict[str, Any]]:
    width, height = class_map.grid.slide_px
    return [
        {"code": class_map.classes[tag.index], "left": 100 * tag.x / width, "top": 100 * tag.y / height}
        for tag in class_tags(class_map)
        if tag.room / width > TAG_ROOM
    ]


# ---- composition


def composition_rows(class_map: ClassMap) -> list[dict[str, Any]]:
    """Rows of the table that is also the map's legend."""
    shares = [share for share in composition(class_map) if share.index >= 0 or share.n_patches]
    areas = format_areas([share.area_mm2 for share in shares])
    return [_composition_row(class_map, share, area) for share, area in zip(shares, areas)]


def _composition_row(class_map: ClassMap, share: ClassShare, area: str) -> dict[str, Any]:
    predicted = bool((class_map.labels >= 0).any())
    if share.index >= 0:
        title, votes = class_title(class_map, share.index), class_map.classes[share.index] not in class_map.background
    else:
        title, votes = (UNPREDICTED_NAME if predicted else "Tissue patches"), False
    return {
        "title": title,
        "swatch": data_uri(swatch(class_map, share.index, (72, 24)), "png"),
        "area": area,
        "share": format_share(share.share) if math.isfinite(share.share) else "–",
        "n_patches": f"{share.n_patches:,}",
        "mean_prob": format_prob(share.mean_prob),
        "votes": votes or share.index < 0,
        "present": share.n_patches > 0,
    }


# ---- patches


def groups(data: ReportData, ahead: int | None) -> list[dict[str, Any]]:
    """The patches shown, by class, those of class `ahead` first; classes without patches are listed too."""
    if not (data.class_map.labels >= 0).any():
        return []
    cards: dict[int, list[dict[str, Any]]] = {index: [] for index in data.class_map.voting}
    opposing: list[dict[str, Any]] = []
    attended: list[dict[str, Any]] = []
    for example, name in zip(data.examples, pin_names(data)):
        label = int(data.class_map.labels[example.row])
        card = _card(data.class_map, example, name)
        if example.attended:
            attended.append(card)
        else:
            (opposing if example.opposing else cards.setdefault(label, [])).append(card)
    counts = np.bincount(data.class_map.labels[data.class_map.labels >= 0], minlength=len(data.class_map.classes))
    found: list[dict[str, Any]] = [
        {
            "kind": "" if ahead is None else ("For" if label == ahead else "Against"),
            "title": class_title(data.class_map, label),
            "color": hex_color(data.class_map.colors[label]),
            "n_patches": int(counts[label]),
            "cards": shown,
        }
        for label, shown in sorted(cards.items(), key=lambda item: item[0] != ahead)
        if shown or not counts[label]
    ]
    if opposing and ahead is not None:
        code = data.class_map.classes[ahead]
        title = f"patches that contradict {code} most, of any class"
        found.insert(1, {"kind": "Against", "title": title, "color": "#6b6b6b", "n_patches": None, "cards": opposing})
    if attended:
        title = "patches that weigh most in the slide's result, of any class"
        found.insert(0, {"kind": "Attention", "title": title, "color": "#6b6b6b", "n_patches": None, "cards": attended})
    return found


def _card(class_map: ClassMap, example: PatchExample, name: str) -> dict[str, Any]:
    label = int(class_map.labels[example.row])
    x, y = (int(value) for value in class_map.coords[example.row])
    side_um = class_map.grid.patch_px * class_map.grid.target_mpp
    bar_um = nice_length_um(side_um, share=0.4)
    probs = class_map.probs[example.row] if class_map.probs is not None else []
    facts = [] if example.attention is None else [("attention", f"{example.attention:.2f} × the slide's mean")]
    facts += [(fact.name, f"{_number(fact.value)} {fact.unit}".strip()) for fact in example.facts]
    return {
        "name": name,
        "row": example.row,
        "image": data_uri(example.image, "jpeg"),
        "alt": f"Patch {name}: {class_title(class_map, label)}, at x {x}, y {y} px of level 0",
        "place": f"x {x:,} · y {y:,} px",
        "bar_percent": 100 * bar_um / side_um,
        "bar_label": format_length(bar_um),
        "caption": example.caption,
        "facts": facts[:FACTS_SHOWN],
        "more_facts": facts[FACTS_SHOWN:],
        "gate": None if example.gate is None or not math.isfinite(example.gate) else format_prob(example.gate),
        "probs": [
            {
                "code": code,
                "prob": format_prob(float(prob)),
                "percent": 100 * float(prob),
                "color": hex_color(color),
                "own": index == label,
            }
            for index, (code, color, prob) in enumerate(zip(class_map.classes, class_map.colors, probs))
        ],
    }


def _number(value: float) -> str:
    """Two significant digits, three from 100 on: measurements of one patch are not more precise.

    >>> _number(5019.0), _number(0.0894), _number(29.6), _number(0.0)
    ('5,020', '0.089', '30', '0')
    """
    digits = 3 if abs(value) >= 100 else 2
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 else f"{rounded:g}"


# ---- quality


def quality(data: ReportData) -> list[dict[str, Any]]:
    """Rows: name, value, and whether it is highlighted."""
    class_map = data.class_map
    grid = class_map.grid
    width, height = grid.slide_px
    mpp_x, mpp_y = grid.slide_mpp
    given = class_map.mpp_source.startswith(GIVEN_SCALES)
    source = f"{class_map.mpp_source}{', not stated by the slide file' if given else ''}"
    rows = [
        {"name": "Pixel size", "value": f"{mpp_x:.5g} × {mpp_y:.5g} µm/px ({source})", "mark": given},
        {"name": "Slide", "value": f"{width:,} × {height:,} px", "mark": False},
        {
            "name": "Patches",
            "value": f"{len(class_map.labels):,} of {grid.patch_px} px at {grid.target_mpp:g} µm/px",
            "mark": False,
        },
    ]
    if data.tissue_mm2 is not None:
        rows.append({"name": "Tissue", "value": f"{format_areas([data.tissue_mm2])[0]} mm²", "mark": False})
    if data.unreadable_fraction is not None:
        unreadable = data.unreadable_fraction
        rows.append({"name": "Unreadable patches", "value": format_share(unreadable), "mark": unreadable > 0})
    rows.extend({"name": name, "value": value, "mark": False} for name, value in data.quality)
    return rows
