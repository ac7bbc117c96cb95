"""Which loss gives UMEML the best survival curves: python benchmarks/umeml_survival_loss.py CONFIG.yaml -o OUT.json

Losses of `survival: chosen`, and the choice by the validation part itself, on the same folds of one seed, with late
fusion and ten components with age. The test part enters no choice. What is done is read from the folder OUT.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wsikit.store.atomic import write_json
from wsikit.training.cohort.baselines import usual_baselines
from wsikit.training.cohort.cohort import load_cohort
from wsikit.training.cohort.config import CohortTrainConfig
from wsikit.training.cohort.cross_validation import cross_validate
from wsikit.training.cohort.evaluate import differences, fold_truths, measure_survival, records
from wsikit.training.cohort.folds import make_folds
from wsikit.training.cohort.learners import make_network
from wsikit.training.cohort.risk_groups import calibration
from wsikit.training.task import read_config
from wsikit.training.umeml.learner import FittedUmeml, UmemlLearner

CHOSEN = "chosen by the validation part"


class Noting(UmemlLearner):
    """Also notes which loss was fitted."""

    noted: list[str] = []

    def fit(self, *parts: Any, **settings: Any) -> FittedUmeml:
        fitted = super().fit(*parts, **settings)
        self.noted.append(", ".join(f"{one.kind} {one.outputs}" for one in fitted.tasks.configs))
        print(f"chosen: {self.noted[-1]}", flush=True)
        return fitted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--data")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--each", nargs="*", default=["4"], help="losses that are also measured by themselves")
    parser.add_argument("-o", "--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    config = read_config(asked.config, CohortTrainConfig, data=asked.data)
    config = config.model_copy(update={"split": config.split.model_copy(update={"seeds": (asked.seed,)})})
    cohort = load_cohort(config)
    network = make_network(config, device="cpu")
    assert isinstance(network, UmemlLearner)
    assert config.survival is not None
    settings = network.settings
    learners: list[Any] = []
    for choice in asked.each:
        loss = {"survival": "cox"} if choice == "cox" else {"survival": "nll", "bins": int(choice)}
        name = "cox" if choice == "cox" else f"nll, {choice} intervals"
        learners.append(replace(network, settings=settings.model_copy(update=loss), name=name))
    learners.append(Noting(settings.model_copy(update={"survival": "chosen"}), name=CHOSEN))
    baselines = usual_baselines(cohort.part, age=config.data.age, components=config.components)
    learners += [one for one in baselines if one.name.startswith("PCA") or one.name in ("late fusion", "no column")]
    splits = {asked.seed: make_folds(cohort, config.split, asked.seed)}
    folder = asked.out.with_suffix("")
    results = cross_validate(
        cohort.part,
        learners,
        splits,
        folder=folder,
        on_done=lambda one: print(one.learner, one.fold, round(one.seconds, 1), flush=True),
    )
    horizons = config.survival.horizons
    truths = fold_truths(cohort.part, splits, horizons=horizons, at_risk=config.min_at_risk)
    measures = measure_survival(cohort.part, results, splits, truths, draws=config.draws)
    calibrated = {
        name: {
            f"{months:g}": calibration(cohort.part, [r for r in results if r.learner == name], splits, truths, months)
            for months in horizons
        }
        for name in measures
    }
    write_json(
        asked.out,
        {
            "data_sha256": cohort.sha256,
            "seed": asked.seed,
            "chosen, in the folds that this run made": Counter(Noting.noted),
            "models": records(measures),
            "differences": differences(measures, CHOSEN),
            "calibration": calibrated,
        },
    )


if __name__ == "__main__":
    main()
