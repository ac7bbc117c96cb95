"""Concepts that are set to the truth, and concepts that only repeat the class."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.training.concepts.conftest import World, settings_of
from wsikit.models.concept_criteria import UNKNOWN, read_criteria
from wsikit.models.model_folder import EncoderRecord
from wsikit.models.protocol import PROBABILITY
from wsikit.phantom.patches import phantom_patches
from wsikit.training.concepts.checks import concept_agreement, interventions, kappa_within
from wsikit.training.concepts.data import ConceptData
from wsikit.training.concepts.fit import fit_head, scores_of
from wsikit.training.concepts.run import one_hot
from wsikit.training.data import PatchSet

# fitted on true concepts, with a given penalty
LAYER = settings_of().concepts.linear.model_copy(update={"l1": 0.002, "fit_on": "truth"})
PIPELINE = Path(__file__).parents[3] / "pipelines" / "concept_phantom.py"


def test_interventions_with_the_truth_only_help_and_reach_the_oracle(world: World) -> None:
    train, test = world.halves
    head = fit_head(settings_of(), world.criteria, world.data(train), world.data(train)).head
    data = world.data(test)
    steps = interventions(head, scores_of(head, data), data.concepts, data.patches.labels)
    accuracies = [step["accuracy"] for step in steps]
    assert [len(step["set"]) for step in steps] == [0, 1, 2, 3]
    assert accuracies[0] < 0.95  # there is something to gain
    assert accuracies == sorted(accuracies)
    assert accuracies[-1] == 1.0  # the class is a rule on the concepts


def test_with_all_concepts_set_the_head_is_the_classifier_on_true_concepts(world: World) -> None:
    train, test = world.halves
    settings = settings_of(concepts=settings_of().concepts.model_copy(update={"linear": LAYER}).model_dump())
    head = fit_head(settings, world.criteria, world.data(train), world.data(train)).head
    theirs = LogisticRegression(C=1 / (0.002 * len(train)), solver="saga", max_iter=50_000, tol=1e-7, l1_ratio=1.0)
    theirs.fit(one_hot(world.concepts[train], world.criteria), world.labels[train])
    data = world.data(test)
    ours = head.columns_of(scores_of(head, data), data.concepts)[PROBABILITY]
    wanted = theirs.predict_log_proba(one_hot(world.concepts[test], world.criteria)) / head.config.temperature
    wanted = np.exp(wanted) / np.exp(wanted).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours, wanted, atol=2e-3)


def test_a_concept_that_repeats_the_class_is_exposed(world: World) -> None:
    """The head is trained on concept labels that are copied from the class, and checked against planted ones."""
    train, test = world.halves
    copied = np.stack([np.array([0, 1, 2, 3])[world.labels], np.array([0, 1, 2, 0])[world.labels]], axis=1)
    copied = np.column_stack([copied, np.array([0, 0, 0, 2])[world.labels]])
    honest = fit_head(settings_of(), world.criteria, world.data(train), world.data(train)).head
    seen = world.data(train, concepts=copied)
    echo = fit_head(settings_of(), world.criteria, seen, seen).head
    found = {}
    for name, head in (("honest", honest), ("echo", echo)):
        data = world.data(test)
        shown = scores_of(head, data)
        found[name] = concept_agreement(world.criteria, shown, data.concepts, data.patches.labels, data.patches.groups)
    # given the class, the planted grade of neuropil is still predicted by the one, and by the other at chance only
    assert found["honest"]["neuropil"]["within_class"]["low"] > 0.2
    assert found["honest"]["neuropil"]["warning"] == ""
    assert found["echo"]["neuropil"]["within_class"]["value"] < 0.1
    assert "echo of the class" in found["echo"]["neuropil"]["warning"]
    assert found["honest"]["neuropil"]["accuracy"] > found["honest"]["neuropil"]["class_alone"]
    # and setting its concepts to the truth does not help it
    steps = interventions(echo, scores_of(echo, world.data(test)), world.concepts[test], world.labels[test])
    assert steps[-1]["accuracy"] < 0.8


def test_agreement_within_classes_is_cohens_kappa_where_there_is_one_class() -> None:
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=500)
    called = np.where(rng.random(500) < 0.6, truth, rng.integers(3, size=500))
    table = np.zeros((1, 1, 3, 3))
    np.add.at(table, (0, 0, truth, called), 1)
    assert kappa_within(table)[0] == pytest.approx(cohen_kappa_score(truth, called))


def test_a_truth_that_follows_from_the_class_cannot_be_distinguished_from_an_echo_and_has_no_agreement(
    world: World,
) -> None:
    copied = np.stack([world.labels % 4, world.labels % 3, world.labels % 3], axis=1)
    shown = one_hot(copied, world.criteria)
    found = concept_agreement(world.criteria, shown, copied, world.labels, world.groups)
    assert found["neuropil"]["within_class"]["value"] is None
    assert "follows from the class" in found["neuropil"]["within_class"]["reason"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("concept_phantom", PIPELINE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_on_phantoms_the_truth_never_lowers_the_accuracy_and_reaches_the_oracle(script: ModuleType) -> None:
    """Measured features are replaced by the encoder's in pipelines/configs/concepts_phantom.yaml; here, by the facts of
    the scene under noise, so that the test needs no encoder."""
    criteria = read_criteria("inpc").only(script.AXES)
    patches = list(phantom_patches(range(23_000, 23_024), 4, borderline=True))
    labels = np.array([patch.label for patch in patches], np.int64)
    concepts = np.full((len(patches), len(criteria.axes)), UNKNOWN, np.int64)
    for row, patch in enumerate(patches):
        options = script.true_options(patch.facts)
        for axis, (key, one) in enumerate(criteria.axes.items()):
            if key in options:
                concepts[row, axis] = list(one.options).index(options[key])
    rng = np.random.default_rng(0)
    facts = np.concatenate(
        [np.concatenate([patch.facts.fractions, patch.facts.diff_fraction[:, None]], axis=1) for patch in patches]
    )
    features = (facts + rng.normal(0, 0.08, facts.shape)).astype(np.float32)
    groups = np.array([f"phantom-{patch.seed}" for patch in patches])
    half = np.isin(groups, np.unique(groups)[::2])
    parts = []
    for rows in (half, ~half):
        n = int(rows.sum())
        some = PatchSet(np.zeros((n, 0, 0, 3), np.uint8), labels[rows], groups[rows], ("",) * n)
        record = EncoderRecord(name="planted", width=features.shape[1])
        parts.append(ConceptData(some, features[rows], None, concepts[rows], None, record, 0.5, ""))
    head = fit_head(settings_of(), criteria, parts[0], parts[0]).head
    steps = interventions(head, scores_of(head, parts[1]), parts[1].concepts, parts[1].patches.labels)
    oracle = LogisticRegression(C=10.0, max_iter=2000).fit(one_hot(concepts[half], criteria), labels[half])
    reachable = oracle.score(one_hot(concepts[~half], criteria), labels[~half])
    assert steps[-1]["accuracy"] >= steps[0]["accuracy"]
    assert steps[-1]["accuracy"] >= reachable - 0.02
