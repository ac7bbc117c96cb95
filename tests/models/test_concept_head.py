"""Concept heads: criteria, scores of facts, contributions, concepts set by hand, folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsikit.errors import ModelError, RequestError
from wsikit.facts import FACTS
from wsikit.models.concept_config import ConceptHeadConfig
from wsikit.models.concept_criteria import Criteria, options_of_values, read_criteria
from wsikit.models.concept_head import ConceptHead
from wsikit.models.concept_scores import scores_of_facts, scores_of_values
from wsikit.models.concept_setting import parse_settings
from wsikit.models.head_kind import save_head
from wsikit.models.lazy import LazyModel
from wsikit.models.model_folder import EncoderRecord
from wsikit.models.protocol import SetsConcepts
from wsikit.models.registry import describe_model, load_patch_model
from wsikit.testing import check_model

AXES = ("neuropil", "differentiation")
FACT_AXES = read_criteria("inpc").only(AXES)


def config_of(**changes: Any) -> ConceptHeadConfig:
    record: dict[str, Any] = {
        "name": "toy",
        "version": "1",
        "classes": ("UD", "PD", "D"),
        "class_names": ("undifferentiated", "poorly differentiated", "differentiating"),
        "colors": ("#d55e00", "#f0e442", "#0072b2"),
        "mpp": 0.5,
        "patch_px": 224,
        "stain": "H&E",
        "notice": "A test.",
        "mode": "bottleneck",
        "scores": "facts",
        "criteria": FACT_AXES,
        "labels": "planted",
        "temperature": 2.0,
    }
    return ConceptHeadConfig.model_validate(record | changes)


def arrays_of(criteria: Criteria, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    s = criteria.n_options
    centre = np.concatenate([np.full(len(axis.options), 1 / len(axis.options)) for axis in criteria.axes.values()])
    return {
        "weight": rng.normal(size=(s, 3)),
        "bias": rng.normal(size=3),
        "centre": centre,
        "set_to": np.eye(s),
        "knots": np.array([0.05, 0.14, 0.22, 0.45, 0.0, 0.03, 0.2]),
    }


@pytest.fixture
def head() -> ConceptHead:
    return head_on_facts()


def test_the_packaged_criteria_name_known_facts_and_limits() -> None:
    criteria = read_criteria("inpc")
    assert len(criteria.axes) == 10
    assert {"neuropil", "differentiation", "schwannian-stroma", "mitosis-karyorrhexis"} <= set(criteria.axes)
    assert set(criteria.facts) <= set(FACTS)
    assert criteria.columns[-1].stop == criteria.n_options
    # limits of the amount of neuropil are the grades of the captions
    assert criteria.axes["neuropil"].limits == tuple(limit for limit, _ in FACTS["fibrillary_share"].grades[:-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fact": "softness"}, "no fact 'softness'"),
        ({"fact": None}, "names no fact"),
        ({"options": {"absent": {"texts": ["a"]}, "present": {"texts": ["b"]}}}, "needs a limit"),
        ({"options": {"Absent": {"below": 1, "texts": ["a"]}, "present": {"texts": ["b"]}}}, "lower case"),
        ({"options": {"absent": {"texts": ["a"]}}}, "at least 2"),
    ],
)
def test_a_wrong_criterion_is_refused_with_the_reason(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    axis = {"title": "Neuropil", "fact": "fibrillary_share"}
    axis |= {"options": {"absent": {"below": 0.1, "texts": ["a"]}, "present": {"texts": ["b"]}}}
    path = tmp_path / "criteria.json"
    path.write_text(json.dumps({"name": "mine", "axes": {"neuropil": axis | change}}))
    with pytest.raises(RequestError, match=message):
        read_criteria(str(path))
    path.write_text(json.dumps({"name": "mine", "axes": {"neuropil": axis}}))
    assert read_criteria(str(path)).n_options == 2
    with pytest.raises(RequestError, match="not one of the package \\(inpc\\)"):
        read_criteria("inpd")


def test_options_of_values_are_those_of_the_limits() -> None:
    axis = FACT_AXES.axes["neuropil"]
    values = np.array([0.0, 0.1099, 0.11, 0.2999, 0.3, 1.0])
    assert options_of_values(values, axis).tolist() == [0, 0, 1, 2, 3, 3]


def test_scores_are_one_at_a_typical_value_and_linear_between() -> None:
    knots = np.array([0.0, 1.0, 3.0])
    found = scores_of_values(np.array([-1, 0, 1, 2, 9.0]), np.zeros(5), knots, np.full(3, 1 / 3))
    np.testing.assert_allclose(found, [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]])
    # an interval: the mean over it; a missing value: as the mean training patch
    found = scores_of_values(np.array([1.0, np.nan]), np.array([1.0, 0.0]), knots, np.full(3, 1 / 3))
    assert found[0, 1] > found[0, 0] > 0
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(found[1], 1 / 3)


def test_contributions_and_base_are_the_logits(head: ConceptHead) -> None:
    facts = np.random.default_rng(1).uniform(0, 0.5, (20, 2)).astype(np.float32)
    found = head.predict(facts=facts)
    logits = head.base + sum(found[f"contribution_{axis}"].astype(float) for axis in AXES)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found["probability"], probs, atol=1e-5)
    scores = scores_of_facts(facts, np.zeros_like(facts), FACT_AXES, head.arrays["knots"], head.arrays["centre"])
    plain = (scores @ head.arrays["weight"] + head.arrays["bias"]) / 2.0
    np.testing.assert_allclose(logits, plain, atol=1e-5)


def test_a_fact_that_is_missing_contributes_nothing(head: ConceptHead) -> None:
    found = head.predict(facts=np.array([[np.nan, 0.2]], np.float32))
    np.testing.assert_allclose(found["contribution_neuropil"], 0, atol=1e-7)
    assert np.abs(found["contribution_differentiation"]).max() > 0.1


def test_a_concept_that_is_set_replaces_its_axis_alone(head: ConceptHead) -> None:
    facts = np.random.default_rng(1).uniform(0, 0.5, (6, 2)).astype(np.float32)
    plain = head.predict(facts=facts)
    by_hand = head.predict(facts=facts, set={"neuropil": "abundant"})
    np.testing.assert_array_equal(by_hand["concept_neuropil"], np.eye(4)[[3] * 6])
    assert (by_hand["contribution_neuropil"] == by_hand["contribution_neuropil"][0]).all()
    np.testing.assert_array_equal(by_hand["contribution_differentiation"], plain["contribution_differentiation"])
    # what the patch shows of it does not matter any more
    other = facts.copy()
    other[:, 0] = 0
    again = head.predict(facts=other, set={"neuropil": "abundant"})
    np.testing.assert_array_equal(again["probability"], by_hand["probability"])
    # one option per patch, None where it is not set
    mixed = head.predict(facts=facts, set={"neuropil": ["abundant"] * 3 + [None] * 3})
    np.testing.assert_array_equal(mixed["probability"][:3], by_hand["probability"][:3])
    np.testing.assert_array_equal(mixed["probability"][3:], plain["probability"][3:])


def test_the_description_states_what_is_set(head: ConceptHead) -> None:
    assert isinstance(head, SetsConcepts)
    bound = head.with_concepts({"neuropil": "absent"}).with_concepts({"differentiation": "none"})
    assert bound.info.concepts_set == (("neuropil", "absent"), ("differentiation", "none"))
    assert (
        bound.info.notice == "A test. Concepts set by hand in every patch: neuropil = absent, differentiation = none."
    )
    assert bound.info.record()["concepts_set"] == {"neuropil": "absent", "differentiation": "none"}
    assert head.info.concepts_set == ()
    facts = np.array([[0.4, 0.3]], np.float32)
    np.testing.assert_array_equal(
        bound.predict(facts=facts)["probability"],
        head.predict(facts=facts, set={"neuropil": "absent", "differentiation": "none"})["probability"],
    )
    lazy = LazyModel.of(head).with_concepts({"neuropil": "absent"})
    assert lazy.info == head.with_concepts({"neuropil": "absent"}).info
    assert lazy.load().info == lazy.info


@pytest.mark.parametrize("way", ["predict", "bind", "lazy"])
def test_unknown_axes_and_options_are_refused_with_the_list(head: ConceptHead, way: str) -> None:
    def set_to(options: dict[str, str]) -> object:
        if way == "predict":
            return head.predict(facts=np.zeros((1, 2), np.float32), set=options)
        return (head if way == "bind" else LazyModel.of(head)).with_concepts(options)

    with pytest.raises(RequestError, match="no axis 'neuropl'; it has neuropil, differentiation"):
        set_to({"neuropl": "absent"})
    with pytest.raises(RequestError, match="neuropil has no option 'none'; it has absent, scant, moderate, abundant"):
        set_to({"neuropil": "none"})


def test_set_on_the_command_line_is_an_axis_and_an_option() -> None:
    assert parse_settings(["neuropil=absent", "fat = present"]) == {"neuropil": "absent", "fat": "present"}
    for text, message in (("neuropil", "expected AXIS=OPTION"), ("=absent", "expected"), ("neuropil=", "expected")):
        with pytest.raises(RequestError, match=message):
            parse_settings([text])
    with pytest.raises(RequestError, match="set twice"):
        parse_settings(["fat=present", "fat=absent"])


def test_a_model_without_concepts_refuses_to_set_them() -> None:
    with pytest.raises(RequestError, match="has no concepts"):
        LazyModel.of("phantom-mmlnb").with_concepts({"neuropil": "absent"})


def learned_head(d: int = 16) -> ConceptHead:
    rng = np.random.default_rng(2)
    s = FACT_AXES.n_options
    arrays = {name: values for name, values in arrays_of(FACT_AXES).items() if name != "knots"}
    arrays |= {"mean": np.zeros(d), "scale": np.ones(d)}
    arrays |= {"concept_weight": rng.normal(size=(d, s)), "concept_bias": np.zeros(s)}
    config = config_of(scores="learned", encoder=EncoderRecord(name="enc", width=d, fingerprint="f00d"))
    return ConceptHead(config, arrays, fingerprint="f00d")


def attending_head(d: int = 16) -> ConceptHead:
    import torch

    from wsikit.models.concept_attention import ConceptAttention

    torch.manual_seed(0)
    module = ConceptAttention(d, torch.randn(FACT_AXES.n_options, 8), FACT_AXES.columns, width=8, heads=2)
    arrays = {name: values for name, values in arrays_of(FACT_AXES).items() if name != "knots"}
    arrays |= {f"attention.{name}": values.detach().numpy() for name, values in module.state_dict().items()}
    config = config_of(
        mode="attend",
        scores="attention",
        encoder=EncoderRecord(name="enc", width=d),
        width=8,
        heads=2,
        anchors="lexicon",
    )
    return ConceptHead(config, arrays, fingerprint="f00d")


def head_on_facts() -> ConceptHead:
    return ConceptHead(config_of(), arrays_of(FACT_AXES), fingerprint="f00d")


@pytest.mark.parametrize("make", [head_on_facts, learned_head, attending_head])
def test_every_kind_keeps_what_a_patch_model_promises_also_from_its_folder(make: Any, tmp_path: Path) -> None:
    head = make()
    check_model(head)
    folder = save_head(head, tmp_path / "model", card="# toy")
    loaded = load_patch_model(folder, device="cpu")
    info = describe_model(folder)
    assert (info.architecture, info.axes, info.inputs) == ("concepts", head.info.axes, head.info.inputs)
    check_model(loaded)
    rng = np.random.default_rng(0)
    inputs = {"facts": rng.uniform(0, 0.5, (5, 2))} if info.facts else {"features": rng.normal(size=(5, 16))}
    one, two = head.predict(**inputs), loaded.predict(**inputs)
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=1e-6)


def test_features_that_are_not_finite_give_no_prediction() -> None:
    features = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    features[1] = np.nan
    found = learned_head().predict(features=features)
    assert np.isfinite(found["probability"]).all(axis=1).tolist() == [True, False, True]
    assert np.isnan(found["concept_neuropil"][1]).all()


def test_wrong_arrays_and_inputs_are_refused(head: ConceptHead) -> None:
    arrays = arrays_of(FACT_AXES)
    with pytest.raises(
        ModelError, match=r"weight is \(7, 2\), expected \(7, 3\) for 7 options of 2 axes and 3 classes"
    ):
        ConceptHead(config_of(), arrays | {"weight": np.zeros((7, 2))})
    with pytest.raises(ModelError, match="knots is missing"):
        ConceptHead(config_of(), {name: values for name, values in arrays.items() if name != "knots"})
    with pytest.raises(ModelError, match=r"takes facts, \(B, 2\), got \(1, 5\)"):
        head.predict(facts=np.zeros((1, 5)))
