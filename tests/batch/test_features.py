"""Features as a stage of a run: computed on the model's patches, kept, and before a model that reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import wsikit
from wsikit.encoders.protocol import EncoderInfo
from wsikit.errors import RequestError
from wsikit.models.protocol import ModelInfo

MODEL = ModelInfo(
    name="by-colour",
    version="1",
    architecture="toy",
    fingerprint="model 1",
    patch_px=64,
    mpp=0.5,
    stain="H&E",
    classes=("a", "b"),
    class_names=("class a", "class b"),
    colors=("#000000", "#ffffff"),
    inputs=("features:colours",),
)


@dataclass
class Colours:
    info: EncoderInfo = EncoderInfo("colours", 3, 64, 0.5, "weights 1")
    calls: int = 0

    def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.calls += 1
        return images.mean(axis=(1, 2)).astype(np.float32)


def other() -> Colours:
    return Colours(EncoderInfo("other", 3, 64, 1.0, "weights 1"))


class ByColour:
    info = MODEL

    def predict(self, features: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        red = features[:, :1] / 255
        return {"probability": np.concatenate([red, 1 - red], axis=1).astype(np.float32)}


def run(slide: Path, out: Path, *encoders: Colours, **settings: Any) -> Any:
    return wsikit.run(slide, out, model=ByColour(), features=list(encoders), device="cpu", **settings)


def test_a_model_that_reads_features_gets_them_in_the_same_run(slide_path: Path, tmp_path: Path) -> None:
    result = run(slide_path, tmp_path / "out", Colours())
    assert result[0].status == "done", result[0].error
    table = result.store().patches()
    np.testing.assert_allclose(
        table.read("probability")[:, 0], table.read("features_colours")[:, 0].astype(np.float32) / 255, rtol=1e-6
    )


def test_a_finished_run_uses_no_encoder_and_new_weights_change_features_and_predictions(
    slide_path: Path, tmp_path: Path
) -> None:
    encoder = Colours()
    run(slide_path, tmp_path / "out", encoder)
    calls = encoder.calls
    assert calls > 0
    run(slide_path, tmp_path / "out", encoder)
    assert encoder.calls == calls
    changed = Colours(replace(encoder.info, fingerprint="weights 2"))
    plan = wsikit.plan_run(slide_path, tmp_path / "out", model=ByColour(), features=[changed])
    states = {stage.name: stage.state for stage in plan.slides[0].stages}
    assert (states["captions"], states["features colours"], states["predictions"]) == ("done", "redo", "redo")
    run(slide_path, tmp_path / "out", changed)
    assert changed.calls > 0


def test_two_encoders_each_have_a_column_and_another_scale_is_noted(slide_path: Path, tmp_path: Path) -> None:
    result = run(slide_path, tmp_path / "out", Colours(), other())
    assert {"features_colours", "features_other"} <= set(result.store().patches().columns())
    assert "64 px at 1 µm/px" in " ".join(result[0].notes)


def test_another_encoder_in_a_second_run_keeps_what_is_there(slide_path: Path, tmp_path: Path) -> None:
    encoder = Colours()
    run(slide_path, tmp_path / "out", encoder)
    calls = encoder.calls
    result = run(slide_path, tmp_path / "out", encoder, other())
    assert encoder.calls == calls
    assert "features_other" in result.store().patches().columns()


def test_wrong_requests_are_refused_before_a_slide_is_opened(slide_path: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="same name"):
        run(slide_path, tmp_path / "out", Colours(), Colours())
    with pytest.raises(RequestError, match="no-such-encoder"):
        wsikit.run(slide_path, tmp_path / "out", features="no-such-encoder")
    with pytest.raises(RequestError, match="float16"):
        run(slide_path, tmp_path / "out", Colours(), features_dtype="int8")
    assert not (tmp_path / "out").exists()


def test_an_encoder_that_fails_fails_the_slide_with_its_reason(slide_path: Path, tmp_path: Path) -> None:
    class Infinite(Colours):
        def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            return np.full((len(images), 3), np.inf, np.float32)

    result = run(slide_path, tmp_path / "out", Infinite())
    assert result[0].status == "failed"
    assert "not finite" in result[0].error


def test_the_precision_is_part_of_the_request_and_the_engine_is_not(slide_path: Path, tmp_path: Path) -> None:
    encoder = Colours()
    run(slide_path, tmp_path / "out", encoder)
    plan = wsikit.plan_run(slide_path, tmp_path / "out", model=ByColour(), features=[encoder], features_engine="torch")
    assert plan.slides[0].finished
    assert "features   colours; engine torch, precision auto, stored as float16" in str(plan)
    other_numbers = {"model": ByColour(), "features": [encoder], "features_precision": "float32"}
    plan = wsikit.plan_run(slide_path, tmp_path / "out", **other_numbers)
    states = {stage.name: (stage.state, stage.reason) for stage in plan.slides[0].stages}
    assert states["features colours"] == ("redo", "precision was auto, now float32")
    assert states["captions"][0] == "done"
    result = wsikit.run(slide_path, tmp_path / "out", device="cpu", **other_numbers)
    receipt = result.store().patches().receipt("features_colours")
    assert receipt is not None
    assert receipt.parameters["precision"] == "float32"


def test_engine_precision_and_download_reach_the_encoder(
    slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsikit.encoders import registry
    from wsikit.encoders.engine import PlainEngine
    from wsikit.encoders.engine_choice import Choice

    encoder, asked = Colours(), []

    def describe(name: str, *, download: bool = False) -> EncoderInfo:
        asked.append(("describe", name, download))
        return encoder.info

    def load(name: str, *, device: str = "auto", download: bool = False) -> Colours:
        asked.append(("load", name, download))
        return encoder

    def choose(given: Colours, *, engine: str, precision: str, **others: Any) -> Choice:
        asked.append((engine, precision))
        return Choice(PlainEngine(given, "cpu", "float32", 32), "for the test")

    monkeypatch.setattr(registry, "describe_encoder", describe)
    monkeypatch.setattr(registry, "load_encoder", load)
    monkeypatch.setattr("wsikit.encoders.engine_choice.choose_engine", choose)
    settings: dict[str, Any] = {"features_engine": "compile", "features_precision": "bfloat16", "download": True}
    result = wsikit.run(slide_path, tmp_path / "out", model=ByColour(), features="colours", device="cpu", **settings)
    assert result[0].status == "done", result[0].error
    assert asked == [("describe", "colours", True), ("load", "colours", True), ("compile", "bfloat16")]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"features_engine": "quick"}, "engine 'quick'"),
        ({"features_precision": "float8"}, "precision 'float8'"),
        ({"features_precision": "float16"}, "for GPUs"),
        ({"features_engine": "onnx", "features_precision": "bfloat16"}, "float32, not bfloat16"),
        ({"features": [], "model": None, "features_engine": "torch"}, "add --features"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_wrong_engines_are_refused_before_a_slide_is_opened(
    slide_path: Path, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    given: dict[str, Any] = {"features": [Colours()], "model": ByColour(), **settings}
    with pytest.raises(RequestError, match=said):
        wsikit.run(slide_path, tmp_path / "out", device="cpu", **given)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_fetches_nothing(slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("wsikit.encoders.weights.fetch", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(RequestError, match="A dry run fetches nothing"):
        wsikit.plan_run(slide_path, tmp_path / "out", features="hf-hub:a/b", download=True)
