"""Aggregate the slides of one patient: area-weighted mean and worst grade, with the slides that are missing.

No I/O. Which slides a patient has, and where their results are, is found by `wsikit.batch.patients`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wsikit.errors import RequestError
from wsikit.voting.inpc import ORDER
from wsikit.voting.result import format_margin


@dataclass(frozen=True)
class SlideOfPatient:
    """The result of one slide of a patient."""

    slide_id: str
    label: str | None = None
    """Code of its class; None if it has none."""
    probability: Mapping[str, float] = field(default_factory=dict)
    """By class code, sum 1."""
    area_mm2: float = 0.0
    """Its weight."""
    trouble: str = ""
    """Why it is not counted, such as "failed: …", "abstained: …", "missing"; empty if it is counted."""

    def __post_init__(self) -> None:
        if bool(self.trouble) == (self.label is not None):
            raise RequestError(f"slide {self.slide_id}: give either a label or the reason why it has none")
        if self.label is not None and not (self.area_mm2 > 0 and self.label in self.probability):
            raise RequestError(f"slide {self.slide_id}: label {self.label} without probability, or without any area")


@dataclass(frozen=True)
class PatientResult:
    """The result of one patient, aggregated from slides."""

    patient: str
    counted: tuple[str, ...]
    """Ids of the slides that are counted."""
    left_out: Mapping[str, str]
    """Ids of the slides that are not counted, and why."""
    area_mm2: float
    """Area of the counted slides."""
    mean: str | None
    """Class with the highest area-weighted mean probability; None for a tie, or if no slide is counted."""
    probability: Mapping[str, float]
    """The area-weighted mean, by class code; empty if no slide is counted."""
    margin: float | None
    """Difference of the two highest probabilities."""
    worst: str | None
    """The least differentiated grade of the counted slides; None if there is none, or the classes have no order."""
    worst_slides: tuple[str, ...]
    """Ids of the slides with that grade."""

    @property
    def complete(self) -> bool:
        """Whether every slide is counted. If not, a slide that is left out may have a worse grade."""
        return not self.left_out

    def words(self) -> str:
        """The result in one line, with the slides that are left out and why."""
        if not self.counted:
            text = "no slide counts"
        else:
            text = f"mean {self.mean or 'undecided'} (margin {format_margin(self.margin or 0.0)})"
            if self.worst:
                text += f", worst {self.worst} ({', '.join(self.worst_slides)})"
            text += f", {len(self.counted)} of {len(self.counted) + len(self.left_out)} slides"
        return text + "".join(f"; without {slide}: {why}" for slide, why in self.left_out.items())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "patient": self.patient,
            "counted": list(self.counted),
            "left_out": dict(self.left_out),
            "area_mm2": self.area_mm2,
            "mean": self.mean,
            "probability": dict(self.probability),
            "margin": self.margin,
            "worst": self.worst,
            "worst_slides": list(self.worst_slides),
        }


def combine_slides(patient: str, slides: Sequence[SlideOfPatient], *, order: Sequence[str] = ORDER) -> PatientResult:
    """Aggregate the slides of one patient.

    Parameters
    ----------
    slides
        All slides of the patient, including those without a result.
    order
        Grades, the worst (least differentiated) first; by default UD, PD, D, GNB-I, GN. If the slides have other
        classes, there is no worst grade.

    Raises
    ------
    RequestError
        If two slides have the same id, or their models have different classes.

    >>> first = SlideOfPatient("a", "PD", {"UD": 0.1, "PD": 0.9}, area_mm2=3)
    >>> second = SlideOfPatient("b", "UD", {"UD": 0.7, "PD": 0.3}, area_mm2=1)
    >>> combine_slides("p", [first, second]).words()
    'mean PD (margin 0.50), worst UD (b), 2 of 2 slides'
    """
    ids = [slide.slide_id for slide in slides]
    if len(set(ids)) < len(ids):
        raise RequestError(f"patient {patient}: duplicate slide_id among {ids}")
    counted = [slide for slide in slides if not slide.trouble]
    classes = list(counted[0].probability) if counted else []
    for slide in counted:
        if set(slide.probability) != set(classes):
            raise RequestError(
                f"patient {patient}: {counted[0].slide_id} has classes {classes}, {slide.slide_id} "
                f"{list(slide.probability)}; run both with one model"
            )
    area = sum(slide.area_mm2 for slide in counted)
    mean = {code: sum(s.area_mm2 * s.probability[code] for s in counted) / area for code in classes}
    highest = sorted(mean.values(), reverse=True)
    margin = highest[0] - highest[1] if len(highest) > 1 else None
    ahead = max(mean, key=lambda code: mean[code]) if margin is not None and margin > 1e-12 else None
    graded = bool(counted) and set(classes) <= set(order)
    worst = min((order.index(s.label) for s in counted if s.label), default=None) if graded else None
    return PatientResult(
        patient=patient,
        counted=tuple(slide.slide_id for slide in counted),
        left_out={slide.slide_id: slide.trouble for slide in slides if slide.trouble},
        area_mm2=area,
        mean=ahead,
        probability=mean,
        margin=margin,
        worst=None if worst is None else order[worst],
        worst_slides=() if worst is None else tuple(s.slide_id for s in counted if s.label == order[worst]),
    )
