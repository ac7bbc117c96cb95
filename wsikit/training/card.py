"""The model card: a Markdown page made from a model's configuration and its measured figures, no number by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wsikit.models.config import ModelConfig
from wsikit.training.metrics import Row, Scores


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; intervals in brackets."""
    lines = [
        "| | accuracy | balanced accuracy | macro-F1 | quadratic κ (UD < PD < D) | mean gate |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        s = row.scores
        cells = (
            row.name,
            f"{s.accuracy:.3f} [{row.accuracy_interval[0]:.3f}, {row.accuracy_interval[1]:.3f}]",
            f"{s.balanced_accuracy:.3f} "
            f"[{row.balanced_accuracy_interval[0]:.3f}, {row.balanced_accuracy_interval[1]:.3f}]",
            f"{s.macro_f1:.3f}",
            "–" if s.kappa_quadratic is None else f"{s.kappa_quadratic:.3f}",
            "–" if row.gate is None else f"{row.gate:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def confusion(scores: Scores, classes: Sequence[str]) -> str:
    """Counts as a Markdown table; rows are the truth."""
    lines = [f"| truth \\ prediction | {' | '.join(classes)} |", "|---" * (len(classes) + 1) + "|"]
    lines += [f"| {code} | {' | '.join(map(str, row))} |" for code, row in zip(classes, scores.confusion)]
    return "\n".join(lines)


def model_card(
    config: ModelConfig,
    *,
    parameters: int,
    data: str,
    tables: Mapping[str, Sequence[Row]],
    best: Row,
    command: str,
    limits: Sequence[str],
) -> str:
    """The page.

    Parameters
    ----------
    parameters : int
        Of the whole model.
    data : str
        A paragraph: what it was trained and tested on.
    tables : mapping of heading to rows
    best : Row
        Whose confusion matrix is shown.
    command : str
        What makes this model again.
    limits : sequence of str
        What does not hold, one sentence each.
    """
    classes = "\n".join(
        f"- `{code}` {name}{' (does not vote)' if code in config.background else ''}"
        for code, name in zip(config.classes, config.class_names)
    )
    measured = "\n\n".join(f"**{heading}**\n\n{table(rows)}" for heading, rows in tables.items())
    return f"""# {config.name} {config.version}

> **{config.notice}**

Patches of {config.patch_px} px at {config.mpp} µm/px, {config.stain}, each with a caption by the captioner
`{config.captioner}` (or without one). Image branch {config.image.name}, text branch {config.text.model_type}, fusion
PRMF ({config.prmf.mode}, {config.prmf.gate} gate), {parameters:,} parameters.

Classes, in the order of the outputs:

{classes}

## Data

{data}

## Measured

{measured}

In brackets: 95 % intervals, bootstrap over slides. *Image alone* and *text alone* are the auxiliary heads of the same
model. The mean gate tells how much the text counted: 0 not at all, 1 alone.

Confusion of *{best.name}*:

{confusion(best.scores, config.classes)}

Made by `{command}`; all figures of this page are those of `metrics.json` beside it.

## What does not hold

{chr(10).join(f"- {limit}" for limit in limits)}
"""
