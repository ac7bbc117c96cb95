"""OUT/index.html: all slides of a run on one page, sortable, linked to their reports; made from the rows.

The page works from disk, without network; the local viewer shows the same page with other links.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from wsikit.batch.records import DONE, FAILED, SlideRow, read_rows
from wsikit.exporters.report import content_policy, environment, inline_script
from wsikit.exporters.summary_text import RESEARCH_USE
from wsikit.exporters.units import format_areas, format_share
from wsikit.store.atomic import atomic_write
from wsikit.voting.result import format_margin

CALLED, ABSTAINED = "called", "abstained"
SCRIPT = "templates/index.js"

Links = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Addresses:
    """Links to a slide's files, relative to the page; None or empty if a file does not exist."""

    report: str | None
    thumbnail: str | None
    others: Links = ()
    """Label and link of further files."""


def write_index(out: Path, rows: Sequence[SlideRow] | None = None) -> None:
    """Write index.html for all rows below `out`, atomically; they may be given if they were just read."""
    found = read_rows(out) if rows is None else rows
    page = render_index(found, lambda row: _on_disk(out, row), title=out.resolve().name, files=True)
    with atomic_write(out / "index.html") as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")


def render_index(
    rows: Sequence[SlideRow], where: Callable[[SlideRow], Addresses], *, title: str, files: bool = False
) -> str:
    """The page as HTML.

    Parameters
    ----------
    rows
        One per slide.
    where
        Links to a row's report and thumbnail.
    title
        Name of the run.
    files
        Whether slides.csv and run.json are in the folder of the page.
    """
    script = inline_script(SCRIPT)
    states = Counter(state_of(row) for row in rows)
    return (
        environment()
        .get_template("index.html.jinja")
        .render(
            title=title,
            research_use=RESEARCH_USE,
            rows=[_entry(row, where(row)) for row in rows],
            counts=[(state, states[state]) for state in sorted(states)],
            files=files,
            script=script,
            policy=content_policy([str(script)], pictures="data: 'self' file:"),
        )
    )


def state_of(row: SlideRow) -> str:
    """called, abstained, failed, or locked."""
    if row.status != DONE:
        return row.status
    return CALLED if row.subtype is not None else ABSTAINED


def _entry(row: SlideRow, where: Addresses) -> dict[str, Any]:
    """One line of the table: text and sort key of each column."""
    probability = sorted(row.probability.items(), key=lambda item: -item[1])
    return {
        "slide_id": row.slide_id,
        "path": row.path,
        "file": PurePath(row.path).name,
        "state": state_of(row),
        "subtype": row.subtype or "",
        "probability": ", ".join(f"{code}\N{NO-BREAK SPACE}{value:.2f}" for code, value in probability),
        "value": row.value_words,
        "value_unit": row.value_unit or "",
        "margin": _number(row.margin, "", format_margin),
        "unreadable": _number(row.unreadable_fraction, "", format_share),
        "tissue": _number(row.tissue_mm2, "", lambda area: format_areas([area])[0]),
        "patches": _number(row.n_patches, "{:,}"),
        "mpp": _number(row.mpp_x, "{:.4g}"),
        "mpp_source": row.mpp_source or "",
        "note": row.error or row.reason or "; ".join(row.notes),
        "where": where,
    }


def _number(value: float | None, form: str, formatter: Callable[[float], str] | None = None) -> dict[str, Any]:
    """Text and sort key of a number; a dash if it is unknown."""
    if value is None:
        return {"text": "–", "key": ""}
    return {"text": formatter(value) if formatter else form.format(value), "key": repr(value)}


def _on_disk(out: Path, row: SlideRow) -> Addresses:
    """Relative links to the files that exist."""
    folder = f"results/{row.slide_id}"
    files = (("map", f"{folder}/map.png"), ("GeoJSON", f"{folder}/subtype.geojson"), ("JSON", f"{folder}/result.json"))
    there = [(label, quote(path)) for label, path in files if row.status == DONE and (out / path).is_file()]
    if row.status == FAILED and (out / "failures" / f"{row.slide_id}.txt").is_file():
        there.append(("traceback", quote(f"failures/{row.slide_id}.txt")))
    report, thumbnail = f"{folder}/report.html", f"{folder}/thumbnail.jpg"
    return Addresses(
        quote(report) if row.status == DONE and (out / report).is_file() else None,
        quote(thumbnail) if row.status == DONE and (out / thumbnail).is_file() else None,
        there,
    )
