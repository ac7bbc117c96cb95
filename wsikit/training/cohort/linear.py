"""Linear models of patients: Cox (scikit-survival) and logistic regression (scikit-learn) on standardised columns.

Follow-up and labels may both be there; each model is fitted on the patients of whom its outcome is known.
"""

from __future__ import annotations

import importlib.util
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


def need_scikit_survival() -> None:
    """RequestError with what to install, if scikit-survival is not there."""
    if importlib.util.find_spec("sksurv") is None:
        raise RequestError(
            "survival: scikit-survival is not installed. Install it with  pip install 'wsikit[survival]'."
        )


def survival_array(time: Doubles, event: npt.NDArray[np.bool_]) -> npt.NDArray[np.void]:
    """Follow-up in the form that scikit-survival reads."""
    from sksurv.util import Surv

    found: npt.NDArray[np.void] = Surv.from_arrays(event=event, time=time)
    return found


def partial_log_likelihood(risk: Doubles, time: Doubles, event: npt.NDArray[np.bool_]) -> float:
    """Cox partial log-likelihood per event of given log risks; equal times as Breslow.

    >>> round(float(partial_log_likelihood(np.zeros(2), np.array([1.0, 2.0]), np.array([True, False]))), 4)
    -0.6931
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
    from sksurv.linear_model import CoxPHSurvivalAnalysis

    x, time, event = _known(train, z)
    x_other, time_other, event_other = _known(validation, z_validation)
    both = np.concatenate([x, x_other])
    follow_up = survival_array(np.concatenate([time, time_other]), np.concatenate([event, event_other]))
    if not penalised:
        return CoxPHSurvivalAnalysis(alpha=SMALL_RIDGE, ties="efron").fit(both, follow_up), None
    path = _elastic_net(x, survival_array(time, event), None)
    worth = [
        partial_log_likelihood(path.predict(x_other, alpha=alpha), time_other, event_other) for alpha in path.alphas_
    ]
    # the path down to the chosen penalty: a fit at it alone would start from nothing and be slower
    final = _elastic_net(both, follow_up, path.alphas_[: int(np.argmax(worth)) + 1])
    return final, float(final.alphas_[-1])


def _elastic_net(x: Doubles, follow_up: npt.NDArray[np.void], penalties: Doubles | None) -> Any:
    """Cox models along a path of penalties; the weakest are left out where their weights have no limit."""
    from sksurv.linear_model import CoxnetSurvivalAnalysis

    weakest = 0.01
    while True:
        options = {"n_alphas": PATH, "alpha_min_ratio": weakest} if penalties is None else {"alphas": penalties}
        model = CoxnetSurvivalAnalysis(l1_ratio=L1_RATIO, fit_baseline_model=True, max_iter=10_000, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a weak penalty that does not converge is not chosen, or as good as it is
            try:
                return model.fit(x, follow_up)
            except ArithmeticError as error:
                if penalties is None and weakest < 0.5:
                    weakest *= 2
                elif penalties is not None and len(penalties) > 1:
                    penalties = penalties[:-1]
                else:
                    raise RequestError(
                        f"Cox model: no elastic net can be fitted to {x.shape} columns ({error})."
                    ) from error


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
