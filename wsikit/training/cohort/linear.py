"""Linear models of patients: Cox (scikit-survival) and logistic regression (scikit-learn) on standardised columns.

Follow-up and labels may both be there; each model is fitted on the patients of whom its outcome is known.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.training.cohort.protocol import UNKNOWN, Part, Prediction

Doubles = npt.NDArray[np.float64]

L1_RATIO = 0.1
"""Share of the L1 penalty of the elastic net: almost a ridge, as 1,500 correlated genes need, and fast."""
PATH = 20
"""Penalties to choose from, from the largest at which all weights are 0 to its hundredth part."""
STRENGTHS = tuple(float(value) for value in 10.0 ** np.arange(-4.0, 2.5, 0.5))
"""Of logistic regression: the inverse penalties C to choose from."""
SMALL_RIDGE = 1e-4
"""Of the Cox model with few columns: for a column that separates all events, whose weight would have no limit."""


@dataclass(frozen=True)
class LinearModel:
    """A Cox model, a logistic regression, or both."""

    cox: Any = None
    penalty: float | None = None
    """Of the elastic net; None: hardly any."""
    logistic: Any = None
    n_classes: int = 0

    def predict(self, z: Doubles) -> Prediction:
        """Predict standardised columns, (N, K)."""
        risk, survival, times, probs = None, None, None, None
        if self.cox is not None:
            options = {} if self.penalty is None else {"alpha": self.penalty}
            risk = np.asarray(self.cox.predict(z, **options), dtype=np.float64)
            steps = self.cox.predict_survival_function(z, **options)
            times = np.asarray(steps[0].x)
            survival = np.stack([np.asarray(step.y) for step in steps])
        if self.logistic is not None:
            probs = np.full((len(z), self.n_classes), 1e-12)
            probs[:, self.logistic.classes_] = self.logistic.predict_proba(z)
            probs /= probs.sum(axis=1, keepdims=True)
        return Prediction(risk, survival, times, probs)


def fit_linear_model(
    train: Part, z: Doubles, validation: Part, z_validation: Doubles, *, penalised: bool
) -> LinearModel:
    """Fit what the patients' outcomes allow; then once more on both parts, with the penalty chosen on the validation.

    Parameters
    ----------
    z, z_validation : float (N, K)
        Standardised columns of the patients of each part.
    penalised
        Elastic net and L2 penalty, chosen on the validation part by its partial likelihood and log-loss; else hardly
        any penalty, for few columns.
    """
    cox, penalty, logistic = None, None, None
    if train.time is not None:
        cox, penalty = _cox(train, z, validation, z_validation, penalised=penalised)
    if train.labels is not None:
        logistic = _logistic(train, z, validation, z_validation, penalised=penalised)
    return LinearModel(cox, penalty, logistic, len(train.classes))


def survival_array(time: Doubles, event: npt.NDArray[np.bool_]) -> npt.NDArray[np.void]:
    """Follow-up in the form that scikit-survival reads."""
    from sksurv.util import Surv

    found: npt.NDArray[np.void] = Surv.from_arrays(event=event, time=time)
    return found


def partial_log_likelihood(risk: Doubles, time: Doubles, event: npt.NDArray[np.bool_]) -> float:
    """Cox partial log-likelihood per event of given log risks; equal times as Breslow.

    >>> partial_log_likelihood(np.zeros(2), np.array([1.0, 2.0]), np.array([True, False])) == -np.log(2)
    True
    """
    order = np.argsort(-time, kind="stable")
    ordered, died = risk[order], event[order]
    top = ordered.max()
    total = np.cumsum(np.exp(ordered - top))
    last = np.searchsorted(-time[order], -time[order], side="right") - 1
    return float((ordered - top - np.log(total[last]))[died].mean())


def _known(part: Part, z: Doubles) -> tuple[Doubles, Doubles, npt.NDArray[np.bool_]]:
    assert part.time is not None
    assert part.event is not None
    known = np.isfinite(part.time)
    return z[known], part.time[known], part.event[known]


def _cox(
    train: Part, z: Doubles, validation: Part, z_validation: Doubles, *, penalised: bool
) -> tuple[Any, float | None]:
    from sksurv.linear_model import CoxnetSurvivalAnalysis, CoxPHSurvivalAnalysis

    x, time, event = _known(train, z)
    x_other, time_other, event_other = _known(validation, z_validation)
    both, follow_up = (
        np.concatenate([x, x_other]),
        (np.concatenate([time, time_other]), np.concatenate([event, event_other])),
    )
    if not penalised:
        model = CoxPHSurvivalAnalysis(alpha=SMALL_RIDGE, ties="efron").fit(both, survival_array(*follow_up))
        return model, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a weak penalty that does not converge is not chosen, or as good as it is
        path = CoxnetSurvivalAnalysis(n_alphas=PATH, l1_ratio=L1_RATIO, alpha_min_ratio=0.01, max_iter=10_000).fit(
            x, survival_array(time, event)
        )
        worth = [
            partial_log_likelihood(path.predict(x_other, alpha=alpha), time_other, event_other)
            for alpha in path.alphas_
        ]
        best = float(path.alphas_[int(np.argmax(worth))])
        # the path up to the chosen penalty: a fit at it alone would start from nothing and be slower
        final = CoxnetSurvivalAnalysis(
            alphas=[alpha for alpha in path.alphas_ if alpha >= best], l1_ratio=L1_RATIO, fit_baseline_model=True,
            max_iter=10_000,
        ).fit(both, survival_array(*follow_up))  # fmt: skip
    return final, best


def _logistic(train: Part, z: Doubles, validation: Part, z_validation: Doubles, *, penalised: bool) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    assert train.labels is not None
    assert validation.labels is not None
    mine, other = train.labels != UNKNOWN, validation.labels != UNKNOWN
    x, labels = z[mine], train.labels[mine]
    if len(np.unique(labels)) < 2:
        raise RequestError("logistic regression: the training part has patients of one class only.")
    strength = 100.0  # hardly any penalty
    if penalised and other.any():
        known = np.isin(validation.labels, np.unique(labels)) & other
        losses = []
        for one in STRENGTHS:
            model = LogisticRegression(C=one / len(x), max_iter=2000).fit(x, labels)
            losses.append(
                log_loss(validation.labels[known], model.predict_proba(z_validation[known]), labels=model.classes_)
            )
        strength = STRENGTHS[int(np.argmin(losses))]
    both = np.concatenate([x, z_validation[other]])
    return LogisticRegression(C=strength / len(x) if penalised else strength, max_iter=2000).fit(
        both, np.concatenate([labels, validation.labels[other]])
    )
