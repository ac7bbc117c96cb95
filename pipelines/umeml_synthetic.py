"""UMEML on a synthetic cohort with planted signal: python pipelines/umeml_synthetic.py -o OUT.json

Patients of training, validation and test are drawn independently (`wsikit.phantom.gene_cohort`). Arms:

- the network with both modalities and a linear part of gene columns, shares of patches, and their products; without the
  products; the linear part alone; each modality alone; an additive late fusion of these two (a Cox model of their
  risks, fitted to the validation part);
- the network without any linear part, and without its modularity loss, registers, or prototypes (one query, which is
  the mean of the patches), with MIRROR's losses, with a low-rank product in the decoder;
- what can be found at all: Cox models that are given the planted parts, without and with the interaction.

Stated are C-indices with intervals by patient, how much of each planted part the risk holds, with a permutation test,
and whether communities recover planted groups. Seeds that are done are read from the folder OUT.
"""

from __future__ import annotations

import argparse
import json
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

PATCHES: dict[str, Any] = {"prototypes": 8, "heads": 4, "drop": 0.1}
NETWORK: dict[str, Any] = {
    "width": 32,
    "survival": "cox",
    "batch": 64,
    "lr": 2e-3,
    "epochs": 30,
    "patience": 10,
    "linear_start": False,
    "patches": PATCHES,
    "decoder": {"heads": 4},
    "modularity": {"communities": 8, "temperature": 0.1, "centre": True},
}
"""Of the network without a linear part, so that the ablations are of the network."""
SETTINGS: dict[str, Any] = NETWORK | {
    "lr": 5e-4,
    "epochs": 15,
    "patience": 5,
    "linear_start": True,
    "patches": PATCHES | {"direct": "shares"},
    "modularity": {"communities": 16, "temperature": 0.1, "centre": True, "least": 0.3},
    "community_starts": 4,
}
"""Both were chosen on patients of other seeds."""
GENES: dict[str, Any] = {"tokens": "gene_sets", "heads": 4, "start": "correlated"}
ABLATIONS: dict[str, dict[str, Any]] = {
    "network alone": {},
    "network alone, without modularity": {"modularity": {"weight": 0.0}},
    "network alone, without registers": {"decoder": {"heads": 4, "registers": 0}},
    "network alone, without prototypes": {"patches": PATCHES | {"prototypes": 1}},
}
FURTHER: dict[str, dict[str, Any]] = {
    "network alone, with MIRROR's losses": {"mirror": {"retention": 0.1, "cluster": 0.2}},
    "network alone, with a product in the decoder": {"decoder": {"heads": 4, "product": 8}},
}
FUSED, SUMS, LINEAR = "fused", "fused, without products", "linear part alone"
PATH, GENE, ADDITIVE, NETWORK_ALONE = "path alone", "genes alone", "additive late fusion", "network alone"
ORACLES = {"given the planted parts, without the interaction": 3, "given the planted parts": len(PARTS)}
DRAWS, PERMUTATIONS = 1000, 2000


def learner(changes: dict[str, Any], *, base: dict[str, Any], gmt: Path | None) -> UmemlLearner:
    """With genes if there is a file of gene sets; with a linear part of them if the base has one."""
    tables = {}
    if gmt is not None:
        direct = "columns" if base["linear_start"] else "none"
        tables = {"tables": {"rna": GENES | {"gene_sets": str(gmt), "direct": direct}}}
    return UmemlLearner(UmemlSettings.model_validate(base | tables | changes))


def fit_arms(gmt: Path, train: Part, validation: Part, seed: int, *, further: bool) -> dict[str, FittedUmeml]:
    """All trained arms."""

    def both(changes: dict[str, Any], base: dict[str, Any] = SETTINGS) -> FittedUmeml:
        return learner(changes, base=base, gmt=gmt).fit(train, validation, seed)

    slides, genes = zip(*((one.only([], slides=True), one.only(["rna"])) for one in (train, validation)))
    arms = {
        FUSED: both({"products": True}),
        SUMS: both({}),
        LINEAR: both({"products": True, "epochs": 1, "lr": 1e-9}),
        PATH: learner({}, base=SETTINGS, gmt=None).fit(*slides, seed),
        GENE: learner({}, base=SETTINGS, gmt=gmt).fit(*genes, seed),
    }
    ablations = ABLATIONS | (FURTHER if further else {})
    return arms | {name: both(changes, NETWORK) for name, changes in ablations.items()}


