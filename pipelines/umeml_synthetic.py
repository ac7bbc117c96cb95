"""UMEML on a synthetic cohort with planted signal: python pipelines/umeml_synthetic.py -o OUT.json

Patients of training, validation and test are drawn independently (`wsikit.phantom.gene_cohort`). Arms: the network with
both modalities, each modality alone, an additive late fusion of these two (a Cox model of their risks, fitted to the
validation part), and the network without its modularity loss, registers, or prototypes (one query, which is the mean
of the patches). Stated are C-indices with intervals by patient, how much of each planted part the risk holds, and
whether communities recover planted groups. About 3 minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score

from wsikit.models.umeml.losses import cox_loss
from wsikit.phantom.gene_cohort import PARTS, TYPES, WEIGHTS, GeneCohort, make_cohort
from wsikit.store.atomic import write_json
from wsikit.training.cohort.protocol import Part
from wsikit.training.umeml.learner import FittedUmeml, UmemlLearner
from wsikit.training.umeml.settings import UmemlSettings
from wsikit.training.umeml.views import consensus, explain

SETTINGS: dict[str, Any] = {
    "width": 32,
    "survival": "cox",
    "batch": 64,
    "lr": 2e-3,
    "epochs": 30,
    "patience": 10,
    "linear_start": False,
    "patches": {"prototypes": 8, "heads": 4, "drop": 0.1},
    "decoder": {"heads": 4},
    "modularity": {"communities": 8, "temperature": 0.1, "centre": True},
}
"""Chosen on patients of other seeds. No linear part, so that the ablations are of the network."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "without modularity": {"modularity": {"weight": 0.0}},
    "without registers": {"decoder": {"heads": 4, "registers": 0}},
    "without prototypes": {"patches": {"prototypes": 1, "heads": 4, "drop": 0.1}},
    "with MIRROR's losses": {"mirror": {"retention": 0.1, "cluster": 0.2}},
    "with product": {"decoder": {"heads": 4, "product": 8}},
}
FUSED, PATH, GENE, ADDITIVE = "fused", "path alone", "genes alone", "additive late fusion"
DRAWS = 1000


def learner(gmt: Path, changes: dict[str, Any]) -> UmemlLearner:
    genes = {"tokens": "gene_sets", "gene_sets": str(gmt), "heads": 4, "start": "correlated"}
    return UmemlLearner(UmemlSettings.model_validate(SETTINGS | {"tables": {"rna": genes}} | changes))


def path_learner() -> UmemlLearner:
    return UmemlLearner(UmemlSettings.model_validate(SETTINGS))


