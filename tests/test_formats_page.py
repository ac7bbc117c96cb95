"""docs/formats.md has a row for every reader, every codec, and every vendor whose tiles are not kept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wsikit.slides.formats.openslide_tiles import VENDORS
from wsikit.slides.formats.tiff.codecs import COMPRESSIONS
from wsikit.slides.registry import READERS

PAGE = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_has_a_row(reader: str) -> None:
    assert any(f"`{reader}`" in row[1] for row in rows("By format"))


@pytest.mark.parametrize(
    "reader", sorted({name for row in rows("By format") for name in re.findall("`([a-z-]+)`", row[1])})
)
def test_every_reader_of_the_page_exists(reader: str) -> None:
    assert reader in READERS


def test_every_codec_has_a_row_with_all_of_its_codes() -> None:
    found = {}
    for name, *_ in rows("By codec of a TIFF"):
        codec, codes = re.fullmatch(r"(.+) \(([\d, ]+)\)", name).groups()  # type: ignore[union-attr]
        found.update(dict.fromkeys(map(int, codes.split(",")), codec))
    assert found == COMPRESSIONS


def test_every_row_states_what_it_was_tried_on() -> None:
    for name, *_, tried in rows("By format"):
        assert tried, name


@pytest.mark.parametrize(
    ("vendor", "reason"), [(name, words) for name, words in VENDORS.items() if name != "synthetic"]
)
def test_every_vendor_that_only_openslide_reads_has_a_row_with_its_reason(vendor: str, reason: str) -> None:
    names = {"leica": "Leica SCN", "mirax": "MIRAX", "sakura": "Sakura", "trestle": "Trestle", "ventana": "Ventana BIF"}
    row = next(row for row in rows("By format") if names.get(vendor, "Zeiss CZI") in row[0])
    assert row[2].startswith("no: ")
    assert ("overlap" in reason) == ("overlap" in row[2])
