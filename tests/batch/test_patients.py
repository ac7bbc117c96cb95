"""`wsikit patients`: a run's rows become one row per patient; slides that failed, or never ran, are named in it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from wsikit.batch import records
from wsikit.batch.manifest import collect
from wsikit.batch.patients import combine_patients
from wsikit.batch.records import SlideRow
from wsikit.cli.main import main
from wsikit.errors import RequestError


def row(slide_id: str, subtype: str | None = "PD", *, tissue_mm2: float = 10.0, **other: object) -> SlideRow:
    probability = {"UD": 0.1, "PD": 0.2, "D": 0.1} | ({subtype: 0.7} if subtype else {})
    total = sum(probability.values())
    probability = {code: value / total for code, value in probability.items()}
    return SlideRow(slide_id, f"/s/{slide_id}.svs", records.DONE, subtype, probability, tissue_mm2=tissue_mm2, **other)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run of four slides: two of patient P, of which one failed; Q's abstained; one has no patient ID."""
    for one in (
        row("a", "D", tissue_mm2=30),
        SlideRow("b", "/s/b.svs", records.FAILED, error="/s/b.svs: not a slide"),
        row("c", None, abstained=True, reason="margin 0.010 is below 0.1"),
        row("d", "UD", tissue_mm2=10),
        row("stray"),
    ):
        records.write_row(tmp_path, one)
    return tmp_path


def manifest(folder: Path, *lines: str) -> Path:
    path = folder / "m.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def read_table(out: Path) -> dict[str, dict[str, str]]:
    with open(out / "patients.csv", encoding="utf-8", newline="") as file:
        return {line["patient"]: line for line in csv.DictReader(file)}


def test_every_slide_of_a_patient_is_in_the_table(out: Path, capsys: pytest.CaptureFixture[str]):
    path = manifest(out, "slide_id,patient", "a,P", "b,P", "d,P", "c,Q", "never,Q")
    assert call("patients", out, "--manifest", path) == 1  # one failed, one is missing, one has no patient ID
    table = read_table(out)
    assert (table["P"]["slides"], table["P"]["counted"]) == ("3", "2")
    assert (table["P"]["mean_subtype"], table["P"]["worst_subtype"], table["P"]["worst_slides"]) == ("D", "UD", "d")
    assert float(table["P"]["area_mm2"]) == 40
    assert table["P"]["left_out"] == "b: failed: /s/b.svs: not a slide"
    assert table["Q"]["mean_subtype"] == ""
    assert table["Q"]["left_out"] == (
        "c: abstained: margin 0.010 is below 0.1; never: missing: not in this folder's results"
    )
    assert "no patient ID: stray" in capsys.readouterr().err


def test_a_complete_run_ends_with_0_though_a_slide_abstained(tmp_path: Path):
    records.write_row(tmp_path, row("a"))
    records.write_row(tmp_path, row("c", None, abstained=True, reason="few patches"))
    assert call("patients", tmp_path, "--manifest", manifest(tmp_path, "slide_id,patient", "a,P", "c,P")) == 0


def test_slides_weigh_by_the_area_that_voted_where_results_say_it(out: Path):
    path = manifest(out, "slide_id,patient", "a,P", "d,P")
    assert combine_patients(out, manifest=path).weighted_by == "tissue area"
    for slide_id, areas in (("a", [0.5, 0.5, 0.0]), ("d", [1.0, 1.0, 1.0])):
        text = json.dumps({"areas": {"area_mm2": dict(zip(("UD", "PD", "D"), areas))}})
        (out / "results" / slide_id / "result.json").write_text(text, encoding="utf-8")
    found = combine_patients(out, manifest=path)
    assert found.weighted_by == "voting area"
    assert found.results[0].area_mm2 == 4.0
    assert found.results[0].mean == "UD"  # by tissue it would be D


def test_the_manifest_of_the_run_says_whose_slides_are(tmp_path: Path):
    for name in ("x.svs", "y.svs"):
        (tmp_path / name).write_bytes(b"")
    path = manifest(tmp_path, "path,patient", "x.svs,P", "y.svs,")
    entries = collect([], manifests=[path])
    assert [entry.patient for entry in entries] == ["P", ""]
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text(json.dumps({"patients": {"x": "P", "z": "P"}}))
    records.write_row(out, row("x", "PD"))
    (found,) = combine_patients(out).results
    assert found.counted == ("x",)
    assert found.left_out == {"z": "missing: not in this folder's results"}


def test_slides_are_found_by_path_too(out: Path):
    path = manifest(out, "path,patient", "/s/a.svs,P", "/s/e.svs,P")
    (found,) = combine_patients(out, manifest=path).results
    assert found.counted == ("a",)
    assert "/s/e.svs" in found.left_out


def test_names_that_a_spreadsheet_would_run_are_disarmed(out: Path):
    call("patients", out, "--manifest", manifest(out, "slide_id,patient", 'a,"=HYPERLINK(""x"")"'))
    assert list(read_table(out)) == ['\'=HYPERLINK("x")']


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["slide_id", "a"], "needs patient"),
        (["slide_id,patient", "a,P", "a,Q"], "two patients, 'P' and 'Q'"),
        (["slide_id,patient", ",P"], "neither slide_id nor path"),
    ],
)
def test_a_manifest_that_does_not_say_it_is_refused(out: Path, lines: list[str], said: str):
    with pytest.raises(RequestError, match=said):
        combine_patients(out, manifest=manifest(out, *lines))


def test_without_any_patient_the_error_names_the_next_step(out: Path):
    with pytest.raises(RequestError, match="--manifest"):
        combine_patients(out)
