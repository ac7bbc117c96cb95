"""While the model works on one slide, the next is tiled and described; and a run that is stopped stops all slides."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wsikit
from wsikit.batch.log import read_log
from wsikit.batch.run import run
from wsikit.models.protocol import ModelInfo

INFO = ModelInfo(
    name="waiting",
    version="1",
    architecture="waiting",
    fingerprint="waiting",
    patch_px=64,
    mpp=1.0,
    stain="H&E",
    classes=("a", "b"),
    class_names=("a", "b"),
    colors=("#000000", "#ffffff"),
)


class WaitsForTheNextSlide:
    """Its first call returns only when another slide's tiling has begun."""

    info = INFO

    def __init__(self, out: Path, *, stop: bool = False) -> None:
        self.out, self.stop = out, stop
        self.waited: list[bool] = []

    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        if not self.waited:
            self.waited.append(_wait(lambda: _began(self.out, "quality and captions") > 1))
            if self.stop:
                raise KeyboardInterrupt
        return {"probability": np.full((len(images), 2), 0.5, np.float32)}


def _began(out: Path, stage: str) -> int:
    return sum(event["event"] == "start" and event.get("stage") == stage for event in read_log(out))


def _wait(condition: Any) -> bool:
    """Whether the condition comes true; given up after a minute, which no machine needs."""
    done = threading.Event()
    for _ in range(600):
        if condition():
            return True
        done.wait(0.1)
    return False


@pytest.fixture
def two_slides(slide_path: Path, tmp_path: Path) -> list[Path]:
    return [slide_path, shutil.copy(slide_path, tmp_path / "second.tiff")]


def test_the_second_slide_is_tiled_during_the_first_ones_forward_pass(two_slides: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    model = WaitsForTheNextSlide(out)
    result = run(two_slides, out, model=model)
    assert [row.status for row in result] == ["done", "done"]
    assert model.waited == [True]
    events = [(event.get("slide"), event.get("stage"), event["event"]) for event in read_log(out)]
    first = next(slide for slide, stage, event in events if (stage, event) == ("predictions", "start"))
    (other,) = {"disc", "second"} - {first}
    assert events.index((other, "quality and captions", "start")) < events.index((first, "predictions", "end"))
    assert [json.loads(line)["t"] >= 0 for line in (out / "log.jsonl").read_text().splitlines()]


def test_stopping_in_one_slide_stops_all_and_the_next_run_finishes(two_slides: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(two_slides, out, model=WaitsForTheNextSlide(out, stop=True))
    assert not any((out / "results" / name / "finished.json").exists() for name in ("disc", "second"))
    model = WaitsForTheNextSlide(out)
    model.waited.append(True)
    assert run(two_slides, out, model=model).exit_status == 0


def test_a_model_that_cannot_be_loaded_ends_the_run_and_not_each_slide(
    two_slides: list[Path], tmp_path: Path, model_folder: Path
) -> None:
    damaged = shutil.copytree(model_folder, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(wsikit.WsikitError, match=r"model\.safetensors: damaged"):
        run(two_slides, tmp_path / "out", model=damaged)
    assert not list((tmp_path / "out").glob("failures/*"))
    assert run(two_slides, tmp_path / "out", model=model_folder).exit_status == 0
