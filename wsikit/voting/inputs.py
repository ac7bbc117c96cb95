"""Which patches vote, with which weight, and which label each one has on the map: one rule for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.voting.rows import nan_rows, row_max

BACKGROUND_MAJORITY = 0.5
"""A patch whose background probability is above this does not vote."""


@dataclass(frozen=True, eq=False)
class VoteInputs:
    """Patch probabilities, split into voting classes and background."""

    classes: tuple[str, ...]
    """Codes of the V voting classes, in the model's order."""
    columns: tuple[int, ...]
    """Their columns in the model's probabilities."""
    probs: npt.NDArray[np.float64]
    """(N, V), renormalised over the voting classes; rows of NaN where there is no prediction."""
    weights: npt.NDArray[np.float64]
    """(N,), 1 − p(background); 0 for background patches; NaN where there is no prediction."""
    labels: npt.NDArray[np.int64]
    """(N,), index of the class to show on a map, as a column of the model's probabilities; -1 = no prediction."""
    certainty: npt.NDArray[np.float64]
    """(N,), the model's probability of that class: where patches overlap, the highest is shown; -1 = no prediction."""


def vote_inputs(probs: npt.ArrayLike, classes: Sequence[str], background: Sequence[str] = ()) -> VoteInputs:
    """Split off the background classes, as a slide's subtype is about its tumour, not about its fat.

    Parameters
    ----------
    probs
        (N, C) probabilities per patch; a row with a NaN is a patch without prediction.
    classes
        C class codes.
    background
        Codes among `classes` that do not vote, such as ("other",).

    Raises
    ------
    RequestError
        If shape and classes do not match, or no class is left to vote.

    Notes
    -----
    A patch has the weight of its tumour fraction, w = 1 − p(background), like the key-tissue weight of CMSwinKAN
    (arXiv 2504.13754: equal alpha and beta give w ∝ 1 − q(other)). Its other probabilities are renormalised, so that
    background is not counted twice. Where background has more than half of the probability, the weight is 0: scaling
    all weights does not change the vote, so a slide of background only would otherwise get a subtype from the small
    remaining probabilities.

    >>> inputs = vote_inputs([[0.3, 0.1, 0.6], [0.6, 0.2, 0.2]], ("PD", "D", "other"), background=("other",))
    >>> inputs.weights.round(2).tolist(), inputs.labels.tolist()
    ([0.0, 0.8], [2, 0])
    """
    codes = tuple(classes)
    matrix = np.asarray(probs, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != len(codes):
        raise RequestError(
            f"probabilities of shape {matrix.shape} for {len(codes)} classes: expected (N, {len(codes)})"
        )
    unknown = sorted(set(background) - set(codes))
    if unknown:
        raise RequestError(f"background classes {unknown} are not among the model's classes {list(codes)}")
    columns = tuple(index for index, code in enumerate(codes) if code not in background)
    if not columns:
        raise RequestError(f"all classes {list(codes)} are background: none is left to vote")

    by_class = np.ascontiguousarray(matrix.T)  # sums and maxima over the first axis are many times faster
    unpredicted = nan_rows(matrix)
    voting = by_class[list(columns)]
    voting[:, unpredicted] = np.nan
    foreground = voting.sum(axis=0)
    others = [index for index in range(len(codes)) if index not in columns]
    is_background = np.asarray(by_class[others].sum(axis=0) > BACKGROUND_MAJORITY)
    with np.errstate(invalid="ignore", divide="ignore"):
        renormalised = voting / foreground
    # all probability on the background: the row's values do not matter, its weight is 0
    renormalised[:, foreground == 0] = 1.0 / len(columns)
    weights = np.where(is_background, 0.0, foreground)
    labels, own = _labels(by_class, columns, others, is_background, unpredicted)
    return VoteInputs(
        classes=tuple(codes[index] for index in columns),
        columns=columns,
        probs=renormalised.T,
        weights=np.where(unpredicted, np.nan, weights),
        labels=labels,
        certainty=own,
    )


def _labels(
    by_class: npt.NDArray[np.float64],
    columns: Sequence[int],
    others: Sequence[int],
    is_background: npt.NDArray[np.bool_],
    unpredicted: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(N,) column to show, the most probable voting class unless the background has the majority; its probability."""
    filled = np.where(unpredicted, 0.0, by_class) if unpredicted.any() else by_class
    own, first = row_max(filled[list(columns)].T)
    labels = np.asarray(columns, dtype=np.int64)[first]
    if others:
        top_other, first = row_max(filled[others].T)
        np.copyto(labels, np.asarray(others, dtype=np.int64)[first], where=is_background)
        np.copyto(own, top_other, where=is_background)
    labels[unpredicted] = -1
    own[unpredicted] = -1.0
    return labels, own
