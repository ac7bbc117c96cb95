"""Search in a phantom's store: the patches found are those of the ground truth."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import wsikit
from wsikit.captions import Caption
from wsikit.cli.main import main
from wsikit.errors import RequestError, StoreError
from wsikit.inference.budget import Budget
from wsikit.inference.search import search
from wsikit.phantom import PhantomTruth, make_phantom
from wsikit.slides.store import SlideStore
from wsikit.tiling.tile import tile


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[SlideStore, PhantomTruth]:
    """A phantom with measured captions, and its truth."""
    folder = tmp_path_factory.mktemp("search")
    truth = make_phantom(folder / "p.tiff", size_px=(1792, 1792), subtype="PD", seed=500_201)
    store = tile(folder / "p.tiff", folder / "p.zarr")
    wsikit.caption(store)
    return store, truth


class TrueCaptions:
    """Gives true captions, in the order of the calls."""

    name, fact_names, batch = "true", (), 16

    def __init__(self, captions: list[str]) -> None:
        self.left = list(captions)

    def fingerprint(self) -> dict[str, Any]:
        return {"captioner": self.name}

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        return [Caption(self.left.pop(0)) for _ in images]


def test_with_true_captions_exactly_the_true_patches_are_found(
    made: tuple[SlideStore, PhantomTruth], tmp_path: Path
) -> None:
    measured, truth = made
    store = SlideStore(shutil.copytree(measured.folder, tmp_path / "p.zarr"))
    table = store.patches()
    table.drop("caption_facts")
    rows = truth.rows_at(table.coords)
    wsikit.caption(store, captioner=TrueCaptions([truth.captions[row] for row in rows]))
    facts = truth.facts
    neuropil = facts.fraction("neuropil")[rows] / np.maximum(facts.tumour[rows], 1e-9)
    tumour = facts.tumour[rows] >= 0.05
    some, rings = tumour & (neuropil >= 0.03), tumour & (facts.count("rosette")[rows] > 0)

    def found(query: str) -> set[int]:
        return {match.row for match in search(store, query, top=len(table)).matches}

    assert found("neuropil") == set(np.flatnonzero(some))
    assert found("neuropil without rosettes") == set(np.flatnonzero(some & ~rings)) != set()
    assert found("neuropil with rosettes") == set(np.flatnonzero(some & rings)) != set()
    # a word that names the class: hidden from the classifier, not from the user
    maturing = facts.diff_fraction[rows] > 0
    assert found("differentiating neuroblasts") == set(np.flatnonzero(tumour & maturing)) != set()
    best = search(store, "abundant neuropil", top=5)
    assert neuropil[[match.row for match in best.matches]].min() > np.median(neuropil)


def test_measured_captions_find_patches_rich_in_the_query_term(made: tuple[SlideStore, PhantomTruth]) -> None:
    store, truth = made
    table = store.patches()
    true = truth.facts.fraction("neuropil")[truth.rows_at(table.coords)]
    yes, no = ([match.row for match in search(store, q, top=1000).matches] for q in ("neuropil", "no neuropil"))
    assert min(len(yes), len(no)) >= 10
    assert not set(yes) & set(no)
    assert true[yes].mean() > 2 * true[no].mean()


def test_a_match_has_its_position_and_the_reason(made: tuple[SlideStore, PhantomTruth]) -> None:
    store, _ = made
    match = wsikit.search(store.folder, "abundant neuropil, no blood", top=1).matches[0]
    assert (match.x, match.y) == tuple(store.patches().coords[match.row])
    assert match.slide_id == store.slide_id
    assert re.fullmatch(r"neuropil (abundant|moderate) \(measured\); blood absent \(measured\)", match.why)
    assert 0 < match.score <= 1


def test_several_stores_are_searched_as_one(made: tuple[SlideStore, PhantomTruth]) -> None:
    store, _ = made
    one, two = search(store, "neuropil", top=1000), search([store, store.folder], "neuropil", top=1000)
    assert two.n_matches == 2 * one.n_matches
    assert two.n_patches == 2 * one.n_patches
    scores = [match.score for match in two.matches]
    assert scores == sorted(scores, reverse=True)


def test_the_command_writes_the_table_that_it_prints(
    made: tuple[SlideStore, PhantomTruth], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, _ = made

    def call(*arguments: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return int(ended.value.code or 0)

    assert call("search", store.folder, "neuropil without rosettes", "--top", 3, "--csv", tmp_path / "hits.csv") == 0
    printed = capsys.readouterr().out
    assert "Looking for: neuropil present, rosettes absent" in printed
    with open(tmp_path / "hits.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert all(row["x"] in printed and row["caption"] for row in rows)
    assert call("search", store.folder, "lymphoid infiltrate") == 0
    assert "lymphoid 0" in capsys.readouterr().out
    assert call("search", store.folder, "purple unicorn") == 2


def test_a_store_without_captions_is_refused_with_the_command_to_run_first(tmp_path: Path, slide_path: Path) -> None:
    store = tile(slide_path, tmp_path / "s.zarr")
    with pytest.raises(StoreError, match="wsikit caption"):
        search(store, "neuropil")
    wsikit.caption(store, budget=Budget(0))
    assert not search(store, "no rosettes").matches
    with pytest.raises(RequestError):
        search(store, "what is it?")
