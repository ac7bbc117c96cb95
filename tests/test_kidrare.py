"""The KidRare example on phantoms, with label and division files of the published layout, and each kind of mistake."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from wsikit.cli.main import cli
from wsikit.errors import RequestError
from wsikit.phantom import make_phantom

EXAMPLE = Path(__file__).parents[1] / "examples" / "kidrare"
WORDS = {
    "PD": "Poorly differentiated neuroblastoma",
    "D": "Differentiating neuroblastoma",
    "GNB-I": "Ganglioneuroblastoma, intermixed",
}
NAMES = [f"NULL-20241216-1200{n:02d}.ibl" for n in range(6)]
CODES = ("PD", "D", "GNB-I") * 2


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kidrare_manifest", EXAMPLE / "manifest.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A label file, a division file (the first three slides train, the others test) and a folder of empty slides."""
    labels = {name: WORDS[code] for name, code in zip(NAMES, CODES)}
    numbers = {"GNB-I": "1", "D": "2", "PD": "3"}
    part = {numbers[code]: [name] for name, code in zip(NAMES[:3], CODES)}
    rest = {numbers[code]: [name] for name, code in zip(NAMES[3:], CODES[3:])}
    division = {
        "BRCA": {"train_IDs": {}, "test_IDs": {}, "name2label": {}},
        "Neuroblastoma": {
            "train_IDs": part,
            "test_IDs": rest,
            "name2label": {WORDS[code]: int(number) for code, number in numbers.items()},
        },
    }
    paths = {"labels": tmp_path / "labels.json", "division": tmp_path / "division.json", "slides": tmp_path / "slides"}
    paths["labels"].write_text(json.dumps(labels, indent=2), encoding="utf-8")
    paths["division"].write_text(json.dumps(division, indent=4), encoding="utf-8")
    paths["slides"].mkdir()
    for name in NAMES:
        (paths["slides"] / name).with_suffix(".tiff").touch()
    return paths | {"out": tmp_path / "cohort"}


def run(builder: ModuleType, monkeypatch, files: dict[str, Path], *options: str) -> int:
    command = ["manifest.py", str(files["labels"]), str(files["slides"]), "-o", str(files["out"]), *options]
    monkeypatch.setattr(sys, "argv", command)
    return builder.main()


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_manifest_has_each_slide_with_its_class_and_part(builder, files, monkeypatch, capsys):
    assert run(builder, monkeypatch, files, "--division", str(files["division"]), "--mpp", "0.25") == 0
    table = rows(files["out"] / "manifest.csv")
    assert [row["slide_id"] for row in table] == [name.removesuffix(".ibl") for name in NAMES]
    assert [row["label"] for row in table] == list(CODES)
    assert [row["part"] for row in table] == ["train"] * 3 + ["test"] * 3
    assert table[2]["published_label"] == "Ganglioneuroblastoma, intermixed"
    assert {row["mpp"] for row in table} == {"0.25"}
    assert [row["slide_id"] for row in rows(files["out"] / "test.csv")] == [row["slide_id"] for row in table[3:]]
    said = capsys.readouterr().out
    assert "6 slides: 2 PD, 2 D, 2 GNB-I" in said
    assert "label file: 6 slides, NOT those of commit 592e9a9" in said
    assert "patient" not in table[0]


def test_the_recorded_hashes_are_those_of_sorted_rows(builder):
    assert builder.rows_hash({"b": "x", "a": "y"}) == builder.hashlib.sha256(b"a\ty\nb\tx\n").hexdigest()
    record = json.loads((EXAMPLE / "published.json").read_text(encoding="utf-8"))
    assert sum(record["labels"]["classes"].values()) == record["labels"]["slides"] == 136
    parts = [record["division"][part] for part in ("train", "test")]
    assert sum(part["slides"] for part in parts) == 136
    assert [sum(part["classes"].values()) for part in parts] == [45, 91]
    assert set(builder.read_label_map().values()) == set(record["labels"]["classes"])


def test_slides_labelled_differently_in_both_files_need_a_choice(builder, files, monkeypatch, capsys):
    labels = json.loads(files["labels"].read_text(encoding="utf-8"))
    labels[NAMES[0]] = WORDS["D"]
    files["labels"].write_text(json.dumps(labels), encoding="utf-8")
    division = ("--division", str(files["division"]))
    assert run(builder, monkeypatch, files, *division) == 2
    assert f"{NAMES[0]} is labelled differently" in capsys.readouterr().err
    found = {}
    for choice in ("drop", "labels", "division"):
        assert run(builder, monkeypatch, files, *division, "--disagreeing", choice) == 0
        found[choice] = [row["label"] for row in rows(files["out"] / "manifest.csv")]
    assert found == {"drop": list(CODES[1:]), "labels": ["D", *CODES[1:]], "division": list(CODES)}
    assert run(builder, monkeypatch, files) == 0  # without the division file there is nothing to differ from


def missing(files: dict[str, Path]) -> None:
    (files["slides"] / NAMES[0]).with_suffix(".tiff").unlink()


