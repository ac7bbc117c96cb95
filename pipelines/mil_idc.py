"""Patients with or without much invasive carcinoma, from one label per patient: poolings, torchmil, and a patch model.

python pipelines/mil_idc.py --images idc.zip -o OUT [--features colour|ENCODER]

A bag is the patches of a patient; its label is whether 25 % of them or more are IDC. Five folds by patient: each is the
test part once, the next one stops the training, the other three are learned from. Every way sees the same bags and
folds, with networks of three seeds whose logits are averaged. "patch labels, vote" is a logistic regression on the
labels of the patches of the same folds, averaged over the patient. torchmil's ABMIL is measured if that package is
installed; its network has the same layers, optimiser, steps and early stopping.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsikit.training.baselines import colour_histogram
from wsikit.training.datasets import Columns, read_table
from wsikit.training.metrics import paired_difference
from wsikit.training.mil.cohort import Bag
from wsikit.training.mil.config import MilTrainConfig
from wsikit.training.mil.evaluation import class_figures
from wsikit.training.mil.fit import Targets, fit_member
from wsikit.training.splits import TEST, TRAIN, VALIDATION, Split, folds

logger = logging.getLogger("mil_idc")

LIMIT, FOLDS, SEEDS = 0.25, 5, (0, 1, 2)
CLASSES = ("few", "many")
POOLINGS: dict[str, dict[str, Any]] = {
    "ABMIL": {"pooling": "abmil"},
    "mean": {"pooling": "mean"},
    "max": {"pooling": "max"},
    "MIL(α = 0.25, β = 0)": {"pooling": "alpha_beta", "alpha": LIMIT},
}
PATCH_LABELS, TORCHMIL = "patch labels, vote", "ABMIL of torchmil"


@dataclass(frozen=True, eq=False)
class Data:
    """Bags of all patients, and the labels of their patches."""

    bags: tuple[Bag, ...]
    patch_labels: tuple[np.ndarray, ...]


def read_bags(images: str, features: str) -> Data:
    """One bag per patient."""
    table = read_table("index.csv", images, columns=Columns(file="file", label="label", description=None))
    parts = [range(first, min(first + 256, len(table))) for first in range(0, len(table), 256)]
    values = np.concatenate([_encode(features)(np.stack(_square(table.images(rows)))) for rows in parts])
    labels = np.array([label == "1" for label in table.classes], dtype=np.int64)
    patients = np.array(table.patients)
    assert table.coords is not None
    coords = table.coords.astype(np.int64)
    bags, own = [], []
    for patient in sorted(set(patients.tolist())):
        rows = np.flatnonzero(patients == patient)
        much = int(labels[rows].mean() >= LIMIT)
        bags.append(Bag(patient, patient, values[rows].astype(np.float32), coords[rows], label=much))
        own.append(labels[rows])
    return Data(tuple(bags), tuple(own))


def _square(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Patches at the edge of a slide are smaller than 50 px: mirrored up to it."""
    return [np.pad(one, ((0, 50 - one.shape[0]), (0, 50 - one.shape[1]), (0, 0)), mode="symmetric") for one in images]


_LOADED: dict[str, Any] = {}


def _encode(features: str) -> Callable[[np.ndarray], np.ndarray]:
    if features == "colour":
        return colour_histogram
    if features not in _LOADED:
        from wsikit.encoders.registry import load_encoder

        _LOADED[features] = load_encoder(features, device="cpu")
    return _LOADED[features].encode  # type: ignore[no-any-return]


def settings(pooling: dict[str, Any], seed: int) -> MilTrainConfig:
    return MilTrainConfig.model_validate(
        {
            "architecture": "mil",
            "name": "idc",
            "data": {"manifest": "patients of the zip"},
            "classes": [{"code": code} for code in CLASSES],
            "features": "given",
            "mil": pooling,
            "training": {"seed": seed, "epochs": 60, "patience": 12},
        }
    )


def by_pooling(data: Data, splits: Sequence[Split], pooling: dict[str, Any]) -> np.ndarray:
    """(P, 2) probabilities of the patients, each from the networks of the fold in which it is tested."""
    from wsikit.training.mil.ensemble import ensemble

    probs = np.zeros((len(data.bags), 2))
    for parts in splits:
        training, held, tested = ([data.bags[row] for row in parts[name]] for name in (TRAIN, VALIDATION, TEST))
        fitted = []
        for seed in SEEDS:
            config = settings(pooling, seed)
            fitted.append(fit_member(training, held, config, Targets.of(training, config)))
        logits = []
        for one in fitted:
            model = ensemble([one], settings(pooling, 0), _cohort(data), training, Targets())
            logits.append(np.stack([model.slide(bag.features)["logits"] for bag in tested]))
        probs[parts[TEST]] = _softmax(np.mean(logits, axis=0))
    return probs


