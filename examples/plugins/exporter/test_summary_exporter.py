"""The exporter keeps the contract, and its file states the slide."""

from pathlib import Path

from summary_exporter import Summary

import wsikit
from wsikit.results.load import StoredResults
from wsikit.testing import check_exporter


def test_it_keeps_the_contract_of_an_exporter() -> None:
    check_exporter(Summary)


def test_the_file_has_one_row_per_class(tmp_path: Path) -> None:
    wsikit.make_phantom(tmp_path / "a.tif", size_px=(700, 700))
    wsikit.run(tmp_path / "a.tif", tmp_path / "out")
    results = StoredResults(wsikit.SlideStore(tmp_path / "out" / "slides" / "a.zarr"))
    Summary().write(results, tmp_path / "a.md")
    text = (tmp_path / "a.md").read_text("utf-8")
    assert text.startswith("# a\n")
    assert text.count("| PD |") == 1
    assert "Result: no subtype: " in text  # so few patches do not vote, and the reason is in the file
