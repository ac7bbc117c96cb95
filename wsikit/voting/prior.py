"""Class frequencies that probabilities assume, and Bayes' rule from one set of frequencies to another. NumPy only.

A model trained with balanced class weights gives the probabilities of a world in which all classes are equally
frequent. Where `from` and `to` are the frequencies of the classes there and in the tissue that is classified,

    p'(c) ∝ p(c) · to(c) / from(c)

(Elkan 2001, The foundations of cost-sensitive learning; Saerens, Latinne and Decaestecker 2002, Neural Computation 14).
The likelihoods of the classes are taken to be the same in both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.voting.rows import row_sums

Floats = npt.NDArray[np.float64]

AUTO, TRAINING, BALANCED = "auto", "training", "balanced"
STATED = "stated"
SUM_TOLERANCE = 0.01
_LEAST = 1e-9


@dataclass(frozen=True)
class ModelPrior:
    """The class frequencies that a model's probabilities assume, as its folder records them."""

    prevalence: tuple[float, ...] | None = None
    """(C,) frequency of each class among the training patches, sum 1; None: not recorded."""
    balanced: bool = False
    """Whether it was trained with balanced class weights: its probabilities then assume equal frequencies."""

    @classmethod
    def of_record(cls, model: Mapping[str, Any]) -> ModelPrior:
        """From what is stored with the predictions (`wsikit.models.protocol.ModelInfo.record`).

        >>> ModelPrior.of_record({"name": "a model of an older version"})
        ModelPrior(prevalence=None, balanced=False)
        """
        found = model.get("prior")
        return cls(None if found is None else tuple(float(value) for value in found), bool(model.get("balanced")))


@dataclass(frozen=True)
class PriorShift:
    """Bayes' rule from the frequencies that probabilities assume to others.

    >>> shift = PriorShift(("benign", "IDC"), (0.5, 0.5), (0.75, 0.25), TRAINING)
    >>> shift.apply(np.array([[0.5, 0.5]])).tolist()
    [[0.75, 0.25]]
    """

    classes: tuple[str, ...]
    """C codes, in the model's order."""
    source: tuple[float, ...]
    """(C,) frequencies that the model's probabilities assume."""
    target: tuple[float, ...]
    """(C,) frequencies that the corrected probabilities assume."""
    kind: str
    """Where `target` is from: "training", "balanced" or "stated"."""

    def apply(self, probs: npt.NDArray[np.floating]) -> Floats:
        """Corrected probabilities, float64 (N, C); rows of NaN stay so.

        A row whose whole probability lies on classes of frequency 0 is left as it is.
        """
        matrix = np.asarray(probs, dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[1] != len(self.classes):
            raise RequestError(f"probabilities of shape {matrix.shape} for a prior of {len(self.classes)} classes")
        moved = matrix * (np.asarray(self.target) / np.maximum(self.source, _LEAST))
        total = row_sums(moved)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total > 0, moved / total, matrix)

    def words(self) -> str:
        """In words: from which frequencies to which.

        >>> PriorShift(("a", "b"), (0.5, 0.5), (0.72, 0.28), TRAINING).words()
        'from equal frequencies to those of the training patches (a 0.72, b 0.28)'
        """
        names = {TRAINING: "those of the training patches", BALANCED: "equal ones", STATED: "stated ones"}
        listed = ", ".join(f"{code} {value:.2g}" for code, value in zip(self.classes, self.target, strict=True))
        start = "equal frequencies" if _equal(self.source) else "the frequencies of the training patches"
        return f"from {start} to {names.get(self.kind, self.kind)}" + ("" if self.kind == BALANCED else f" ({listed})")

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return {
            "kind": self.kind,
            "from": dict(zip(self.classes, self.source, strict=True)),
            "to": dict(zip(self.classes, self.target, strict=True)),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> PriorShift:
        """The inverse of `to_json`."""
        source, target = record["from"], record["to"]
        classes = tuple(source)
        return cls(classes, tuple(source.values()), tuple(target[code] for code in classes), str(record["kind"]))


def parse_prior(text: str) -> str | dict[str, float]:
    """What `--prior` says: "auto", "training", "balanced", or the frequency of each class, sum 1.

    Raises
    ------
    RequestError
        If it is none of these.

    >>> parse_prior("IDC=0.2, benign=0.8")
    {'IDC': 0.2, 'benign': 0.8}
    """
    word = text.strip()
    if word in (AUTO, TRAINING, BALANCED):
        return word
    expected = f"expected {TRAINING}, {BALANCED} or the frequency of each class, such as IDC=0.2,benign=0.8"
    found: dict[str, float] = {}
    for part in word.split(","):
        code, equals, number = part.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise RequestError(f"prior {text!r}: {expected}") from None
        if not equals or not code.strip() or code.strip() in found:
            raise RequestError(f"prior {text!r}: {expected}")
        if not (math.isfinite(value) and value > 0):
            raise RequestError(f"prior {text!r}: the frequency of {code.strip()} must be above 0")
        found[code.strip()] = value
    total = math.fsum(found.values())
    if abs(total - 1) > SUM_TOLERANCE:
        raise RequestError(f"prior {text!r}: the frequencies sum to {total:g}, expected 1")
    return {code: value / total for code, value in found.items()}


def prior_shift(asked: str, classes: Sequence[str], model: ModelPrior) -> PriorShift | None:
    """The correction that `asked` (see `parse_prior`) means for a model; None where nothing changes.

    Parameters
    ----------
    asked
        "auto": to the frequencies of the training patches, where the model records them and was trained with balanced
        class weights; otherwise nothing changes. The other values need a model that records them.
    classes
        C codes of all classes of the model, background included.

    Raises
    ------
    RequestError
        If the model does not record what its probabilities assume, or a stated prior names other classes.

    >>> prior_shift("auto", ("a", "b"), ModelPrior()) is None
    True
    >>> prior_shift("auto", ("a", "b"), ModelPrior((0.9, 0.1), balanced=True)).target
    (0.9, 0.1)
    """
    wanted, codes = parse_prior(asked), tuple(classes)
    if model.prevalence is None:
        if wanted == AUTO:
            return None
        raise RequestError(
            f"prior {asked}: this model does not record the class frequencies of its training, so its probabilities "
            "cannot be corrected. Vote without --prior, or train the model again with this version of wsikit."
        )
    if len(model.prevalence) != len(codes):
        raise RequestError(f"the model records {len(model.prevalence)} class frequencies for {len(codes)} classes")
    even = (1 / len(codes),) * len(codes)
    source = even if model.balanced else model.prevalence
    if isinstance(wanted, dict):
        if set(wanted) != set(codes):
            raise RequestError(f"prior {asked}: give the frequency of every class of the model: {', '.join(codes)}")
        kind, target = STATED, tuple(wanted[code] for code in codes)
    else:
        kind, target = (BALANCED, even) if wanted == BALANCED else (TRAINING, model.prevalence)
    if np.allclose(source, target, rtol=0, atol=1e-12):
        return None
    return PriorShift(codes, source, target, kind)


def _equal(values: Sequence[float]) -> bool:
    return bool(np.ptp(values) < 1e-9)
