"""The INPC rule on a store: which columns it reads, what is stored, and when it is computed again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsikit.errors import RequestError, StoreError
from wsikit.inference.inpc import apply_inpc, inpc_summary, patch_facts, stored_inpc
from wsikit.inference.vote import vote
from wsikit.slides.registry import open_slide
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable
from wsikit.tiling.tile import tile
from wsikit.voting import VoteParameters
from wsikit.voting.inpc import Rules
from wsikit.voting.prognosis import Clinical

CODES = ["UD", "PD", "D", "other"]
FACT_NAMES = ["tissue_share", "spindle_share", "fibrillary_share", "nuclei", "ganglion_like_share"]


@pytest.fixture
def store(slide_path: Path, tmp_path: Path) -> SlideStore:
    """A disc of tissue, 0.14 mm², in patches of 64 px at 0.5 µm/px."""
    with open_slide(slide_path) as slide:
        return tile(slide, tmp_path / "s.zarr", patch_px=64, executor=None)


def write(table: PatchTable, name: str, values: np.ndarray, revision: int = 1, **attributes: object) -> None:
    spec = ColumnSpec(name, "float32", values.shape[1], attributes)
    for rows in table.prepare([spec], Receipt("test", revision)):
        table.write(name, rows, values[rows])


def predicted(store: SlideStore, *, d_patches: int, revision: int = 1, codes: list[str] = CODES) -> PatchTable:
    """Every patch PD, but the first few D."""
    table = store.patches()
    probs = np.tile([0.1, 0.7, 0.1, 0.1], (len(table), 1))
    probs[:d_patches] = [0.0, 0.1, 0.8, 0.1]
    probs[d_patches - 1] = [0.0, 0.0, 0.9, 0.1]
    model = {"background": codes[3:], "name": "m", "version": "1", "fingerprint": "f"}
    write(table, "probability", probs[:, : len(codes)], revision, names=codes, model=model)
    return table


def measured(table: PatchTable, *, revision: int = 1, **facts: float) -> None:
    usual = {"tissue_share": 1.0, "spindle_share": 0.1, "fibrillary_share": 0.2, "nuclei": 10, "ganglion_like_share": 0}
    row = [float({**usual, **facts}[name]) for name in FACT_NAMES]
    write(table, "caption_facts", np.tile(row, (len(table), 1)), revision, names=FACT_NAMES)


SMALL = Rules(tumour_mm2=0.01)


def test_the_result_is_stored_with_the_votes_and_listed_by_the_store(store: SlideStore):
    table = predicted(store, d_patches=20)
    made = apply_inpc(store, rules=SMALL)
    assert made.category == "D"
    assert stored_inpc(table) == made
    assert store.findings()["vote (inpc_rule)"] == "D"
    vote(store, parameters=VoteParameters(min_patches=1))
    assert set(table.votes()) == {"inpc_rule", "mean"}


def test_without_facts_stroma_is_missing_and_with_them_it_is_measured(store: SlideStore):
    table = predicted(store, d_patches=1)
    assert "Schwannian stroma (not measured)" in apply_inpc(store, rules=SMALL).missing
    measured(table, spindle_share=0.3)
    found = apply_inpc(store, rules=SMALL)
    # a tenth of what is no stroma is background by the model
    assert found.evidence["stroma"].value == pytest.approx(0.3 / (0.3 + 0.9 * 0.7), abs=1e-6)
    assert found.assumptions == ()
    measured(table, spindle_share=0.9, revision=2)
    assert apply_inpc(store, rules=SMALL).category == "GN"


def test_the_source_option_selects_classes_or_facts(store: SlideStore):
    table = predicted(store, d_patches=30)
    measured(table, ganglion_like_share=0.0)
    assert apply_inpc(store, rules=SMALL).category == "D"
    by_facts = apply_inpc(store, rules=SMALL, source="facts")
    assert by_facts.category == "PD"
    assert "ganglion-like" in by_facts.proxies["differentiating"]
    share = apply_inpc(store, rules=SMALL, source="classes").evidence["differentiating"].value
    assert share == pytest.approx(30 / len(table))
    with pytest.raises(RequestError, match="auto, classes, facts"):
        apply_inpc(store, source="votes")


def test_the_area_is_that_of_the_patches(store: SlideStore):
    table = predicted(store, d_patches=1)
    assert patch_facts(table).neuroblastic_mm2.sum() == pytest.approx(0.9 * len(table) * 0.032**2)


def test_a_result_is_computed_again_only_if_its_inputs_change(store: SlideStore):
    table = predicted(store, d_patches=20)
    first = apply_inpc(store, rules=SMALL)
    kept = table.vote_receipt("inpc_rule")
    apply_inpc(store, rules=SMALL)
    assert table.vote_receipt("inpc_rule") == kept
    assert apply_inpc(store, rules=SMALL, clinical=Clinical(treated=True)).category is None
    predicted(store, d_patches=1, revision=2)
    assert apply_inpc(store, rules=SMALL) != first


def test_age_is_not_written_into_the_store(store: SlideStore):
    table = predicted(store, d_patches=20)
    apply_inpc(store, rules=SMALL, clinical=Clinical(age_months=31.4159, mki="low", treated=False))
    text = (table.folder / "votes" / "inpc_rule" / "zarr.json").read_text(encoding="utf-8")
    assert "31.4159" not in text


def test_the_summary_names_the_strongest_patch_and_the_disagreement(store: SlideStore):
    table = predicted(store, d_patches=20)
    assert inpc_summary(table) == []
    apply_inpc(store, rules=SMALL)
    voted = vote(store, parameters=VoteParameters(min_patches=1))
    text = "\n".join(inpc_summary(table, voted, ("UD", "PD", "D")))
    x, y = table.coords[19]
    assert f"most differentiating: patch at {x}, {y} px" in text
    assert "The vote says PD, the INPC rule says D" in text
    assert "Research use only" in text


def test_no_category_is_stated_for_out_of_distribution_tissue(store: SlideStore):
    table = predicted(store, d_patches=20)
    apply_inpc(store, rules=SMALL)
    voted = vote(store, parameters=VoteParameters(min_patches=1))
    (line,) = inpc_summary(table, replace(voted, ood_fraction=0.7), ("UD", "PD", "D"))
    assert "not stated" in line
    assert "70.0 %" in line
    assert len(inpc_summary(table, replace(voted, ood_fraction=0.3), ("UD", "PD", "D"))) > 1


def test_other_models_and_tables_without_columns_are_refused_with_the_next_step(store: SlideStore):
    with pytest.raises(StoreError, match="Run wsikit caption"):
        apply_inpc(store)
    table = predicted(store, d_patches=1, codes=["a", "b", "c", "other"])
    with pytest.raises(StoreError, match="no predictions of UD, PD and D"):
        apply_inpc(store, source="classes")
    with pytest.raises(StoreError, match="measured facts"):
        apply_inpc(store)
    measured(table)
    assert apply_inpc(store, rules=SMALL).category == "PD"


def called_intermixed(store: SlideStore, n: int) -> PatchTable:
    """The first n patches GNB-I, the others PD, by a model without UD."""
    table = store.patches()
    probs = np.tile([0.8, 0.05, 0.05, 0.1], (len(table), 1))
    probs[:n] = [0.05, 0.05, 0.8, 0.1]
    model = {"background": ["other"], "name": "m", "version": "1", "fingerprint": "f"}
    write(table, "probability", probs, names=["PD", "D", "GNB-I", "other"], model=model)
    return table


def test_a_model_with_the_intermixed_class_gives_the_stroma_that_was_not_measured(store: SlideStore):
    table = called_intermixed(store, len(store.patches()) - 2)
    found = apply_inpc(store, rules=SMALL)
    assert (found.category, found.proxies["stroma"]) == ("GNB-I", "area of patches called GNB-I")
    voted = vote(store, parameters=VoteParameters(min_patches=1))
    assert not any("The vote says" in line for line in inpc_summary(table, voted, ("PD", "D", "GNB-I")))


def test_measured_stroma_takes_precedence_over_the_class(store: SlideStore):
    table = called_intermixed(store, len(store.patches()) - 2)
    measured(table, spindle_share=0.2)
    found = apply_inpc(store, rules=SMALL)
    assert found.category == "PD"
    assert "spindle" in found.proxies["stroma"]
    voted = vote(store, parameters=VoteParameters(min_patches=1))
    lines = inpc_summary(table, voted, ("PD", "D", "GNB-I"))
    assert any("vote says GNB-I, the INPC rule says PD" in line for line in lines)
    measured(table, spindle_share=0.9, revision=2)  # no patch is stroma-poor, but the model saw foci
    assert apply_inpc(store, rules=SMALL).category == "GNB-I"


def test_facts_without_stroma_take_it_from_the_class_and_count_no_area_twice(store: SlideStore):
    table = called_intermixed(store, len(store.patches()) // 2)
    measured(table, spindle_share=np.nan)
    facts = patch_facts(table)
    assert not ((facts.stroma_mm2 > 0) & (facts.neuroblastic_mm2 > 0)).any()
    assert facts.proxies["stroma"] == "area of patches called GNB-I"


def test_a_patch_called_intermixed_says_nothing_about_differentiation(store: SlideStore):
    table = store.patches()
    half = len(table) // 2
    probs = np.tile([0.8, 0.1, 0.1], (len(table), 1))
    probs[:half] = [0.1, 0.1, 0.8]
    probs[-1] = [0.1, 0.8, 0.1]
    model = {"background": [], "name": "m", "version": "1", "fingerprint": "f"}
    write(table, "probability", probs, names=["PD", "D", "GNB-I"], model=model)
    measured(table, spindle_share=0.2)
    found = apply_inpc(store, rules=SMALL)
    assert found.evidence["differentiating"].value == pytest.approx(1 / (len(table) - half))