def not_converted(files: dict[str, Path]) -> None:
    missing(files)
    (files["slides"] / NAMES[0]).touch()


def renamed(files: dict[str, Path]) -> None:
    (files["slides"] / NAMES[0]).with_suffix(".tiff").write_bytes(b"SQLite format 3\0" + bytes(84))


def two_files(files: dict[str, Path]) -> None:
    (files["slides"] / "more").mkdir()
    (files["slides"] / "more" / NAMES[0]).with_suffix(".svs").touch()


def edited(files: dict[str, Path], name: str, old: str, new: str) -> None:
    text = files[name].read_text(encoding="utf-8")
    assert old in text
    files[name].write_text(text.replace(old, new, 1), encoding="utf-8")


def other_tumour(files: dict[str, Path]) -> None:
    edited(files, "labels", WORDS["PD"], "Classic medulloblastoma")


def named_twice(files: dict[str, Path]) -> None:
    edited(files, "labels", NAMES[1], NAMES[0])


def in_both_parts(files: dict[str, Path]) -> None:
    edited(files, "division", NAMES[3], NAMES[0])


def not_divided(files: dict[str, Path]) -> None:
    edited(files, "division", f'"{NAMES[3]}"', "")


def other_division(files: dict[str, Path]) -> None:
    edited(files, "division", '"Neuroblastoma"', '"Glioma"')


def no_json(files: dict[str, Path]) -> None:
    files["labels"].write_text("<html>", encoding="utf-8")


def no_folder(files: dict[str, Path]) -> None:
    files["slides"] = files["slides"] / "nowhere"


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (missing, "NULL-20241216-120000.ibl is missing. Download and convert them, or give --partial"),
        (not_converted, "NULL-20241216-120000.ibl is not converted. wsikit does not read IBL files"),
        (renamed, "NULL-20241216-120000.ibl is not converted"),
        (two_files, "two files for one slide: NULL-20241216-120000.tiff and more/NULL-20241216-120000.svs is"),
        (other_tumour, "unknown label 'Classic medulloblastoma'; labels.csv has Poorly"),
        (named_twice, "NULL-20241216-120000.ibl is named twice; keep one entry"),
        (in_both_parts, "NULL-20241216-120000.ibl twice, in train and test"),
        (not_divided, "NULL-20241216-120003.ibl is not in the other file"),
        (other_division, "no 'Neuroblastoma' with train_IDs, test_IDs and name2label"),
        (no_json, "cannot be read as JSON"),
        (no_folder, "no such folder; give the folder with the converted slides"),
    ],
)
def test_each_kind_of_mistake_has_one_clear_error(builder, files, monkeypatch, capsys, mistake, said):
    mistake(files)
    assert run(builder, monkeypatch, files, "--division", str(files["division"])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line.replace("\\", "/")
    assert not files["out"].exists()


def test_missing_slides_can_be_left_out(builder, files, monkeypatch, capsys):
    missing(files)
    assert run(builder, monkeypatch, files, "--partial") == 0
    assert "left out: 1 slides (1 missing" in capsys.readouterr().out
    assert len(rows(files["out"] / "manifest.csv")) == 5


@pytest.mark.slow
def test_the_manifest_and_its_stores_fit_the_commands_of_the_readme(builder, files, monkeypatch):
    """End to end on synthetic slides named as those of the data set, one per class."""
    for name, code in zip(NAMES[:3], CODES):
        path = (files["slides"] / name).with_suffix(".tiff")
        make_phantom(path, size_px=(240, 240), mpp=1.0, subtype=code, seed=1, tissue_fraction=0.95, artefacts=False)
    for name in NAMES[3:]:
        (files["slides"] / name).with_suffix(".tiff").unlink()
    assert run(builder, monkeypatch, files, "--division", str(files["division"]), "--partial") == 0
    manifest, stores = files["out"] / "manifest.csv", files["out"] / "stores"
    plan = CliRunner().invoke(cli, ["run", "--manifest", str(manifest), "-o", str(files["out"] / "run"), "--dry-run"])
    assert plan.exit_code == 0, plan.output
    assert "3 slides" in plan.output
    encode = ["features", str(files["slides"]), "--encoder", "phantom-afloc", "--mpp", "1.0", "-o", str(stores)]
    done = CliRunner().invoke(cli, encode)
    assert done.exit_code == 0, done.output
    table = rows(manifest)
    assert len(table) == 3
    assert all((files["out"] / row["store"] / "zarr.json").is_file() for row in table)


def test_the_training_configuration_has_the_classes_of_the_label_map(builder):
    import yaml

    config = yaml.safe_load((EXAMPLE / "train.yaml").read_text(encoding="utf-8"))
    assert [one["code"] for one in config["classes"]] == list(builder.read_label_map().values())


def test_errors_of_the_builder_are_those_of_the_package(builder, files):
    with pytest.raises(RequestError):
        builder.read_published(files["slides"] / "none.json", None, WORDS.values())
