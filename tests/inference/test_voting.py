"""The vote stage over a store: what it reads, when it is computed again, and results of older versions."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsikit.errors import StoreError
from wsikit.exporters.classmap import ClassMap, composition
from wsikit.inference.vote import slide_patches, stored_vote, vote
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable
from wsikit.tiling.tile import tile
from wsikit.voting import ThresholdRule, VoteInputs, VoteParameters, vote_slide, voting_inputs

CLASSES = ("UD", "PD", "D", "other")
FREE = VoteParameters(min_patches=1, min_margin=0, block_um=100)


def voted_inputs(table: PatchTable, method: str) -> VoteInputs:
    """What each patch brings to a vote: probabilities and label after smoothing, and its weight."""
    kept = table.vote_receipt(method)
    assert kept is not None
    parameters = VoteParameters.from_json({**kept.parameters, "method": method})
    return voting_inputs(slide_patches(table, parameters), parameters)


def write(table: PatchTable, name: str, values: np.ndarray, attributes: dict | None = None, version: int = 1) -> None:
    """A column as any stage might write it."""
    width = None if values.ndim == 1 else values.shape[1]
    spec = ColumnSpec(name, "float32", width, attributes or {})
    for rows in table.prepare([spec], Receipt("test", version, {"column": name})):
        table.write(name, rows, values[rows])


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory, write_slide, pixels) -> Path:
    """A store of overlapping patches with their quality, without predictions."""
    folder = tmp_path_factory.mktemp("tiled")
    tile(write_slide(folder / "disc.tiff", pixels), folder / "s.zarr", patch_px=96, overlap_px=32)
    return folder / "s.zarr"


@pytest.fixture
def store(tiled: Path, tmp_path: Path) -> SlideStore:
    """PD but for a fifth of D, with some background and some patches without prediction."""
    opened = SlideStore(shutil.copytree(tiled, tmp_path / "s.zarr"))
    table = opened.patches()
    rng = np.random.default_rng(0)
    n = len(table)
    labels = rng.choice(4, n, p=[0.05, 0.6, 0.2, 0.15])
    probs = np.where(np.eye(4, dtype=bool)[labels], 0.7, 0.1) * rng.uniform(0.9, 1.1, (n, 4))
    probs /= probs.sum(axis=1, keepdims=True)
    probs[:5] = np.nan
    model = {"background": ["other"], "class_names": CLASSES, "colors": ["#d55e00"] * 4, "notice": "", "name": "m"}
    write(table, "probability", probs, {"names": list(CLASSES), "model": model})
    return opened


def test_the_stage_is_the_vote_of_what_the_table_holds(store: SlideStore) -> None:
    table = store.patches()
    patches = slide_patches(table, FREE)
    result = vote(store, parameters=FREE)
    assert result.to_json() == vote_slide(patches, FREE).to_json()
    assert set(patches.columns) == {"tissue", "readable", "blur", "pen"}
    assert result.weighted_by == ("tissue", "readable", "quality", "overlap")
    assert stored_vote(table, "mean").to_json() == result.to_json()
    assert table.votes()["mean"]["classes"] == ["UD", "PD", "D"]


def test_areas_are_those_of_the_map(store: SlideStore) -> None:
    """The map says how much of each class there is, too: not another number."""
    table = store.patches()
    areas = vote(store, parameters=replace(FREE, weights=())).areas  # nothing but background is left out
    patches, inputs = slide_patches(table), voted_inputs(table, "mean")
    class_map = ClassMap(
        "s", table.grid, "", table.coords, inputs.labels, patches.probs, CLASSES, CLASSES, ((0, 0, 0),) * 4, ("other",)
    )
    shares = composition(class_map)
    assert areas.mm2 == pytest.approx([share.area_mm2 for share in shares[:3]])
    assert areas.background_mm2 == pytest.approx(shares[3].area_mm2)
    assert areas.unpredicted_mm2 == pytest.approx(shares[4].area_mm2)


def receipt_of(store: SlideStore, method: str = "mean") -> Receipt:
    found = store.patches().vote_receipt(method)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "changed",
    [
        {"min_patches": 2}, {"min_margin": 0.01}, {"max_ood": 0.4}, {"block_um": 99}, {"seed": 1}, {"resamples": 10},
        {"level": 0.9}, {"smooth": "median"}, {"weights": ("tissue",)}, {"second_mm2": 0.1}, {"kappa": 2},
        {"rule": ThresholdRule("D")},
    ],
)  # fmt: skip
def test_every_parameter_is_in_the_receipt(store: SlideStore, changed: dict) -> None:
    vote(store, parameters=FREE)
    before = receipt_of(store)
    vote(store, parameters=replace(FREE, **changed))
    assert receipt_of(store).digest != before.digest
    assert VoteParameters.from_json(receipt_of(store).parameters) == replace(FREE, **changed)


def test_equal_parameters_and_columns_keep_the_result(store: SlideStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = vote(store, parameters=FREE)
    monkeypatch.setattr("wsikit.inference.vote.vote_slide", None)  # no further vote may run
    assert vote(store, parameters=FREE).to_json() == first.to_json()


@pytest.mark.parametrize("name", ["ood_score", "readable", "blur", "pen"])
def test_an_added_or_changed_column_makes_the_vote_run_again(store: SlideStore, name: str) -> None:
    table = store.patches()
    table.drop(name)
    vote(store, parameters=FREE)
    without = receipt_of(store)
    values = np.full(len(table), 1.0 if name == "readable" else 0.3, np.float32)
    write(table, name, values)
    vote(store, parameters=FREE)
    with_it = receipt_of(store)
    assert name in with_it.inputs
    assert name not in without.inputs
    write(table, name, values, version=2)
    vote(store, parameters=FREE)
    assert len({without.digest, with_it.digest, receipt_of(store).digest}) == 3


def test_out_of_distribution_tissue_makes_the_vote_abstain(store: SlideStore) -> None:
    write(store.patches(), "ood_score", np.full(len(store.patches()), 3.0, np.float32))
    result = vote(store, parameters=FREE)
    assert result.abstained
    assert "100 % of the voting weight is out-of-distribution tissue" in result.reason
    assert result.areas is not None


def test_a_vote_without_predictions_says_what_to_run(tiled: Path) -> None:
    with pytest.raises(StoreError, match=r"Run wsikit predict .*s\.zarr first"):
        vote(tiled)


@pytest.mark.parametrize(
    ("method", "words"), [("gate", "reads captions"), ("attention", "column attention"), ("soft_clinical", "caption")]
)
def test_a_method_without_its_column_names_the_source_of_the_column(store: SlideStore, method: str, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        vote(store, parameters=VoteParameters(method))


def test_soft_clinical_weighs_by_what_captions_measured(store: SlideStore) -> None:
    table = store.patches()
    n = len(table)
    facts = np.zeros((n, 3), np.float32)
    rich = np.arange(n) % 3 == 0
    facts[rich, 2] = 0.5  # abundant neuropil-like fibrils
    write(table, "caption_facts", facts, {"names": ["blur_um", "spindle_share", "fibrillary_share"]})
    result = vote(store, parameters=replace(FREE, method="soft_clinical", weights=()))
    inputs = voted_inputs(table, "soft_clinical")
    w = np.where(rich, 10.0, 0.1) * np.nan_to_num(inputs.weights)
    voting = w > 0
    expected = (w[voting, None] * inputs.probs[voting]).sum(axis=0) / w[voting].sum()
    assert result.probs == pytest.approx(expected)
    assert receipt_of(store, "soft_clinical").inputs.keys() == {
        "patches",
        "probability",
        "ood_score",
        "caption_facts",
    } - {"ood_score"}


def test_captions_without_key_tissue_facts_are_refused(store: SlideStore) -> None:
    table = store.patches()
    facts = np.full((len(table), 1), 0.4, np.float32)
    write(table, "caption_facts", facts, {"names": ["blood_share"]})
    with pytest.raises(StoreError, match="key_tissue"):
        vote(store, parameters=VoteParameters("soft_clinical"))
    assert vote(store, parameters=replace(FREE, weights=("key_tissue",))).weighted_by == ("key_tissue",)


def old_vote(store: SlideStore) -> PatchTable:
    """A result as the first version wrote it."""
    table = store.patches()
    record = {
        "method": "mean", "label": 0, "probs": [0.9, 0.1, None], "fractions": [1.0, 0.0, 0.0], "n_patches": 7,
        "n_unpredicted": 0, "n_background": 0, "n_effective": 7.0, "margin": 0.8, "leading": 0, "abstained": False,
        "reason": "", "classes": ["UD", "PD", "D"],
    }  # fmt: skip
    table.write_vote("mean", record, Receipt("vote", 1, {"min_patches": 3, "min_margin": 0.0}, {"probability": "x"}))
    return table


def test_a_result_of_an_older_version_is_computed_again(store: SlideStore) -> None:
    table = old_vote(store)
    shown = stored_vote(table, "mean")
    assert shown.leading == 1
    assert shown.areas is not None
    assert "version" not in table.votes()["mean"]  # showing writes nothing
    parameters = VoteParameters(min_patches=3, min_margin=0)
    assert vote(store, parameters=parameters).to_json() == shown.to_json()
    assert table.votes()["mean"]["version"] == 3


def test_an_old_result_without_its_predictions_is_shown_unchanged(store: SlideStore) -> None:
    table = old_vote(store)
    table.drop("probability")
    assert stored_vote(table, "mean").label == 0


def test_what_a_vote_smoothed_can_be_drawn(store: SlideStore) -> None:
    vote(store, parameters=replace(FREE, smooth="median"))
    table = store.patches()
    plain = voted_inputs_without_smoothing(table)
    even = voted_inputs(table, "mean").labels
    assert (even != plain).sum() == stored_vote(table, "mean").n_smoothed > 0


def voted_inputs_without_smoothing(table: PatchTable) -> np.ndarray:
    from wsikit.voting import voting_inputs

    return voting_inputs(slide_patches(table), VoteParameters()).labels


def test_regions_of_interest_restrict_the_vote_and_other_regions_vote_again(store: SlideStore) -> None:
    table = store.patches()
    everything = vote(store, parameters=FREE)
    d_patches = table.read("probability").argmax(axis=1) == 2
    write(table, "roi", d_patches.astype(np.float32))
    inside = vote(store, parameters=FREE)
    assert everything.label == 1
    assert inside.label == 2
    assert "roi" in inside.weighted_by
    assert inside.n_patches <= d_patches.sum()
    assert vote(store, parameters=replace(FREE, weights=("tissue",))).label == 1
    write(table, "roi", np.full(len(table), 0.5, np.float32), version=2)
    np.testing.assert_allclose(vote(store, parameters=FREE).probs, everything.probs)
