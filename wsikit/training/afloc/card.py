"""The model card of an AFLoc model: a Markdown page from its configuration and metrics; no number is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsikit.models.afloc_config import AflocConfig
from wsikit.models.config import FeatureBranchConfig
from wsikit.training.splits import PARTS


def afloc_card(config: AflocConfig, metrics: Mapping[str, Any]) -> str:
    """Model card, from the metrics that training wrote; with figures of maps if `maps` is among them."""
    group = metrics["settings"]["data"]["group"]
    parts = ", ".join(
        f"{metrics['split'][name]['n']} {name} ({metrics['split'][name]['groups']} {group}s)" for name in PARTS
    )
    rows = [
        f"| {one['prompt']} | {one['auroc']:.3f} | {one['named']} of {one['n']} |"
        for one in metrics["test"]["terms"].values()
    ]
    levels = ", ".join(f"{name} {weight:g}" for name, weight in metrics["settings"]["training"]["weights"].items())
    licence = f" Licence: {config.licence}." if config.licence else ""
    return f"""# {config.name} {config.version}

> **{config.notice}**

AFLoc: a text finds its places in a slide. Patches of {config.patch_px} px at {config.mpp:g} µm/px, {config.stain};
captions by `{config.captioner}`. {_images(config)}, text encoder {config.text.model_type}, shared space
of {config.width}, {metrics["parameters"]:,} parameters. Weights of the levels: {levels}.{licence}

Use it as an encoder, by its name or folder: `wsikit localize STORE "{_example(metrics)}" --encoder {config.name}`.

## Data

{metrics["data"]} Split by {group}: {parts}. No labels: {metrics["statements"]:,} statements of {len(config.terms)}
terms were made of the training captions. Terms: {", ".join(config.terms)}. Prompts of other terms were never seen.

## Measured on the test part, once

A prompt against its negation ("X" and "no X"), and whether the caption of the patch names X:

| prompt | AUROC | patches whose caption names it |
|---|---|---|
{chr(10).join(rows)}

{_detector(metrics)}Selected: epoch {metrics["kept_epoch"]} (from 0) of {len(metrics["epochs"])}, chosen on the
validation part.
{maps_table(metrics["maps"]) if "maps" in metrics else ""}
All numbers are in `metrics.json` in the same folder.
"""


def maps_table(maps: Mapping[str, Any]) -> str:
    """Figures of maps as Markdown: {heading, rows: [{concept, way, figures}]}."""
    names = ("dice", "iou", "auroc", "auprc", "cnr", "pointing_1", "presence_auroc")
    heads = ("Dice", "IoU", "AUROC", "AUPRC", "CNR", "pointing (1 cell)", "presence AUROC")
    lines = [f"| concept | map | {' | '.join(heads)} | slides with / without |", "|---" * (len(heads) + 3) + "|"]
    for row in maps["rows"]:
        figures = row["figures"]
        cells = [shown(figures[name]) for name in names]
        slides = f"{figures['slides_with']} / {figures['slides_without']}"
        lines.append(f"| {row['concept']} | {row['way']} | {' | '.join(cells)} | {slides} |")
    table = "\n".join(lines)
    return f"\n## Maps\n\n{maps['heading']}\n\n{table}\n\nIn brackets: 95 % intervals, bootstrap over slides.\n"


def shown(figure: Mapping[str, Any]) -> str:
    """A figure with its interval."""
    if figure["value"] is None:
        return "–"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _images(config: AflocConfig) -> str:
    if isinstance(config.image, FeatureBranchConfig):
        return f"Stored features of {config.image.name} ({config.image.width} numbers)"
    return f"Image encoder {config.image.name}"


def _detector(metrics: Mapping[str, Any]) -> str:
    """How it finds tissue unlike that of its training; empty if this was not recorded."""
    said = metrics.get("detector")
    return f"Tissue unlike that of the training (out of distribution): {said}.\n\n" if said else ""


def _example(metrics: Mapping[str, Any]) -> str:
    return next((str(one["prompt"]) for one in metrics["test"]["terms"].values()), "tumour")
