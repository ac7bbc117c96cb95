"""The model card of a model on slide labels: a Markdown page generated from its configuration and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsikit.models.mil_config import MilConfig

_POOLINGS = {
    "abmil": "gated attention (Ilse et al. 2018)",
    "mean": "the mean over the patches",
    "max": "the patch with the highest score",
    "alpha_beta": "MIL(α, β) (Lerousseau et al. 2020), α = {alpha:g}; a slide is the mean over its top share α",
}
MEASURES = {"auc": "AUC", "balanced_accuracy": "balanced accuracy", "kappa_quadratic": "κ, quadratic",
             "concordance": "concordance", "mean_error": "mean error"}  # fmt: skip


def mil_card(config: MilConfig, metrics: Mapping[str, Any]) -> str:
    """Model card, from the metrics of the training."""
    encoder, split = config.encoder, metrics["split"]
    reads = (
        "An image encoder of its own, trained with it."
        if encoder is None
        else f"Reads features of the encoder **{encoder.name}** ({encoder.width} numbers per patch, fingerprint "
        f"`{encoder.fingerprint or 'not recorded'}`{f', {encoder.source}' if encoder.source else ''}); licence: "
        f"{encoder.licence or 'not recorded'}."
    )
    pooling = _POOLINGS[config.pooling].format(alpha=config.alpha)
    return f"""# {config.name} {config.version}

> **{config.notice}**

Trained on labels of slides alone: no region was drawn. Task: {_task(config)}. Pooling: {pooling}. {reads}

{config.members} networks, one per fold; their patch logits and attention scores are averaged before pooling. Patches of
{config.patch_px} px at {config.mpp:g} µm/px, {config.stain}. Classes:
{", ".join(f"`{c}` {n}" for c, n in zip(config.classes, config.class_names, strict=True))}.

`probability` of a patch is its own part of the slide's prediction, not a measured class of the patch; `attention` says
how much it counts. Neither was compared with regions drawn by a pathologist.

## Data

{metrics["data"]} Split by patient: {split["test"]["n"]} test slides ({split["test"]["groups"]} patients); the others in
{split["folds"]} folds. sha256 of the test slides' names {split["test"]["sha256"][:16]}….

## Measured on the test slides, evaluated once

{table_of(metrics["test"])}

In brackets: 95 % intervals from 1,000 draws of patients. All metrics are in `metrics.json` in the same folder.
"""


def _task(config: MilConfig) -> str:
    cox = " by Cox's partial likelihood (Efron ties); the value is a log hazard ratio without a baseline"
    return config.task + (cox if config.survival == "cox" else "")


def table_of(results: Mapping[str, Any]) -> str:
    """Markdown: a row per level and way, a column per measure that is defined."""
    rows = [(level, way, part[level]) for way, part in results.items() for level in ("slide", "patient")]
    shown = [name for name in MEASURES if any((row.get(name) or {}).get("value") is not None for *_, row in rows)]
    lines = ["| level | | n | " + " | ".join(MEASURES[name] for name in shown) + " |", "|---" * (3 + len(shown)) + "|"]
    for level, way, row in rows:
        if "reason" in row:
            lines.append(f"| {level} | {way} | – | {row['reason']} |" + " |" * (len(shown) - 1))
            continue
        cells = [_cell(row.get(name)) for name in shown]
        lines.append(f"| {level} | {way} | {row['n']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(figure: Mapping[str, Any] | None) -> str:
    if not figure or figure["value"] is None:
        return "–"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} ({figure['low']:.3f} – {figure['high']:.3f})"
