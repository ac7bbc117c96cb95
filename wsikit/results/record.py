"""A slide's result as plain JSON for programs: class codes as keys, units in the names of the numbers."""

from __future__ import annotations

import math
from typing import Any

from wsikit.exporters.summary_text import RESEARCH_USE
from wsikit.results.load import StoredResults, unreadable_fraction
from wsikit.voting import SlideResult

STATEMENT = "wsikit slide result, 1"


def statement(found: StoredResults) -> dict[str, Any]:
    """What result.json says. What is not known is null; nothing is NaN."""
    store, class_map, result = found.store, found.class_map, found.result
    grid = class_map.grid
    tissue = store.tissue_record()
    called = result is not None and result.label is not None
    record: dict[str, Any] = {
        "format": STATEMENT,
        "use": RESEARCH_USE,
        "notice": class_map.notice,
        "slide_id": store.slide_id,
        "source": {key: store.record["source"].get(key) for key in ("name", "vendor", "fingerprint")},
        "state": "not predicted" if result is None else "called" if called else "abstained",
        "reason": found.reason if result is None else result.reason,
        "subtype": None,
        "classes": {class_map.classes[index]: class_map.class_names[index] for index in class_map.voting},
        **(_vote(found, result) if result is not None else {}),
        "tissue_area_mm2": float(tissue["area_mm2"]),
        "stain": tissue["stain"],
        "unreadable_share": unreadable_fraction(found),
        "mpp_x_um": store.mpp[0],
        "mpp_y_um": store.mpp[1],
        "mpp_source": store.mpp_source,
        "patches": {
            "grid": grid.name,
            "count": len(class_map.labels),
            "side_px": grid.patch_px,
            "scale_um_per_px": grid.target_mpp,
            "overlap_px": grid.overlap_px,
        },
        "model": {key: found.model[key] for key in ("name", "version", "fingerprint")} if found.model else None,
    }
    return record


def _vote(found: StoredResults, result: SlideResult) -> dict[str, Any]:
    codes = [found.class_map.classes[index] for index in found.class_map.voting]

    def code(index: int | None) -> str | None:
        return None if index is None else codes[index]

    return {
        "subtype": code(result.label),
        "leading": code(result.leading),
        "method": result.method,
        "probability": _by_code(codes, result.probs),
        "margin": _plain(result.margin),
        "patch_share": _by_code(codes, result.fractions),
        "interval": _interval(codes, result),
        "no_interval": result.no_interval or None,
        "areas": _areas(codes, result),
        "second_subtype": _second(codes, result),
        "ood_fraction": _plain(result.ood_fraction),
        "effective_votes": _plain(result.n_effective),
        "patches_voted": result.n_patches,
        "patches_background": result.n_background,
        "patches_unpredicted": result.n_unpredicted,
        "smoothing": result.smoothing,
        "weighted_by": list(result.weighted_by),
    }


def _interval(codes: list[str], result: SlideResult) -> dict[str, Any] | None:
    interval = result.interval
    if interval is None:
        return None
    return {
        "level": interval.level,
        "probability_low": _by_code(codes, interval.low),
        "probability_high": _by_code(codes, interval.high),
        "margin_low": _plain(interval.margin[0]),
        "margin_high": _plain(interval.margin[1]),
        "leading_share": _plain(interval.leading_share),
        "blocks": interval.n_blocks,
        "block_side_um": interval.block_um,
    }


def _areas(codes: list[str], result: SlideResult) -> dict[str, Any] | None:
    areas = result.areas
    if areas is None:
        return None
    return {
        "area_mm2": _by_code(codes, areas.mm2),
        "area_percent": _by_code(codes, areas.percent),
        "background_area_mm2": _plain(areas.background_mm2),
        "unpredicted_area_mm2": _plain(areas.unpredicted_mm2),
    }


def _second(codes: list[str], result: SlideResult) -> dict[str, Any] | None:
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


def _by_code(codes: list[str], values: Any) -> dict[str, float | None]:
    return {code: _plain(float(value)) for code, value in zip(codes, values, strict=True)}


def _plain(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
