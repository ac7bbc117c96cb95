"""The vote of a slide's patches: a subtype with its doubt, or an abstention with its reason. NumPy only.

Which patches may vote, and how much, is `wsikit.voting.inputs`; what the classes mean is the model's affair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError

Method = Literal["mean", "hard", "confidence"]
METHODS: tuple[str, ...] = get_args(Method)

SUM_TOLERANCE = 1e-2
"""Rows may miss 1 by this much: float16 softmax over a few classes does, logits do not hide within it."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SlideResult:
    """What the patches of one slide say together."""

    method: str
    """How the patches were put together; one of `METHODS`."""
    label: int | None
    """Index of the slide's class, None if the vote abstained."""
    probs: Floats
    """(C,) the slide's probabilities: weighted mean of the patches', for "hard" their shares of the vote.
    NaN if no patch voted."""
    fractions: Floats
    """(C,) weighted share of voting patches whose most probable class this is; NaN if no patch voted."""
    n_patches: int
    """Patches that voted."""
    n_unpredicted: int
    """Patches without a prediction (unreadable, not run): they did not vote."""
    n_weightless: int
    """Patches with a prediction and weight 0, such as background: they did not vote."""
    n_effective: float
    """(Σw)²/Σw² of the voting patches: as many equal voices would weigh the same."""
    margin: float
    """Difference of the two highest `probs`; NaN if no patch voted."""
    leading: int | None
    """Index of the class ahead, also when the vote abstained; None if no patch voted."""
    abstained: bool
    reason: str
    """Why the vote abstained; empty if it did not."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON and Zarr attributes; what is undefined becomes None."""

        def plain(value: float) -> float | None:
            return float(value) if math.isfinite(value) else None

        return {
            "method": self.method,
            "label": self.label,
            "probs": [plain(value) for value in self.probs],
            "fractions": [plain(value) for value in self.fractions],
            "n_patches": self.n_patches,
            "n_unpredicted": self.n_unpredicted,
            "n_weightless": self.n_weightless,
            "n_effective": plain(self.n_effective),
            "margin": plain(self.margin),
            "leading": self.leading,
            "abstained": self.abstained,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> SlideResult:
        """The inverse of `to_json`."""

        def floats(values: list[float | None]) -> Floats:
            return np.asarray([math.nan if value is None else value for value in values], dtype=np.float64)

        fields = dict(record)
        fields["probs"], fields["fractions"] = floats(record["probs"]), floats(record["fractions"])
        fields["n_effective"], fields["margin"] = floats([record["n_effective"], record["margin"]]).tolist()
        return cls(**fields)


def vote(
    probs: npt.ArrayLike,
    *,
    method: str = "mean",
    weights: npt.ArrayLike | None = None,
    min_patches: float = 20,
    min_margin: float = 0.1,
    kappa: float = 1.0,
) -> SlideResult:
    """Put the patches of one slide together.

    Parameters
    ----------
    probs
        (M, C) probabilities per patch, C ≥ 2. A row with a NaN is a patch without prediction: it is counted and
        does not vote.
    method
        "mean": weighted mean of the probabilities. "hard": weighted shares of each patch's most probable class;
        a patch torn between k classes gives each 1/k, a tie of the slide is broken by the mean probability.
        "confidence": mean with each patch's weight times (1 − H(p)/log C)^kappa, H its entropy.
    weights
        (M,) ≥ 0, 1 for all if None. Only their ratios matter: scaling all of them changes nothing.
    min_patches
        Abstain with fewer effective patches, (Σw)²/Σw², than this.
    min_margin
        Abstain if the two classes ahead differ by less than this, 0 to 1.
    kappa
        Exponent of "confidence", > 0.

    Raises
    ------
    RequestError
        If the rows are not probabilities, the weights are negative, or an option is unknown.

    >>> vote([[0.9, 0.1], [0.2, 0.8]], weights=[7, 0.1], min_patches=1).probs.round(4).tolist()
    [0.8901, 0.1099]
    """
    _check_options(method, min_patches, min_margin, kappa)
    matrix, given = _checked(probs, weights)
    predicted = ~np.isnan(matrix).any(axis=1)
    n_unpredicted = int((~predicted).sum())
    matrix, given = matrix[predicted], given[predicted]
    matrix = matrix / matrix.sum(axis=1, keepdims=True)
    w = given * _confidence(matrix, kappa) if method == "confidence" else given
    voting = w > 0
    n_weightless = int((~voting).sum())
    if not voting.any():
        return _nobody(method, np.shape(probs)[1], n_unpredicted, n_weightless)

    matrix, w = matrix[voting], w[voting] / w[voting].max()
    mean, fractions = _average(matrix, w), _average(_choices(matrix), w)
    n_effective = float(w.sum() ** 2 / (w**2).sum())
    score = fractions if method == "hard" else mean
    leading = _leading(score, mean)
    top = np.sort(score)
    margin = float(top[-1] - top[-2])
    reason = _doubt(n_effective, margin, min_patches, min_margin)
    return SlideResult(
        method=method,
        label=None if reason else leading,
        probs=score,
        fractions=fractions,
        n_patches=len(w),
        n_unpredicted=n_unpredicted,
        n_weightless=n_weightless,
        n_effective=n_effective,
        margin=margin,
        leading=leading,
        abstained=bool(reason),
        reason=reason,
    )


def _check_options(method: str, min_patches: float, min_margin: float, kappa: float) -> None:
    if method not in METHODS:
        raise RequestError(f"voting method {method!r} is not known: use one of {', '.join(METHODS)}")
    if not min_patches >= 0:
        raise RequestError(f"min_patches of {min_patches}: it must be 0 or more")
    if not 0 <= min_margin <= 1:
        raise RequestError(f"min_margin of {min_margin}: it must lie between 0 and 1")
    if not kappa > 0:
        raise RequestError(f"kappa of {kappa}: it must be more than 0")


def _checked(probs: npt.ArrayLike, weights: npt.ArrayLike | None) -> tuple[Floats, Floats]:
    """(M, C) probabilities and (M,) weights as float64, or a RequestError that says what is wrong with them."""
    matrix = np.asarray(probs, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] < 2:
        raise RequestError(f"probabilities of shape {matrix.shape}: expected (patches, classes), two classes or more")
    predicted = ~np.isnan(matrix).any(axis=1)
    rows = matrix[predicted]
    if (rows < 0).any() or (np.abs(rows.sum(axis=1) - 1) > SUM_TOLERANCE).any():
        raise RequestError("the rows are not probabilities (0 or more, sum 1): apply softmax to logits first")
    if weights is None:
        return matrix, np.ones(len(matrix))
    given = np.asarray(weights, dtype=np.float64)
    if given.shape != (len(matrix),):
        raise RequestError(f"weights of shape {given.shape} for {len(matrix)} patches: expected ({len(matrix)},)")
    usable = given[predicted]
    if not (np.isfinite(usable) & (usable >= 0)).all():
        raise RequestError("weights must be finite and 0 or more")
    return matrix, given


def _average(values: Floats, weights: Floats) -> Floats:
    """Weighted mean over the rows of `values` (M, C)."""
    return weights @ values / weights.sum()


def _choices(probs: Floats) -> Floats:
    """(M, C) each patch's voice: 1 for its most probable class, split evenly between equals."""
    best = probs == probs.max(axis=1, keepdims=True)
    return best / best.sum(axis=1, keepdims=True)


def _confidence(probs: Floats, kappa: float) -> Floats:
    """(M,) (1 − H/log C)^kappa: 1 for a certain patch, 0 for an undecided one."""
    logs = np.log(np.where(probs > 0, probs, 1.0))
    entropy = -(probs * logs).sum(axis=1)
    certainty = np.clip(1 - entropy / math.log(probs.shape[1]), 0, None)
    # rounding leaves 1e-16 for a uniform row; many such rows must not decide a slide
    certainty[certainty < 1e-9] = 0.0
    return certainty**kappa


def _leading(score: Floats, mean: Floats) -> int:
    """Index of the highest score; equals (to rounding) are told apart by the mean probability."""
    equal = np.flatnonzero(score >= score.max() - 1e-12)
    return int(equal[mean[equal].argmax()])


def _doubt(n_effective: float, margin: float, min_patches: float, min_margin: float) -> str:
    """Why not to call a subtype, or an empty string."""
    reasons = []
    if n_effective < min_patches * (1 - 1e-9):  # twenty equal weights of 0.1 give 19.999…
        reasons.append(f"{math.floor(n_effective * 10) / 10:g} effective patches, fewer than {min_patches:g}")
    if margin < min_margin - 1e-12:
        # rounded down: 0.0996 must not read "0.100 is below 0.1"
        reasons.append(f"margin {math.floor(margin * 1000) / 1000:.3f} is below {min_margin:g}")
    return "; ".join(reasons)


def _nobody(method: str, n_classes: int, n_unpredicted: int, n_weightless: int) -> SlideResult:
    """An abstention for want of any voting patch."""
    if n_unpredicted and n_weightless:
        why = f"{n_unpredicted} without prediction, {n_weightless} of weight 0"
    elif n_unpredicted:
        why = f"all {n_unpredicted} are without prediction"
    elif n_weightless:
        why = f"all {n_weightless} have weight 0 (background or undecided)"
    else:
        why = "the slide has no patches"
    nothing = np.full(n_classes, math.nan)
    return SlideResult(
        method=method,
        label=None,
        probs=nothing,
        fractions=nothing.copy(),
        n_patches=0,
        n_unpredicted=n_unpredicted,
        n_weightless=n_weightless,
        n_effective=0.0,
        margin=math.nan,
        leading=None,
        abstained=True,
        reason=f"no patch could vote: {why}",
    )
