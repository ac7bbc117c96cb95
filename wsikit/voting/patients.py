"""Several slides of one patient put together: their area-weighted mean, and the worst grade. Both, and who is missing.

Pure. Which slides a patient has, and where their results lie, is `wsikit.batch.patients`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wsikit.errors import RequestError
from wsikit.voting.inpc import STROMA_POOR


@dataclass(frozen=True)
class SlideOfPatient:
    """What one slide brings."""

    slide_id: str
    label: str | None = None
    """Code of its class; None if it brings none."""
    probability: Mapping[str, float] = field(default_factory=dict)
    """By class code, sum 1."""
    area_mm2: float = 0.0
    """What it weighs."""
    trouble: str = ""
    """Why it does not count, such as "failed: …", "abstained: …", "missing"; empty if it does."""

    def __post_init__(self) -> None:
        if bool(self.trouble) == (self.label is not None):
            raise RequestError(f"slide {self.slide_id}: it must have either a label or a reason why it has none")
        if self.label is not None and not (self.area_mm2 > 0 and self.label in self.probability):
            raise RequestError(f"slide {self.slide_id}: label {self.label} without probability, or without any area")


@dataclass(frozen=True)
class PatientResult:
    """What the slides of a patient say together."""

    patient: str
    counted: tuple[str, ...]
    """Slides that count, by id."""
    left_out: Mapping[str, str]
    """Slides that do not, and why."""
    area_mm2: float
    """Of the slides that count."""
    mean: str | None
    """Class with the highest area-weighted mean probability; None where two are equal, or no slide counts."""
    probability: Mapping[str, float]
    """The area-weighted mean, by class code; empty if no slide counts."""
    margin: float | None
    """Between the two highest."""
    worst: str | None
    """The least differentiated grade of the slides that count; None if there is none, or no order."""
    worst_slides: tuple[str, ...]
    """Who has it."""

    @property
    def complete(self) -> bool:
        """Whether every slide counts. If not, a worse grade may lie in one that does not."""
        return not self.left_out

    def words(self) -> str:
        """The result in a line, those left out by name."""
        if not self.counted:
            said = "no slide counts"
        else:
            said = f"mean {self.mean or 'undecided'} (margin {self.margin:.2f})"
            if self.worst:
                said += f", worst {self.worst} ({', '.join(self.worst_slides)})"
            said += f", {len(self.counted)} of {len(self.counted) + len(self.left_out)} slides"
        return said + "".join(f"; without {slide}: {why}" for slide, why in self.left_out.items())

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


def combine_slides(
    patient: str, slides: Sequence[SlideOfPatient], *, order: Sequence[str] = STROMA_POOR
) -> PatientResult:
    """Put a patient's slides together.

    Parameters
    ----------
    slides
        All that the patient has, also those that brought nothing.
    order
        Grades, the worst (least differentiated) first. Where a slide's classes are others, there is no worst.

    Raises
    ------
    RequestError
        If two slides have the same id, or were voted on by models of different classes.
    """
    ids = [slide.slide_id for slide in slides]
    if len(set(ids)) < len(ids):
        raise RequestError(f"patient {patient}: a slide stands twice among {ids}")
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
