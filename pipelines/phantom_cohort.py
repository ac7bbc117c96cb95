"""A synthetic cohort as files: a table of patients with genes and a clinical row, and patch features of a slide each.

python pipelines/phantom_cohort.py -o COHORT

Writes COHORT/cohort.csv, COHORT/features/*.npy and COHORT/sets.gmt (gene sets) of `wsikit.phantom.gene_cohort`: what
raises the risk is planted and known. The clinical row has an age that shows the signal that patches and genes share,
with noise and missing in every fifth patient, and a sex without effect. Same seed, same files.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from wsikit.phantom.gene_cohort import PARTS, make_cohort


def write_cohort(folder: Path, *, patients: int, seed: int) -> None:
    """Write the files into `folder`."""
    cohort = make_cohort(patients, seed=seed)
    part = cohort.part
    assert part.bags is not None
    assert part.time is not None
    assert part.event is not None
    rng = np.random.default_rng([2, seed])
    shared = cohort.parts[:, PARTS.index("shared")]
    ages, sexes = 50 + 8 * shared + 8 * rng.normal(size=patients), rng.integers(0, 2, patients)
    (folder / "features").mkdir(parents=True)
    with open(folder / "cohort.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        genes = [f"{name}_rna" for name in part.names["rna"]]
        table.writerow(["patient", "slide", "months", "died", "age", "is_female", *genes])
        for row, name in enumerate(part.ids):
            np.save(folder / "features" / f"{name}.npy", part.bags[row]())
            age = "" if row % 5 == 0 else f"{ages[row]:.1f}"
            values = [f"{value:.4f}" for value in part.columns["rna"][row]]
            table.writerow([name, name, f"{part.time[row]:.3f}", int(part.event[row]), age, sexes[row], *values])
    (folder / "sets.gmt").write_text(cohort.gmt(), encoding="utf-8")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("-o", "--out", type=Path, required=True)
    arguments.add_argument("--patients", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    write_cohort(given.out, patients=given.patients, seed=given.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
