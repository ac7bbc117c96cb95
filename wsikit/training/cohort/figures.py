"""Figures of a cohort's evaluation as PNG: Kaplan–Meier with numbers at risk, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikit.training.cohort.protocol import Part
from wsikit.training.cohort.risk_groups import Groups, kaplan_meier, log_rank
from wsikit.training.figures import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOW, _HIGH = COLOURS[0], COLOURS[1]
_TICKS = (6, 12, 24, 36, 60, 120, 240)
"""Months between the ticks of the time axis to choose from."""


def draw_kaplan_meier(path: Path, part: Part, groups: Mapping[str, Groups]) -> None:
    """One panel per learner: survival of both groups with 95 % intervals, censoring marks and numbers at risk."""
    figure = _figure(5.2 * len(groups), 4.8)
    panels = figure.subplots(2, len(groups), sharex="col", squeeze=False, height_ratios=[5, 1])
    for column, (name, of_learner) in enumerate(groups.items()):
        _one_panel(panels[0][column], panels[1][column], name, part, of_learner)
    panels[0][0].set_ylabel("survival")
    figure.savefig(path, dpi=130)


def _one_panel(axes: Axes, below: Axes, name: str, part: Part, groups: Groups) -> None:
    assert part.time is not None
    assert part.event is not None
    time, event = part.time[groups.rows], part.event[groups.rows]
    step = next((one for one in _TICKS if time.max() / one <= 7), _TICKS[-1])
    ticks = np.arange(0, time.max() + 1e-9, step)
    for row, (label, chosen, colour) in enumerate(
        (("low risk", ~groups.high, _LOW), ("high risk", groups.high, _HIGH))
    ):
        if not chosen.any():
            continue
        curve = kaplan_meier(time[chosen], event[chosen])
        style = "-" if row == 0 else "--"
        axes.step(
            curve.times, curve.survival, where="post", color=colour, linestyle=style, label=f"{label} ({curve.n})"
        )
        axes.fill_between(curve.times, curve.low, curve.high, step="post", color=colour, alpha=0.15, linewidth=0)
        censored = np.unique(time[chosen & ~event])
        heights = curve.survival[np.searchsorted(curve.times, censored, side="right") - 1]
        axes.plot(censored, heights, linestyle="none", marker="|", markersize=5, color=colour, alpha=0.6)
        for tick, number in zip(ticks, curve.at_risk(ticks)):
            below.text(tick, -row, str(number), ha="center", va="center", color=colour, fontsize=9)
        below.text(-0.08, -row, label, ha="right", va="center", color=colour, fontsize=9, transform=_at_left(below))
    p = log_rank(time, event, groups.high)
    shown = "" if p is None else ("log-rank p < 0.001" if p < 0.001 else f"log-rank p = {p:.3f}")
    axes.set(title=name, ylim=(0, 1.02), xlim=(0, time.max() * 1.02), xticks=ticks)
    axes.tick_params(labelbottom=True)
    axes.set_xlabel("months")
    axes.legend(title=shown, loc="upper right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    below.set(ylim=(-1.6, 0.6), yticks=[])
    below.set_title("number at risk", loc="left", fontsize=9)
    below.tick_params(bottom=False, labelbottom=False)
    below.spines[["top", "right", "left", "bottom"]].set_visible(False)


def draw_calibration(path: Path, found: Mapping[str, Mapping[str, Mapping[str, Any] | None]]) -> None:
    """One panel per horizon ("36"): observed against predicted survival of the groups of each learner."""
    horizons = [months for months in dict.fromkeys(m for one in found.values() for m in one) if _any(found, months)]
    if not horizons:
        return
    figure = _figure(4.2 * len(horizons), 4.4)
    panels = figure.subplots(1, len(horizons), squeeze=False)[0]
    for axes, months in zip(panels, horizons):
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
        for index, (name, of_learner) in enumerate(found.items()):
            record = of_learner.get(months)
            if record is not None:
                _one_series(axes, name, record["groups"], index)
        axes.set(title=f"{months} months", xlabel="predicted survival", xlim=(0, 1.02), ylim=(0, 1.02))
        axes.set_aspect("equal")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("observed survival (Kaplan–Meier)")
    panels[0].legend(loc="upper left", frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def _any(found: Mapping[str, Mapping[str, Mapping[str, Any] | None]], months: str) -> bool:
    return any(one.get(months) is not None for one in found.values())


def _one_series(axes: Axes, name: str, groups: Sequence[Mapping[str, float]], index: int) -> None:
    x = np.array([one["predicted"] for one in groups])
    y, low, high = (np.array([one[key] for one in groups]) for key in ("observed", "low", "high"))
    low, high = np.where(np.isfinite(low), low, y), np.where(np.isfinite(high), high, y)
    errors = np.stack([np.maximum(y - low, 0), np.maximum(high - y, 0)])
    axes.errorbar(
        x, y, errors, marker="os^D"[index % 4], markersize=4, linewidth=1, capsize=2, label=name, color=COLOURS[index]
    )


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _at_left(axes: Axes) -> Any:
    """x as a fraction of the panel, y in rows."""
    return axes.get_yaxis_transform()
