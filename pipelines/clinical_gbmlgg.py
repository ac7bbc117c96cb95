"""Does a clinical row as tokens help? Genes and clinical row of TCGA GBM-LGG, death within two years.

    python pipelines/clinical_gbmlgg.py tcga_gbmlgg_all_clean.csv.zip -o OUT [--seeds 3] [--epochs 40]

The table is the one of MCAT's repository. A patient's expression values are 16 tokens (clusters of genes, 8 principal
components each, fitted on the training patients); age and sex are the clinical row. Five folds by patient, the mean of
all seeds, AUC with intervals over patients. Epochs and widths were fixed before the first run. A baseline without a
network, the clinical values alone and the additive fusion are measured with it. Further arms remove 30 % of the ages,
in training and test, and either mask them or fill them with the mean.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from wsikit.models.bidirectional import BidirectionalFusion
from wsikit.models.clinical_tokens import ClinicalColumns, ClinicalRows
from wsikit.store.atomic import atomic_write

MONTHS, TOKENS, PARTS, MISSING = 24.0, 16, 8, 0.3
COLUMNS = ClinicalColumns(("age",), (("sex", ("F", "M")),))
Floats = npt.NDArray[np.float64]


def read(path: Path) -> tuple[Floats, Floats, Floats, npt.NDArray[np.int64]]:
    """Expression (P, genes), age (P,), sex (P,) 1 = F, died within two years (P,); of patients where all are known."""
    table = pd.read_csv(path, low_memory=False).drop_duplicates("case_id")
    dead = (table["survival_months"] <= MONTHS) & (table["censorship"] == 0)
    table, dead = (one[dead | (table["survival_months"] > MONTHS)] for one in (table, dead))
    genes = table[[name for name in table if name.endswith("_rnaseq")]]
    known = genes.notna().all(axis=1) & table["age"].notna()
    table, genes, dead = table[known], genes[known], dead[known]
    return genes.to_numpy(float), table["age"].to_numpy(float), table["is_female"].to_numpy(float), dead.to_numpy(int)


def tokens_of(genes: Floats, train: npt.NDArray[np.int64], seed: int) -> torch.Tensor:
    """float32 (P, 16, 8), from clusters and components of the training patients."""
    scaled = StandardScaler().fit(genes[train]).transform(genes)
    cluster = KMeans(TOKENS, n_init=3, random_state=seed).fit_predict(scaled[train].T)
    found = np.zeros((len(genes), TOKENS, PARTS), np.float32)
    for number in range(TOKENS):
        own = scaled[:, cluster == number]
        n = min(PARTS, own.shape[1])
        parts = PCA(n, random_state=seed).fit(own[train]).transform(own)
        found[:, number, :n] = parts / parts[train].std(axis=0)
    return torch.from_numpy(found)


def network(
    bags: torch.Tensor, rows: ClinicalRows, dead: torch.Tensor, train: torch.Tensor, *, seed: int, epochs: int
) -> Floats:
    """Logits of death (P,) of all patients, trained on some."""
    torch.manual_seed(seed)
    model = BidirectionalFusion(
        features=PARTS, columns=COLUMNS, classes=2, dim=32, heads=4, bidirectional=2, depth=1, dropout=0.25
    )
    seen = torch.ones(bags.shape[:2], dtype=torch.bool)
    model.clinical.fit(_some(rows, train))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in train[torch.randperm(len(train), generator=generator)].split(64):
            optimiser.zero_grad()
            functional.cross_entropy(model(bags[batch], seen[batch], _some(rows, batch)), dead[batch]).backward()
            optimiser.step()
    model.eval()
    with torch.no_grad():
        logits = model(bags, seen, rows)
    return (logits[:, 1] - logits[:, 0]).double().numpy()


def _some(rows: ClinicalRows, which: torch.Tensor) -> ClinicalRows:
    return ClinicalRows(rows.values[which], rows.codes[which], rows.present[which])


def measure(
    genes: Floats, age: Floats, sex: Floats, dead: npt.NDArray[np.int64], *, seeds: int, epochs: int
) -> dict[str, Floats]:
    """Logits (P,) of each arm for patients outside its training folds, mean over the seeds."""
    hidden = np.random.default_rng(0).random(len(age)) < MISSING
    cells = [{"age": float(a), "sex": "F" if f else "M"} for a, f in zip(age, sex)]
    rows = {
        "genes": COLUMNS.read([{} for _ in cells]),
        "genes and row": COLUMNS.read(cells),
        "30 % of ages masked": COLUMNS.read(
            [{**row, "age": None if h else row["age"]} for row, h in zip(cells, hidden)]
        ),
    }
    found: dict[str, Floats] = {}
    target = torch.from_numpy(dead)
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(genes, dead):
        filled = np.where(hidden, age[train][~hidden[train]].mean(), age)
        rows["30 % of ages filled with the mean"] = COLUMNS.read(
            [{**row, "age": float(value)} for row, value in zip(cells, filled)]
        )
        clinical = np.stack([age, sex], axis=1)
        ten = PCA(10, random_state=0).fit(genes[train]).transform(genes)
        for name, values in (("row alone", clinical), ("regression", np.concatenate([ten, clinical], axis=1))):
            fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(values[train], dead[train])
            found.setdefault(name, np.zeros(len(dead)))[test] = fitted.decision_function(values[test])
        bags = tokens_of(genes, train, 0)
        for name, row in rows.items():
            for seed in range(seeds):
                logits = network(bags, row, target, torch.from_numpy(train), seed=seed, epochs=epochs)
                found.setdefault(name, np.zeros(len(dead)))[test] += logits[test] / seeds
        print(f"{len(test)} patients tested", flush=True)
    found["mean of genes and row alone"] = (found["genes"] + found["row alone"]) / 2
    return found


def summary(found: dict[str, Floats], dead: npt.NDArray[np.int64], draws: int = 2000) -> dict[str, dict[str, object]]:
    """AUC of each arm, and of its differences to "genes", "mean of genes and row alone" and the filled arm."""
    rng = np.random.default_rng(0)
    samples = [rng.integers(len(dead), size=len(dead)) for _ in range(draws)]
    boot = {name: np.array([roc_auc_score(dead[s], logits[s]) for s in samples]) for name, logits in found.items()}
    whole = {name: float(roc_auc_score(dead, logits)) for name, logits in found.items()}
    result: dict[str, dict[str, object]] = {}
    for name, value in whole.items():
        result[name] = {"auc": value, "interval": np.quantile(boot[name], (0.025, 0.975)).tolist()}
    pairs = [("genes and row", other) for other in ("genes", "mean of genes and row alone", "regression")]
    for first, second in [*pairs, ("30 % of ages masked", "30 % of ages filled with the mean")]:
        interval = np.quantile(boot[first] - boot[second], (0.025, 0.975)).tolist()
        result[f"{first} − {second}"] = {"auc": whole[first] - whole[second], "interval": interval}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    genes, age, sex, dead = read(options.table)
    print(f"{len(dead)} patients, {dead.sum()} of them died within {MONTHS:g} months; {genes.shape[1]} genes")
    result = summary(measure(genes, age, sex, dead, seeds=options.seeds, epochs=options.epochs), dead)
    options.out.mkdir(parents=True, exist_ok=True)
    record = {"patients": len(dead), "died": int(dead.sum()), "seeds": options.seeds, "epochs": options.epochs}
    with atomic_write(options.out / "clinical.json") as partial:
        Path(partial).write_text(json.dumps(record | {"arms": result}, indent=2, ensure_ascii=False), encoding="utf-8")
    for name, one in result.items():
        low, high = one["interval"]  # type: ignore[misc]
        print(f"{name:58} {one['auc']:+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
