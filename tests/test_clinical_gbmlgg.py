"""pipelines/clinical_gbmlgg.py: which patients count, and that arms and differences are what they are called."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

SCRIPT = Path(__file__).parents[1] / "pipelines" / "clinical_gbmlgg.py"


@pytest.fixture(scope="module")
def pipeline() -> ModuleType:
    spec = importlib.util.spec_from_file_location("clinical_gbmlgg", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_patients_count_whose_two_years_are_known(pipeline, tmp_path):
    table = pd.DataFrame(
        {
            "case_id": ["died", "died", "late", "censored early", "censored late", "no age"],
            "age": [70, 70, 40, 50, 30, None],
            "is_female": [1, 1, 0, 0, 1, 0],
            "survival_months": [10, 10, 30, 12, 24.5, 5],
            "censorship": [0, 0, 0, 1, 1, 0],  # 1: censored
            "TP53_rnaseq": [0.1, 0.1, 0.2, 0.3, 0.4, 0.5],
        }
    )
    table.to_csv(tmp_path / "table.csv")
    genes, age, sex, dead = pipeline.read(tmp_path / "table.csv")
    assert age.tolist() == [70, 40, 30]  # one row per patient; without the early censored one and the one without age
    assert (dead.tolist(), sex.tolist(), genes.ravel().tolist()) == ([1, 0, 0], [1, 0, 1], [0.1, 0.2, 0.4])


def test_differences_are_between_the_arms_that_their_names_say(pipeline):
    dead = np.tile([0, 1], 40)
    noise = np.random.default_rng(0).normal(size=80)
    names = ("genes", "row alone", "regression", "mean of genes and row alone", "30 % of ages masked")
    found = dict.fromkeys((*names, "30 % of ages filled with the mean"), noise) | {"genes and row": 9.0 * dead + noise}
    result = pipeline.summary(found, dead, draws=50)
    assert result["genes and row"]["auc"] == 1.0
    assert result["genes and row − genes"]["auc"] == pytest.approx(1 - roc_auc_score(dead, noise))
    assert result["30 % of ages masked − 30 % of ages filled with the mean"] == {"auc": 0.0, "interval": [0.0, 0.0]}


def test_every_patient_is_predicted_by_models_that_did_not_see_them(pipeline):
    """Each patient's genes are a code of the patient alone: a model that saw the patient would know the answer."""
    rng = np.random.default_rng(0)
    genes, age, dead = rng.normal(size=(60, 40)), rng.uniform(20, 80, 60), np.tile([0, 1], 30)
    found = pipeline.measure(genes, age, np.tile([0.0, 0, 1, 1], 15), dead, seeds=1, epochs=1)
    assert all(np.isfinite(logits).all() and logits.shape == (60,) for logits in found.values())
    assert roc_auc_score(dead, found["regression"]) < 0.75
    assert found["mean of genes and row alone"] == pytest.approx((found["genes"] + found["row alone"]) / 2)
    assert (found["30 % of ages masked"] != found["30 % of ages filled with the mean"]).any()
