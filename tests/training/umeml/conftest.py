"""Small cohorts with planted signal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from wsikit.training.cohort.protocol import Part
from wsikit.training.umeml.settings import UmemlSettings

SMALL: dict[str, Any] = {
    "width": 16,
    "epochs": 3,
    "batch": 32,
    "lr": 1e-3,
    "decoder": {"heads": 2},
    "modularity": {"communities": 4},
    "patches": {"prototypes": 4, "heads": 2},
    "tables": {"clinical": {"heads": 2, "direct": "columns"}, "rna": {"tokens": "clusters", "groups": 4, "heads": 2}},
}


@pytest.fixture
def small() -> UmemlSettings:
    return UmemlSettings.model_validate(SMALL)


@pytest.fixture
def cohort() -> Part:
    """90 patients: age and two genes raise the risk; bags hold a share of bright patches that raises it too."""
    rng = np.random.default_rng(0)
    n = 90
    age = rng.normal(50, 12, (n, 1))
    rna = rng.normal(size=(n, 24))
    share = rng.random(n)
    bags = []
    for value in share:
        bag = rng.normal(size=(int(rng.integers(5, 12)), 6)).astype(np.float32)
        bag[: round(value * len(bag)), 0] += 4
        bags.append(lambda bag=bag: bag)
    score = (age[:, 0] - 50) / 12 + rna[:, 0] - rna[:, 1] + 2 * (share - 0.5)
    event_at, censored_at = rng.exponential(30 * np.exp(-score)), rng.exponential(40, n)
    grades = np.digitize(score, [-0.8, 0.8])
    return Part(
        tuple(f"p{i}" for i in range(n)),
        {"clinical": age.astype(np.float32), "rna": rna.astype(np.float32)},
        {"clinical": ("age",), "rna": tuple(f"G{i}_rnaseq" for i in range(24))},
        bags=tuple(bags),
        time=np.minimum(event_at, censored_at) + 0.01,
        event=event_at <= censored_at,
        labels=grades.astype(np.int64),
        classes=("2", "3", "4"),
        ordered=True,
    )
