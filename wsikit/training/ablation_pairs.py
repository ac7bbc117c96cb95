"""The cross-fitted fusion in an ablation: pairs of branches that have seen neither of two folds, and its arm."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from wsikit.models.mmlnb import MMLNB
from wsikit.models.prmf_calibrated import CalibratedPRMF
from wsikit.training.ablation_config import NONE, READER_FILE, SHUFFLED, AblationConfig, Job, load_patches, untrained
from wsikit.training.ablation_rivals import OWN
from wsikit.training.branches import train_branches, with_field_terms, words_of
from wsikit.training.cross_fit import BranchOutputs, branch_outputs, fit_fusion
from wsikit.training.data import PatchSet, class_weights
from wsikit.training.forward import Outputs, outputs_of
from wsikit.training.splits import TEST

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """Branches that have seen neither of two folds: for the fusion of one they predict the other."""

    seed: int
    first: int
    second: int

    @property
    def file(self) -> str:
        """File of what they say about both folds."""
        return f"unseen/seed{self.seed}_folds{self.first}_{self.second}.npz"


def unseen_pairs(config: AblationConfig, out: Path, missing: Sequence[Job]) -> list[Pair]:
    """The pairs that the missing jobs need and that are not there yet; none without a cross-fitted fusion."""
    if config.cross_fit is None:
        return []
    found = {
        Pair(job.seed, min(job.fold, other), max(job.fold, other))
        for job in missing
        if not (out / job.file).is_file()
        for other in range(config.folds.k)
        if other != job.fold
    }
    return sorted((one for one in found if not (out / one.file).is_file()), key=lambda one: one.file)


def run_pair(config: AblationConfig, out: Path, pair: Pair, threads: int) -> str:
    """Train both branches on all folds but two, and write what they say about these."""
    torch.set_num_threads(threads)
    data, splits = load_patches(out)
    held = np.sort(np.concatenate([splits[fold][TEST] for fold in (pair.first, pair.second)]))
    seed = 1000 * pair.seed + 10 * (pair.first + 1) + pair.second + 100
    model = _trained(config, out, data.select(np.setdiff1d(np.arange(len(data)), held)), seed)
    arrays: dict[str, Any] = branch_outputs(model, data.select(held)).arrays()
    staging = (out / pair.file).with_suffix(".partial")
    with open(staging, "wb") as file:
        np.savez(file, rows=held, **arrays)
    os.replace(staging, out / pair.file)
    return f"seed {pair.seed}, without folds {pair.first} and {pair.second}"


def _trained(config: AblationConfig, out: Path, training: PatchSet, seed: int) -> MMLNB:
    """A model whose branches were trained, each by itself."""
    model = untrained(config, seed=seed)
    if config.reading is not None:
        model.text.load_state_dict(load_file(out / READER_FILE))
    train_branches(model, training, config.training, config.of_text, seed=seed)
    return model


def fit_robust(
    config: AblationConfig, out: Path, job: Job, model: MMLNB, training: PatchSet, rows: npt.NDArray[np.int64]
) -> None:
    """Fit the fusion of a fold's model, in place, on what branches that have not seen the other folds say."""
    assert config.cross_fit is not None
    fold = np.empty(len(training), dtype=np.int64)
    parts, places = [], []
    for other in (one for one in range(config.folds.k) if one != job.fold):
        pair = Pair(job.seed, min(job.fold, other), max(job.fold, other))
        with np.load(out / pair.file, allow_pickle=False) as found:
            of_fold = np.isin(found["rows"], rows)
            here = np.searchsorted(rows, found["rows"][of_fold])
            names = BranchOutputs.__dataclass_fields__
            parts.append(BranchOutputs(**{name: found[name][of_fold] for name in names}))
        fold[here] = other
        places.append(here)
    outputs = BranchOutputs.joined(parts).select(np.argsort(np.concatenate(places)))
    assert isinstance(model.fusion, CalibratedPRMF)
    weight = class_weights(training.labels, len(config.codes))
    fitted = fit_fusion(
        model.fusion, outputs, training, fold, weight=weight, field_um=config.cross_fit.field_um, seed=job.seed
    )
    model.config = with_field_terms(model, fitted)
    logger.info("seed %d, fold %d: %s", job.seed, job.fold, words_of(fitted))


def robust_arm(model: MMLNB, test: PatchSet, seed: int) -> dict[str, Outputs]:
    """The cross-fitted fusion on the test patches with their own, without, and with shuffled captions."""
    order = np.random.default_rng(seed).permutation(len(test))
    ways = {OWN: test, NONE: test.with_captions([""] * len(test)), SHUFFLED: test.captioned_as(order)}
    return {f"PRMF robust|{way}": outputs_of(model, data) for way, data in ways.items()}
