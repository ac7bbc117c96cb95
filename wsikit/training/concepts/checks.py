"""What shows whether concepts explain: interventions with the truth, and agreement with it within each class (echo)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.models.concept_criteria import UNKNOWN, Criteria
from wsikit.models.concept_head import ConceptHead
from wsikit.models.protocol import PROBABILITY
from wsikit.training.bootstrap import draw_groups, quantiles
from wsikit.training.metrics import DRAWS

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

ECHO = "within the classes this concept agrees with the truth no better than chance: an echo of the class"
CONSTANT = "the same option is predicted for every patch"


def interventions(head: ConceptHead, scores: Floats, concepts: Labels, labels: Labels) -> list[dict[str, Any]]:
    """Accuracy when 0, 1, … all axes are set to the truth, those with the greatest weights first.

    Parameters
    ----------
    scores, concepts, labels
        Scores (N, S), true options (N, K) and classes (N,) of the patches.
    """
    criteria = head.config.criteria
    order = axes_by_weight(head)
    found = []
    for n in range(len(order) + 1):
        options = np.full_like(concepts, UNKNOWN)
        options[:, order[:n]] = concepts[:, order[:n]]
        called = head.columns_of(scores, options)[PROBABILITY].argmax(axis=1)
        found.append(
            {
                "set": [list(criteria.axes)[axis] for axis in order[:n]],
                "accuracy": float((called == labels).mean()),
                "balanced_accuracy": balanced(called, labels),
            }
        )
    return found


def axes_by_weight(head: ConceptHead) -> list[int]:
    """Axes by the spread of what they contribute over their options, greatest first."""
    weight, set_to = head.arrays["weight"], head.arrays["set_to"]
    spread = [
        float(np.ptp(set_to[columns, columns] @ weight[columns], axis=0).max())
        for columns in head.config.criteria.columns
    ]
    return [int(axis) for axis in np.argsort(-np.array(spread), kind="stable")]


def balanced(called: npt.NDArray[np.integer], labels: Labels) -> float:
    """Mean recall of the classes that occur."""
    return float(np.mean([(called[labels == label] == label).mean() for label in np.unique(labels)]))


def concept_agreement(
    criteria: Criteria,
    shown: Floats,
    concepts: Labels,
    labels: Labels,
    groups: npt.NDArray[np.generic],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Per axis, how well its options are predicted, and how much of that the class alone would give.

    Parameters
    ----------
    shown
        Predicted probabilities of the options (N, S).
    concepts, labels, groups
        True options (N, K), true classes and patients (N,).

    Returns
    -------
    dict by axis
        `accuracy`; `class_alone`, the accuracy of the most frequent option of each class; `within_class`, the agreement
        beyond chance among patches of the same class (`kappa_within`), with its 95 % interval over patients;
        `warning`, why the concept says nothing beyond the class, or "". Patches without a truth are not counted.
    """
    found: dict[str, Any] = {}
    names, group = np.unique(groups, return_inverse=True)
    weights = np.concatenate([np.ones((1, len(names))), draw_groups(len(names), draws=DRAWS, seed=seed)])
    for axis, (key, columns) in enumerate(zip(criteria.axes, criteria.columns, strict=True)):
        known = concepts[:, axis] != UNKNOWN
        if not known.any():
            found[key] = {"patches": 0, "reason": "no truth for this axis"}
            continue
        called, truth = shown[known, columns].argmax(axis=1), concepts[known, axis]
        n, c = columns.stop - columns.start, int(labels.max()) + 1
        cells = np.ravel_multi_index((group[known], labels[known], truth, called), (len(names), c, n, n))
        tables = np.bincount(cells, minlength=len(names) * c * n * n).reshape(len(names), c, n, n)
        values = kappa_within(np.tensordot(weights, tables.astype(np.float64), axes=1))
        table = tables.sum(axis=0)
        ends = quantiles(values[1:])
        record: dict[str, Any] = {
            "patches": int(known.sum()),
            "accuracy": float((called == truth).mean()),
            "class_alone": float(table.sum(axis=2).max(axis=1).sum() / table.sum()),
            "within_class": {"value": None, "low": None, "high": None},
            "warning": "",
        }
        if not np.isfinite(values[0]):
            record["within_class"]["reason"] = "in these patches the truth of the concept follows from the class"
        else:
            low, high = ends if ends is not None else (None, None)
            record["within_class"] = {"value": float(values[0]), "low": low, "high": high}
            if low is not None and low <= 0:
                record["warning"] = ECHO if len(np.unique(called)) > 1 else CONSTANT
        found[key] = record
    return found


def kappa_within(tables: Floats) -> Floats:
    """Cohen's kappa of truth and prediction with chance agreement taken within each class, (D,) from counts (D, C, O,
    O) by class, truth and prediction: Σ_c n_c (p_o − p_e) / Σ_c n_c (1 − p_e).

    0: given the class, the prediction is independent of the truth, as that of a concept that repeats the class. 1: it
    is the truth. NaN where the class determines the truth.

    >>> echo = np.array([[[[4.0, 0], [4, 0]], [[0, 2.0], [0, 6]]]])
    >>> kappa_within(echo).tolist()
    [0.0]
    >>> kappa_within(np.array([[[[4.0, 0], [0, 4]]]])).tolist()
    [1.0]
    """
    n = tables.sum(axis=(2, 3))
    observed = np.einsum("dcoo->dc", tables)
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = np.einsum("dco,dco->dc", tables.sum(axis=3), tables.sum(axis=2)) / n
        chance = np.where(n > 0, chance, 0.0)
        truths = tables.sum(axis=3)
        varies = n - (truths**2).sum(axis=2) / np.where(n > 0, n, 1)  # 0 where the class determines the truth
        beyond = (n - chance).sum(axis=1)
        kappa: Floats = np.where(
            (varies.sum(axis=1) > 1e-9) & (beyond > 1e-9), (observed - chance).sum(axis=1) / beyond, np.nan
        )
    return kappa
