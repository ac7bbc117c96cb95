"""`wsikit localize` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import wsikit
from wsikit.cli.main import main
from wsikit.slides.store import SlideStore


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    with pytest.raises(SystemExit) as ended:
        main(["localize", *map(str, arguments)])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_maps_are_written_and_shown(
    square_store: SlideStore, named_encoder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wsikit.caption(square_store)
    options = ("--encoder", "colours", "-o", tmp_path / "maps")
    status, out, _ = call(capsys, square_store.folder, "neuropil", "hyaline cartilage", *options)
    assert status == 0
    assert {path.name for path in (tmp_path / "maps" / "square").iterdir()} == {
        "localize_hyaline-cartilage.geojson",
        "localize_hyaline-cartilage.png",
        "localize_neuropil.geojson",
        "localize_neuropil.png",
        "maps.zarr",
    }
    assert "Neuropil" in out
    table = square_store.patches()
    assert str(table.read("caption")[table.read("localize_neuropil").argmax()]) in out
    columns = square_store.patches().columns()
    assert {"localize_neuropil", "localize_hyaline-cartilage", "features_colours-shared"} <= set(columns)
    main_export = ["export", str(square_store.folder), "--to", "png", "--column", "localize_neuropil"]
    with pytest.raises(SystemExit) as ended:
        main([*main_export, "-o", str(tmp_path / "x.png")])
    assert not ended.value.code


def test_json_has_scores_and_places(
    square_store: SlideStore, named_encoder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = call(capsys, square_store.folder, "blood", "--encoder", "colours", "--json", "--top", "2")
    assert status == 0
    record = json.loads(out)
    (found,) = record["maps"]
    assert (found["concept"], found["n_above"], len(found["patches"])) == ("haemorrhage", 0, 2)
    assert found["presence"] < 0.5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["neuropil"], "no slide store"),
        (["STORE"], "nothing to look for"),
        (["STORE", "fat", "STORE"], "a store after the concept"),
        (["STORE", ""], "empty"),
        (["STORE", "no fat"], "without a negation"),
        (["STORE", "fat", "--sigma", "-1"], "sigma"),
        (["STORE", "fat", "--synonyms", "missing.json"], "missing.json"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(
    square_store: SlideStore, named_encoder: Any, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    placed = [str(square_store.folder) if word == "STORE" else word for word in words]
    status, _, err = call(capsys, *placed, "--encoder", "colours")
    assert (status, err.count("\n")) == (2, 1)
    assert said in err
    assert named_encoder.loads == 0


def test_the_lexicon_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "--list")
    assert status == 0
    assert "schwannian-stroma" in out
