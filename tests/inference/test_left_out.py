"""Patches that are left without a prediction for what they show: measured shares and maps of words, receipts, votes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wsikit
from wsikit.cli.main import main
from wsikit.errors import RequestError, StoreError
from wsikit.inference.left_out import parse_without
from wsikit.models.protocol import ModelInfo
from wsikit.results.load import StoredResults
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable

SHARES = ("necrosis_share", "spindle_share")


class Certain:
    """Calls every patch class a."""

    info = ModelInfo(
        name="certain", version="1", architecture="toy", fingerprint="f", patch_px=32, mpp=0.5, stain="brightfield",
        classes=("a", "b"), class_names=("a", "b"), colors=("#000000", "#ffffff"),
    )  # fmt: skip

    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"probability": np.tile(np.float32([0.9, 0.1]), (len(images), 1))}


def write(table: PatchTable, spec: ColumnSpec, receipt: Receipt, values: np.ndarray) -> None:
    for rows in table.prepare([spec], receipt):
        table.write(spec.name, rows, values[rows])


@pytest.fixture
def described(square_store: SlideStore) -> SlideStore:
    """Of its patches the first 10 are necrosis by the captions, the next 5 are unknown, the others stroma in part."""
    table, receipt = square_store.patches(), Receipt("caption", 1, {})
    write(table, ColumnSpec("caption", "str"), receipt, np.array(["Tissue."] * len(table), dtype=object))
    facts = np.tile(np.float32([0.1, 0.4]), (len(table), 1))
    facts[:10, 0], facts[10:15] = 0.8, np.nan
    write(table, ColumnSpec("caption_facts", "float32", 2, {"names": list(SHARES)}), receipt, facts)
    return square_store


def unpredicted(table: PatchTable) -> list[int]:
    return np.flatnonzero(np.isnan(table.read("probability")).any(axis=1)).tolist()


def test_patches_above_the_limit_of_a_measured_share_get_no_prediction(described: SlideStore) -> None:
    table = wsikit.predict(described, model=Certain(), without={"necrosis_share": 0.5})
    assert unpredicted(table) == list(range(10))
    assert wsikit.vote(described, parameters=wsikit.VoteParameters(weights=())).n_patches == len(table) - 10
    assert (StoredResults(described, table.name).class_map.labels[:12] == [-1] * 10 + [0, 0]).all()


def test_each_fact_has_its_own_limit_and_an_unknown_share_leaves_nothing_out(described: SlideStore) -> None:
    table = wsikit.predict(described, model=Certain(), without={"necrosis_share": 0.9, "spindle_share": 0.3})
    assert unpredicted(table) == [*range(10), *range(15, len(table))]


def test_a_map_of_words_leaves_patches_out_without_any_caption(square_store: SlideStore, colour_encoder: Any) -> None:
    wsikit.localize(square_store, "undifferentiated cells", encoder=colour_encoder)
    table = wsikit.predict(square_store, model=Certain(), without={"localize:undifferentiated-cells": 0.5})
    shown = table.read("localize_undifferentiated-cells")
    assert 0 < (shown > 0.5).sum() < len(table)
    assert unpredicted(table) == np.flatnonzero(shown > 0.5).tolist()


def test_what_is_left_out_is_in_the_receipt_and_predicted_when_it_is_asked_for(described: SlideStore) -> None:
    plain = wsikit.predict(described, model=Certain()).receipt("probability")
    assert plain is not None
    assert "without" not in plain.parameters  # as before there was the option
    table = wsikit.predict(described, model=Certain(), without={"necrosis_share": 0.5})
    receipt = table.receipt("probability")
    assert receipt is not None
    assert receipt.parameters["without"]["limits"] == [0.5]
    assert "caption_facts" in receipt.inputs
    assert unpredicted(wsikit.predict(described, model=Certain())) == []


def test_what_the_store_does_not_have_is_refused_with_the_command_that_makes_it(square_store: SlideStore) -> None:
    with pytest.raises(StoreError, match="wsikit caption"):
        wsikit.predict(square_store, model=Certain(), without={"necrosis_share": 0.5})
    with pytest.raises(StoreError, match="wsikit localize .* necrosis"):
        wsikit.predict(square_store, model=Certain(), without={"localize:necrosis": 0.5})


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        (["necrosis"], "necrosis_share"),
        (["nuclei_per_mm2"], "neither"),
        (["localize:"], "neither"),
        (["necrosis_share=much"], "FACT=SHARE"),
        (["necrosis_share=1.5"], "0 to 1"),
        (["necrosis_share", "necrosis_share=0.2"], "named twice"),
    ],
)
def test_requests_that_name_no_share_are_refused(texts: list[str], fault: str) -> None:
    with pytest.raises(RequestError, match=fault):
        parse_without(texts)


def test_the_command_line_has_the_option(tmp_path: Path) -> None:
    wsikit.make_phantom(tmp_path / "slide.tiff", size_px=(896, 896), seed=3, tissue_fraction=0.9)
    with wsikit.tile(tmp_path / "slide.tiff", tmp_path / "slide.zarr") as store:
        wsikit.caption(store)
    arguments = ["predict", str(tmp_path / "slide.zarr"), "--without", "fibrillary_share=0.1"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code
    with SlideStore(tmp_path / "slide.zarr") as store:
        table = store.patches()
        names = table.attributes("caption_facts")["names"]
        shares = table.read("caption_facts")[:, names.index("fibrillary_share")]
        assert unpredicted(table) == np.flatnonzero(shares > 0.1).tolist() != []
