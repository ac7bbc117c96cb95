"""Ganglioneuroblastoma, intermixed (GNB-I), as a class of a model: INPC's published definitions on areas by class."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.voting.inpc import InpcResult, disagreement, inpc
from wsikit.voting.inpc_facts import PatchFacts, facts_from_classes
from wsikit.voting.patients import SlideOfPatient, combine_slides
from wsikit.voting.prognosis import Clinical

CODES = ("UD", "PD", "D", "GNB-I", "other")
SIDE, PITCH_MM = 100, 0.1


def called(shares: dict[str, float], codes: tuple[str, ...] = CODES, *, nodule: int = 0) -> PatchFacts:
    """100 mm² of patches called as `shares` say, in strips of one patch: the first class takes every other strip first.

    With `nodule`, a square of so many patches is called PD.
    """
    y, x = np.mgrid[:SIDE, :SIDE]
    cells = np.stack([x.ravel(), y.ravel()], axis=1)
    strips = np.empty(SIDE, int)
    strips[np.argsort(np.arange(SIDE) % 2, kind="stable")] = [
        codes.index(code) for code, share in shares.items() for _ in range(round(SIDE * share))
    ]
    label = strips[cells[:, 0]]
    label[(cells < nodule).all(axis=1)] = codes.index("PD")
    probs = np.full((len(cells), len(codes)), 0.1)
    probs[np.arange(len(cells)), label] = 1.1 - 0.1 * len(codes)
    probs /= probs.sum(axis=1, keepdims=True)
    # no background, so that an area is a number of patches
    probs[:, -1] = 0
    probs /= probs.sum(axis=1, keepdims=True)
    return facts_from_classes(probs, codes, ("other",), cells=cells, pitch_mm=PITCH_MM)


def ruled(shares: dict[str, float], **options) -> InpcResult:
    return inpc(called(shares, **options))


@pytest.mark.parametrize(
    ("shares", "category"),
    [
        # stroma-poor: neuropil and differentiation decide, whatever little stroma there is
        ({"UD": 1.0}, "UD"),
        ({"PD": 1.0}, "PD"),
        ({"PD": 0.95, "D": 0.05}, "PD"),
        ({"PD": 0.94, "D": 0.06}, "D"),
        ({"UD": 0.6, "GNB-I": 0.4}, "UD"),
        ({"PD": 0.5, "GNB-I": 0.5}, "PD"),  # exactly half is not more than half
        ({"PD": 0.56, "D": 0.04, "GNB-I": 0.4}, "D"),  # 4 of 60 are more than 5 %: stroma holds no neuroblasts
        # stroma-rich with microscopic foci
        ({"GNB-I": 0.51, "PD": 0.49}, "GNB-I"),
        ({"GNB-I": 0.7, "D": 0.3}, "GNB-I"),
        ({"GNB-I": 1.0}, "GNB-I"),  # never GN: the class itself holds foci
    ],
)
def test_the_published_definitions_hold_on_areas_by_class(shares, category):
    assert ruled(shares).category == category


@pytest.mark.parametrize(("side", "category"), [(19, "GNB-I"), (20, "GNB-N?")])
def test_a_macroscopic_stroma_poor_region_raises_the_suspicion_of_the_nodular_type(side, category):
    found = ruled({"GNB-I": 1.0}, nodule=side)  # 20 × 20 patches are 4 mm²
    assert found.category == category
    assert [nodule.category for nodule in found.nodules] == (["PD"] if category == "GNB-N?" else [])


@pytest.mark.parametrize(("age", "mki"), list(itertools.product((1, 18, 60, 200), ("low", "intermediate", "high"))))
def test_the_intermixed_type_is_favourable_at_any_age_and_mki(age, mki):
    for codes in (CODES, CODES[1:]):
        found = inpc(called({"GNB-I": 0.8, "PD": 0.2}, codes), clinical=Clinical(age, mki, treated=False))
        assert (found.category, found.group, found.assumptions) == ("GNB-I", "FH", ())


def test_a_model_that_does_not_know_undifferentiated_tumour_assumes_that_there_is_none():
    clinical = Clinical(12, "low", treated=False)
    found = inpc(called({"PD": 1.0}, CODES[1:]), clinical=clinical)
    assert found.category == "PD"
    assert found.assumptions == ("not undifferentiated (the model has no class UD)",)
    assert found.group is None  # a group needs a category without assumption
    assert inpc(called({"PD": 1.0}), clinical=clinical).group == "FH"
    nodular = inpc(called({"GNB-I": 1.0}, CODES[1:], nodule=30), clinical=clinical)
    assert (nodular.category, nodular.assumptions) == ("GNB-N?", found.assumptions)


def test_stroma_by_class_is_a_named_proxy_with_its_strongest_patches():
    found = ruled({"GNB-I": 0.7, "PD": 0.3})
    assert found.evidence["stroma"].value == pytest.approx(0.7)
    assert found.proxies["stroma"] == "area of patches called GNB-I"
    assert len(found.top_rows["stroma"]) == 5
    assert not any("Schwannian" in item for item in found.missing)


def test_the_rule_and_a_vote_for_the_intermixed_type_may_disagree():
    found = ruled({"GNB-I": 0.45, "PD": 0.3, "UD": 0.25})  # the plurality is GNB-I, more than half is not
    assert found.category == "PD"
    said = disagreement(found, "GNB-I")
    assert "The vote says GNB-I, the INPC rule says PD (Schwannian stroma 45.0 %" in said


@pytest.mark.parametrize("codes", [("UD", "PD"), ("PD", "D", "GN"), ("UD", "D", "GNB-I")])
def test_other_classes_are_refused(codes):
    with pytest.raises(RequestError, match=r"not INPC's.*GNB-I; UD may be absent"):
        facts_from_classes(np.ones((1, len(codes))), codes, cells=np.zeros((1, 2), int), pitch_mm=PITCH_MM)


def test_a_negative_area_of_intermixed_tissue_is_refused():
    with pytest.raises(RequestError, match="intermixed_mm2 below 0"):
        PatchFacts(np.zeros((1, 2), int), 0.1, np.ones(1), intermixed_mm2=-np.ones(1))


def test_the_worst_slide_of_a_patient_is_the_least_differentiated_one():
    probability = {"PD": 0.3, "D": 0.3, "GNB-I": 0.4}
    slides = [SlideOfPatient(name, name, probability, 1.0) for name in ("GNB-I", "D")]
    assert combine_slides("p", slides).worst == "D"
    assert combine_slides("p", slides[:1]).worst == "GNB-I"
