"""The verbs as a user calls them, one after the other, on one store."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import wsikit
from wsikit.cli.main import VERBS, cli, main


def call(*arguments: object) -> int:
    """Exit status of `wsikit ARGUMENTS`."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_prints_its_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(verb, "--help") == 0
    assert "Usage: wsikit" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert wsikit.__version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["tile"], ["run", "x.svs"], ["vote", "x.zarr", "--method", "loud"]]
)
def test_a_wrong_request_ends_with_2(arguments: list[str]) -> None:
    assert call(*arguments) == 2


def test_the_stages_called_one_by_one_give_the_outputs_of_run(
    slide_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "disc.zarr"
    assert call("tile", slide_path, "-o", store, "--workers", "2") == 0
    assert call("caption", store, "--workers", "2") == 0
    assert call("predict", store, "--device", "cpu") == 0
    capsys.readouterr()
    assert call("vote", store, "--json", "--min-patches", "1") == 0
    voted = json.loads(capsys.readouterr().out)
    assert voted["classes"] == ["UD", "PD", "D"]
    for kind, name in (("png", "m.png"), ("geojson", "m.geojson"), ("report", "m.html"), ("csv", "m.csv")):
        assert call("export", store, "--to", kind, "-o", tmp_path / name) == 0
        assert (tmp_path / name).stat().st_size > 0
    with open(tmp_path / "m.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"x", "y", "tissue", "readable", "caption", "probability:UD", "gate"} <= set(rows[0])
    assert all(row["caption"] for row in rows)


def test_a_stage_that_is_called_too_early_reports_which_stage_comes_first(
    slide_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "disc.zarr"
    assert call("tile", slide_path, "-o", store) == 0
    capsys.readouterr()
    assert call("vote", store) == 1
    assert "wsikit predict" in capsys.readouterr().err
    assert call("caption", slide_path) == 1
    assert "wsikit tile" in capsys.readouterr().err


def test_a_model_refuses_patches_of_another_scale(
    slide_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "disc.zarr"
    assert call("tile", slide_path, "-o", store, "--mpp", "2", "--patch-size", "64") == 0
    capsys.readouterr()
    assert call("predict", store) == 1
    assert "224 px at 0.5 µm/px" in capsys.readouterr().err


def test_one_bad_slide_does_not_stop_tile(slide_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"II*\0" + b"\1" * 200)
    assert call("tile", bad, slide_path, "-o", tmp_path / "stores") == 1
    assert (tmp_path / "stores" / "disc.zarr" / "zarr.json").is_file()
    assert "bad.svs" in capsys.readouterr().err


def test_verbose_is_accepted_before_and_after_the_verb(slide_path: Path) -> None:
    import logging

    for arguments in (["-v", "info", slide_path], ["info", slide_path, "-v"], ["info", "--verbose", slide_path]):
        assert call(*arguments) == 0
        assert logging.getLogger("wsikit").level == logging.INFO
    assert call("info", slide_path, "-vv") == 0
    assert logging.getLogger("wsikit").level == logging.DEBUG
    assert call("info", slide_path) == 0
    assert logging.getLogger("wsikit").level == logging.ERROR


def test_a_misspelt_verb_gets_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("tiel") == 2
    assert "No such verb 'tiel'. Did you mean 'tile'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (PermissionError(13, "Permission denied", "/no/entry.csv"), 2, "/no/entry.csv: Permission denied"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 1, "pip install wsikit"),
    ],
)
def test_a_missing_permission_or_package_is_reported_in_one_line(
    error: Exception, status: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**options: object) -> None:
        raise error

    monkeypatch.setattr(cli, "main", fail)
    assert call("tile", "x.svs") == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("wsikit: ")
    assert words in line


def test_an_impossible_place_is_one_line(slide_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, file = tmp_path / "s.zarr", tmp_path / "file"
    assert call("tile", slide_path, "-o", store) == 0
    file.touch()
    capsys.readouterr()
    assert call("export", store, "--to", "tiff", "-o", file / "x.tif") == 1
    assert capsys.readouterr().err.startswith(f"wsikit: {file}")


def test_the_slide_of_a_store_is_never_overwritten_by_an_export(
    slide_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide, store = tmp_path / "x.tiff", tmp_path / "s.zarr"
    slide.write_bytes(slide_path.read_bytes())
    assert call("tile", slide, "-o", store) == 0
    assert call("export", store, "--to", "tiff", "-o", slide) == 2
    assert "give another file to write" in capsys.readouterr().err
    assert slide.read_bytes() == slide_path.read_bytes()


def test_a_folder_of_stores_and_a_missing_store_are_named_as_that(
    slide_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("tile", slide_path, "-o", tmp_path / "out" / "slides" / "s.zarr") == 0
    capsys.readouterr()
    assert call("verify", tmp_path / "out") == 1
    assert "a folder of stores). Give one or several of them:" in capsys.readouterr().err
    assert call("verify", tmp_path / "none.zarr") == 1
    assert "there is no such folder" in capsys.readouterr().err
