"""The model card of a concept head, and what `wsikit train` and `evaluate` print of its concepts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from wsikit.models.concept_config import ConceptHeadConfig
from wsikit.models.concept_head import ConceptHead
from wsikit.models.protocol import MAP_FACT
from wsikit.training.card import level_table
from wsikit.training.concepts.checks import CONSTANT
from wsikit.training.splits import PARTS

SMALL = 0.005
"""Contributions below are shown as 0."""

_SCORES = {
    "facts": "facts that are measured on the patch, or stated by its caption",
    "learned": "one linear predictor per axis on image features, fitted on the concept labels",
    "text": "cosines between the patch and the texts of the options (no concept label was used)",
    "attention": "one query per axis that attends to image tokens, compared with the texts of the options",
}


def _scores(config: ConceptHeadConfig) -> str:
    """What scores the concepts, in words."""
    words = "facts that captions state, as intervals" if config.stated else _SCORES[config.scores]
    if not config.maps:
        return words
    maps = ", ".join(fact.removeprefix(MAP_FACT) for fact in config.maps)
    encoders = ", ".join(f"`{one[:12]}`" for one in sorted(set(config.maps.values())))
    return f"{words}; maps of texts of {maps} (encoder {encoders})"


def concept_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """One line per axis and one per intervention, for the terminal."""
    known = {key: one for key, one in metrics.get("concepts", {}).items() if one["patches"]}
    if known:
        yield "concept: accuracy, that of the class alone, agreement within the classes (kappa)"
    for key, one in known.items():
        yield f"  {key:24s} {one['accuracy']:.3f}  {one['class_alone']:.3f}  {_kappa(one['within_class'])}" + _warned(
            one, "  "
        )
    steps = metrics.get("interventions", [])
    if steps:
        yield "balanced accuracy with concepts set to the truth"
    for step in steps:
        last = step["set"][-1] if step["set"] else "none"
        yield f"  {len(step['set']):2d} set (+ {last}){'':{max(1, 24 - len(last))}s}{step['balanced_accuracy']:.3f}"


def concept_card(head: ConceptHead, metrics: Mapping[str, Any]) -> str:
    """Model card of a concept head, from the metrics of its training."""
    config, test, split = head.config, metrics["test"], metrics["split"]
    group = metrics["settings"]["data"]["group"]
    parts = ", ".join(f"{split[name]['n']} {name} ({split[name]['groups']} {group}s)" for name in PARTS)
    reads = (
        ""
        if config.encoder is None
        else (
            f" Encoder: **{config.encoder.name}**, fingerprint `{config.encoder.fingerprint or 'not recorded'}`, "
            f"licence {config.encoder.licence or 'not recorded'}."
        )
    )
    axes = "\n".join(
        f"| {axis.title} | {', '.join(axis.options)} | {_agreement(metrics['concepts'].get(key, {}))} |"
        for key, axis in config.criteria.axes.items()
    )
    steps = "\n".join(
        f"| {', '.join(step['set'][-1:]) or '–'} | {len(step['set'])} | {step['balanced_accuracy']:.3f} |"
        for step in metrics["interventions"]
    )
    notes = "".join(f"\n- {note}" for note in metrics["notes"])
    return f"""# {config.name} {config.version}

> **{config.notice}**

Classes through concepts (mode {config.mode}): {_scores(config)}; then one linear layer, so that each concept
has a contribution to each class.{reads}

Concept labels of the training: **{config.labels}**.

Patches of {config.patch_px} px at {config.mpp:g} µm/px, {config.stain}. Classes:
{", ".join(f"`{c}` {n}" for c, n in zip(config.classes, config.class_names, strict=True))}.

## Data

{metrics["data"]} Split by {group}: {parts}.

## Measured on the test part, evaluated once

{level_table(test, "patch")}

In brackets: 95 % intervals from 1,000 draws of patients.

| concept | options | accuracy / of the class alone / agreement within the classes (kappa) |
|---|---|---|
{axes}

An agreement within the classes of 0 means that the concept says nothing beyond the class.

| concept set to the truth, in addition | set | balanced accuracy |
|---|---|---|
{steps}

## Weights of the linear layer

{_weights(head)}

All metrics are in `metrics.json` in the same folder.{notes}
"""


def _agreement(one: Mapping[str, Any]) -> str:
    if not one.get("patches"):
        return "no truth"
    words = f"{one['accuracy']:.3f} / {one['class_alone']:.3f} / {_kappa(one['within_class'])}"
    return words + _warned(one, " – ")


def _warned(one: Mapping[str, Any], before: str) -> str:
    """The warning of an axis in short, or ""."""
    if not one["warning"]:
        return ""
    return before + ("always the same option" if one["warning"] == CONSTANT else "ECHO: nothing beyond the class")


def _kappa(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "–"
    if figure["low"] is None:
        return f"{figure['value']:.2f}"
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def _weights(head: ConceptHead) -> str:
    """Contribution of each option to each class, compared with the mean training patch; axes that add nothing are left
    out."""
    config, criteria = head.config, head.config.criteria
    lines = [f"| concept | {' | '.join(config.classes)} |", "|---" * (len(config.classes) + 1) + "|"]
    weight, set_to, centre = (np.asarray(head.arrays[name], float) for name in ("weight", "set_to", "centre"))
    for (key, axis), columns in zip(criteria.axes.items(), criteria.columns, strict=True):
        values = (set_to[columns, columns] - centre[columns]) @ weight[columns] / config.temperature
        if np.abs(values).max() < SMALL:
            continue
        for option, row in zip(axis.options, values, strict=True):
            shown = (f"{value:+.2f}" if abs(value) >= SMALL else "0" for value in row)
            lines.append(f"| {key} = {option} | {' | '.join(shown)} |")
    return "\n".join(lines)
