"""Runs with generated captions or a caption budget: on the device, resumed, recorded in run.json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from wsikit.batch.records import DONE, FAILED
from wsikit.batch.run import run
from wsikit.batch.run_result import RunResult
from wsikit.captions import Caption, CaptionerOptions, registry
from wsikit.cli.main import main
from wsikit.errors import RequestError, UnreachableError
from wsikit.inference.budget import Budget
from wsikit.inference.caption_columns import NO_ROW, read_captions
from wsikit.slides.store import SlideStore


class Counting:
    """A generative captioner that counts patches; its server may become unreachable."""

    name, fact_names, batch = "counting", (), 8

    def __init__(self) -> None:
        self.asked, self.loaded, self.gone_after = 0, 0, None

    def load(self, spec: str, options: CaptionerOptions, *, device: str) -> Counting:
        self.loaded += 1
        return self

    def fingerprint(self) -> dict[str, Any]:
        return {"captioner": self.name}

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        if self.gone_after is not None and self.asked >= self.gone_after:
            raise UnreachableError("http://x/v1: the captioning server does not answer any more")
        self.asked += len(images)
        return [Caption(f"Small round nuclei, shade {int(image.mean())}.") for image in images]


@pytest.fixture
def captioner(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """Replaces every captioner that a run loads."""
    counting = Counting()
    monkeypatch.setattr(registry, "load_captioner", counting.load)
    monkeypatch.setattr(registry, "check_captioner", lambda spec: None)
    return counting


@pytest.fixture
def start(model_folder: Path, tmp_path: Path) -> Callable[..., RunResult]:
    """Runs slides into tmp_path/out with the tiny model."""

    def run_it(*slides: Path, **changes: Any) -> RunResult:
        return run(slides, tmp_path / "out", model=model_folder, workers=2, device="cpu", **changes)

    return run_it


def store_of(tmp_path: Path, slide_id: str = "disc") -> SlideStore:
    return SlideStore(tmp_path / "out" / "slides" / f"{slide_id}.zarr")


def test_generated_captions_reach_the_model_and_are_kept(
    start: Callable[..., RunResult],
    captioner: Counting,
    tmp_path: Path,
    slide_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert start(slide_path, captioner="some/model").exit_status == 0
    assert "trained on captions by morphometry, these are by counting" in caplog.text
    table = store_of(tmp_path).patches()
    assert captioner.asked == len(table)
    assert all(read_captions(table).texts)
    assert (table.read("gate") > 0).all()
    predicted = table.receipt("probability")
    assert predicted.inputs["caption"] == table.receipt("caption").digest
    start(slide_path, captioner="some/model")
    assert captioner.asked == len(table)
    assert table.receipt("probability") == predicted


def test_a_captioner_is_loaded_once_and_equal_slides_are_described_once(
    start: Callable[..., RunResult], captioner: Counting, tmp_path: Path, slide_path: Path
) -> None:
    twin = shutil.copy(slide_path, tmp_path / "twin.tiff")
    start(slide_path, twin, captioner="some/model")
    one, two = (read_captions(store_of(tmp_path, name).patches()).texts for name in ("disc", "twin"))
    assert captioner.loaded == 1
    assert captioner.asked == len(one)
    assert one.tolist() == two.tolist()


def test_patches_beyond_the_budget_are_classified_by_the_image_alone(
    start: Callable[..., RunResult], captioner: Counting, tmp_path: Path, slide_path: Path
) -> None:
    assert start(slide_path, captioner="some/model", caption_budget=Budget(10, 1.0)).exit_status == 0
    table = store_of(tmp_path).patches()
    found = read_captions(table)
    without_text = found.rows == NO_ROW
    assert captioner.asked <= 10
    assert without_text.any()
    assert (table.read("gate")[without_text] == 0).all()
    assert (table.read("gate")[~without_text] > 0).all()
    assert np.isnan(table.read("probability_text")[without_text]).all()
    record = json.loads((tmp_path / "out" / "run.json").read_text())["configuration"]
    assert record["caption_budget"] == {"captions": 10, "similarity": 1.0}
    assert record["captioner"] == "some/model"
    assert "features" in table.receipt("caption").parameters["budget"]


def test_a_lost_server_fails_the_slide_and_the_next_run_continues(
    start: Callable[..., RunResult], captioner: Counting, tmp_path: Path, slide_path: Path
) -> None:
    captioner.gone_after = 24
    summary = start(slide_path, captioner="some/model")
    assert [row.status for row in summary.rows] == [FAILED]
    assert "does not answer" in summary.rows[0].error
    captioner.gone_after = None
    assert [row.status for row in start(slide_path, captioner="some/model").rows] == [DONE]
    assert captioner.asked == len(store_of(tmp_path).patches())


def test_the_report_marks_captions_that_describe_another_patch(
    start: Callable[..., RunResult], captioner: Counting, tmp_path: Path, slide_path: Path
) -> None:
    report = tmp_path / "out" / "results" / "disc" / "report.html"
    start(slide_path, captioner="some/model", caption_budget=Budget(2, 0.0))
    assert "Written about a patch that looks like this one" in report.read_text(encoding="utf-8")
    start(slide_path, captioner="some/model")
    assert "Written about a patch" not in report.read_text(encoding="utf-8")


def test_measured_captions_replace_those_of_a_budget(
    start: Callable[..., RunResult], tmp_path: Path, slide_path: Path
) -> None:
    start(slide_path, caption_budget=Budget(4))
    assert "caption_source" in store_of(tmp_path).patches().columns()
    start(slide_path)
    table = store_of(tmp_path).patches()
    assert "caption_source" not in table.stored_columns()
    assert all(table.read("caption"))


def test_a_missing_captioner_is_refused_before_any_slide_is_processed(
    start: Callable[..., RunResult], tmp_path: Path, slide_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RequestError, match="unknown captioner"):
        start(slide_path, captioner="oracle")
    assert not (tmp_path / "out").exists()
    for arguments in (
        ["--captioner", "oracle"],
        ["--prompt", "What?"],
        ["--caption-similarity", "0.5"],
        ["--caption-budget", "-1"],
        ["--prompt", " "],
    ):
        with pytest.raises(SystemExit) as ended:
            main(["run", str(slide_path), "-o", str(tmp_path / "other"), *arguments])
        assert ended.value.code == 2
    assert not (tmp_path / "other").exists()


def test_the_default_captioner_is_the_one_the_model_was_trained_with(
    slide_path: Path, tmp_path: Path, model_folder: Path
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changed = {**record, "captioner": "morphometry-in-slide", "mpp": 1.0}
    (folder / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    assert run(slide_path, tmp_path / "out", model=folder).exit_status == 0
    configuration = json.loads((tmp_path / "out" / "run.json").read_text())["configuration"]
    assert configuration["captioner"] == "morphometry-in-slide"
    table = store_of(tmp_path).patches()
    assert table.attributes("caption")["captioner"] == "morphometry-in-slide"
    assert any("In its slide: " in text for text in table.read("caption").tolist())