def by_torchmil(data: Data, splits: Sequence[Split]) -> np.ndarray:
    """As `by_pooling`, with torchmil's ABMIL and a training loop of its own."""
    from torchmil.models import ABMIL

    probs = np.zeros((len(data.bags), 2))
    for parts in splits:
        training, held, tested = ([data.bags[row] for row in parts[name]] for name in (TRAIN, VALIDATION, TEST))
        every = np.concatenate([bag.features for bag in training])
        mean, scale = every.mean(axis=0), every.std(axis=0)
        scale = np.where(scale > 1e-8, scale, 1.0)

        def batch(bags: Sequence[Bag], mean: np.ndarray = mean, scale: np.ndarray = scale) -> tuple[torch.Tensor, ...]:
            """Bags padded to one length, with the mask of their patches."""
            longest = max(len(bag.features) for bag in bags)
            x, mask = torch.zeros(len(bags), longest, len(mean)), torch.zeros(len(bags), longest)
            for place, bag in enumerate(bags):
                x[place, : len(bag.features)] = torch.as_tensor((bag.features - mean) / scale)
                mask[place, : len(bag.features)] = 1
            return torch.tensor([float(bag.label) for bag in bags]), x, mask

        of_held, of_tested = batch(held), batch(tested)
        logits = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            rng = np.random.default_rng([seed, 0])
            width = every.shape[1]
            body = torch.nn.Sequential(torch.nn.Linear(width, 64), torch.nn.ReLU(), torch.nn.Dropout(0.25))
            model = ABMIL(in_shape=(width,), att_dim=32, gated=True, feat_ext=body)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
            best, kept, state = math.inf, 0, model.state_dict()
            for epoch in range(60):
                model.train()
                order = rng.permutation(len(training))
                for first in range(0, len(order), 8):
                    optimizer.zero_grad()
                    _torchmil_loss(model, batch([training[i] for i in order[first : first + 8]])).backward()
                    optimizer.step()
                model.eval()
                with torch.no_grad():
                    found = float(_torchmil_loss(model, of_held))
                if found < best:
                    best, kept, state = found, epoch, {k: v.clone() for k, v in model.state_dict().items()}
                elif epoch - kept >= 12:
                    break
            model.load_state_dict(state)
            model.eval()
            with torch.no_grad():
                logits.append(model(*of_tested[1:]).numpy())
        mean_logit = np.mean(logits, axis=0)
        probs[parts[TEST]] = _softmax(np.stack([np.zeros_like(mean_logit), mean_logit], axis=1))
    return probs


def _torchmil_loss(model: Any, bags: tuple[torch.Tensor, ...]) -> torch.Tensor:
    loss: torch.Tensor = next(iter(model.compute_loss(*bags)[1].values()))
    return loss


def by_patch_labels(data: Data, splits: Sequence[Split]) -> np.ndarray:
    """The mean over a patient of the probabilities of a logistic regression on labelled patches."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probs = np.zeros((len(data.bags), 2))
    for parts in splits:
        learned = np.concatenate([parts[TRAIN], parts[VALIDATION]])
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        labels = np.concatenate([data.patch_labels[row] for row in learned])
        model.fit(np.concatenate([data.bags[row].features for row in learned]), labels)
        for row in parts[TEST]:
            probs[row] = model.predict_proba(data.bags[row].features).mean(axis=0)
    return probs


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _cohort(data: Data) -> Any:
    from wsikit.models.model_folder import EncoderRecord
    from wsikit.training.mil.cohort import Cohort

    encoder = EncoderRecord(name="given", width=data.bags[0].features.shape[1])
    return Cohort(data.bags, encoder, 4.0, 50, CLASSES, "")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--images", required=True, help="The zip of the patches.")
    arguments.add_argument("--features", default="colour", help="colour: histogram of a patch; or an encoder.")
    arguments.add_argument("-o", "--out", type=Path, required=True)
    arguments.add_argument("--threads", type=int, default=1)
    given = arguments.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(given.threads)
    data = read_bags(given.images, given.features)
    labels = np.array([bag.label for bag in data.bags], dtype=np.int64)
    patients = np.array([bag.patient for bag in data.bags], dtype=np.str_)
    splits = folds(labels, patients, FOLDS, seed=0)
    logger.info("%d patients, %d of them with %g %% or more", len(labels), labels.sum(), 100 * LIMIT)
    ways: dict[str, Callable[[], np.ndarray]] = {
        PATCH_LABELS: lambda: by_patch_labels(data, splits),
        **{name: lambda pooling=pooling: by_pooling(data, splits, pooling) for name, pooling in POOLINGS.items()},
        TORCHMIL: lambda: by_torchmil(data, splits),
    }
    probs, table = {}, {}
    for name, predict in ways.items():
        begun = time.perf_counter()
        try:
            probs[name] = predict()
        except ModuleNotFoundError as error:
            logger.info("%s: not measured, %s is not installed", name, error.name)
            continue
        found = class_figures(data.bags, probs[name], CLASSES, ordinal=False)["patient"]
        table[name] = {key: found[key] for key in ("auc", "balanced_accuracy")}
        row = found["auc"]
        logger.info(
            "%-24s AUC %.3f (%.3f – %.3f), %.0f s",
            name, row["value"], row["low"], row["high"], time.perf_counter() - begun,
        )  # fmt: skip
    for name in probs:
        pair = paired_difference(labels, probs["ABMIL"], probs[name], patients, "auc")
        table[name]["ABMIL minus this"] = dict(zip(("value", "low", "high"), pair, strict=True))
        logger.info("ABMIL minus %-24s %+.3f (%+.3f – %+.3f)", name, *pair)
    given.out.mkdir(parents=True, exist_ok=True)
    record = {"features": given.features, "patients": len(labels), "many": int(labels.sum()), "auc": table}
    (given.out / f"mil_idc_{given.features.replace(':', '-')}.json").write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
