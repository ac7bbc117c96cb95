"""What a model of patients is given, and what it must return: `Part`, `Learner`, `FittedLearner`, `Prediction`.

One row is one patient. A learner sees the training and the validation part only, and fits everything on the training
part: scaling, choice of columns, time bins. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError

Floats = npt.NDArray[np.float32]
Bag = Callable[[], Floats]
"""Reads the patch features of all slides of one patient, float32 (n, D); nothing is read before it is called."""

UNKNOWN = -1
"""Label of a patient whose class is not known."""


@dataclass(frozen=True)
class Part:
    """Patients of one part of a split, in one fixed order. N patients.

    >>> part = Part(("a", "b"), {"clinical": np.array([[61.0], [48.0]], np.float32)}, {"clinical": ("age",)})
    >>> part.take([1]).ids, len(part)
    (('b',), 2)
    """

    ids: tuple[str, ...]
    """Patients, (N,)."""
    columns: Mapping[str, Floats] = field(default_factory=dict)
    """Numbers by modality ("rna", "clinical"), each float32 (N, D), as in the table; NaN: not measured. A patient lacks
    a modality if its whole row is NaN."""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column names by modality, (D,)."""
    bags: tuple[Bag | None, ...] | None = None
    """(N,): patch features of each patient, None for a patient without slides; None: the cohort has no slides."""
    time: npt.NDArray[np.float64] | None = None
    """Follow-up in months until event or censoring, (N,), 0 or more; NaN: not known. None: no survival task."""
    event: npt.NDArray[np.bool_] | None = None
    """Whether the follow-up ended with the event (death), (N,); False: censored, or time is not known."""
    labels: npt.NDArray[np.int64] | None = None
    """Indices into `classes`, (N,); `UNKNOWN` where the class is not known. None: no labels."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in their order."""
    ordered: bool = False
    """The classes are grades: their order means something."""

    def __post_init__(self) -> None:
        n = len(self.ids)
        for name, values in self.columns.items():
            if values.ndim != 2 or len(values) != n or values.shape[1] != len(self.names.get(name, ())):
                raise RequestError(
                    f"columns {name}: shape {values.shape}; expected ({n}, {len(self.names.get(name, ()))})."
                )
        for name in ("bags", "time", "event", "labels"):
            values = getattr(self, name)
            if values is not None and len(values) != n:
                raise RequestError(f"{name}: {len(values)} values for {n} patients.")
        if (self.time is None) != (self.event is None):
            raise RequestError("time and event: give both or none.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the tables of numbers, in their order; slides are not among them."""
        return tuple(self.columns)

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Part:
        """The patients of these rows (indices or a mask), in this order. Bags are not read."""
        chosen = np.asarray(rows)
        index = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        return replace(
            self,
            ids=tuple(self.ids[i] for i in index),
            columns={name: values[index] for name, values in self.columns.items()},
            bags=None if self.bags is None else tuple(self.bags[i] for i in index),
            time=None if self.time is None else self.time[index],
            event=None if self.event is None else self.event[index],
            labels=None if self.labels is None else self.labels[index],
        )

    def only(self, modalities: Sequence[str], *, slides: bool = False) -> Part:
        """The same patients with these tables of numbers alone, and slides only if asked for."""
        return replace(
            self,
            columns={name: self.columns[name] for name in modalities},
            names={name: self.names[name] for name in modalities},
            bags=self.bags if slides else None,
        )


@dataclass(frozen=True)
class Prediction:
    """What a model says about N patients. A model of survival gives `risk`, one of classes gives `probs`, or both."""

    risk: npt.NDArray[np.float64] | None = None
    """(N,): higher means that the event comes earlier. Only the order counts; the unit is the learner's."""
    survival: npt.NDArray[np.float64] | None = None
    """Probability of no event until each of `times`, (N, T), decreasing along T."""
    times: npt.NDArray[np.float64] | None = None
    """Months, (T,), increasing."""
    probs: npt.NDArray[np.float64] | None = None
    """Class probabilities, (N, C); rows sum to 1."""


class FittedLearner(Protocol):
    """A trained model of patients."""

    def predict(self, part: Part) -> Prediction:
        """Predict patients; their time, event and labels are not read."""
        ...


class Learner(Protocol):
    """A way to train a model of patients: UMEML, or a baseline. It holds its settings and no data."""

    @property
    def name(self) -> str:
        """As it is shown in tables."""
        ...

    def fit(self, train: Part, validation: Part, seed: int) -> FittedLearner:
        """Train on `train`; choose epoch or penalty on `validation`. Once all is chosen, a last fit may use both parts.

        Equal seeds give equal models.
        """
        ...
