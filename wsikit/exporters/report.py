"""One slide's report as a single HTML file that works offline.

`report_parts` and `report_vote` prepare the content as plain values; `templates/report.html.jinja` is the page, in
which all text is escaped; OpenSeadragon, from `vendor`, is the viewer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from wsikit.exporters import report_parts, report_vote
from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.layers import Layer, map_layers
from wsikit.exporters.palette import hex_color
from wsikit.exporters.patch_tiles import PatchTiles, TileIndex, remove_others
from wsikit.exporters.patchdata import PackedPatches, pack
from wsikit.exporters.pyramid import TILE_PX, EmbeddedPyramid, ServedPyramid
from wsikit.exporters.report_data import Fact, PatchExample, ReportData, Section
from wsikit.exporters.summary_text import MUTED_NOTE, RESEARCH_USE, class_title, state
from wsikit.store.atomic import atomic_write
from wsikit.store.paths import is_local, place

__all__ = ["Fact", "PatchExample", "ReportData", "Section", "content_policy", "render_report", "write_report"]

PATCH_FOLDER = "_patches"
"""Ending of the name of the folder with the patches' data; it begins as the page's."""
DRAWING_SCRIPT = "templates/draw.js"
VIEWER_SCRIPTS = ("vendor/openseadragon/openseadragon.min.js", "templates/viewer.js", "templates/navigate.js")


def write_report(path: str | os.PathLike[str], data: ReportData) -> None:
    """Write the report, atomically: one HTML file with everything in it.

    Where the data of all patches do not fit into the page, they lie next to it, in the folder `<name>_patches`.
    """
    target = place(path)
    packed, tiles = _packed(data), None
    folder = target.with_name(f"{target.stem}{PATCH_FOLDER}") if is_local(target) else None
    if folder is not None and packed is not None and packed.left_out:
        tiles = PatchTiles.of(data.class_map, data.words).write(folder)
    page = _render(data, packed, None, tiles)
    with atomic_write(target) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
    if folder is not None:
        remove_others(folder, tiles)


def render_report(
    data: ReportData, *, home: str | None = None, tiles: TileIndex | None = None, draws: bool = False
) -> str:
    """The page that `write_report` writes.

    Parameters
    ----------
    home
        Address of the page of all slides, if any.
    tiles
        Where the data are that do not fit into the page; None: they are left out.
    draws
        Whether regions can be drawn: the page's server reads and saves them at "drawing", relative to the page.
    """
    packed = _packed(data)
    return _render(data, packed, home, tiles if packed is not None and packed.left_out else None, draws)


def _render(
    data: ReportData, packed: PackedPatches | None, home: str | None, tiles: TileIndex | None, draws: bool = False
) -> str:
    data = replace(data, class_map=data.class_map.as_voted(data.result))
    ahead = report_vote.leading(data)
    layers = _layers(data) if packed is not None else ()
    names = [*VIEWER_SCRIPTS, *([DRAWING_SCRIPT] if draws else [])]
    scripts = [inline_script(name) for name in names] if packed is not None else []
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            slide_id=data.class_map.slide_id,
            notice=data.class_map.notice,
            research_use=RESEARCH_USE,
            created=data.created,
            home=home,
            verdict=state(data.class_map, data.result, data.reason),
            verdict_color=report_vote.verdict_color(data),
            pictures=report_parts.pictures(data),
            bars=report_vote.bars(data),
            vote_facts=report_vote.vote_facts(data),
            second=report_vote.second_subtype(data),
            composition=report_parts.composition_rows(data.class_map),
            muted=MUTED_NOTE if data.class_map.muted else "",
            groups=report_parts.groups(data, ahead),
            ahead=None if ahead is None else class_title(data.class_map, ahead),
            quality=report_parts.quality(data),
            provenance=data.provenance,
            policy=content_policy(
                [str(script) for script in scripts],
                pictures="data: 'self'" if isinstance(data.pyramid, ServedPyramid) else "data:",
                loads=tiles is not None,
                connects=draws,
            ),
            layers=layers,
            depth=_depth(data, packed, tiles),
            scripts=scripts,
            draws=draws,
            page_data=None if packed is None else in_script(_page_data(data, packed, layers, tiles)),
            tiles=in_script(_tiles(data.pyramid)) if isinstance(data.pyramid, EmbeddedPyramid) else None,
        )
    )


@cache
def environment() -> jinja2.Environment:
    """Templates of this package; text is escaped in every template."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("wsikit.exporters"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def in_script(value: Any) -> Markup:
    """JSON that is safe inside a script element: no text in it can close the element or open another."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


@cache
def inline_script(name: str) -> Markup:
    """A script of this package, to be placed inside a page."""
    text = resources.files("wsikit.exporters").joinpath(name).read_text(encoding="utf-8")
    # a reference to a source map would make the browser's developer tools request a missing file
    lines = [line for line in text.splitlines() if not line.startswith("//# sourceMappingURL=")]
    return Markup("\n" + "\n".join(lines) + "\n")


def content_policy(
    scripts: Sequence[str], *, pictures: str = "data:", loads: bool = False, connects: bool = False
) -> str:
    """A page's content security policy: only these scripts and images from these sources are allowed.

    With `loads`, the scripts themselves may load further scripts; nothing in the page's text can. With `connects`, they
    may exchange data with the page's own server.
    """
    hashes = [base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii") for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes) or "'none'"
    allowed += " 'strict-dynamic'" if loads else ""
    policy = f"default-src 'none'; img-src {pictures}; style-src 'unsafe-inline'; script-src {allowed}"
    return policy + ("; connect-src 'self'" if connects else "")


# ---- data for the viewer


def _packed(data: ReportData) -> PackedPatches | None:
    if data.pyramid is None:
        return None
    shown = [example.row for example in data.examples]
    return pack(data.class_map, data.words, shown, max_bytes=data.patch_bytes)


def _layers(data: ReportData) -> tuple[Layer, ...]:
    known = {"gate": data.words.gate, "ood_score": data.words.ood_score, "attention": data.attention}
    values = {name: column for name, column in known.items() if column is not None}
    return map_layers(data.class_map, values, data.concepts)


def _page_data(
    data: ReportData, packed: PackedPatches, layers: tuple[Layer, ...], tiles: TileIndex | None
) -> dict[str, Any]:
    class_map, grid = data.class_map, data.class_map.grid
    assert data.pyramid is not None
    frame = data.pyramid.frame
    second = report_vote.second_subtype(data)
    return {
        "slide": {"scale": list(frame.scale), "unit_um": frame.unit_um},
        "source": _source(data.pyramid),
        "grid": {"side": list(grid.side), "stride": list(grid.stride), "um_per_px": _short(grid.target_mpp)},
        "classes": [
            {"code": code, "title": class_title(class_map, index), "color": hex_color(class_map.colors[index])}
            for index, code in enumerate(class_map.classes)
        ],
        "layers": [
            {
                "key": layer.key,
                "url": f"data:image/png;base64,{base64.b64encode(layer.png).decode('ascii')}",
                "width": layer.width,
                "height": layer.height,
            }
            for layer in layers
        ],
        "pins": [
            {
                "name": name,
                "color": hex_color(class_map.colors[int(class_map.labels[example.row])]),
                "box": [*class_map.coords[example.row].tolist(), *grid.side],
            }
            for example, name in zip(data.examples, report_parts.pin_names(data))
        ],
        "second": None if second is None else second["box"],
        "captioned": data.words.captions is not None,
        "patches": packed.block,
        "tiles": None if tiles is None else tiles.to_json(),
        "extent": _extent(class_map),
    }


def _extent(class_map: ClassMap) -> list[int]:
    """Least x and y of the patches, and greatest, level-0 px; empty without patches."""
    if not len(class_map.coords):
        return []
    return [*class_map.coords.min(axis=0).tolist(), *class_map.coords.max(axis=0).tolist()]


def _source(pyramid: EmbeddedPyramid | ServedPyramid) -> dict[str, Any]:
    """Size and levels of the pyramid, for the page."""
    frame = pyramid.frame
    if isinstance(pyramid, ServedPyramid):
        levels = [
            _level(level.level, level.size, level.tile_px, 1 / level.downsample, frame.unit_um * level.downsample)
            for level in pyramid.levels
        ]
        served: Mapping[str, Any] = {"kind": "served", "base": pyramid.tiles, "patches": pyramid.patches}
    else:
        numbers = sorted({level for level, _, _ in pyramid.tiles})
        levels = [
            _level(
                level,
                frame.level_size(level),
                (TILE_PX, TILE_PX),
                2.0 ** (level - frame.deepest),
                frame.level_um(level),
            )
            for level in range(numbers[0], numbers[-1] + 1)
        ]
        served = {"kind": "embedded"}
    return {**served, "width": frame.size[0], "height": frame.size[1], "levels": levels}


def _level(level: int, size: tuple[int, int], tile_px: tuple[int, int], scale: float, um: float) -> dict[str, Any]:
    return {
        "level": level,
        "width": size[0],
        "height": size[1],
        "tile": list(tile_px),
        "scale": scale,
        "um": _short(um),
    }


def _tiles(pyramid: EmbeddedPyramid) -> dict[str, str]:
    return {
        f"{level}/{col}_{row}": base64.b64encode(jpeg).decode("ascii")
        for (level, col, row), jpeg in sorted(pyramid.tiles.items())
    }


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _depth(data: ReportData, packed: PackedPatches | None, tiles: TileIndex | None) -> str:
    """The resolution of the pixels in the page, and which patch data are left out, in words."""
    if packed is None or data.pyramid is None:
        return ""
    frame = data.pyramid.frame
    if isinstance(data.pyramid, ServedPyramid):
        words = f"All of the slide at full resolution, {_short(frame.unit_um)} µm/px."
    else:
        whole, deep = (frame.level_um(level) for level in (data.pyramid.whole_level, data.pyramid.deep_level))
        words = f"This page holds the whole slide at {_short(whole)} µm/px"
        words += f", and at {_short(deep)} µm/px around the patches shown below." if deep < whole else "."
        if min(whole, deep) > frame.unit_um * 1.01 or deep < whole:
            words += " The command wsikit view shows all of it at full resolution."
    if packed.left_out and tiles is not None:
        if not isinstance(data.pyramid, ServedPyramid):
            words += (
                f" The data of the patches are in the folder {tiles.base[:-1]} next to this page: keep them together."
            )
    elif packed.left_out:
        words += f" Left out to limit the page's size, except for the patches shown: {' and '.join(packed.left_out)}."
    return words
