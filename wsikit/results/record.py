"""A slide's result as plain JSON for programs (result.json): class codes as keys, units in the names of the numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from wsikit.exporters.summary_text import RESEARCH_USE
from wsikit.results.load import StoredResults
from wsikit.results.slide_value import SlideValue
from wsikit.voting.result import SlideResult

RESULT_FORMAT = "wsikit slide result, 2"
"""Version 1 had other names for some numbers; see docs/report.md."""


def result_record(results: StoredResults) -> dict[str, Any]:
    """The content of result.json. Unknown values are null; nothing is NaN."""
    store, class_map, result = results.store, results.class_map, results.result
    grid = class_map.grid
    tissue = store.tissue_record()
    state = "not predicted" if result is None else "abstained" if result.label is None else "called"
    return {
        "format": RESULT_FORMAT,
        "use": RESEARCH_USE,
        "notice": class_map.notice,
        "slide_id": results.slide_id,
        "source": {key: store.record["source"].get(key) for key in ("name", "vendor", "fingerprint")},
        "state": state,
        "reason": results.reason if result is None else result.reason,
        "subtype": results.subtype,
        "value": None if results.value is None else asdict(results.value),
        "classes": {class_map.classes[index]: class_map.class_names[index] for index in class_map.voting},
        **(_vote(results, result) if result is not None else {}),
        "tissue_area_mm2": float(tissue["area_mm2"]),
        "stain": tissue["stain"],
        "unreadable_fraction": results.unreadable_fraction,
        "mpp_x": store.mpp[0],
        "mpp_y": store.mpp[1],
        "mpp_source": store.mpp_source,
        "patches": {
            "grid": grid.name,
            "count": len(class_map.labels),
            "side_px": grid.patch_px,
            "mpp": grid.target_mpp,
            "overlap_px": grid.overlap_px,
        },
        "model": {key: results.model[key] for key in ("name", "version", "fingerprint")} if results.model else None,
    }


@dataclass(frozen=True)
class SlideSummary:
    """The part of a slide's result that is a row of slides.csv, rounded."""

    subtype: str | None
    probability: dict[str, float]
    """By code of the voting classes."""
    margin: float | None
    abstained: bool
    reason: str | None
    unreadable_fraction: float
    """Fraction of the patches that could not be read."""
    value: SlideValue | None = None
    """Of a model that gives one."""


def summarize(results: StoredResults) -> SlideSummary:
    """A slide's result as a row of slides.csv."""
    result = results.result
    return SlideSummary(
        subtype=results.subtype,
        probability={code: round(value, 4) for code, value in results.probability.items()},
        margin=round(result.margin, 4) if result is not None and math.isfinite(result.margin) else None,
        abstained=result is None or result.abstained,
        reason=(results.reason if result is None else result.reason) or None,
        unreadable_fraction=round(results.unreadable_fraction, 6),
        value=None if results.value is None else replace(results.value, value=float(f"{results.value.value:.6g}")),
    )


def _vote(results: StoredResults, result: SlideResult) -> dict[str, Any]:
    codes = results.classes
    return {
        "leading": None if result.leading is None else codes[result.leading],
        "method": result.method,
        "probability": _by_code(codes, result.probs),
        "margin": _plain(result.margin),
        "patch_fraction": _by_code(codes, result.fractions),
        "interval": _interval(codes, result),
        "no_interval": result.no_interval or None,
        "share_interval": _share_interval(codes, result),
        "no_share_interval": result.no_share_interval or None,
        "thresholds": _by_code(codes, result.thresholds) if result.thresholds else None,
        "prior": None if result.prior is None else result.prior.to_json(),
        "areas": _areas(codes, result),
        "second_subtype": _second(codes, result),
        "ood_fraction": _plain(result.ood_fraction),
        "n_patches": result.n_patches,
        "n_effective": _plain(result.n_effective),
        "n_background": result.n_background,
        "n_unpredicted": result.n_unpredicted,
        "smoothing": result.smoothing,
        "weighted_by": list(result.weighted_by),
    }


def _interval(codes: tuple[str, ...], result: SlideResult) -> dict[str, Any] | None:
    interval = result.interval
    if interval is None:
        return None
    return {
        "kind": "within-slide sampling",
        "level": interval.level,
        "probability_low": _by_code(codes, interval.low),
        "probability_high": _by_code(codes, interval.high),
        "margin_low": _plain(interval.margin[0]),
        "margin_high": _plain(interval.margin[1]),
        "leading_share": _plain(interval.leading_share),
        "n_blocks": interval.n_blocks,
        "block_um": interval.block_um,
    }


def _share_interval(codes: tuple[str, ...], result: SlideResult) -> dict[str, Any] | None:
    interval = result.share_interval
    if interval is None:
        return None
    return {
        "kind": f"with the model's error, {interval.kind}",
        "level": interval.level,
        "probability_low": _by_code(codes, interval.low),
        "probability_high": _by_code(codes, interval.high),
        "validation_patients": interval.patients,
    }


def _areas(codes: tuple[str, ...], result: SlideResult) -> dict[str, Any] | None:
    areas = result.areas
    if areas is None:
        return None
    return {
        "area_mm2": _by_code(codes, areas.mm2),
        "area_percent": _by_code(codes, areas.percent),
        "background_area_mm2": _plain(areas.background_mm2),
        "unpredicted_area_mm2": _plain(areas.unpredicted_mm2),
    }


def _second(codes: tuple[str, ...], result: SlideResult) -> dict[str, Any] | None:
    second = result.second
    if second is None:
        return None
    x, y, width, height = (int(value) for value in second.box_px)
    return {
        "subtype": codes[second.index],
        "area_mm2": second.area_mm2,
        "share": second.share,
        "mean_probability": second.mean_probability,
        "box_level0_px": {"x": x, "y": y, "width": width, "height": height},
    }


def _by_code(codes: tuple[str, ...], values: Any) -> dict[str, float | None]:
    return {code: _plain(float(value)) for code, value in zip(codes, values, strict=True)}


def _plain(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
