"""OUT/index.html: every slide in any state; text is escaped; links lead to existing files."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote

from wsikit.batch.index import write_index
from wsikit.batch.records import DONE, FAILED, SlideRow, write_row

ATTACK = "</td><script>alert(1)</script>"


def page(out: Path, *rows: SlideRow) -> str:
    for row in rows:
        write_row(out, row)
    write_index(out)
    return (out / "index.html").read_text(encoding="utf-8")


def line(html: str, slide_id: str) -> str:
    """Text of a slide's row."""
    (found,) = [row for row in re.findall(r"<tr>.*?</tr>", html, re.DOTALL) if f'data-key="{slide_id}"' in row]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", found)))


def test_each_slide_has_a_line_with_its_state_and_its_reason(tmp_path: Path) -> None:
    html = page(
        tmp_path,
        SlideRow("a", "in/a.svs", DONE, "PD", {"PD": 0.8, "UD": 0.2}, 0.6, False, None, 1200, 12.5, 0.03, 0.25, 0.25),
        SlideRow("b", "in/b.svs", DONE, None, {"PD": 0.5}, 0.01, True, "margin 0.010 is below 0.1"),
        SlideRow("c", "in/c.svs", FAILED, error="in/c.svs: damaged"),
        SlideRow("d", "in/d.svs", "locked", error="another run is working on this slide"),
    )
    for words in ("called", "PD", "0.60", "3.0 %", "12.5", "1,200", "0.25"):
        assert words in line(html, "a")
    assert "abstained" in line(html, "b")
    assert "margin 0.010 is below 0.1" in line(html, "b")
    assert "failed" in line(html, "c")
    assert "in/c.svs: damaged" in line(html, "c")
    assert "locked" in line(html, "d")
    assert "4 slides · 1 abstained · 1 called · 1 failed · 1 locked" in re.sub(r"<[^>]+>|\n", "", html)
    assert "Research use only" in html


def test_links_are_relative_and_lead_to_what_is_there(tmp_path: Path) -> None:
    slide_id = "case #1 ä%2"
    folder = tmp_path / "results" / slide_id
    folder.mkdir(parents=True)
    for name in ("report.html", "thumbnail.jpg", "map.png"):
        (folder / name).write_bytes(b"x")
    html = page(tmp_path, SlideRow(slide_id, "x", DONE, "PD"), SlideRow("gone", "y", DONE, "PD"))
    links = [unescape(link) for link in re.findall(r'(?:href|src)="(?!data:)([^"]*)"', html)]
    files = [link for link in links if link not in ("slides.csv", "run.json")]
    assert len(files) == 4  # picture and name lead to the report
    for link in files:
        assert not link.startswith("/")
        assert "#" not in link
        assert (tmp_path / unquote(link)).is_file(), link


def test_names_and_errors_are_escaped(tmp_path: Path) -> None:
    html = page(tmp_path, SlideRow("a", ATTACK, FAILED, error=ATTACK), SlideRow("b", "b", DONE, None, reason=ATTACK))
    assert html.count("<script>") == 1
    assert ATTACK in line(html, "a")
    assert ATTACK in line(html, "b")


def test_a_run_without_rows_has_a_page(tmp_path: Path) -> None:
    assert "0</b> slides" in page(tmp_path)
