"""Damaged slide files are refused, reported, or read as they are: no traceback, no endless work, no silent white."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

MUTANTS = int(os.environ.get("WSIKIT_MUTANTS", "300"))
IN_FOLDERS = int(os.environ.get("WSIKIT_MUTANTS_IN_FOLDERS", "60"))
"""docs/reliability.md states the result of longer runs."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and times of a child are those of Linux")


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, found)
    spec.loader.exec_module(found)
    return found


fuzz_slides = module("fuzz_slides")
made_slides, mutation, batches = fuzz_slides.made_slides, fuzz_slides.mutation, module("batches")

SLIDES = ("SVS, JPEG", "TIFF, LZW", "OME-TIFF, JPEG", "NDPI, JPEG", "DICOM, JPEG 2000", "store, Zstandard", "PNG")


@pytest.mark.timeout(300)
def test_nothing_that_must_not_happen_happens_to_a_hundred_damaged_slides(tmp_path: Path) -> None:
    sources = {name: made_slides.make(name, tmp_path) for name in SLIDES}
    rows = fuzz_slides.fuzz(tmp_path / "work", sources, range(500, 515), run_each=0)
    assert [row for row in rows if row["wrong"]] == []
    results = {row["result"] for row in rows}
    assert {"refused", "reported", "equal"} <= results, "the damage is of many kinds"


def fuzzed(folder: Path, mutants: int, *options: str) -> None:
    command = [sys.executable, str(Path(fuzz_slides.__file__)), str(folder), "--mutants", str(mutants), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300 + 2 * MUTANTS)
def test_nothing_that_must_not_happen_happens_to_slides_of_all_kinds(tmp_path: Path) -> None:
    fuzzed(tmp_path, MUTANTS, "--seed", "900")


@pytest.mark.slow
@pytest.mark.timeout(300 + 10 * IN_FOLDERS)
def test_nothing_that_must_not_happen_happens_to_folders_of_damaged_slides(tmp_path: Path) -> None:
    fuzzed(tmp_path, IN_FOLDERS, "--seed", "800", "--batch", "150")


def test_a_seed_gives_the_same_damage_again(tmp_path: Path) -> None:
    for name in ("TIFF, JPEG", "DICOM, JPEG", "OME-Zarr, Blosc"):
        source = made_slides.make(name, tmp_path)
        for seed in range(4):
            damage, contents = [], []
            for again in ("a", "b"):
                copy = tmp_path / f"{name} {seed}{again}"
                copy.mkdir()
                damage.append(mutation.mutate(source, copy / source.name, seed))
                contents.append([path.read_bytes() for path in sorted(copy.rglob("*")) if path.is_file()])
            assert damage[0] == damage[1]
            assert contents[0] == contents[1]


READ = {"equal": 3, "unreadable": 0, "changed": 0, "white": 0, "shape": True}
DONE = {"status": 0, "lines": [], "escaped": None}
SEEN: dict[str, tuple[dict, tuple[str, list[str]]]] = {
    "refused": ({"info": {"status": 1, "lines": ["wsikit: a"], "escaped": None}}, ("refused", [])),
    "refused silently": ({"info": {"status": 1, "lines": [], "escaped": None}}, ("refused", ["several lines"])),
    "traceback": ({"info": {"status": 0, "lines": [], "escaped": "KeyError: 1"}}, ("refused", ["traceback"])),
    "equal": ({"info": DONE, "read": READ}, ("equal", [])),
    "reported": ({"info": DONE, "read": READ | {"unreadable": 1}}, ("reported", [])),
    "other shape": ({"info": DONE, "read": READ | {"shape": False}}, ("other shape", [])),
    "white": ({"info": DONE, "read": READ | {"changed": 1, "white": 1}}, ("changed", ["white"])),
    "memory": ({"info": DONE, "read": READ, "grown_mb": 3000}, ("equal", ["memory"])),
    "store": ({"info": DONE, "read": READ, "kept": {"differs": 1}}, ("equal", ["store differs"])),
    "failed row": (
        {"info": DONE, "read": READ, "run": DONE | {"reason": ["wsikit.errors.ReadError: a"]}},
        ("equal", []),
    ),
    "unexpected": ({"info": DONE, "read": READ, "run": DONE | {"reason": ["KeyError: 1"]}}, ("equal", ["traceback"])),
    "hang": ({"hang": "info"}, ("hang", ["hang"])),
}


@pytest.mark.parametrize("name", SEEN)
def test_what_was_seen_is_classified(name: str) -> None:
    seen, expected = SEEN[name]
    assert fuzz_slides.classify(seen) == expected


def test_what_tile_says_of_each_slide_of_a_folder_is_found() -> None:
    paths = [Path(f"in/{name}") for name in ("0/0_a.svs", "1/1_a.zarr", "2/2_a.png", "3/3_a.tiff")]
    printed = "out/0__0_a.zarr: 4 patches of 0.5um_224px, 1 mm² of tissue\nout/2_a.zarr: 4 patches of x, 1 mm²\n"
    errors = "pixels: started\nwsikit: in/1/1_a.zarr/0/zarr.json: the file is missing\n"
    assert batches._of_tile(printed, errors, paths) == {
        "in/0/0_a.svs": {"store": "out/0__0_a.zarr"},
        "in/1/1_a.zarr": {"error": "wsikit: in/1/1_a.zarr/0/zarr.json: the file is missing"},
        "in/2/2_a.png": {"store": "out/2_a.zarr"},
    }


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("a.svs: the TIFF structure is damaged (TiffFileError: no directory). Copy it again.", []),
        ("a.svs: unexpected KeyError: 'x'", ["traceback"]),
        ("wsikit: a.svs: IndexError: list index out of range", ["traceback"]),
        ("a.svs: the process that worked on it ended by signal 11, SIGSEGV in the stage pixels.", ["crash"]),
        ("a.svs: no progress for 1 minutes in the stage pixels: it hangs.", ["hang"]),
        ("one\ntwo", ["several lines"]),
    ],
)
def test_what_is_wrong_with_the_row_of_a_slide_is_named(error: str, expected: list[str]) -> None:
    assert batches.wrong_with({"error": error}) == expected


def test_white_is_a_share_of_full_squares_not_of_single_pixels() -> None:
    child, where = module("child"), np.zeros((96, 96), bool)
    where[::2] = True
    assert child._in_squares(where) == 0
    where[:, :48] = True
    assert child._in_squares(where) == 0.5


def test_a_child_that_dies_or_does_not_end_is_noticed_and_started_again(tmp_path: Path, monkeypatch) -> None:
    """With a child that does what its job is called."""
    child = tmp_path / "child.py"
    child.write_text(
        "import json, os, sys\n"
        "print(json.dumps({'ready': 1}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    print(json.dumps({'step': 'read'}), flush=True)\n"
        "    what = json.loads(line)['path']\n"
        "    while what == 'hang': pass\n"
        "    if what == 'die': os.abort()\n"
        "    print(json.dumps({'done': {'said': what}}), flush=True)\n"
    )
    monkeypatch.setattr(fuzz_slides, "STEP_SECONDS", 0.5)
    monkeypatch.setattr(fuzz_slides, "CHILD", child)
    asked = fuzz_slides.Child(100, {"path": "warm", "work": str(tmp_path / "warm")})
    try:
        answers = [asked.ask({"path": what}) for what in ("fine", "die", "fine", "hang", "fine")]
    finally:
        asked.stop()
    assert answers == [
        {"said": "fine"},
        {"crash": "read, status -6"},
        {"said": "fine"},
        {"hang": "read"},
        {"said": "fine"},
    ]
