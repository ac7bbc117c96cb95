"""Maps of words as a stage of a run: made for a model that reads them and for patches that are left out by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wsikit
from wsikit.batch.retry import read_request
from wsikit.models.protocol import ModelInfo
from wsikit.models.text_encoders import DEFAULT_TEXT_ENCODER, text_fingerprint

FACT = "localize:haemorrhage"


class ByMap:
    """Its probability is the map of a concept."""

    def __init__(self, encoder: str) -> None:
        self.info = ModelInfo(
            name="by-map", version="1", architecture="toy", fingerprint="model 1", patch_px=32, mpp=0.5, stain="H&E",
            classes=("a", "b"), class_names=("a", "b"), colors=("#000000", "#ffffff"), inputs=("facts",), facts=(FACT,),
            maps=((FACT, encoder),),
        )  # fmt: skip

    def predict(self, facts: np.ndarray, uncertainty: np.ndarray) -> dict[str, np.ndarray]:
        return {"probability": np.concatenate([facts, 1 - facts], axis=1)}


def run(slide: Path, out: Path, encoder: Any, **settings: Any) -> Any:
    return wsikit.run(slide, out, features=[encoder], device="cpu", **settings)


def test_a_model_that_reads_maps_of_words_gets_them_in_the_same_run(
    square_slide: Path, tmp_path: Path, colour_encoder: Any
) -> None:
    model = ByMap(colour_encoder.info.fingerprint)
    result = run(square_slide, tmp_path / "out", colour_encoder, model=model)
    assert result[0].status == "done", result[0].error
    table = result.store().patches()
    np.testing.assert_array_equal(table.read("probability")[:, 0], table.read("localize_haemorrhage"))
    # kept: a plan finds nothing to do; a change of the encoder makes features, map and predictions again
    texts = len(colour_encoder.texts)
    (tmp_path / "out" / "results" / result[0].slide_id / "finished.json").unlink()
    run(square_slide, tmp_path / "out", colour_encoder, model=model)
    assert len(colour_encoder.texts) == texts
    colour_encoder.info = replace(colour_encoder.info, fingerprint="other weights")
    plan = wsikit.plan_run(square_slide, tmp_path / "out", features=[colour_encoder], model=ByMap("other weights"))
    states = {stage.name: stage.state for stage in plan.slides[0].stages}
    assert (states["captions"], states["predictions"]) == ("done", "redo")
    assert states["maps of words"] in ("missing", "redo")


def test_a_map_that_no_encoder_of_the_run_can_make_is_asked_for(
    square_slide: Path, tmp_path: Path, colour_encoder: Any
) -> None:
    result = run(square_slide, tmp_path / "out", colour_encoder, model=ByMap("of another encoder"))
    assert result[0].status == "failed"
    assert "wsikit localize" in result[0].error


@pytest.mark.parametrize("fact", ["localize:haemorrhage", "eosin_share"])
def test_patches_are_left_out_of_a_run_by_words_and_by_measured_shares(
    square_slide: Path, tmp_path: Path, colour_encoder: Any, fact: str
) -> None:
    class Plain:
        info = replace(ByMap("").info, inputs=("image",), facts=(), maps=())

        def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
            return {"probability": np.tile(np.float32([0.9, 0.1]), (len(images), 1))}

    result = wsikit.run(square_slide, tmp_path / "out", model=Plain(), without={fact: 0.2}, device="cpu")
    assert result[0].status == "done", result[0].error
    table = result.store().patches()
    if fact.startswith("localize:"):
        values = table.read("localize_haemorrhage")
        receipt = table.receipt("localize_haemorrhage")
        assert receipt is not None
        assert receipt.inputs["encoder"] == text_fingerprint(DEFAULT_TEXT_ENCODER)
    else:
        values = table.read("caption_facts")[:, table.attributes("caption_facts")["names"].index(fact)]
    np.testing.assert_array_equal(np.isnan(table.read("probability")[:, 0]), values > 0.2)


def test_what_is_left_out_belongs_to_the_request_and_is_repeated_by_retry(square_slide: Path, tmp_path: Path) -> None:
    wsikit.run(square_slide, tmp_path / "out", without={"necrosis_share": 0.7}, device="cpu")
    entries, settings = read_request(tmp_path / "out")
    assert len(entries) == 1
    assert settings["without"] == {"necrosis_share": 0.7}
    plan = wsikit.plan_run(square_slide, tmp_path / "out")
    assert any("necrosis_share" in line for line in plan.changes)
