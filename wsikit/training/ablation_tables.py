"""Results of an ablation as tables and figure; the numbers come from `wsikit.training.ablation_report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsikit.training.ablation_rivals import OWN

Interval = tuple[float, float, float]
"""Value, lower and upper end of its 95 % interval."""


@dataclass(frozen=True)
class ArmResult:
    """Result of one arm with one kind of captions. Values are means over the seeds."""

    arm: str
    captions: str
    """"" for arms without captions."""
    auc: Interval
    balanced_accuracy: Interval
    ece: Interval
    """Expected calibration error."""
    auc_gain: Interval | None
    """Difference to the image-only arm, paired."""
    balanced_accuracy_gain: Interval | None
    gate: float | None
    """Mean over patches and seeds."""
    auc_by_seed: tuple[float, ...]


@dataclass(frozen=True)
class Lead:
    """The robust fusion minus one rival, on the same draws."""

    rival: str
    captions: str
    auc: Interval
    balanced_accuracy: Interval
    ece: Interval
    """Below 0 where the fusion is better calibrated."""


def table(results: Sequence[ArmResult]) -> str:
    """Results as a Markdown table; in brackets 95 % intervals, gains in points (hundredths)."""
    lines = [
        "| arm | captions | AUC | gain, points | balanced accuracy | gain, points | ECE | mean gate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        cells = (
            r.arm,
            r.captions or "–",
            _shown(r.auc),
            _points(r.auc_gain),
            _shown(r.balanced_accuracy),
            _points(r.balanced_accuracy_gain),
            f"{r.ece[0]:.3f} [{r.ece[1]:.3f}, {r.ece[2]:.3f}]",
            "–" if r.gate is None else f"{r.gate:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def lead_table(leads: Sequence[Lead]) -> str:
    """The robust fusion minus each rival as a Markdown table, in points, with 95 % intervals."""
    lines = [
        "| PRMF robust, measured captions, minus | AUC, points | balanced accuracy, points | ECE, points |",
        "|---|---|---|---|",
    ]
    for lead in leads:
        cells = (
            f"{lead.rival}, {lead.captions}" if lead.captions not in ("", OWN) else lead.rival,
            _points(lead.auc),
            _points(lead.balanced_accuracy),
            _points(lead.ece),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(value: Interval) -> str:
    return f"{value[0]:.4f} [{value[1]:.3f}, {value[2]:.3f}]"


def _points(value: Interval | None) -> str:
    return "–" if value is None else f"{100 * value[0]:+.2f} [{100 * value[1]:+.2f}, {100 * value[2]:+.2f}]"


def figure(results: Sequence[ArmResult], path: Path, colours: dict[str, str]) -> None:
    """Gains in AUC over the image alone, with their intervals; `colours` by kind of captions."""
    from matplotlib.figure import Figure

    rows = [r for r in results if r.auc_gain is not None and not r.arm.startswith("floor")]
    drawing = Figure(figsize=(8.5, 0.36 * len(rows) + 1.1), dpi=150, layout="constrained")
    axes = drawing.add_subplot()
    for place, r in enumerate(reversed(rows)):
        assert r.auc_gain is not None
        value, low, high = (100 * x for x in r.auc_gain)
        colour = colours.get(r.captions, "#444444")
        axes.plot([low, high], [place, place], color=colour, lw=2, solid_capstyle="butt")
        axes.plot(value, place, "o", color=colour, ms=6)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(rows)), [", ".join(filter(None, (r.arm, r.captions))) for r in reversed(rows)])
    drawing.supxlabel("gain in AUC over the image alone, points (95 % interval, paired)", fontsize="medium")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    drawing.savefig(path)
