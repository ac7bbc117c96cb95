"""Draws architecture.svg: the rooms of the package and the way of a slide. Run it after a change of rooms."""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 1120, 630
INK, PALE, BLUE, GREEN, SAND, GREY = "#1f2933", "#ffffff", "#dbeafe", "#dcfce7", "#fef3c7", "#eef1f4"
DATA = "#b45309"

FOOT = "Arrows: the way of a slide. Numbers: floors. A room imports only rooms on lower floors (make lint checks it)."


def text(x: float, y: float, words: str, size: int = 13, weight: str = "normal", anchor: str = "middle") -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{INK}">'
        f"{escape(words)}</text>"
    )


def box(x: float, y: float, w: float, h: float, name: str, lines: list[str], floor: str, fill: str) -> str:
    """A room with its name, what it holds, and its floor in the upper left corner."""
    parts = [f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" fill="{fill}" stroke="{INK}"/>']
    parts.append(text(x + 5, y + 12, floor, 10, anchor="start"))
    parts.append(text(x + w / 2, y + 26, name, 15, "bold"))
    parts += [text(x + w / 2, y + 43 + 15 * i, line, 12) for i, line in enumerate(lines)]
    return "".join(parts)


def band(y: float, h: float, name: str, words: str, floor: str, fill: str, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<rect x="20" y="{y}" width="{WIDTH - 40}" height="{h}" rx="6" fill="{fill}" stroke="{INK}"{dash}/>'
        + text(26, y + 14, floor, 10, anchor="start")
        + text(60, y + h / 2 + 5, name, 15, "bold", "start")
        + text(275, y + h / 2 + 5, words, 13, anchor="start")
    )


def arrow(x1: float, y1: float, x2: float, y2: float, both: bool = False) -> str:
    start = ' marker-start="url(#tip)"' if both else ""
    ends = f'x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"'
    return f'<line {ends} stroke="{DATA}" stroke-width="2.5" marker-end="url(#tip)"{start}/>'


def picture() -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif">',
        "<title>The rooms of wsikit and the way of a slide through them</title>",
        f'<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" markerHeight="6" '
        f'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{DATA}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PALE}"/>',
        band(14, 40, "cli", "one module per verb: options, messages, progress display", "17", GREY),
        band(62, 40, "view · testing · phantom · bench", "", "16", GREY, dashed=True),
        text(
            345,
            87,
            "viewer in the browser · checks for plug-ins · synthetic slides · speed measurements",
            13,
            anchor="start",
        ),
        band(
            110,
            40,
            "training",
            "models, captioners, evaluation, ablation: from labelled patches to a model folder",
            "15",
            GREY,
        ),
        band(
            158, 40, "batch", "many slides: manifest, plan (dry run), stages, scheduler, records, patients", "14", GREY
        ),
    ]
    y, h = 250, 104
    rooms = [
        ("slides", ["files → pixels", "formats/…", "pixel size (mpp)"], "4", BLUE),
        ("tissue", ["tissue mask", "quality: pen,", "blur"], "5", BLUE),
        ("tiling", ["slide → store", "patch grid", "verify"], "6", BLUE),
        ("captions", ["measured and", "generative", "captions, facts"], "7", GREEN),
        ("encoders", ["features by any", "model; texts in", "the same space"], "8", GREEN),
        ("models", ["PatchModel,", "PRMF, heads,", "OOD score"], "9", GREEN),
        ("voting", ["patches → slide", "uncertainty,", "abstention"], "10", GREEN),
        ("results", ["one slide's", "results: load,", "export, import"], "13", SAND),
        ("exporters", ["writers: map,", "report, outlines,", "OME-TIFF, HDF5"], "12", SAND),
    ]
    w, gap, left = 108, 13.5, 20
    for i, (name, lines, floor, fill) in enumerate(rooms):
        x = left + i * (w + gap)
        parts.append(box(x, y, w, h, name, lines, floor, fill))
        if i not in (2, 6, 8):
            parts.append(arrow(x + w + 1, y + 55, x + w + gap - 1, y + 55))
    x_of = {name: left + i * (w + gap) for i, (name, *_rest) in enumerate(rooms)}
    # inference lies under the four rooms whose work it applies to a store
    start, end = x_of["captions"], x_of["voting"] + w
    parts.append(
        box(
            start,
            390,
            end - start,
            58,
            "inference",
            ["applies captioner, encoder, model and vote to a store, with resume"],
            "11",
            GREEN,
        )
    )
    parts += [
        arrow(x_of[name] + w / 2, y + h + 1, x_of[name] + w / 2, 389, both=True)
        for name in ("captions", "encoders", "models", "voting")
    ]
    parts.append(
        band(480, 62, "store", "the bytes on disk (OME-Zarr): pixels, tissue label, patch table, receipts", "3", BLUE)
    )
    parts.append(
        text(
            275,
            533,
            "columns in the order of the stages: coords, tissue, quality → caption, facts → features → probability → votes",
            12,
            anchor="start",
        )
    )
    middle = x_of["tiling"] + w / 2
    parts += [
        arrow(middle, y + h + 1, middle, 479),
        arrow((start + end) / 2, 449, (start + end) / 2, 479, both=True),
        arrow(x_of["results"] + w / 2, 479, x_of["results"] + w / 2, y + h + 1),
        band(554, 40, "ground", "1: errors, progress, facts, scrub · 2: geometry, partition, executor, plugins, tables", "1–2", GREY),
        text(x_of["slides"] + w / 2, 218, "slide.svs", 13, "bold"),
        arrow(x_of["slides"] + w / 2, 224, x_of["slides"] + w / 2, y - 1),
        arrow(x_of["exporters"] + w / 2, y - 1, x_of["exporters"] + w / 2, 226),
        text(WIDTH - 20, 218, "map.png, report.html", 13, "bold", "end"),
        text(20, 617, FOOT, 13, anchor="start"),
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture(), encoding="utf-8")
