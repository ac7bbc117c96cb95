"""The model is loaded while the first new slide is described; its errors end the run; finished slides load nothing."""

from __future__ import annotations

import _thread
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from wsikit.batch.log import read_log
from wsikit.batch.run import run
from wsikit.batch.run_result import RunResult
from wsikit.captions import Caption
from wsikit.errors import ModelError
from wsikit.models import lazy
from wsikit.models.protocol import ModelInfo

INFO = ModelInfo(
    name="even",
    version="1",
    architecture="even",
    fingerprint="even",
    patch_px=64,
    mpp=1.0,
    stain="H&E",
    classes=("a", "b"),
    class_names=("a", "b"),
    colors=("#000000", "#ffffff"),
    inputs=("image",),
)


class Even:
    """A model that gives each class the same probability."""

    info = INFO

    def predict(self, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        return {"probability": np.full((len(images), 2), 0.5, np.float32)}


class Loader:
    """Stands in for the loading of a model; counts it, and may fail."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.threads: list[str] = []
        self.errors: list[Exception] = []

    def load(self, spec: str, *, device: str) -> Even:
        self.threads.append(threading.current_thread().name)
        self.begun.set()
        if self.errors:
            raise self.errors.pop(0)
        return Even()


class Describes:
    """A captioner that describes nothing before `ready` says so."""

    name, fact_names, parallel = "describes", (), True

    def __init__(self, ready: Callable[[], bool] = lambda: True) -> None:
        self.ready = ready
        self.seen: list[bool] = []

    def fingerprint(self) -> dict[str, Any]:
        return {"captioner": self.name}

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        self.seen.append(self.ready())
        return [Caption("round nuclei")] * len(images)


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    made = Loader()
    monkeypatch.setattr(lazy, "describe_model", lambda spec: INFO)
    monkeypatch.setattr(lazy, "load_patch_model", made.load)
    return made


@pytest.fixture
def start(slide_path: Path, tmp_path: Path, loader: Loader) -> Callable[..., RunResult]:
    def run_it(slide: Path = slide_path, **changes: Any) -> RunResult:
        return run(slide, tmp_path / "out", model="even", workers=2, **{"captioner": Describes(), **changes})

    return run_it


def stages_begun(out: Path) -> list[str]:
    return [event["stage"] for event in read_log(out) if event["event"] == "start"]


def test_the_model_is_loaded_while_the_slide_is_described(start: Callable[..., RunResult], loader: Loader) -> None:
    captioner = Describes(lambda: loader.begun.wait(20))
    assert start(captioner=captioner).exit_status == 0
    assert captioner.seen
    assert all(captioner.seen)
    assert loader.threads == ["wsikit-ahead"]


def test_a_model_that_cannot_be_loaded_ends_the_run_before_the_captions_are_complete(
    start: Callable[..., RunResult], loader: Loader, tmp_path: Path
) -> None:
    loader.errors = [ModelError("weights: damaged"), ModelError("weights: damaged still")]
    captioner = Describes(lambda: loader.begun.wait(20))
    with pytest.raises(ModelError, match="damaged still"):
        start(captioner=captioner)
    assert len(loader.threads) == 2, "tried once ahead, and once more for the error that is raised"
    assert "predictions" not in stages_begun(tmp_path / "out")
    assert not list((tmp_path / "out").glob("failures/*"))
    assert start().exit_status == 0


def test_what_fails_ahead_only_is_loaded_when_it_is_needed(start: Callable[..., RunResult], loader: Loader) -> None:
    loader.errors = [ImportError("partially initialized module")]
    assert start().exit_status == 0
    assert len(loader.threads) == 2
    assert loader.threads[0] == "wsikit-ahead"


def test_nothing_is_loaded_for_slides_that_are_finished_or_predicted(
    start: Callable[..., RunResult], loader: Loader, tmp_path: Path
) -> None:
    start()
    loader.threads.clear()
    assert start().exit_status == 0
    assert start(vote="hard").exit_status == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["configuration"]["vote"]["method"] == "hard"
    assert loader.threads == []


@pytest.mark.parametrize("slide", ["no scale", "damaged"])
def test_nothing_is_loaded_for_a_slide_that_cannot_be_opened(
    slide: str, start: Callable[..., RunResult], loader: Loader, tmp_path: Path
) -> None:
    path = tmp_path / "odd.tiff"
    if slide == "damaged":
        path.write_bytes(b"II*\0" + b"\1" * 500)
    else:
        import tifffile

        tifffile.imwrite(path, np.full((256, 256, 3), 200, np.uint8), photometric="rgb", tile=(128, 128))
    assert start(path).exit_status == 1
    assert loader.threads == []


def test_a_run_stopped_during_the_captions_ends_the_thread_and_the_next_finishes(
    start: Callable[..., RunResult], loader: Loader
) -> None:
    def stop() -> bool:
        loader.begun.wait(20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(captioner=Describes(stop))
    for thread in threading.enumerate():
        if thread.name == "wsikit-ahead":
            thread.join(10)
            assert not thread.is_alive()
    assert start().exit_status == 0


def test_an_interrupt_from_the_keyboard_is_raised_when_the_slides_have_stopped(start: Callable[..., RunResult]) -> None:
    first, ended = threading.Lock(), threading.Event()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background

    def interrupted() -> bool:
        if not first.acquire(blocking=False):
            return True
        _thread.interrupt_main()
        time.sleep(0.7)  # compiled code, which ends the process badly if the process does not wait for it
        ended.set()
        return True

    try:
        with pytest.raises(KeyboardInterrupt):
            start(captioner=Describes(interrupted))
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.is_set()


def test_the_model_is_begun_once_for_many_slides(
    start: Callable[..., RunResult], loader: Loader, slide_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "many").mkdir()
    for number in range(3):
        (tmp_path / "many" / f"{number}.tiff").write_bytes(slide_path.read_bytes())
    assert start(tmp_path / "many").exit_status == 0
    assert len(loader.threads) == 1
