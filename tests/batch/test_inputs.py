"""A correction of an input redoes what depends on it and nothing else, as the table in docs/store.md shows."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wsikit.batch.entry import SlideEntry
from wsikit.batch.run import plan_run, run
from wsikit.slides.store import SlideStore
from wsikit.voting import VoteParameters

DOCS = Path(__file__).parents[2] / "docs"


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("inputs_table", DOCS / "inputs_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["inputs_table"] = module
    spec.loader.exec_module(module)
    return module


inputs = _script()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return inputs.Finished.make(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def table() -> list[str]:
    text: str = inputs.STORE_PAGE.read_text(encoding="utf-8")
    return text[text.index(inputs.BEGIN) : text.index(inputs.END)].splitlines()[1:]


def test_the_table_has_every_input_and_no_other(table: list[str]) -> None:
    assert table[:2] == inputs.header()
    assert [line.split(" |")[0].removeprefix("| ") for line in table[2:]] == list(inputs.ROWS)


@pytest.mark.parametrize("name", inputs.ROWS)
def test_a_changed_input_redoes_what_the_table_shows(finished: Any, table: list[str], name: str) -> None:
    line = inputs.line_of(name, inputs.planned(finished, inputs.ROWS[name]))
    assert line in table, f"{line}\nis what the plan states. Run python docs/inputs_table.py and compare."


@pytest.mark.parametrize("name", [item.name for item in fields(VoteParameters) if item.type in ("float", "int")])
def test_each_number_of_the_vote_redoes_the_vote(finished: Any, name: str) -> None:
    value = getattr(VoteParameters(), name)
    settings = finished.settings() | {
        "vote": VoteParameters(**{name: value + 1 if isinstance(value, int) else value * 0.9})
    }
    (slide,) = plan_run(settings.pop("slides"), settings.pop("out"), **settings).slides
    assert [stage.name for stage in slide.to_do] == ["vote", "map and report"]


def _times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_run_after_a_correction_writes_what_the_plan_states(tmp_path: Path) -> None:
    made = inputs.Finished.make(tmp_path)
    store = made.out / "slides" / "slide.zarr"
    before = _times(store)
    run(**made.settings() | {"min_roi": 0.7})
    after = _times(store)
    changed = {Path(path).relative_to(store).parts[0] for path in before if after.get(path) != before[path]}
    assert changed == {"patches"}
    record = SlideStore.read_record(store)
    corrected = made.settings() | {"slides": SlideEntry("slide", str(made.slide), mpp=0.45)}
    result = run(**corrected)
    assert SlideStore.read_record(store)["mpp"] == [0.45, 0.45] != record["mpp"]
    assert result[0].mpp_x == 0.45
    assert json.loads((made.out / "results" / "slide" / "result.json").read_text())
    assert run(**corrected).changes == ()
