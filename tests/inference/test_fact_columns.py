"""Predictions from the numbers of captions: measured or parsed, relative to the slide, recorded in the receipt."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import wsikit
from wsikit.captions.base import Caption
from wsikit.inference.fact_columns import FACTS_COLUMN, TEXT_COLUMN, fact_source
from wsikit.models.protocol import ModelColumn, ModelInfo
from wsikit.slides.store import SlideStore

FACTS = ("eosin_share", "nuclei_per_mm2", "necrosis_share")


class FactModel:
    """Its probability is the share of eosin; a second column is the mean of it over the slide that it was fitted to."""

    def __init__(self, mean: float = np.nan, **changes: Any) -> None:
        self.mean, self.seen = mean, []
        self.info = ModelInfo(
            name="facts", version="1", architecture="facts", fingerprint="f", patch_px=64, mpp=0.5, stain="brightfield",
            classes=("a", "b"), class_names=("a", "b"), colors=("#000000", "#ffffff"), inputs=("text", "facts"),
            columns=(ModelColumn("probability", per_class=True), ModelColumn("mean"), ModelColumn("width")),
            facts=FACTS, fits_to=("facts",), **changes,
        )  # fmt: skip

    def fit(self, *, facts: npt.NDArray[Any], uncertainty: npt.NDArray[Any]) -> FactModel:
        assert facts.shape == uncertainty.shape
        return FactModel(float(np.nanmean(facts[:, 0])))

    def predict(
        self, captions: list[str | None], facts: npt.NDArray[Any], uncertainty: npt.NDArray[Any]
    ) -> dict[str, npt.NDArray[Any]]:
        assert facts.shape == uncertainty.shape == (len(captions), 3)
        share = np.nan_to_num(facts[:, 0])
        probs = np.stack([share, 1 - share], axis=1)
        return {"probability": probs, "mean": np.full(len(facts), self.mean), "width": uncertainty[:, 2]}


class Generated:
    """Writes the same sentence for every patch, and measures nothing."""

    name = "generated"
    fact_names: tuple[str, ...] = ()

    def fingerprint(self) -> dict[str, Any]:
        return {"captioner": self.name}

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        return [Caption("Eosin scant, necrosis abundant, nuclei.", source=self.name) for _ in images]


@pytest.fixture
def store(tmp_path: Path) -> SlideStore:
    slide = wsikit.make_phantom(tmp_path / "s.tiff", size_px=(448, 448)).path
    return wsikit.tile(slide, tmp_path / "s.zarr", patch_px=64)


def test_measured_facts_are_read_exactly_and_relative_to_the_whole_slide(store: SlideStore):
    table = wsikit.caption(store)
    stored = table.read(FACTS_COLUMN)[:, list(table.attributes(FACTS_COLUMN)["names"]).index("eosin_share")]
    assert fact_source(table, FactModel().info).column == FACTS_COLUMN
    found = wsikit.predict(store, model=FactModel())
    np.testing.assert_allclose(found.read("probability")[:, 0], np.nan_to_num(stored), rtol=1e-6)
    np.testing.assert_allclose(found.read("mean"), np.nanmean(stored), rtol=1e-5)
    assert (found.read("width") == 0).all()
    receipt = found.receipt("probability")
    assert receipt.parameters["facts"]["column"] == FACTS_COLUMN
    assert receipt.inputs[FACTS_COLUMN] == table.receipt(FACTS_COLUMN).digest


def test_a_generated_caption_is_parsed_to_intervals_and_old_measurements_are_not_mixed_in(store: SlideStore):
    wsikit.caption(store)
    table = wsikit.caption(store, captioner=Generated())
    source = fact_source(table, FactModel().info)
    assert source.column == TEXT_COLUMN
    found = wsikit.predict(store, model=FactModel())
    np.testing.assert_allclose(found.read("probability")[:, 0], 0.15, rtol=1e-5)
    np.testing.assert_allclose(found.read("width"), 0.25, rtol=1e-5)
    assert found.receipt("probability").parameters["facts"]["column"] == TEXT_COLUMN


def test_without_captions_the_model_has_no_numbers_and_says_so(store: SlideStore, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="wsikit"):
        found = wsikit.predict(store, model=FactModel())
    assert "reads the numbers of captions, and there are none" in caplog.text
    assert (found.read("probability")[:, 0] == 0).all()
    assert np.isnan(found.read("mean")).all()
    wsikit.caption(store)
    again = wsikit.predict(store, model=FactModel())  # the receipt differs: predicted again
    assert again.read("probability")[:, 0].max() > 0


def test_a_model_without_facts_keeps_its_receipt(store: SlideStore):
    wsikit.caption(store)

    class Plain(FactModel):
        def __init__(self) -> None:
            super().__init__()
            self.info = ModelInfo(
                name="plain", version="1", architecture="plain", fingerprint="p", patch_px=64, mpp=0.5,
                stain="brightfield", classes=("a", "b"), class_names=("a", "b"), colors=("#000000", "#ffffff"),
                inputs=("text",),
            )  # fmt: skip

        def predict(self, captions: list[str | None]) -> dict[str, npt.NDArray[Any]]:  # type: ignore[override]
            return {"probability": np.full((len(captions), 2), 0.5)}

    receipt = wsikit.predict(store, model=Plain()).receipt("probability")
    assert receipt.parameters == {}
    assert set(receipt.inputs) == {"patches", "model", "caption"}
