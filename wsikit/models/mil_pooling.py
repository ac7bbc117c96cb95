"""From the patches of a slide to the slide, for models trained on slide labels. NumPy only.

With weights a of sum 1, the logits of the slide are Σ a_i · (logits of patch i): the head is linear, so those of the
patches are exact parts of those of the slide. The poolings differ in the weights alone:

| pooling | weights |
|---|---|
| abmil | softmax of the attention scores (Ilse, Tomczak and Welling 2018, eq. 7 to 9) |
| mean | 1/n |
| max | all on the patch with the highest score (Campanella et al. 2019), equal ones share it |
| alpha_beta | 1/k on the k = ⌈α n⌉ patches with the highest score |

A bag is the patches of one slide; n is their number.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from wsikit.models.mil_config import Pooling, Task

Floats = npt.NDArray[np.float64]


def count_of(share: float, n: int) -> int:
    """Patches that are a `share` of n: rounded up, and at least one unless the share is 0.

    >>> count_of(0.1, 30), count_of(0.1, 3), count_of(0.0, 30), count_of(1.0, 1)
    (3, 1, 0, 1)
    """
    return min(n, max(1, math.ceil(share * n - 1e-9))) if share > 0 else 0


def top_weights(scores: npt.ArrayLike, k: int) -> Floats:
    """(n,) 1 for each of the k highest scores, 0 for the others; equal scores at the limit share its places.

    So the result does not depend on the order of the patches. Its sum is k.

    >>> top_weights([0.5, 0.9, 0.5, 0.1], 2).tolist()
    [0.5, 1.0, 0.5, 0.0]
    """
    values = np.asarray(scores, dtype=np.float64)
    if k <= 0:
        return np.zeros(len(values))
    k = min(k, len(values))
    limit = np.partition(values, len(values) - k)[len(values) - k]
    above, level = values > limit, values == limit
    return np.asarray(above + level * ((k - above.sum()) / level.sum()))


def assigned(scores: npt.ArrayLike, alpha: float, beta: float) -> tuple[Floats, Floats]:
    """How far each patch of a positive slide is taken as positive, and as negative, in training with MIL(α, β).

    Parameters
    ----------
    scores
        (n,) the higher, the more positive.
    alpha, beta
        Least shares of positive and of negative patches. Both are rounded up and give at least one patch; 0 gives none.

    Returns
    -------
    positive, negative
        float64 (n,), 0 to 1. The others are not used. Where the shares overlap, negative wins, as published; one place
        is always left for a positive patch, which the label states. A bag of one patch is positive.

    Notes
    -----
    Lerousseau et al., MICCAI 2020 (arXiv 2004.05024). Their code takes int(α n), which is 0 for small bags.

    >>> [part.tolist() for part in assigned([0.9, 0.2, 0.6, 0.1], alpha=0.5, beta=0.25)]
    [[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    values = np.asarray(scores, dtype=np.float64)
    n = len(values)
    negative = top_weights(-values, min(count_of(beta, n), n - 1))
    return np.minimum(top_weights(values, count_of(alpha, n)), 1 - negative), negative


def pooling_weights(scores: npt.ArrayLike, pooling: Pooling, alpha: float = 0.1) -> Floats:
    """(n,) weights of sum 1 of the patches of a slide, from their scores (n,); 0 where a score is NaN.

    >>> pooling_weights([0.0, 0.0, np.nan], "abmil").tolist()
    [0.5, 0.5, 0.0]
    """
    values = np.asarray(scores, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values))
    weights = np.zeros(len(values))
    if not len(known):
        return weights
    found = values[known]
    if pooling == "abmil":
        raised = np.exp(found - found.max())
        weights[known] = raised / raised.sum()
    elif pooling == "mean":
        weights[known] = 1 / len(found)
    else:
        k = 1 if pooling == "max" else count_of(alpha, len(found))
        weights[known] = top_weights(found, k) / k
    return weights


def evidence_scores(logits: npt.ArrayLike, task: Task, pooling: Pooling) -> Floats:
    """(n,) what max and alpha_beta rank patches by, from their logits (n, K).

    One number per patch (ordered classes, values): that number. Two classes: the log odds of the second, the positive
    one. More classes: for alpha_beta the log odds against the first, negative one; for max the log probability of the
    most probable class, as in CLAM (Lu et al. 2021).
    """
    z = np.asarray(logits, dtype=np.float64)
    if task != "classes":
        return z[:, 0]
    if z.shape[1] == 2:
        return np.asarray(z[:, 1] - z[:, 0])
    if pooling == "alpha_beta":
        return np.asarray(_log_sum_exp(z[:, 1:]) - z[:, 0])
    return np.asarray(z.max(axis=1) - _log_sum_exp(z))


def _log_sum_exp(z: Floats) -> Floats:
    top = z.max(axis=1)
    return np.asarray(top + np.log(np.exp(z - top[:, None]).sum(axis=1)))
