"""The vote in a report as plain values: bars with intervals, facts, the second subtype. No HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from wsikit.exporters.palette import hex_color
from wsikit.exporters.report_data import ReportData
from wsikit.exporters.summary_text import OOD_UNKNOWN, class_title, method_words
from wsikit.exporters.units import format_areas, format_prob, format_share
from wsikit.voting.result import format_margin

NEUTRAL = "#6b6b6b"


def verdict_color(data: ReportData) -> str:
    """Colour of the called class; grey if none is called."""
    if data.result is None or data.result.label is None:
        return NEUTRAL
    return hex_color(data.class_map.colors[data.class_map.voting[data.result.label]])


def leading(data: ReportData) -> int | None:
    """Index into the map's classes of the leading class, called or not."""
    if data.result is None or data.result.leading is None:
        return None
    return data.class_map.voting[data.result.leading]


def bars(data: ReportData) -> list[dict[str, Any]]:
    """One row per voting class; empty where no patch voted."""
    result = data.result
    if result is None or result.leading is None:
        return []
    rows = []
    for at, index in enumerate(data.class_map.voting):
        prob = float(result.probs[at])
        rows.append(
            {
                "title": class_title(data.class_map, index),
                "color": hex_color(data.class_map.colors[index]),
                "percent": 100 * prob,
                "prob": format_prob(prob),
                "fraction": format_share(float(result.fractions[at])),
                "interval": _interval(data, at),
                "area": _area(data, at),
            }
        )
    return rows


def _interval(data: ReportData, at: int) -> dict[str, Any] | None:
    interval = data.result.shown_interval if data.result is not None else None
    if interval is None or not math.isfinite(interval.low[at]):
        return None
    low, high = float(interval.low[at]), float(interval.high[at])
    return {
        "left": 100 * low,
        "width": 100 * max(0.0, high - low),
        "words": f"{format_prob(low)} – {format_prob(high)}",
        "kind": interval.words(),
    }


def _area(data: ReportData, at: int) -> str:
    areas = data.result.areas if data.result is not None else None
    if areas is None:
        return ""
    percent = float(areas.percent[at])
    share = f", {format_share(percent / 100)} of the area that voted" if math.isfinite(percent) else ""
    return f"{format_areas(areas.mm2.tolist())[at]} mm²{share}"


def vote_facts(data: ReportData) -> list[tuple[str, str]]:
    """Rows (name, value); the slide's value, of a model that gives one, is the first."""
    result = data.result
    rows = [] if data.value is None else [data.value]
    if result is None:
        return rows
    effective = math.floor(result.n_effective * 10) / 10
    rows.append(("Method", method_words(result.method)))
    rows.append(("Margin of the two leading classes", format_margin(result.margin, 3)))
    if result.thresholds:
        rows.append(("Fitted threshold of each class", _by_class(data, result.thresholds)))
    if result.prior is not None:
        rows.append(("Patch probabilities corrected", result.prior.words()))
    rows += _interval_facts(data)
    rows += [
        ("Patches that voted", f"{result.n_patches:,}"),
        ("Effective sample size", f"{effective:,.0f}" if effective >= 100 else f"{effective:g}"),
        ("Patches that did not vote (background)", f"{result.n_background:,}"),
        ("Patches without prediction", f"{result.n_unpredicted:,}"),
    ]
    ood = result.ood_fraction
    rows.append(("Out-of-distribution tissue, by weight", OOD_UNKNOWN if ood is None else format_share(float(ood))))
    if result.smoothing != "none":
        rows.append(("Smoothed before the vote", f"{result.smoothing}: {result.n_smoothed:,} patches changed class"))
    if result.weighted_by:
        rows.append(("Weighted by", ", ".join(result.weighted_by)))
    rows += _rule_facts(data)
    return rows


def _interval_facts(data: ReportData) -> list[tuple[str, str]]:
    result = data.result
    assert result is not None
    rows = []
    shares = result.share_interval
    if shares is not None:
        rows.append((shares.words(), f"shown with the probabilities; {shares.kind}"))
    elif result.no_share_interval:
        rows.append(("Interval with the model's error", f"none: {result.no_share_interval}"))
    if result.interval is None:
        return rows + (
            [("Within-slide sampling interval", f"none: {result.no_interval}")] if result.no_interval else []
        )
    interval = result.interval
    low, high = interval.margin
    blocks = f"{interval.n_blocks:,} blocks of {interval.block_um:g} µm"
    return [
        *rows,
        (f"{interval.words()} of the margin", f"{format_margin(low, 3)} – {format_margin(high, 3)}"),
        ("The leading class leads in", f"{format_share(interval.leading_share)} of the resamples"),
        ("Bootstrap blocks", blocks),
    ]


def _by_class(data: ReportData, values: Sequence[float]) -> str:
    codes = [data.class_map.classes[index] for index in data.class_map.voting]
    return ", ".join(f"{code} {value:.3f}" for code, value in zip(codes, values, strict=True))


def _rule_facts(data: ReportData) -> list[tuple[str, str]]:
    rule = data.result.rule if data.result is not None else None
    if rule is None:
        return []
    code = data.class_map.classes[data.class_map.voting[rule.index]]
    found = f"{format_share(rule.share)} ({'holds' if rule.holds else 'does not hold'})"
    return [(f"Rule: at least {format_share(rule.min_frac)} with p({code}) ≥ {rule.t:g}", found)]


def second_subtype(data: ReportData) -> dict[str, Any] | None:
    """The largest region of a class other than the leading one, with its box in level-0 px; None if there is none."""
    second = data.result.second if data.result is not None else None
    if second is None:
        return None
    index = data.class_map.voting[second.index]
    x, y, width, height = (int(value) for value in second.box_px)
    return {
        "title": class_title(data.class_map, index),
        "color": hex_color(data.class_map.colors[index]),
        "area": format_areas([second.area_mm2])[0],
        "share": format_share(second.share),
        "prob": format_prob(second.mean_probability),
        "place": f"x {x:,} · y {y:,}, {width:,} × {height:,} px",
        "box": [x, y, width, height],
    }
