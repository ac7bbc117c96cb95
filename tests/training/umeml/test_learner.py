"""UMEML as a learner of cohorts."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wsikit.errors import ModelError, RequestError
from wsikit.phantom.gene_cohort import make_cohort
from wsikit.training.cohort.protocol import UNKNOWN, Part
from wsikit.training.cohort.survival_scores import FoldTruth
from wsikit.training.umeml.folder import load_umeml, save_umeml
from wsikit.training.umeml.learner import UmemlLearner
from wsikit.training.umeml.settings import UmemlSettings
from wsikit.training.umeml.views import explain


def fit(cohort: Part, settings: UmemlSettings, **other: Any) -> Any:
    return UmemlLearner(settings, **other).fit(cohort.take(range(60)), cohort.take(range(60, 75)), seed=0)


def settings_with(settings: UmemlSettings, **changes: Any) -> UmemlSettings:
    return UmemlSettings.model_validate(settings.model_dump() | changes)


def concordance(part: Part, risk: np.ndarray) -> float:
    assert part.time is not None
    assert part.event is not None
    later = part.time[:, None] < part.time[None, :]
    pairs = later & part.event[:, None]
    return float(((risk[:, None] > risk[None, :]) & pairs).sum() / pairs.sum())


@pytest.mark.parametrize("survival", ["nll", "cox"])
def test_survival_and_grades_are_learned_together_from_slides_and_tables(
    cohort: Part, small: UmemlSettings, survival: str
) -> None:
    fitted = fit(cohort, settings_with(small, survival=survival))
    test = cohort.take(range(75, 90))
    found = fitted.predict(test)
    assert found.survival.shape == (15, len(found.times))
    assert bool((np.diff(found.survival, axis=1) <= 1e-9).all())
    assert bool((np.diff(found.times) > 0).all())
    np.testing.assert_allclose(found.probs.sum(axis=1), 1, atol=1e-6)
    assert concordance(test, found.risk) > 0.6


def test_a_cohort_without_slides_builds_no_pathology_branch(cohort: Part, small: UmemlSettings) -> None:
    fitted = fit(replace(cohort, bags=None), small)
    assert fitted.members[0].network.pathology is None
    # patients who have slides are then predicted from their tables
    np.testing.assert_allclose(fitted.predict(cohort).risk, fitted.predict(replace(cohort, bags=None)).risk)


def test_equal_seeds_give_equal_predictions_and_others_differ(cohort: Part, small: UmemlSettings) -> None:
    train, validation = cohort.take(range(60)), cohort.take(range(60, 75))
    settings = settings_with(small, linear_start=False)
    risks = [UmemlLearner(settings).fit(train, validation, seed).predict(cohort).risk for seed in (1, 1, 2)]
    np.testing.assert_array_equal(risks[0], risks[1])
    assert np.abs(risks[0] - risks[2]).max() > 1e-6


def test_the_outcome_of_predicted_patients_is_not_read(cohort: Part, small: UmemlSettings) -> None:
    fitted = fit(cohort, small)
    blind = replace(cohort, time=None, event=None, labels=None)
    np.testing.assert_array_equal(fitted.predict(blind).risk, fitted.predict(cohort).risk)


def test_values_of_other_parts_do_not_move_what_was_fitted(cohort: Part, small: UmemlSettings) -> None:
    """Scaling, clusters and bins are those of the training part: test patients with extreme values change nothing."""
    fitted = fit(cohort, small)
    alone = fitted.predict(cohort.take([80])).risk
    wild = replace(cohort, columns={name: values.copy() for name, values in cohort.columns.items()})
    wild.columns["rna"][81:] *= 100
    np.testing.assert_allclose(fitted.predict(wild).risk[80], alone, atol=1e-5)


def test_a_patient_without_genes_or_slides_is_predicted_from_the_rest(cohort: Part, small: UmemlSettings) -> None:
    fitted = fit(cohort, small)
    lacks = replace(cohort, columns=cohort.columns | {"rna": np.full_like(cohort.columns["rna"], np.nan)})
    without = fitted.predict(replace(cohort.only(["clinical"], slides=True)))
    np.testing.assert_allclose(fitted.predict(lacks).risk, without.risk, atol=1e-6)
    no_slide = replace(cohort, bags=(None,) * len(cohort))
    np.testing.assert_allclose(
        fitted.predict(no_slide).risk, fitted.predict(replace(cohort, bags=None)).risk, atol=1e-6
    )
    assert np.isfinite(fitted.predict(no_slide).risk).all()


def test_unknown_follow_up_and_labels_are_left_out_of_the_losses(cohort: Part, small: UmemlSettings) -> None:
    time, labels = cohort.time.copy(), cohort.labels.copy()
    time[:20], labels[10:40] = np.nan, UNKNOWN
    fitted = fit(replace(cohort, time=time, event=cohort.event & np.isfinite(time), labels=labels), small)
    assert all(math.isfinite(epoch.validation) for epoch in fitted.members[0].epochs)


def test_passes_of_few_patches_add_up_to_one_pass_of_all(cohort: Part, small: UmemlSettings) -> None:
    """Accumulated gradients: without dropout the number of patches in a pass changes nothing."""
    quiet = settings_with(
        small, modality_dropout=0, decoder={"heads": 2, "drop": 0}, class_weights="balanced",
        tables={"clinical": {"heads": 2, "drop": 0}, "rna": {"tokens": "clusters", "groups": 4, "heads": 2, "drop": 0}},
    )  # fmt: skip
    risks = []
    for survival in ("nll", "cox"):
        for together in (10**6, 20):
            patches = {"prototypes": 4, "heads": 2, "drop": 0, "together": together}
            risks.append(fit(cohort, settings_with(quiet, patches=patches, survival=survival)).predict(cohort).risk)
    np.testing.assert_allclose(risks[0], risks[1], atol=1e-4)
    np.testing.assert_allclose(risks[2] - risks[2].mean(), risks[3] - risks[3].mean(), atol=1e-4)


def test_the_linear_start_is_kept_where_training_does_not_improve_it(cohort: Part, small: UmemlSettings) -> None:
    fitted = fit(cohort, settings_with(small, lr=1e3))  # every step destroys the network
    member = fitted.members[0]
    assert member.kept == 0
    assert member.start.penalty in small.penalties
    assert concordance(cohort, fitted.predict(cohort).risk) > 0.6


def test_early_stopping_keeps_the_epoch_of_the_lowest_validation_loss(cohort: Part, small: UmemlSettings) -> None:
    member = fit(cohort, settings_with(small, epochs=8, patience=2)).members[0]
    losses = [epoch.validation for epoch in member.epochs]
    assert member.kept == int(np.argmin(losses))
    assert len(losses) - 1 - member.kept <= 2


def test_refitting_uses_both_parts_with_epoch_and_penalty_fixed(cohort: Part, small: UmemlSettings) -> None:
    once, again = fit(cohort, small).members[0], fit(cohort, settings_with(small, refit=True)).members[0]
    assert again.kept == once.kept
    assert again.start.penalty == once.start.penalty
    assert math.isnan(again.epochs[0].validation)


def test_members_are_averaged(cohort: Part, small: UmemlSettings) -> None:
    fitted = fit(cohort, settings_with(small, members=2, survival="cox", linear_start=False))
    alone = [replace(fitted, members=(member,)).predict(cohort).risk for member in fitted.members]
    np.testing.assert_allclose(fitted.predict(cohort).risk, (alone[0] + alone[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("survival", ["nll", "cox"])
def test_a_saved_model_predicts_the_same(cohort: Part, small: UmemlSettings, tmp_path: Path, survival: str) -> None:
    settings = settings_with(
        small,
        survival=survival,
        tables={
            "rna": [{"tokens": "components", "heads": 2, "direct": "components"}, {"tokens": "learned", "heads": 2}]
        },
    )
    fitted = fit(cohort, settings_with(settings, members=2, epochs=1))
    loaded = load_umeml(save_umeml(fitted, tmp_path / "model"))
    first, second = fitted.predict(cohort), loaded.predict(cohort)
    for name in ("risk", "survival", "times", "probs"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    with pytest.raises(ModelError, match="nothing is overwritten"):
        save_umeml(fitted, tmp_path / "model")


def test_a_damaged_folder_is_refused_by_name(cohort: Part, small: UmemlSettings, tmp_path: Path) -> None:
    folder = save_umeml(fit(cohort, settings_with(small, epochs=1)), tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="model.safetensors: damaged or not safetensors"):
        load_umeml(folder)


@pytest.mark.parametrize("survival", ["nll", "cox"])
def test_a_model_with_spoilt_weights_is_refused(
    cohort: Part, small: UmemlSettings, tmp_path: Path, survival: str, refuses_spoilt_weights: Callable[..., None]
) -> None:
    whole = save_umeml(fit(cohort, settings_with(small, survival=survival, epochs=1)), tmp_path / "model")
    for fault in ("nan", "inf", "unknown", "missing", "shape"):
        folder = shutil.copytree(whole, tmp_path / fault)
        refuses_spoilt_weights(folder / "model.safetensors", fault, partial(load_umeml, folder), place=str(folder))


def test_a_model_much_larger_than_its_weights_is_refused_before_it_is_built(
    cohort: Part, small: UmemlSettings, tmp_path: Path
) -> None:
    folder = save_umeml(fit(cohort, settings_with(small, epochs=1)), tmp_path / "model")
    record = json.loads((folder / "config.json").read_text())
    record["network"]["width"] *= 2**16
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="many more than there are in this file"):
        load_umeml(folder)


@pytest.mark.parametrize("text", ["[]", "{", '{"architecture": "umeml-cohort", "format": 1}', "[" * 100_000, '"x"'])
def test_a_configuration_of_something_else_is_refused(
    cohort: Part, small: UmemlSettings, tmp_path: Path, text: str
) -> None:
    folder = save_umeml(fit(cohort, settings_with(small, epochs=1)), tmp_path / "model")
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match="model") as caught:
        load_umeml(folder)
    assert "\n" not in str(caught.value)


def test_views_name_prototypes_patches_and_genes(cohort: Part, small: UmemlSettings) -> None:
    fitted = fit(cohort, small)
    (view,) = explain(fitted, cohort.take([3]))
    n = len(cohort.bags[3]())
    assert view.assignment.shape == (n, 4)
    np.testing.assert_allclose(view.assignment.sum(axis=1), 1, atol=1e-5)
    assert view.shares_of_patches.sum() == pytest.approx(1, abs=1e-5)
    strongest = view.top_patches(0, 3)
    assert view.attention[strongest[0], 0] == view.attention[:, 0].max()
    assert view.nodes[:4] == ("prototype 1", "prototype 2", "prototype 3", "prototype 4")
    assert "clinical: age" in view.nodes
    assert set(view.tied(0)) <= set(view.nodes[4:])
    assert set(view.relevance) == {"clinical", "rna"}


def test_relevance_is_the_risk_itself_for_a_linear_model(cohort: Part, small: UmemlSettings) -> None:
    """With a Cox head that is linear in age, value times gradient is its log-risk."""
    settings = settings_with(
        small, survival="cox", tables={"clinical": {"heads": 2, "direct": "columns"}}, tasks={"survival": 1}
    )
    only_age = replace(cohort.only(["clinical"]))
    fitted = fit(only_age, settings_with(settings, lr=1e-9))
    risk = fitted.predict(only_age).risk
    views = explain(fitted, only_age)
    found = np.array([view.relevance["clinical"]["age"] for view in views])
    np.testing.assert_allclose(found - found[0], risk - risk[0], atol=1e-3)


def test_features_of_another_width_are_refused_with_the_patient(cohort: Part, small: UmemlSettings) -> None:
    fitted = fit(cohort, settings_with(small, epochs=1))
    wide = replace(cohort.take([0]), bags=(lambda: np.zeros((3, 9), np.float32),))
    with pytest.raises(RequestError, match="patient p0: patch features of shape"):
        fitted.predict(wide)


def test_a_task_that_the_cohort_lacks_is_refused(cohort: Part, small: UmemlSettings) -> None:
    with pytest.raises(RequestError, match="the cohort has no survival"):
        fit(replace(cohort, time=None, event=None), settings_with(small, tasks={"survival": 1}))


def test_at_most_so_many_patches_are_drawn_and_the_draw_is_a_function_of_the_epoch(
    cohort: Part, small: UmemlSettings
) -> None:
    patients = fit(cohort, settings_with(small, epochs=1)).patients(cohort)
    rows = np.arange(3)

    def drawn(epoch: int) -> torch.Tensor:
        return torch.cat([b.patches[0] for b in patients.batches(rows, together=1, most=3, draw=(0, epoch))])

    assert drawn(1).shape == (9, 6)
    torch.testing.assert_close(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_the_loss_of_survival_is_chosen_by_the_curves_of_the_validation_part(
    cohort: Part, small: UmemlSettings
) -> None:
    """Each choice, fitted by itself, has a Brier score that is not lower; outcomes of the test part have no part."""
    train, validation = cohort.take(range(60)), cohort.take(range(60, 90))
    assert train.time is not None
    assert train.event is not None
    assert validation.time is not None
    assert validation.event is not None
    truth = FoldTruth(train.time, train.event, validation.time, validation.event)
    scores = {}
    for choice in (3, 8, "cox"):
        loss = {"survival": "cox"} if choice == "cox" else {"survival": "nll", "bins": choice}
        one = UmemlLearner(small.model_copy(update=loss)).fit(train, validation, 0)
        scores[1 if choice == "cox" else choice] = truth.scores(one.predict(validation))["integrated_brier"]
    asked = small.model_copy(update={"survival": "chosen", "choices": (3, 8, "cox")})
    fitted = UmemlLearner(asked).fit(train, validation, 0)
    survival = next(one for one in fitted.tasks.configs if one.name == "survival")
    assert survival.outputs == min(scores, key=lambda outputs: scores[outputs] or 1.0)
    assert fitted.settings.survival in ("nll", "cox")


def test_intervals_that_a_small_cohort_has_too_few_events_for_are_no_choice(cohort: Part, small: UmemlSettings) -> None:
    assert cohort.event is not None
    few = replace(cohort, event=cohort.event & (np.cumsum(cohort.event) <= 6), labels=None)
    asked = small.model_copy(update={"survival": "chosen", "choices": (3, 10, "cox"), "epochs": 1, "refit": True})
    train, validation = few.take(range(60)), few.take(range(60, 90))
    fitted = UmemlLearner(asked).fit(train, validation, 0)
    assert fitted.settings.bins == 3 or fitted.settings.survival == "cox"
    with pytest.raises(RequestError, match="too few for 10 bins"):
        UmemlLearner(asked.model_copy(update={"choices": (10, 11)})).fit(
            few.take(range(60)), few.take(range(60, 90)), 0
        )


def test_products_of_both_modalities_find_an_interaction_that_sums_do_not(small: UmemlSettings) -> None:
    made, tested = make_cohort(300, seed=1), make_cohort(300, seed=2)
    joint = []
    for products in (False, True):
        settings = settings_with(
            small, survival="cox", epochs=1, products=products,
            patches={"prototypes": 4, "heads": 2, "direct": "shares"},
            tables={"rna": {"tokens": "clusters", "groups": 4, "heads": 2, "direct": "columns"}},
        )  # fmt: skip
        fitted = UmemlLearner(settings).fit(made.part.take(range(200)), made.part.take(range(200, 300)), seed=0)
        joint.append(float(np.corrcoef(fitted.predict(tested.part).risk, tested.parts[:, 3])[0, 1]))
    assert joint[0] < 0.1
    assert joint[1] > 0.15


def test_a_saved_model_keeps_the_columns_of_its_slides(cohort: Part, small: UmemlSettings, tmp_path: Path) -> None:
    patches = {"prototypes": 4, "heads": 2, "direct": "shares"}
    fitted = fit(cohort, settings_with(small, patches=patches, products=True, epochs=1, refit=True))
    loaded = load_umeml(save_umeml(fitted, tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(cohort).risk, fitted.predict(cohort).risk)
    alone = replace(cohort, bags=(None,) * len(cohort))
    assert not np.allclose(loaded.predict(alone).risk, loaded.predict(cohort).risk)
