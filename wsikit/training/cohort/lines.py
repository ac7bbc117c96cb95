"""The metrics of a cohort's run as lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wsikit.training.cohort.survival_scores import BRIER, HARRELL, UNO

_SURVIVAL = {HARRELL: "C (Harrell)", UNO: "C (IPCW)", BRIER: "Brier (integrated)"}
_CLASSES = {"accuracy": "accuracy", "auc": "macro AUC", "macro_f1": "macro F1", "kappa_quadratic": "kappa (quadratic)"}


def summary_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """One table per task, then the paired differences of the network and its two strongest rivals in kind."""
    for task, names, lead in (("survival", _SURVIVAL, HARRELL), ("classes", _CLASSES, "accuracy")):
        found = metrics.get(task)
        if found is None:
            continue
        models = found["models"]
        shown = {name: title for name, title in names.items() if any(name in one for one in models.values())}
        yield from _table(models, shown, "follow-up" if task == "survival" else "classes")
        for other, of_other in found.get("differences", {}).items():
            if lead in of_other:
                one = of_other[lead]
                yield (
                    f"{found['learner']} minus {other}: {names[lead]} {one['difference']:+.3f} "
                    f"[{one['low']:+.3f}, {one['high']:+.3f}]"
                )


def _table(models: Mapping[str, Any], shown: Mapping[str, str], head: str) -> Iterator[str]:
    width = max(len(name) for name in (*models, head)) + 2
    yield head.ljust(width) + "".join(title.ljust(24) for title in shown.values()).rstrip()
    for name, of_model in models.items():
        yield (name.ljust(width) + "".join(_cell(of_model.get(one)).ljust(24) for one in shown)).rstrip()


def _cell(record: Mapping[str, Any] | None) -> str:
    if record is None or record["value"] is None:
        return "–"
    return f"{record['value']:.3f} {interval(record)}".rstrip()


def interval(record: Mapping[str, Any]) -> str:
    """ "[0.801, 0.862]", or "" where it is not defined."""
    return "" if record["low"] is None else f"[{record['low']:.3f}, {record['high']:.3f}]"


def markdown_table(models: Mapping[str, Any], measures: Sequence[tuple[str, str]]) -> str:
    """The same table for docs/results.md: `measures` are name and title."""
    lines = ["| model | " + " | ".join(title for _, title in measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for name, of_model in models.items():
        lines.append(f"| {name} | " + " | ".join(_cell(of_model.get(one)) for one, _ in measures) + " |")
    return "\n".join(lines)
