"""The slide-level result: subtype, uncertainty, areas, second subtype. Plain values, to and from JSON.

Class indices count the voting classes, in the model's order. Coordinates are level-0 px, areas mm².
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.voting.intervals import Interval, ShareInterval
from wsikit.voting.prior import PriorShift

__all__ = [
    "Areas",
    "Interval",
    "RuleOutcome",
    "SecondSubtype",
    "ShareInterval",
    "SlideResult",
    "format_margin",
]

Floats = npt.NDArray[np.float64]

RESULT_VERSION = 3
"""Version of the record that `SlideResult.to_json` writes. 1 had neither intervals nor areas; 2 had other names."""

OLD_NAMES = {"novel_share": "ood_fraction", "n_weightless": "n_background", "weightless_mm2": "background_mm2"}
"""Names in records of version 1 and 2, and what they are called now; `SlideResult.from_json` reads both."""


def format_margin(margin: float, digits: int = 2) -> str:
    """A margin as text; every output states it by this function, so that they agree.

    Rounded down, after rounding to the four digits that tables hold: a margin below a limit never reads as the limit.

    >>> format_margin(0.0996, 3), format_margin(0.29), format_margin(float("nan"))
    ('0.099', '0.29', '–')
    """
    if not math.isfinite(margin):
        return "–"
    scale = 10**digits
    return f"{math.floor(round(margin, 4) * scale + 1e-6) / scale:.{digits}f}"


@dataclass(frozen=True, eq=False)
class Areas:
    """Area of the slide that the patches cover, including glass within them; overlaps are counted once."""

    mm2: Floats
    """(C,) area of the voting patches whose most probable class this is."""
    background_mm2: float
    """Area of patches that have a prediction but did not vote, such as background."""
    unpredicted_mm2: float
    """Area of patches without a prediction."""

    @property
    def percent(self) -> Floats:
        """(C,) percentage of the area that voted; NaN if no patch voted."""
        total = float(self.mm2.sum())
        return 100 * self.mm2 / total if total > 0 else np.full(len(self.mm2), math.nan)


@dataclass(frozen=True)
class SecondSubtype:
    """The largest connected region of a class other than the leading one."""

    index: int
    """Its class."""
    area_mm2: float
    share: float
    """Share of the area that voted, 0 to 1."""
    mean_probability: float
    """Mean probability of its class over its area, among the voting classes."""
    box_px: tuple[int, int, int, int]
    """Bounding box: x, y, width, height, level-0 px."""


@dataclass(frozen=True)
class RuleOutcome:
    """The outcome of a threshold rule."""

    index: int
    """The target class."""
    t: float
    """Probability from which on a patch counts as the class."""
    min_frac: float
    """Share of the voting weight that the rule requires."""
    share: float
    """Share of the voting weight in patches with p ≥ t."""
    holds: bool
    low: float = math.nan
    """Lower end of the confidence interval of `share`; NaN if there is none."""
    high: float = math.nan


@dataclass(frozen=True, eq=False, repr=False)
class SlideResult:
    """The result of one slide, aggregated from its patches.

    >>> from wsikit.voting import vote
    >>> vote([[0.9, 0.1]] * 30, classes=["PD", "D"])
    <SlideResult PD, margin 0.80 (PD 0.90, D 0.10), 30 patches>
    """

    method: str
    """How patch probabilities were aggregated; one of `METHODS`."""
    label: int | None
    """Index of the called class; None if the vote abstained."""
    probs: Floats
    """(C,) the slide's score per class, sum 1; its meaning depends on the method. NaN if no patch voted."""
    fractions: Floats
    """(C,) weighted fraction of the voting patches whose most probable class this is; NaN if no patch voted."""
    n_patches: int
    """Patches that voted."""
    n_unpredicted: int
    """Patches without a prediction (unreadable, not run): they did not vote."""
    n_background: int
    """Patches with a prediction and weight 0, such as background: they did not vote."""
    n_effective: float
    """Effective sample size of the voting patches, (Σw)²/Σw² (Kish)."""
    margin: float
    """Difference of the two highest `probs`; NaN if no patch voted. For a threshold rule: the relative distance from
    its limit."""
    leading: int | None
    """Index of the leading class, also when the vote abstained; None if no patch voted."""
    abstained: bool
    reason: str
    """Why the vote abstained; empty if it did not."""
    interval: Interval | None = None
    """The within-slide sampling interval."""
    no_interval: str = ""
    """Why there is none; empty if there is one."""
    areas: Areas | None = None
    """None where the coordinates of the patches are not known."""
    second: SecondSubtype | None = None
    """None if no other class has a connected region of the minimum area."""
    ood_fraction: float | None = None
    """Weighted fraction of the voting patches that are out-of-distribution; None where the model has no detector."""
    rule: RuleOutcome | None = None
    """Only for the method threshold."""
    smoothing: str = "none"
    """How patch probabilities were smoothed before the vote."""
    n_smoothed: int = 0
    """Patches whose most probable class changed by smoothing."""
    weighted_by: tuple[str, ...] = ()
    """The patch weights that were multiplied."""
    classes: tuple[str, ...] = ()
    """Codes of the C voting classes; empty if they were not given to the vote."""
    share_interval: ShareInterval | None = None
    """The interval with the error of the model."""
    no_share_interval: str = ""
    """Why there is none; empty if there is one."""
    thresholds: tuple[float, ...] = ()
    """(C,) share of each class that calls it, sum 1, as fitted on validation slides; empty: the class with the highest
    score is called."""
    prior: PriorShift | None = None
    """How the patch probabilities were corrected to other class frequencies; None: they are the model's own."""

    @property
    def subtype(self) -> str | None:
        """Code of the called class, its index as text where codes are not known; None if the vote abstained."""
        return None if self.label is None else self.codes[self.label]

    @property
    def codes(self) -> tuple[str, ...]:
        """`classes`; where they are not known, "class 0", "class 1", …"""
        return self.classes or tuple(f"class {index}" for index in range(len(self.probs)))

    @property
    def shown_interval(self) -> Interval | ShareInterval | None:
        """The interval to show with `probs`: that with the model's error, else the within-slide sampling interval."""
        return self.share_interval if self.share_interval is not None else self.interval

    def summary(self) -> str:
        """The result in one line: class and margin, or why it abstained, then each class with its interval."""
        parts = []
        for index, (code, prob) in enumerate(zip(self.codes, self.probs.tolist(), strict=True)):
            if math.isfinite(prob):
                ends = self.shown_interval
                interval = "" if ends is None else f" [{ends.low[index]:.2f}, {ends.high[index]:.2f}]"
                parts.append(f"{code} {prob:.2f}{interval}")
        probabilities = ", ".join(parts) or "no probabilities"
        if parts and self.shown_interval is not None:
            probabilities += f"; {self.shown_interval.words()}"
        if self.label is None:
            text = f"abstained: {self.reason} ({probabilities})"
        else:
            text = f"{self.subtype}, margin {format_margin(self.margin)} ({probabilities})"
        if self.second is not None:
            text += f"; also {self.codes[self.second.index]}, {self.second.area_mm2:.3g} mm² in one region"
        return text

    def __repr__(self) -> str:
        return f"<SlideResult {self.summary()}, {self.n_patches:,} patch{'' if self.n_patches == 1 else 'es'}>"

    def _repr_html_(self) -> str:
        """The result as a table, for notebooks."""
        from wsikit.voting.result_html import result_html

        return result_html(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON and Zarr attributes; undefined numbers become None."""
        record = {item.name: getattr(self, item.name) for item in fields(self)}
        interval, areas = self.interval, self.areas
        record["interval"] = None if interval is None else {**asdict(interval), "margin": list(interval.margin)}
        record["areas"] = None if areas is None else {**asdict(areas), "percent": areas.percent}
        record["second"] = None if self.second is None else {**asdict(self.second), "box_px": list(self.second.box_px)}
        record["share_interval"] = None if self.share_interval is None else self.share_interval.to_json()
        record["prior"] = None if self.prior is None else self.prior.to_json()
        record["thresholds"] = list(self.thresholds)
        record["rule"] = None if self.rule is None else asdict(self.rule)
        record["weighted_by"], record["classes"] = list(self.weighted_by), list(self.classes)
        return {"version": RESULT_VERSION, **{key: _plain(value) for key, value in record.items()}}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> SlideResult:
        """The inverse of `to_json`, for records of all versions. Fields that an older version lacks get their default.

        >>> from wsikit.voting import vote
        >>> result = vote([[0.9, 0.1]] * 30)
        >>> SlideResult.from_json(result.to_json()).margin == result.margin
        True
        """
        record = _renamed(record)
        known = {item.name: record[item.name] for item in fields(cls) if item.name in record}
        known["probs"], known["fractions"] = _floats(record["probs"]), _floats(record["fractions"])
        known["n_effective"], known["margin"] = _floats([record["n_effective"], record["margin"]]).tolist()
        if known.get("interval") is not None:
            known["interval"] = _interval(known["interval"])
        if known.get("share_interval") is not None:
            known["share_interval"] = ShareInterval.from_json(known["share_interval"])
        if known.get("prior") is not None:
            known["prior"] = PriorShift.from_json(known["prior"])
        if known.get("areas") is not None:
            areas = _renamed(known["areas"])
            known["areas"] = Areas(_floats(areas["mm2"]), areas["background_mm2"], areas["unpredicted_mm2"])
        if known.get("second") is not None:
            known["second"] = SecondSubtype(**{**known["second"], "box_px": tuple(known["second"]["box_px"])})
        if known.get("rule") is not None:
            rule = known["rule"]
            low, high = _floats([rule["low"], rule["high"]]).tolist()
            known["rule"] = RuleOutcome(**{**rule, "low": low, "high": high})
        for name in ("weighted_by", "classes", "thresholds"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known)


def _renamed(record: Mapping[str, Any]) -> dict[str, Any]:
    """`record` with the names of this version."""
    return {OLD_NAMES.get(name, name): value for name, value in record.items()}


def _interval(record: Mapping[str, Any]) -> Interval:
    low, high, margin = (_floats(record[name]) for name in ("low", "high", "margin"))
    return Interval(**{**record, "low": low, "high": high, "margin": (float(margin[0]), float(margin[1]))})


def _floats(values: Sequence[float | None]) -> Floats:
    return np.asarray([math.nan if value is None else value for value in values], dtype=np.float64)


def _plain(value: Any) -> Any:
    """A value that JSON can hold: arrays as lists, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
