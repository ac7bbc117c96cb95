"""`wsikit localize` as a user calls it."""

from __future__ import annotations

import json
import shutil
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


def test_a_threshold_of_the_cohort_is_said_and_used(
    square_store: SlideStore, named_encoder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (square_store.folder, "undifferentiated cells", "--encoder", "colours", "--json", "--threshold", "cohort")
    status, out, err = call(capsys, *asked)
    assert status == 0
    (found,) = json.loads(out)["maps"]
    assert found["threshold"] not in (0.5, "cohort")
    assert f"undifferentiated-cells: threshold {found['threshold']:.3g}, from 1 slide\n" in err
    status, _, err = call(capsys, *asked, "--sigma", "1")
    assert status != 0
    assert "--sigma" in err


def test_the_folder_of_a_run_means_its_stores(
    square_store: SlideStore, named_encoder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (run / "slides").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    status, _, err = call(capsys, run, "fat", "--encoder", "colours")
    assert (status, "without a complete slide store" in err) == (2, True)
    for name in ("a", "b"):
        shutil.copytree(square_store.folder, run / "slides" / f"{name}.zarr")
    status, out, _ = call(capsys, run, run / "slides" / "b.zarr", "fat", "--encoder", "colours", "--json")
    assert status == 0
    places = [Path(json.loads(line)["store"]).name for line in out.splitlines()]
    assert places == ["a.zarr", "b.zarr"]


def test_a_slide_file_is_named_with_the_command_that_makes_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = tmp_path / "a.svs"
    slide.write_bytes(b"")
    status, _, err = call(capsys, slide, "fat")
    assert status == 2
    assert f"wsikit tile {slide} -o a.zarr" in err


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
