"""The rivals of an ablation: which are wanted, which a job's file lacks, and how they are added to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.training.rivals import TITLES, Rival, Rivals

OWN = "measured captions"
ON_CAPTIONS: frozenset[Rival] = frozenset(("mean_of_logits", "other_image_and_text"))
"""Rivals that read captions."""


def arm_of(name: Rival) -> str:
    """Name of a rival's arm in the files of an ablation, with the captions that it reads."""
    return f"{TITLES[name]}|{OWN}" if name in ON_CAPTIONS else TITLES[name]


def lacking(path: Path, wanted: Sequence[Rival]) -> tuple[Rival, ...]:
    """Which of the wanted rivals are not in the file of a job."""
    if not path.is_file():
        return tuple(wanted)
    with np.load(path, allow_pickle=False) as found:
        return tuple(name for name in wanted if f"probs/{arm_of(name)}" not in found.files)


def add_rivals(path: Path, names: Sequence[Rival], rivals: Rivals, rows: np.ndarray) -> None:
    """Compute these rivals and write them to the file of a job, with those that are there already."""
    arrays: dict[str, Any] = {}
    if path.is_file():
        with np.load(path, allow_pickle=False) as found:
            arrays = {key: found[key] for key in found.files}
    arrays |= {f"probs/{arm_of(name)}": rivals.probs(name).astype(np.float32) for name in names}
    staging = path.with_suffix(".partial")
    with open(staging, "wb") as file:
        np.savez(file, **(arrays | {"rows": rows}))
    os.replace(staging, path)
