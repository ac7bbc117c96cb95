"""What `wsikit train` and `wsikit evaluate` print of their metrics: lines of text. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

WIDTH = 40
INTERVALS = (("interval", "sampling interval"), ("share_interval", "interval with the model's error"))


def lines_of(results: Mapping[str, Any]) -> Iterator[str]:
    """One line per condition at patch level: AUC, balanced accuracy and calibration error, with 95 % intervals."""
    for way, record in results.items():
        figures = record["patch"]
        yield (
            f"{way:{WIDTH}s} AUC {shown(figures['auc'])}  balanced accuracy {shown(figures['balanced_accuracy'])}"
            f"  ECE {shown(figures['ece'])}"
        )


def gain_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Paired differences in AUC, points: every condition over the image alone, and the fusion over every condition."""
    for key, heading in (
        ("gains_over_image", "AUC over the image alone, points (paired, 95 % interval)"),
        ("fused_over", "AUC of the fusion over each rival, points"),
    ):
        found = {way: record["auc"] for way, record in metrics.get(key, {}).items()}
        if not found:
            continue
        yield heading
        for way, figure in found.items():
            yield f"  {way:{WIDTH - 2}s} {in_points(figure)}"


def share_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Errors of the shares by voting method, by slide and by patient."""
    for level, record in metrics.get("shares", {}).items():
        if "reason" in record:
            yield f"shares by {level}: not measured, {record['reason']}"
            continue
        yield f"shares of {record['units']} {level}s with {record['least_patches']} patches or more"
        for method, figures in record["methods"].items():
            held = ", ".join(
                _held(words, figures[key])
                for key, words in (
                    ("interval", "sampling interval"),
                    ("share_interval", "interval with the model's error"),
                )
                if key in figures
            )
            yield (
                f"  vote {method:{WIDTH - 7}s} error {shown(figures['share_error'])}  balanced accuracy "
                f"{shown(figures['balanced_accuracy'])}  {held}"
            )


def _held(words: str, figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return f"no {words}: {figure['reason']}"
    return (
        f"{100 * figure['level']:.0f} % {words} holds the truth in {100 * figure['value']:.0f} % of {figure['units']}"
    )


def shown(figure: Mapping[str, Any]) -> str:
    """A value with its interval.

    >>> shown({"value": 0.9149, "low": 0.89, "high": 0.93})
    '0.915 [0.890, 0.930]'
    """
    if figure["value"] is None:
        return "–"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def in_points(figure: Mapping[str, Any]) -> str:
    """A difference in points (hundredths) with its interval.

    >>> in_points({"value": 0.0054, "low": -0.0002, "high": 0.0111})
    '+0.54 [-0.02, +1.11]'
    """
    if figure["value"] is None:
        return "–"
    if figure["low"] is None:
        return f"{100 * figure['value']:+.2f}"
    return f"{100 * figure['value']:+.2f} [{100 * figure['low']:+.2f}, {100 * figure['high']:+.2f}]"
