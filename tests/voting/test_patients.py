"""Aggregation per patient: weighted by area, the worst grade is the least differentiated, no slide is dropped."""

from __future__ import annotations

import json

import pytest

from wsikit.errors import RequestError
from wsikit.voting.patients import SlideOfPatient, combine_slides


def slide(slide_id: str, label: str, area_mm2: float, *probs: float) -> SlideOfPatient:
    return SlideOfPatient(slide_id, label, dict(zip(("UD", "PD", "D"), probs)), area_mm2)


def test_the_mean_weighs_by_area_and_the_worst_grade_does_not():
    found = combine_slides("p", [slide("a", "D", 90, 0.1, 0.2, 0.7), slide("b", "UD", 10, 0.8, 0.1, 0.1)])
    assert found.mean == "D"
    assert found.probability == pytest.approx({"UD": 0.17, "PD": 0.19, "D": 0.64})
    assert found.margin == pytest.approx(0.45)
    assert (found.worst, found.worst_slides) == ("UD", ("b",))
    assert found.complete


@pytest.mark.parametrize(
    ("labels", "worst"), [(("D", "D"), "D"), (("D", "PD"), "PD"), (("PD", "UD"), "UD"), (("UD", "D"), "UD")]
)
def test_the_worst_grade_is_the_least_differentiated(labels, worst):
    slides = [slide(str(i), label, 1, 0.3, 0.3, 0.4) for i, label in enumerate(labels)]
    assert combine_slides("p", slides).worst == worst


def test_slides_that_do_not_count_are_named():
    slides = [
        slide("a", "PD", 5, 0.2, 0.7, 0.1),
        SlideOfPatient("b", trouble="failed: no such file"),
        SlideOfPatient("c", trouble="abstained: margin 0.010 is below 0.1"),
    ]
    found = combine_slides("p", slides)
    assert found.counted == ("a",)
    assert set(found.left_out) == {"b", "c"}
    assert not found.complete
    for said in ("1 of 3 slides", "without b: failed: no such file", "without c: abstained"):
        assert said in found.words()


def test_a_patient_of_whom_no_slide_counts_has_no_result():
    found = combine_slides("p", [SlideOfPatient("a", trouble="missing")])
    assert (found.mean, found.worst, found.margin) == (None, None, None)
    assert found.words() == "no slide counts; without a: missing"
    json.dumps(found.to_json())


def test_equal_means_are_undecided_and_classes_without_order_have_no_worst():
    one = SlideOfPatient("a", "IDC", {"benign": 0.2, "IDC": 0.8}, 1.0)
    two = SlideOfPatient("b", "benign", {"benign": 0.8, "IDC": 0.2}, 1.0)
    found = combine_slides("p", [one, two])
    assert (found.mean, found.worst) == (None, None)
    assert combine_slides("p", [one, two], order=("IDC", "benign")).worst == "IDC"


def test_slides_of_two_models_or_of_one_name_are_refused():
    idc = SlideOfPatient("b", "IDC", {"benign": 0.2, "IDC": 0.8}, 1.0)
    with pytest.raises(RequestError, match="run both with one model"):
        combine_slides("p", [slide("a", "PD", 5, 0.2, 0.7, 0.1), idc])
    with pytest.raises(RequestError, match="duplicate"):
        combine_slides("p", [idc, idc])
    for wrong in ({"label": None}, {"trouble": "failed"}, {"area_mm2": 0.0}):
        with pytest.raises(RequestError):
            SlideOfPatient(**{"slide_id": "s", "label": "PD", "probability": {"PD": 1.0}, "area_mm2": 1.0} | wrong)
