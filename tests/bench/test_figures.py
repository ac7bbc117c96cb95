"""The figures of all benchmarks in one table: each number found at its place, judged in its direction."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


FOUND = {"slides": [{"slide": "a.svs", "now": {"share": 0.75}}, {"slide": "b.svs", "now": {"share": 0.9}}], "ms": 7.0}


@pytest.mark.parametrize(
    ("place", "number"),
    [("slides/b.svs/now/share", 0.9), ("slides/0/now/share", 0.75), ("ms", 7.0), ("slides/c.svs/now", None)],
)
def test_a_number_is_found_by_its_keys_its_slide_or_its_position(place: str, number: float | None) -> None:
    assert load("figures").find(FOUND, place) == number


@pytest.mark.parametrize(
    ("aim", "less", "reached"), [(7.0, True, "yes"), (6.9, True, "NO"), (7.0, False, "yes"), (7.1, False, "NO")]
)
def test_a_figure_is_judged_in_its_direction(aim: float, less: bool, reached: str) -> None:
    figures = load("figures")
    rows = figures.table({"t": {"found": FOUND}}, [figures.Figure("t", "time", "ms", aim=aim, less=less)])
    assert rows[1][-1] == reached


def test_a_figure_that_was_not_measured_has_no_row() -> None:
    figures = load("figures")
    assert len(figures.table({"t": {"found": {}}})) == 1


def test_one_result_of_all_benchmarks_is_shown_against_base_and_aim(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"finished": {"found": {"one slide": {"wall_s": 0.4}, "one slide, base": {"wall_s": 0.5}}}}
    (tmp_path / "all.json").write_text(json.dumps(record))
    assert load("compare").main([str(tmp_path / "all.json")]) == 0
    assert "finished  finished slide, wall s  0.5   0.4" in capsys.readouterr().out


FEATURES = {
    "share": {
        name: {"in memory": {"cpu_s": 9.0}, "patches_per_s": 18.8, "share": {"wall_s": wall, "cpu_s": 0.99}}
        for name, wall in (("vit_small_patch16_224", 1.0), ("resnet50", 0.9))
    },
    "loops": {
        "times as fast": {
            "wsikit, float32": {"wall_s": 1.05, "cpu_s": 1.1},
            "wsikit, auto": {"wall_s": 1.7, "cpu_s": 1.4},
        },
        "median cosine of features": 0.99999,
    },
    "memory": [{"patches": 93, "peak_mb": 868}, {"patches": 679, "peak_mb": 875}],
}
"""As `benchmarks/features.py` writes it."""


def test_the_figures_of_features_are_read() -> None:
    rows = load("figures").table({"features": {"found": FEATURES}})[1:]
    found = {title: (here, reached) for _, title, _, here, _, reached in rows}
    assert len(rows) == 13
    assert found["vit_small_patch16_224: share of its own speed, wall"] == ("1", "yes")
    assert found["resnet50: share of its own speed, wall"] == ("0.9", "NO")
    assert found["ResNet-18, auto: times the common loop, processor time"] == ("1.4", "NO")
    assert found["ResNet-18, float32: times the common loop, wall"] == ("1.05", "")
    assert found["peak memory, eight times as many, MB"] == ("875", "")


def test_every_step_names_a_script_that_is_there() -> None:
    for step in load("run_all").PLAN:
        assert (FOLDER / step.script).is_file()