def run_seed(gmt: Path, test: GeneCohort, seed: int, patients: int, *, further: bool) -> dict[str, Any]:
    """Of one training seed: risks of the tested patients by arm, the epochs kept, agreement of communities."""
    made = make_cohort(patients, seed=100 + seed)
    train, validation = made.part, make_cohort(max(50, patients // 3), seed=500_100 + seed).part
    arms = fit_arms(gmt, train, validation, seed, further=further)
    risks = {name: fitted.predict(test.part).risk for name, fitted in arms.items()}
    of = np.stack([arms[name].predict(validation).risk for name in (PATH, GENE)], axis=1)
    risks[ADDITIVE] = cox_risk(of, validation, np.stack([risks[name] for name in (PATH, GENE)], axis=1))
    for name, number in ORACLES.items():
        risks[name] = cox_risk(made.parts[:, :number], train, test.parts[:, :number])
    return {
        "risks": {name: risk.tolist() for name, risk in risks.items()},
        "kept": {name: fitted.members[0].kept for name, fitted in arms.items()},
        "groups": {name: agreement(arms[name], test) for name in (FUSED, NETWORK_ALONE)},
    }


def cox_risk(given: np.ndarray, part: Part, tested: np.ndarray) -> np.ndarray:
    """Log-risk of `tested` by Cox's model of the columns of `given`, (n, k), and the follow-up of `part`."""
    mean, std = given.mean(axis=0), given.std(axis=0)
    z, weights = (
        torch.tensor((given - mean) / std),
        torch.zeros(given.shape[1], dtype=torch.float64, requires_grad=True),
    )
    time_, event = torch.tensor(part.time), torch.tensor(part.event)
    optimiser = torch.optim.LBFGS([weights], line_search_fn="strong_wolfe", max_iter=100)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = cox_loss(z @ weights, time_, event)
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


def chance(risks: list[np.ndarray], parts: np.ndarray) -> dict[str, float]:
    """Share of permutations of a part whose correlation with the mean risk, given the other parts, is as far from 0."""
    risk = np.mean([(one - one.mean()) / one.std() for one in risks], axis=0)
    rng, found = np.random.default_rng(0), {}
    for column, name in enumerate(PARTS):
        others = np.c_[np.delete(parts, column, axis=1), np.ones(len(parts))]
        left, own = (y - others @ np.linalg.lstsq(others, y, rcond=None)[0] for y in (risk, parts[:, column]))
        drawn = np.array([left @ rng.permutation(own) for _ in range(PERMUTATIONS)])
        found[name] = round(float((1 + (np.abs(drawn) >= abs(left @ own)).sum()) / (1 + PERMUTATIONS)), 4)
    return found


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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--further", action="store_true", help="also MIRROR's losses and a product in the decoder")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    test = make_cohort(asked.tested, seed=900_100)
    counts = np.random.default_rng(0).multinomial(asked.tested, np.full(asked.tested, 1 / asked.tested), DRAWS)
    counts = np.concatenate([np.ones((1, asked.tested)), counts])
    done, folder = [], asked.out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    gmt = folder / "sets.gmt"
    gmt.write_text(test.gmt())
    for seed in asked.seeds:
        path = folder / f"{asked.patients}_{asked.tested}_{seed}{'_further' * asked.further}.json"
        if not path.is_file():
            begun = time.process_time()
            found = run_seed(gmt, test, seed, asked.patients, further=asked.further)
            write_json(path, found | {"seconds": round(time.process_time() - begun)})
            print(f"seed {seed}: {time.process_time() - begun:.0f} s of processor time", flush=True)
        done.append(json.loads(path.read_text(encoding="utf-8")))
    risks = {name: [np.array(one["risks"][name]) for one in done] for name in done[0]["risks"]}
    c = {
        name: np.mean([concordances(test.part, risk, counts) for risk in some], axis=0) for name, some in risks.items()
    }
    parts = {name: np.mean([held(r, test.parts, counts) for r in some], axis=0) for name, some in risks.items()}
    record = {
        "patients": {"training": asked.patients, "validation": max(50, asked.patients // 3), "test": asked.tested},
        "seeds": asked.seeds,
        "deaths of the test part": int(test.part.event.sum()),
        "C of the planted log-risk": interval(concordances(test.part, test.parts @ np.array(WEIGHTS), counts)),
        "held by the planted log-risk": interval_of_parts(held(test.parts @ np.array(WEIGHTS), test.parts, counts)),
        "C": {name: interval(values) for name, values in c.items()},
        "fused minus": {name: interval(c[FUSED] - values) for name, values in c.items() if name != FUSED},
        "network alone minus": {
            name: interval(c[NETWORK_ALONE] - c[name]) for name in c if name.startswith(f"{NETWORK_ALONE},")
        },
        "held by the risk": {name: interval_of_parts(values) for name, values in parts.items()},
        "share of permutations": {name: chance(some, test.parts) for name, some in risks.items()},
        "ARI of communities by seed": [one["groups"] for one in done],
        "epoch that was kept": [one["kept"] for one in done],
        "seconds of processor time": sum(one["seconds"] for one in done),
    }
    write_json(asked.out, record)
    print(json.dumps(record, indent=1))


def interval_of_parts(values: np.ndarray) -> dict[str, list[float]]:
    return {part: interval(values[:, i]) for i, part in enumerate(PARTS)}


if __name__ == "__main__":
    main()
