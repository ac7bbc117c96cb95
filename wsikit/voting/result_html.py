"""A slide result as an HTML table for notebooks: class, probabilities with intervals, areas, abstention with reason.

Plain HTML without scripts; all text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from wsikit.voting.result import format_margin

if TYPE_CHECKING:
    from wsikit.voting.result import SlideResult

NOTICE = "Research use only. Not for diagnosis."
_LEFT, _RIGHT = "text-align:left;padding:2px 1em 2px 0", "text-align:right;padding:2px 1em 2px 0"
_BAR_EM = 8


def result_html(result: SlideResult, names: Sequence[str] = (), colors: Sequence[str] = ()) -> str:
    """The table.

    Parameters
    ----------
    names, colors
        (C,) names for people and CSS colours of the voting classes; without them codes and grey are shown.
    """
    return (
        f"<div>{_headline(result, names)}"
        f"<table style='border-collapse:collapse'>{_class_rows(result, names, colors)}</table>"
        f"<table style='border-collapse:collapse;margin-top:.5em'>{_fact_rows(result)}</table>"
        f"<p style='opacity:.7'>{NOTICE}</p></div>"
    )


def _title(result: SlideResult, names: Sequence[str], index: int) -> str:
    code = result.codes[index]
    return f"{names[index][:1].upper()}{names[index][1:]} ({code})" if names and names[index] != code else code


def _headline(result: SlideResult, names: Sequence[str]) -> str:
    if result.label is None:
        return f"<p><b>No subtype called</b><br>Abstained: {escape(result.reason)}.</p>"
    return f"<p><b>{escape(_title(result, names, result.label))}</b></p>"


def _class_rows(result: SlideResult, names: Sequence[str], colors: Sequence[str]) -> str:
    """One row per class: probability with a bar and its interval, fraction of the patches, area."""
    interval, areas = result.shown_interval, result.areas
    head = ["Class", "Probability", ""]
    head += [] if interval is None else [interval.words()]
    head += ["Share of patches"] + ([] if areas is None else ["Area, mm²", "Area, %"])
    rows = [_row(head, tag="th")]
    for index, prob in enumerate(result.probs.tolist()):
        cells = [escape(_title(result, names, index)), _number(prob), _bar(prob, colors[index] if colors else "#888")]
        if interval is not None:
            cells.append(f"{_number(interval.low[index])} – {_number(interval.high[index])}")
        cells.append(_percent(result.fractions[index]))
        if areas is not None:
            cells += [f"{areas.mm2[index]:.3g}", _percent(areas.percent[index] / 100)]
        rows.append(_row(cells, bold=index == result.leading))
    return "".join(rows)


def _fact_rows(result: SlideResult) -> str:
    facts = [("Margin", format_margin(result.margin) + _margin_interval(result))]
    if result.interval is None and result.no_interval:
        facts.append(("Within-slide sampling interval", f"none: {escape(result.no_interval)}"))
    if result.share_interval is None and result.no_share_interval:
        facts.append(("Interval with the model's error", f"none: {escape(result.no_share_interval)}"))
    if result.thresholds:
        pairs = zip(result.codes, result.thresholds, strict=True)
        facts.append(("Fitted thresholds", ", ".join(f"{escape(code)} {value:.3f}" for code, value in pairs)))
    if result.prior is not None:
        facts.append(("Probabilities corrected", escape(result.prior.words())))
    effective = math.floor(result.n_effective * 10) / 10
    facts.append(("Method", escape(result.method)))
    facts.append(("Voting patches", f"{result.n_patches:,} (effective sample size {effective:,.1f})"))
    facts.append(("Not voting", f"{result.n_background:,} background, {result.n_unpredicted:,} without prediction"))
    if result.ood_fraction is not None:
        facts.append(("Out-of-distribution tissue", _percent(result.ood_fraction)))
    if result.second is not None:
        second = result.second
        code = escape(result.codes[second.index])
        facts.append(("Second subtype", f"{code}, {second.area_mm2:.3g} mm² in one region"))
    return "".join(f"<tr><th style='{_LEFT}'>{name}</th><td style='{_LEFT}'>{value}</td></tr>" for name, value in facts)


def _margin_interval(result: SlideResult) -> str:
    if result.interval is None:
        return ""
    low, high = result.interval.margin
    return f" [{format_margin(low)}, {format_margin(high)}]"


def _row(cells: Sequence[str], *, tag: str = "td", bold: bool = False) -> str:
    shown = [f"<b>{cell}</b>" if bold and number == 0 else cell for number, cell in enumerate(cells)]
    styles = [_LEFT if number in (0, 2) else _RIGHT for number in range(len(cells))]
    return "<tr>" + "".join(f"<{tag} style='{style}'>{cell}</{tag}>" for style, cell in zip(styles, shown)) + "</tr>"


def _bar(prob: float, color: str) -> str:
    if not math.isfinite(prob):
        return ""
    style = f"width:{_BAR_EM * prob:.2f}em;height:.8em;background:{escape(color)}"
    return f"<div style='width:{_BAR_EM}em;background:#8882'><div style='{style}'></div></div>"


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if math.isfinite(value) else "–"