def additive(validation: Part, risks: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """Cox's model of the risks of both modalities, (n, 2), fitted to the validation part; its risk of the tested."""
    mean, std = risks.mean(axis=0), risks.std(axis=0)
    given, weights = torch.tensor((risks - mean) / std), torch.zeros(2, dtype=torch.float64, requires_grad=True)
    time_, event = torch.tensor(validation.time), torch.tensor(validation.event)
    optimiser = torch.optim.LBFGS([weights], line_search_fn="strong_wolfe", max_iter=100)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = cox_loss(given @ weights, time_, event)
        loss.backward()
        return loss

    optimiser.step(closure)
    return (tested - mean) / std @ weights.detach().numpy()


def concordances(part: Part, risk: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Harrell's C for bootstrap counts of the patients, (draws, n)."""
    comparable = ((part.time[:, None] < part.time[None, :]) & part.event[:, None]).astype(float)
    right = comparable * ((risk[:, None] > risk[None, :]) + 0.5 * (risk[:, None] == risk[None, :]))
    return ((counts @ right) * counts).sum(axis=1) / ((counts @ comparable) * counts).sum(axis=1)


def held(risk: np.ndarray, parts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Coefficients (draws, 4) of the standardised risk on the planted parts, by least squares."""
    z = (risk - risk.mean()) / risk.std()
    design = np.concatenate([parts, np.ones((len(parts), 1))], axis=1)
    return np.stack([np.linalg.lstsq(design * w[:, None] ** 0.5, z * w**0.5, rcond=None)[0][:-1] for w in counts])


def agreement(fitted: FittedUmeml, cohort: GeneCohort, count: int = 100) -> dict[str, float]:
    """Adjusted Rand index of the consensus communities of `count` patients and the planted groups.

    Gene sets belong to their module. A prototype belongs to the tissue type that it attends to most often, relative to
    the type's share of all patches.
    """
    views = explain(fitted, cohort.part.take(range(count)))
    found, k = consensus(views), views[0].prototypes
    share = np.bincount(np.concatenate(cohort.types[:count]), minlength=TYPES)
    attended = sum(
        np.stack([np.bincount(types, view.attention[:, q], minlength=TYPES) for q in range(k)])
        for types, view in zip(cohort.types, views)
    )
    types = (attended / share).argmax(axis=1)
    modules = np.array([int(name.split()[2]) for name in views[0].nodes[k:]])
    return {
        "gene sets": adjusted_rand_score(modules, found[k:]),
        "prototypes": adjusted_rand_score(types, found[:k]),
        "all, as groups of their own": adjusted_rand_score([*types, *(modules + TYPES)], found),
    }


def interval(values: np.ndarray) -> list[float]:
    """Value, 2.5 % and 97.5 % quantile; the first row is the whole sample."""
    return [round(float(x), 3) for x in (values[0], *np.quantile(values[1:], (0.025, 0.975)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=400, help="of the training part")
    parser.add_argument("--tested", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--arms", nargs="*", choices=ABLATIONS, help="only these, next to both modalities; default: all"
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    test = make_cohort(asked.tested, seed=900_100)
    counts = np.random.default_rng(0).multinomial(asked.tested, np.full(asked.tested, 1 / asked.tested), DRAWS)
    counts = np.concatenate([np.ones((1, asked.tested)), counts])
    risks: dict[str, list[np.ndarray]] = {}
    groups = []
    with tempfile.TemporaryDirectory() as folder:
        gmt = Path(folder) / "sets.gmt"
        gmt.write_text(test.gmt())
        for seed in range(asked.seeds):
            train = make_cohort(asked.patients, seed=100 + seed).part
            validation = make_cohort(max(50, asked.patients // 3), seed=500_100 + seed).part
            both = learner(gmt, {}).fit(train, validation, seed)
            arms = {FUSED: both}
            if asked.arms is None:
                arms |= {
                    PATH: path_learner().fit(train.only([], slides=True), validation.only([], slides=True), seed),
                    GENE: learner(gmt, {}).fit(train.only(["rna"]), validation.only(["rna"]), seed),
                }
            for name in ABLATIONS if asked.arms is None else asked.arms:
                arms[name] = learner(gmt, ABLATIONS[name]).fit(train, validation, seed)
            for name, fitted in arms.items():
                risks.setdefault(name, []).append(fitted.predict(test.part).risk)
            if asked.arms is None:
                of = np.stack([arms[name].predict(validation).risk for name in (PATH, GENE)], axis=1)
                tested = np.stack([risks[name][-1] for name in (PATH, GENE)], axis=1)
                risks.setdefault(ADDITIVE, []).append(additive(validation, of, tested))
            groups.append(agreement(both, test))
            print(f"seed {seed}: {time.process_time() - begun:.0f} s of processor time", flush=True)
    c = {
        name: np.mean([concordances(test.part, risk, counts) for risk in some], axis=0) for name, some in risks.items()
    }
    parts = {name: np.mean([held(r, test.parts, counts) for r in some], axis=0) for name, some in risks.items()}
    record = {
        "patients": {"training": asked.patients, "validation": max(50, asked.patients // 3), "test": asked.tested},
        "seeds": asked.seeds,
        "deaths of the test part": int(test.part.event.sum()),
        "C of the planted log-risk": interval(concordances(test.part, test.parts @ np.array(WEIGHTS), counts)),
        "C": {name: interval(values) for name, values in c.items()},
        "fused minus": {name: interval(c[FUSED] - values) for name, values in c.items() if name != FUSED},
        "held by the risk": {
            name: {part: interval(values[:, i]) for i, part in enumerate(PARTS)} for name, values in parts.items()
        },
        "ARI of communities, mean over seeds": {
            name: round(float(np.mean([one[name] for one in groups])), 3) for name in groups[0]
        },
        "ARI by seed": groups,
        "seconds of processor time": round(time.process_time() - begun),
    }
    write_json(asked.out, record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
