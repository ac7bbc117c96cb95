"""The synthetic cohort has the signal that it claims, where it claims it."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LinearRegression

from wsikit.phantom.gene_cohort import PARTS, TYPES, make_cohort


def explained(given: np.ndarray, wanted: np.ndarray) -> float:
    """R² of a linear fit on the first half, on the second."""
    half = len(given) // 2
    return LinearRegression().fit(given[:half], wanted[:half]).score(given[half:], wanted[half:])


def test_each_part_is_seen_where_it_is_planted() -> None:
    cohort = make_cohort(600, seed=3)
    counts = [np.bincount(types, minlength=TYPES) / len(types) for types in cohort.types]
    tissue = np.log(np.array(counts) + 0.02)
    modules = np.stack([cohort.part.columns["rna"][:, cohort.modules == m].mean(axis=1) for m in range(4)], axis=1)
    seen = {
        part: (round(explained(tissue, cohort.parts[:, i]), 1), round(explained(modules, cohort.parts[:, i]), 1))
        for i, part in enumerate(PARTS)
    }
    assert seen["path"][0] > 0.4 > 0.1 > seen["path"][1]
    assert seen["gene"][0] < 0.1 < 0.8 < seen["gene"][1]
    assert min(seen["shared"]) > 0.3
    assert max(seen["joint"]) < 0.1  # no linear function of either sees the product


def test_patients_differ_by_seed_and_appearance_does_not() -> None:
    first, again, other = (make_cohort(5, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.part.bags[2](), again.part.bags[2]())
    assert not np.array_equal(first.part.columns["rna"], other.part.columns["rna"])
    centres = [np.concatenate([bag()[types == 0] for bag, types in zip(c.part.bags, c.types)]) for c in (first, other)]
    assert np.abs(centres[0].mean(axis=0) - centres[1].mean(axis=0)).max() < 0.8


def test_its_gene_sets_are_a_gmt_file_of_its_modules() -> None:
    cohort = make_cohort(2, seed=0)
    lines = [line.split("\t") for line in cohort.gmt().splitlines()]
    assert len(lines) == 12
    for name, _, *genes in lines:
        assert {int(cohort.modules[int(gene[1:])]) for gene in genes} == {int(name.split()[1])}
