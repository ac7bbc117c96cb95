"""The model card: a Markdown page generated from a model's configuration and metrics; no number is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wsikit.models.config import ModelConfig
from wsikit.training.metrics import Row, Scores
from wsikit.training.splits import PARTS


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
    """Write the model card as Markdown.

    Parameters
    ----------
    parameters : int
        Number of parameters of the whole model.
    data : str
        A paragraph: training and test data.
    tables : mapping of heading to rows
    best : Row
        Row whose confusion matrix is shown.
    command : str
        Command that reproduces this model.
    limits : sequence of str
        Limitations, one sentence each.
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
model. The mean gate is the weight of the text: 0 none, 1 text only.

Confusion of *{best.name}*:

{confusion(best.scores, config.classes)}

Made by `{command}`; all numbers on this page come from `metrics.json` in the same folder.

## Limitations

{chr(10).join(f"- {limit}" for limit in limits)}
"""


def training_card(config: ModelConfig, metrics: Mapping[str, Any]) -> str:
    """Model card of a model trained by `wsikit train`, from the metrics it wrote."""
    test = metrics["test"]
    split, group = metrics["split"], metrics["settings"]["data"]["group"]
    parts = ", ".join(f"{split[name]['n']} {name} ({split[name]['groups']} {group}s)" for name in PARTS)
    levels = "\n\n".join(
        f"**By {level}**\n\n{level_table(test, level)}"
        if "reason" not in test["fused"][level]
        # one line instead of an empty table
        else f"**By {level}**: not reported, {test['fused'][level]['reason']}."
        for level in ("patch", "slide", "patient")
    )
    counts = test["fused"]["patch"]["confusion"]["counts"]
    lines = [f"| truth \\ prediction | {' | '.join(config.classes)} |", "|---" * (len(config.classes) + 1) + "|"]
    lines += [f"| {code} | {' | '.join(map(str, row))} |" for code, row in zip(config.classes, counts, strict=True)]
    return f"""# {config.name} {config.version}

> **{config.notice}**

Patches of {config.patch_px} px at {config.mpp:g} µm/px, {config.stain}, captions by `{config.captioner}`. Image branch
{config.image.name}, text branch {config.text.model_type}, fusion {config.prmf.mode}, {metrics["parameters"]:,}
parameters. Classes: {", ".join(f"`{c}` {n}" for c, n in zip(config.classes, config.class_names, strict=True))}.

## Data

{metrics["data"]} Split by {group}: {parts}; sha256 of the test patches' names {split["test"]["sha256"][:16]}….

## Measured on the test part, evaluated once

{levels}

In brackets: 95 % intervals from 1,000 draws of patients. Selected: epoch {metrics["kept_epoch"]} (from 0) of
{len(metrics["epochs"])}, chosen on the validation part; temperature fitted there: {metrics["temperature"]:.2f}.

Confusion of the fused model:

{chr(10).join(lines)}

All metrics are in `metrics.json` in the same folder.
"""


def level_table(test: Mapping[str, Any], level: str) -> str:
    """Metrics of all conditions at one level as a Markdown table."""
    names = ("auc", "balanced_accuracy", "macro_f1", "ece")
    lines = ["| | AUC | balanced accuracy | macro-F1 | ECE | mean gate |", "|---" * 6 + "|"]
    for way, record in test.items():
        figures = [_with_interval(record[level][name]) for name in names]
        gate = "–" if record["gate"] is None else f"{record['gate']:.2f}"
        lines.append(f"| {way} | {' | '.join(figures)} | {gate} |")
    return "\n".join(lines)


def _with_interval(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return f"– ({figure['reason']})"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
