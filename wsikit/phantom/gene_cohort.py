"""A synthetic cohort of patients with patch features, genes and follow-up, whose signal is known.

Tissue of four types lies in each slide; genes belong to four modules. The log-risk of a patient is a sum of

| part | seen in the patches | seen in the genes |
|---|---|---|
| path | share of tissue type 1 | – |
| gene | – | activity of module 1 |
| shared | share of tissue type 2 | activity of module 2 |
| joint: a · b, both ±1 | a: whether there is tissue type 3 | b: sign of module 3 |

"path" and "gene" are complementary: each modality has what the other lacks. The joint part is independent of a alone
and of b alone, so neither modality, nor any sum of one score of each, tells it. Type 0 and module 0 are without effect.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.training.cohort.protocol import Part

TYPES, MODULES, SETS, GENES = 4, 4, 3, 5
"""Tissue types; gene modules, gene sets of each, and genes of each set."""
PARTS = ("path", "gene", "shared", "joint")
WEIGHTS = (1.0, 1.0, 0.6, 0.5)
"""Of the parts in the log-risk; each part has mean 0 and variance 1."""


@dataclass(frozen=True)
class GeneCohort:
    """N patients and their truth."""

    part: Part
    """Table "rna" with 60 genes, bags of patch features, follow-up in months."""
    parts: npt.NDArray[np.float64]
    """(N, 4): the parts of the log-risk before their weights, in the order of `PARTS`."""
    types: tuple[npt.NDArray[np.int64], ...]
    """Tissue type of each patch of each patient."""
    modules: npt.NDArray[np.int64]
    """Module of each gene, (60,)."""

    def gmt(self) -> str:
        """The gene sets as a GMT file; set "module 2 set 1" holds genes of module 2."""
        lines = []
        for module in range(MODULES):
            for number in range(SETS):
                first = (module * SETS + number) * GENES
                genes = "\t".join(f"G{i}" for i in range(first, first + GENES))
                lines.append(f"module {module} set {number}\tsynthetic\t{genes}")
        return "\n".join(lines) + "\n"


def make_cohort(patients: int, *, seed: int, patches: int = 40, width: int = 16, noise: float = 1.0) -> GeneCohort:
    """Draw a cohort. The tissue's and the genes' appearance are the same for all seeds; patients are not.

    Parameters
    ----------
    patients
        N.
    seed
        Of the patients.
    patches
        Mean number of patches of a patient.
    width
        D, of the patch features.
    noise
        Standard deviation of single patches around their type, whose means are about 2 apart per feature, and of genes
        around their module.

    >>> cohort = make_cohort(3, seed=0)
    >>> len(cohort.part), cohort.part.columns["rna"].shape, cohort.part.bags[0]().shape[1]
    (3, (3, 60), 16)
    """
    means = np.random.default_rng(0).normal(size=(TYPES, width)) * 1.5
    rng = np.random.default_rng([1, seed])
    path, gene, shared = (rng.normal(size=patients) for _ in range(3))
    a, b = (rng.choice([-1.0, 1.0], patients) for _ in range(2))
    parts = np.stack([path, gene, shared, a * b], axis=1)
    activity = np.stack([rng.normal(size=patients), gene, shared, b], axis=1)  # (N, modules)
    modules = np.repeat(np.arange(MODULES), SETS * GENES)
    genes = activity[:, modules] + noise * rng.normal(size=(patients, len(modules)))
    bags, types = [], []
    for i in range(patients):
        # shares of types 1 and 2 grow with their parts; type 3 is there or not
        amounts = np.array([1.0, np.exp(0.8 * path[i]), np.exp(0.8 * shared[i]), 0.8 if a[i] > 0 else 0.0])
        of = rng.choice(TYPES, size=int(rng.integers(patches // 2, patches * 3 // 2)), p=amounts / amounts.sum())
        bag = (means[of] + noise * rng.normal(size=(len(of), width))).astype(np.float32)
        bags.append(lambda bag=bag: bag)
        types.append(of.astype(np.int64))
    event_at = rng.exponential(30 * np.exp(-parts @ np.array(WEIGHTS)))
    censored_at = rng.uniform(5, 120, patients)
    part = Part(
        tuple(f"{seed}-{i}" for i in range(patients)),
        {"rna": genes.astype(np.float32)},
        {"rna": tuple(f"G{i}" for i in range(len(modules)))},
        bags=tuple(bags),
        time=np.minimum(event_at, censored_at) + 0.01,
        event=event_at <= censored_at,
    )
    return GeneCohort(part, parts, tuple(types), modules)
