"""A slide as an HTML card for notebooks: thumbnail and facts. Label and macro are never shown: they can show names."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping

from PIL import Image

from wsikit.errors import ReadError
from wsikit.slides.storage import storage_of, storage_words
from wsikit.slides.types import Channel, SceneInfo, Slide, SlideInfo

CARD_THUMBNAIL_PX = 256


def slide_html(slide: Slide, findings: Mapping[str, str] | None = None) -> str:
    """The card, as HTML without scripts or external references. `findings` are additional rows."""
    rows = "".join(
        f"<tr><th style='text-align:left;padding-right:1em'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value).replace(chr(10), '<br>')}</td></tr>"
        for name, value in {**facts(slide.info), **stored_as(slide), **(findings or {})}.items()
    )
    return (
        "<div style='display:flex;gap:1.5em;align-items:flex-start'>"
        f"{_thumbnail_html(slide)}<table style='border-collapse:collapse'>{rows}</table></div>"
    )


def facts(info: SlideInfo) -> dict[str, str]:
    """The main facts, as text with units; one line per level. For the card and `wsikit info`."""
    width, height = info.dimensions
    found = {"slide": info.path, "format": _format_words(info), "size": f"{width} × {height} px"}
    if info.mpp:
        x, y = info.mpp
        found["size"] += f" ({width * x / 1000:.2f} × {height * y / 1000:.2f} mm)"
        same = abs(x - y) <= 5e-5 * x
        found["pixel size"] = (f"{x:.4g}" if same else f"{x:.4g} × {y:.4g}") + f" µm/px, from {info.mpp_source}"
    elif info.mpp_fault:
        found["pixel size"] = info.mpp_fault if info.mpp_source == "unknown" else f"not usable: {info.mpp_fault}"
    else:
        found["pixel size"] = "not stated"
    if info.magnification:
        found["magnification"] = f"{info.magnification:g}x (as stated)"
    found["levels"] = "\n".join(_level_words(info, level) for level in range(len(info.level_dimensions)))
    if info.channels:
        found["channels"] = "\n".join(channel_line(channel) for channel in info.channels)
    if info.scenes:
        found["scenes"] = "\n".join(_scene_words(info, scene) for scene in info.scenes)
    found["associated images"] = ", ".join(info.associated) or "none"
    found["colour profile"] = f"ICC, {len(info.icc_profile)} bytes" if info.icc_profile else "none"
    if info.notes:
        found["notes"] = "\n".join(info.notes)
    return found


def channel_line(channel: Channel) -> str:
    """Name, colour, type and display window of a channel, on one line.

    >>> channel_line(Channel("DAPI", (0, 0, 255), "uint16", (100.0, 4000.0), "measured"))
    'DAPI: #0000FF, uint16, shown from 100 to 4000 (measured)'
    """
    low, high = channel.window
    color = f"#{channel.hex}" + ("" if channel.color_source == "stated" else f" ({channel.color_source})")
    shown = "shown" if channel.shown else "not in the composite,"
    return f"{channel.name}: {color}, {channel.dtype}, {shown} from {low:g} to {high:g} ({channel.window_source})"


def stored_as(slide: Slide) -> dict[str, str]:
    """How the tiles of each level are stored, and why they are encoded again where they are; empty if not known."""
    levels = storage_of(slide)
    name = "stored" if slide.info.kind == "store" else "when stored"
    return {name: storage_words(levels)} if levels else {}


def _format_words(info: SlideInfo) -> str:
    words = [info.vendor]
    if info.compression:
        words.append("uncompressed" if info.compression == "none" else info.compression)
    if info.tile_px:
        words.append(f"tiles of {info.tile_px[0]} × {info.tile_px[1]} px")
    return ", ".join(words) + f" (read with {info.reader})"


def _scene_words(info: SlideInfo, scene: SceneInfo) -> str:
    width, height = scene.dimensions
    name = f" {scene.name!r}" if scene.name else ""
    return f"{scene.number}{name}: {width} × {height} px{' (read)' if scene.number == info.scene else ''}"


def _level_words(info: SlideInfo, level: int) -> str:
    width, height = info.level_dimensions[level]
    downsample = info.level_downsamples[level][0]
    return f"{width} × {height} px ({downsample:.5g}×)"


def _thumbnail_html(slide: Slide) -> str:
    try:
        pixels = slide.thumbnail(CARD_THUMBNAIL_PX)
    except ReadError as error:
        return f"<p>no thumbnail: {html.escape(error.reason)}</p>"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"<img alt='thumbnail' src='data:image/jpeg;base64,{encoded}' style='border:1px solid #ccc'>"
