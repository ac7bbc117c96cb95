"""Models on slide labels: pooling, attention, and the slide as the attention-weighted sum of its patches."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wsikit.errors import ModelError
from wsikit.models.mil import MilModel
from wsikit.models.mil_config import GROUPS, MilConfig
from wsikit.models.mil_kind import save_mil
from wsikit.models.mil_network import MilNetwork
from wsikit.models.mil_pooling import assigned, count_of, evidence_scores, pooling_weights, top_weights
from wsikit.models.model_folder import EncoderRecord
from wsikit.models.registry import describe_model, load_patch_model
from wsikit.ordinal import ordered_classes
from wsikit.voting import VoteRule, vote
from wsikit.voting.vote import Evidence

D = 5
KINDS = [
    *(("classes", pooling) for pooling in ("abmil", "mean", "max", "alpha_beta")),
    *itertools.product(("ordinal", "regression", "survival"), ("abmil", "mean", "max")),
]


def config(task: str = "classes", pooling: str = "abmil", **settings: Any) -> MilConfig:
    classes = ("UD", "PD", "D") if task in ("classes", "ordinal") else GROUPS
    common: dict[str, Any] = {
        "name": "toy", "version": "1", "mpp": 0.5, "patch_px": 224, "stain": "H&E", "notice": "A test.", "members": 2,
        "classes": classes, "class_names": classes, "colors": ("#112233",) * len(classes),
        "encoder": EncoderRecord(name="toy", width=D), "times": (1.0, 2.0) if task == "survival" else (),
        "centre": 0.3, "spread": 0.5,
    }  # fmt: skip
    return MilConfig(task=task, pooling=pooling, **common | settings)


def network(about: MilConfig, seed: int = 0) -> MilNetwork:
    torch.manual_seed(seed)
    made = MilNetwork(
        D, hidden=8, attention=4, outputs=about.outputs, pooling=about.pooling, task=about.task, cuts=about.cuts
    )
    return made.eval()


def model(about: MilConfig) -> MilModel:
    arrays = {
        f"{member}.{name}": values
        for member in range(about.members)
        for name, values in network(about, member).arrays().items()
    }
    return MilModel(about, arrays)


def bag(n: int, seed: int = 0) -> np.ndarray:
    return (3 * np.random.default_rng(seed).normal(size=(n, D))).astype(np.float32)


def voted(made: MilModel, x: np.ndarray) -> np.ndarray:
    """The slide by `predict`, `finish` and the vote that the model states, as a run does it."""
    columns = made.predict(features=x)
    attention = made.finish(columns, np.zeros((len(x), 2)))["attention"]
    own = made.info.vote
    assert own is not None
    rule = VoteRule(own["method"], pool=own["pool"], min_patches=own["min_patches"], resamples=0)
    return vote(columns["probability"], rule, evidence=Evidence(attention=attention)).probs


def test_gated_attention_is_the_published_formula():
    about = config(members=1)
    made, x = network(about), bag(6)
    a = {name: values.astype(np.float64) for name, values in made.arrays().items()}
    h = np.maximum(x @ a["weight1"] + a["bias1"], 0)
    # a_k ∝ exp{ w (tanh(V h_k) ⊙ sigm(U h_k)) }, Ilse et al. 2018, eq. 9
    gates = [np.tanh(a["v"].T @ k + a["v_bias"]) / (1 + np.exp(-(a["u"].T @ k + a["u_bias"]))) for k in h]
    score = np.array([a["w"] @ gate for gate in gates])
    weights = np.exp(score) / np.exp(score).sum()
    slide = a["weight"].T @ (weights @ h) + a["bias"]  # the head on the pooled embedding
    found = model(about).slide(x)
    np.testing.assert_allclose(found["attention"], weights, rtol=1e-5)
    np.testing.assert_allclose(found["logits"], slide, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("task", "pooling"), KINDS)
def test_prediction_without_torch_equals_the_network(task: str, pooling: str):
    about = config(task, pooling, members=1)
    x = bag(9)
    with torch.no_grad():
        scores, logits = network(about)(torch.as_tensor(x))
        expected = network(about).pooled(scores, logits).numpy()
    np.testing.assert_allclose(model(about).slide(x)["logits"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("task", "pooling"), KINDS)
def test_the_slide_does_not_depend_on_the_order_of_its_patches(task: str, pooling: str):
    made, x = model(config(task, pooling)), np.concatenate([bag(7), bag(7)[:3]])  # with equal patches
    order = np.random.default_rng(1).permutation(len(x))
    one, two = made.slide(x), made.slide(x[order])
    np.testing.assert_allclose(one["probability"], two["probability"], atol=1e-9)
    np.testing.assert_allclose(one["attention"][order], two["attention"], atol=1e-9)


@pytest.mark.parametrize(("task", "pooling"), KINDS)
def test_the_vote_that_a_model_states_gives_its_own_prediction(task: str, pooling: str):
    made, x = model(config(task, pooling)), bag(40)
    np.testing.assert_allclose(voted(made, x), made.slide(x)["probability"], atol=1e-6)


@pytest.mark.parametrize(("task", "pooling"), KINDS)
def test_a_slide_of_one_patch_is_that_patch(task: str, pooling: str):
    made, x = model(config(task, pooling)), bag(1)
    found = made.slide(x)
    assert found["attention"].tolist() == [1.0]
    np.testing.assert_allclose(found["probability"], found["patch_probability"][0])


def test_the_value_of_a_slide_is_the_attention_weighted_sum_of_its_parts():
    made, x = model(config("regression")), bag(12)
    columns, found = made.predict(features=x), made.slide(x)
    assert found["value"] == pytest.approx(float(found["attention"] @ columns["value"]), rel=1e-5)
    high = 1 / (1 + np.exp(-(found["value"] - 0.3) / 0.5))
    assert found["probability"][1] == pytest.approx(high)


def test_patches_without_features_are_no_part_of_the_slide():
    made, x = model(config()), bag(5)
    holes = np.concatenate([x, np.full((2, D), np.nan, np.float32)])
    columns = made.predict(features=holes)
    attention = made.finish(columns, np.zeros((7, 2)))["attention"]
    assert np.isnan(attention[5:]).all()
    assert attention[:5].sum() == pytest.approx(1)
    np.testing.assert_allclose(made.slide(holes)["logits"], made.slide(x)["logits"])
    with pytest.raises(ModelError, match="without patches"):
        made.slide(holes[5:])


def test_a_saved_model_predicts_the_same(tmp_path: Path):
    made, x = model(config()), bag(8)
    folder = save_mil(made, tmp_path / "model", card="# toy")
    loaded: Any = load_patch_model(folder)
    np.testing.assert_array_equal(loaded.slide(x)["logits"], made.slide(x)["logits"])
    info = describe_model(folder)
    assert (info.architecture, info.whole_slide, info.feature_columns) == ("mil", ("attention",), ("features_toy",))


def test_a_damaged_model_says_what_is_wrong(tmp_path: Path):
    made = model(config())
    with pytest.raises(ModelError, match="1 arrays missing or unknown, such as 1.w"):
        MilModel(config(), {name: values for name, values in made.arrays.items() if name != "1.w"})
    with pytest.raises(ModelError, match=r"0.bias is \(2,\), expected \(3,\)"):
        MilModel(config(), made.arrays | {"0.bias": np.zeros(2)})
    with pytest.raises(ModelError, match=r"takes features of toy, \(B, 5\)"):
        made.predict(features=np.zeros((2, 4)))
    folder = save_mil(made, tmp_path / "model", card="# toy")
    (folder / "config.json").write_text('{"architecture": "mil"}')
    with pytest.raises(ModelError, match="not a MIL model"):
        describe_model(folder)


# ---- pooling


def test_shares_are_rounded_up_and_give_at_least_one():
    assert [count_of(0.1, n) for n in (1, 9, 10, 11, 30)] == [1, 1, 1, 2, 3]
    assert count_of(0, 30) == 0
    assert count_of(1, 30) == 30


def test_equal_scores_share_the_last_places():
    assert top_weights([0.2, 0.9, 0.2, 0.2], 2).tolist() == [1 / 3, 1, 1 / 3, 1 / 3]
    assert top_weights([1, 1], 5).tolist() == [1, 1]
    assert pooling_weights([3, 3, 1], "max").tolist() == [0.5, 0.5, 0]
    assert pooling_weights([4, 3, 2, 1], "alpha_beta", 0.5).tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize(
    ("scores", "alpha", "beta", "positive", "negative"),
    [
        ([4, 3, 2, 1], 0.25, 0.0, [1, 0, 0, 0], [0, 0, 0, 0]),  # beta 0: no negatives
        ([4, 3, 2, 1], 0.25, 0.5, [1, 0, 0, 0], [0, 0, 1, 1]),
        ([4, 3, 2, 1], 1.0, 0.5, [1, 1, 0, 0], [0, 0, 1, 1]),  # overlap: negative wins
        ([4, 3, 2, 1], 0.1, 1.0, [1, 0, 0, 0], [0, 1, 1, 1]),  # one place is left for a positive
        ([7], 0.1, 0.9, [1], [0]),  # a bag of one
        ([1, 1], 0.5, 0.5, [0.5, 0.5], [0.5, 0.5]),  # ties are shared
        ([2, 1, 1], 0.1, 0.1, [1, 0, 0], [0, 0.5, 0.5]),
    ],
)
def test_shares_of_positive_and_negative_patches(
    scores: list[float], alpha: float, beta: float, positive: list[float], negative: list[float]
):
    found = assigned(scores, alpha, beta)
    assert [part.tolist() for part in found] == [positive, negative]
    order = np.random.default_rng(0).permutation(len(scores))
    turned = assigned(np.array(scores)[order], alpha, beta)
    assert [part.tolist() for part in turned] == [part[order].tolist() for part in found]


def test_evidence_of_more_than_two_classes():
    z = np.log([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(evidence_scores(z, "classes", "max"), np.log([0.7, 0.8]))
    np.testing.assert_allclose(evidence_scores(z, "classes", "alpha_beta"), np.log([0.3 / 0.7, 0.9 / 0.1]))


def test_thresholds_of_ordered_classes_ascend_whatever_the_weights():
    made = network(config("ordinal", members=1))
    for seed in range(20):
        torch.manual_seed(seed)
        for part in made.parameters():
            torch.nn.init.normal_(part, std=3.0)
        cuts = made.arrays()["cuts"]
        assert (np.diff(cuts) >= 0).all()
        probs = ordered_classes(np.random.default_rng(seed).normal(size=(50, 1)) * 10 - cuts[None])
        assert (probs >= 0).all()
        np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-12)
