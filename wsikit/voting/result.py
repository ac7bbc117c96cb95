"""What the patches of one slide say together: subtype, doubt, areas, a second subtype. Plain values, to and from JSON.

Indices count the voting classes, in the model's order. Places are level-0 px, areas mm².
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESULT_VERSION = 2
"""Of the record that `SlideResult.to_json` writes. 1 knew neither intervals nor areas."""


@dataclass(frozen=True, eq=False)
class Interval:
    """What the vote could have been with other parts of the slide: a percentile bootstrap over squares of tissue."""

    level: float
    """Of the interval, such as 0.95."""
    low: Floats
    """(C,) lower ends for `SlideResult.probs`."""
    high: Floats
    """(C,) upper ends."""
    margin: tuple[float, float]
    """Of `SlideResult.margin`, by the leading class: below 0 where another class leads."""
    leading_share: float
    """Share of the draws in which the class ahead is ahead, 0 to 1."""
    n_blocks: int
    """Squares with voting patches."""
    block_um: float
    """Their side, µm."""


@dataclass(frozen=True, eq=False)
class Areas:
    """Area of the slide that the patches cover, glass between the tissue included; overlaps counted once."""

    mm2: Floats
    """(C,) of the voting patches whose most probable class this is."""
    background_mm2: float
    """Of patches with a prediction that did not vote, such as background."""
    unpredicted_mm2: float
    """Of patches without a prediction."""

    @property
    def percent(self) -> Floats:
        """(C,) of the area that voted; NaN if none did."""
        total = float(self.mm2.sum())
        return 100 * self.mm2 / total if total > 0 else np.full(len(self.mm2), math.nan)


@dataclass(frozen=True)
class SecondSubtype:
    """The largest connected region of a class that is not the leading one."""

    index: int
    """Its class."""
    area_mm2: float
    share: float
    """Of the area that voted, 0 to 1."""
    mean_probability: float
    """Of its class, over its area, among the voting classes."""
    box_px: tuple[int, int, int, int]
    """x, y, width, height, level-0 px."""


@dataclass(frozen=True)
class RuleOutcome:
    """What a threshold rule found."""

    index: int
    """The class that it asks for."""
    t: float
    min_frac: float
    share: float
    """Of the voting weight in patches with p ≥ t."""
    holds: bool
    low: float = math.nan
    """Of the interval of `share`; NaN if there is none."""
    high: float = math.nan


@dataclass(frozen=True, eq=False)
class SlideResult:
    """What the patches of one slide say together."""

    method: str
    """How the patches were put together; one of `METHODS`."""
    label: int | None
    """Index of the slide's class, None if the vote abstained."""
    probs: Floats
    """(C,) the slide's score per class, sum 1; what it means is the method's affair. NaN if no patch voted."""
    fractions: Floats
    """(C,) weighted share of voting patches whose most probable class this is; NaN if no patch voted."""
    n_patches: int
    """Patches that voted."""
    n_unpredicted: int
    """Patches without a prediction (unreadable, not run): they did not vote."""
    n_background: int
    """Patches with a prediction and weight 0, such as background: they did not vote."""
    n_effective: float
    """(Σw)²/Σw² of the voting patches: as many equal voices would weigh the same."""
    margin: float
    """Difference of the two highest `probs`; NaN if no patch voted. Of a rule: how far off its limit, relative."""
    leading: int | None
    """Index of the class ahead, also when the vote abstained; None if no patch voted."""
    abstained: bool
    reason: str
    """Why the vote abstained; empty if it did not."""
    interval: Interval | None = None
    no_interval: str = ""
    """Why there is no interval; empty if there is one."""
    areas: Areas | None = None
    """None where the places of the patches are not known."""
    second: SecondSubtype | None = None
    """None if there is no other class in one piece of the least area."""
    ood_fraction: float | None = None
    """Weighted share of voting patches unlike the training patches; None where the model cannot tell."""
    rule: RuleOutcome | None = None
    """Of the method threshold."""
    smoothing: str = "none"
    """How patches were smoothed before the vote."""
    n_smoothed: int = 0
    """Patches whose most probable class changed by it."""
    weighted_by: tuple[str, ...] = ()
    """What the patches' weights were multiplied with."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON and Zarr attributes; what is undefined becomes None."""
        record = {item.name: getattr(self, item.name) for item in fields(self)}
        interval, areas = self.interval, self.areas
        record["interval"] = None if interval is None else {**asdict(interval), "margin": list(interval.margin)}
        record["areas"] = None if areas is None else {**asdict(areas), "percent": areas.percent}
        record["second"] = None if self.second is None else {**asdict(self.second), "box_px": list(self.second.box_px)}
        record["rule"] = None if self.rule is None else asdict(self.rule)
        record["weighted_by"] = list(self.weighted_by)
        return {"version": RESULT_VERSION, **{key: _plain(value) for key, value in record.items()}}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> SlideResult:
        """The inverse of `to_json`. What an older version did not know is absent: None, or as by default."""
        known = {item.name: record[item.name] for item in fields(cls) if item.name in record}
        known["probs"], known["fractions"] = _floats(record["probs"]), _floats(record["fractions"])
        known["n_effective"], known["margin"] = _floats([record["n_effective"], record["margin"]]).tolist()
        if known.get("interval") is not None:
            known["interval"] = _interval(known["interval"])
        if known.get("areas") is not None:
            areas = known["areas"]
            known["areas"] = Areas(_floats(areas["mm2"]), areas["background_mm2"], areas["unpredicted_mm2"])
        if known.get("second") is not None:
            known["second"] = SecondSubtype(**{**known["second"], "box_px": tuple(known["second"]["box_px"])})
        if known.get("rule") is not None:
            rule = known["rule"]
            low, high = _floats([rule["low"], rule["high"]]).tolist()
            known["rule"] = RuleOutcome(**{**rule, "low": low, "high": high})
        known["weighted_by"] = tuple(known.get("weighted_by", ()))
        return cls(**known)


def _interval(record: Mapping[str, Any]) -> Interval:
    low, high, margin = (_floats(record[name]) for name in ("low", "high", "margin"))
    return Interval(**{**record, "low": low, "high": high, "margin": (float(margin[0]), float(margin[1]))})


def _floats(values: Sequence[float | None]) -> Floats:
    return np.asarray([math.nan if value is None else value for value in values], dtype=np.float64)


def _plain(value: Any) -> Any:
    """As JSON can say it: arrays as lists, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
