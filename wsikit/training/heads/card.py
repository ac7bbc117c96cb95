"""The model card of a head: a Markdown page generated from its configuration and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsikit.models.head_config import HeadConfig
from wsikit.training.card import level_table
from wsikit.training.splits import PARTS

_KINDS = {
    "linear": "multinomial logistic regression",
    "mlp": "one hidden layer",
    "knn": "the {k} nearest training patches ({metric})",
}


def head_card(config: HeadConfig, metrics: Mapping[str, Any]) -> str:
    """Model card of a head, from the metrics of its training."""
    test, split, encoder = metrics["test"], metrics["split"], config.encoder
    group = metrics["settings"]["data"]["group"]
    parts = ", ".join(f"{split[name]['n']} {name} ({split[name]['groups']} {group}s)" for name in PARTS)
    levels = "\n\n".join(
        f"**By {level}**\n\n{level_table(test, level)}"
        if "reason" not in test["head"][level]
        else f"**By {level}**: not reported, {test['head'][level]['reason']}."
        for level in ("patch", "slide", "patient")
    )
    counts = test["head"]["patch"]["confusion"]["counts"]
    lines = [f"| truth \\ prediction | {' | '.join(config.classes)} |", "|---" * (len(config.classes) + 1) + "|"]
    lines += [f"| {code} | {' | '.join(map(str, row))} |" for code, row in zip(config.classes, counts, strict=True)]
    kind = _KINDS[config.kind].format(k=config.neighbours, metric=config.metric)
    chosen = {key: value for key, value in metrics["selection"].items() if key in ("l2", "epoch", "k")}
    choice = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
    notes = "".join(f"\n- {note}" for note in metrics["notes"])
    return f"""# {config.name} {config.version}

> **{config.notice}**

A head on features of the encoder **{encoder.name}** ({encoder.width} numbers per patch, fingerprint
`{encoder.fingerprint or "not recorded"}`{f", {encoder.source}" if encoder.source else ""}). Licence of the encoder:
{encoder.licence or "not recorded"}. Head: {kind}; {choice}, by {metrics["selection"]["chosen_by"]}.

Patches of {config.patch_px} px at {config.mpp:g} µm/px, {config.stain}. Classes:
{", ".join(f"`{c}` {n}" for c, n in zip(config.classes, config.class_names, strict=True))}.

## Data

{metrics["data"]} Split by {group}: {parts}; sha256 of the test patches' names {split["test"]["sha256"][:16]}….

## Measured on the test part, evaluated once

{levels}

In brackets: 95 % intervals from 1,000 draws of patients. Temperature, fitted on the validation part:
{metrics["temperature"]:.2f}. "floor": what the classes' shares, and the colours alone, give.

Confusion of the head:

{chr(10).join(lines)}

All metrics are in `metrics.json` in the same folder.{notes}
"""
