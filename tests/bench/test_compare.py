"""Two benchmark results compared: only ratios are judged, each in its direction."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "compare.py"
    spec = importlib.util.spec_from_file_location("compare", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare"] = module
    spec.loader.exec_module(module)
    return module


OLD = {"tiling": {"tile_s": 2.0, "speed_against_copy": 0.5, "bytes_against_source": 1.0}, "patches": 7}


def status(compare: ModuleType, folder: Path, new: Any, *options: str, old: Any = OLD) -> int:
    for name, record in (("old", old), ("new", new)):
        (folder / f"{name}.json").write_text(json.dumps(record))
    return int(compare.main([str(folder / "old.json"), str(folder / "new.json"), *options]))


def changed(**values: float) -> dict[str, Any]:
    return {**OLD, "tiling": {**OLD["tiling"], **values}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (OLD, 0),
        (changed(speed_against_copy=0.46), 0),
        (changed(speed_against_copy=0.44), 1),
        (changed(speed_against_copy=5.0), 0),
        (changed(bytes_against_source=1.2), 1),
        (changed(bytes_against_source=0.5), 0),
        (changed(tile_s=200.0), 0),
        ({"tiling": {"tile_s": 2.0, "bytes_against_source": 1.0}}, 1),
    ],
    ids=["same", "within", "worse", "better", "more bytes", "fewer bytes", "seconds are not judged", "gone"],
)
def test_the_exit_status_shows_whether_a_ratio_got_worse(
    compare: ModuleType, tmp_path: Path, new: Any, expected: int
) -> None:
    assert status(compare, tmp_path, new) == expected


@pytest.mark.parametrize(
    ("place", "judged"),
    [
        ("features.found.share.resnet50.share.cpu_s", True),
        ("loops.times as fast.wsikit, auto.wall_s", True),
        ("features.found.share.resnet50.in memory.cpu_s", False),
        ("share.resnet50.patches_per_s", False),
        ("finished.found.one slide, share of import torch.wall_s", False),
    ],
)
def test_ratios_of_features_are_judged_and_their_seconds_are_not(
    compare: ModuleType, tmp_path: Path, place: str, judged: bool
) -> None:
    def record(value: float) -> Any:
        for key in reversed(place.split(".")):
            value = {key: value}  # type: ignore[assignment]
        return value

    assert status(compare, tmp_path, record(0.5), old=record(1.0)) == int(judged)


def test_the_tolerance_is_the_callers(compare: ModuleType, tmp_path: Path) -> None:
    assert status(compare, tmp_path, changed(speed_against_copy=0.44), "--tolerance", "0.2") == 0
    assert status(compare, tmp_path, changed(speed_against_copy=0.49), "--tolerance", "0.01") == 1


def test_slides_in_a_list_are_matched_by_name(
    compare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = {"slide": "a", "wsikit_against_openslide": 5.0}, {"slide": "b", "wsikit_against_openslide": 2.0}
    assert status(compare, tmp_path, {"r": [two, one]}, old={"r": [one, two]}) == 0
    assert "r.a.wsikit_against_openslide: 5 → 5  ×1.00" in capsys.readouterr().out
    assert status(compare, tmp_path, {"r": [{**one, "wsikit_against_openslide": 4.0}, two]}, old={"r": [one, two]}) == 1
    assert "WORSE  r.a.wsikit_against_openslide: 5 → 4  ×0.80" in capsys.readouterr().out
