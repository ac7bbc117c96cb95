"""The page beside an adapter, written from its record and its figures. Nothing in it is typed by hand."""

from __future__ import annotations

from typing import Any


def adapter_card(record: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Markdown for a fine-tuned captioner.

    Parameters
    ----------
    record
        What becomes wsikit.json.
    metrics
        What becomes metrics.json.
    """
    data, settings, patients = record["data"], record["settings"], record["patients"]
    lines = [
        f"# Captioner adapter for {record['base']['name']}",
        "",
        "> Research use only. Not for diagnosis. Captions are generated text: they may name what is not there.",
        "",
        f"LoRA, rank {settings['rank']}, alpha {settings['alpha']:g}, dropout {settings['dropout']:g}, on "
        f"{len(record['modules'])} linear layers (listed in wsikit.json). Base fingerprint "
        f"`{record['base']['fingerprint'][:16]}`; another base is refused.",
        "",
        f"Prompt: “{record['chat']['prompt']}” Images at {record['chat']['image_px']} px"
        + (f", {record['mpp']:.3g} µm/px." if record["mpp"] else "; their µm/px was not stated."),
        "",
        "## Data",
        "",
        f"{data['training_rows']} images of {len(patients['trained'])} patients to train on, {data['validation_rows']} "
        f"of {len(patients['validated'])} other patients to validate on (patients known by: {patients['known_by']}). "
        f"Words that name the diagnosis were taken out of {data['descriptions_scrubbed']} descriptions. "
        f"{data['undescribed_rows']} rows without a description were left out.",
        "",
        "## Measured on the validation patients",
        "",
        "| epoch | loss | fact-F1, there or not | fact-F1, graded | training loss |",
        "|---|---|---|---|---|",
    ]
    for epoch in metrics["epochs"]:
        mark = " (kept)" if epoch["epoch"] == metrics["best_epoch"] else ""
        lines.append(
            f"| {epoch['epoch']}{mark} | {epoch['loss']:.4f} | {epoch['fact_f1']:.3f} | "
            f"{epoch['fact_f1_graded']:.3f} | {epoch['train_loss']:.4f} |"
        )
    lines += [
        "",
        "Fact-F1 compares terms of the vocabulary (`wsikit.captions.parse`) in generated and reference descriptions. "
        "The epoch was chosen by the loss on these same patients, so the figures are a little kind. For captions of "
        "the patients trained on, use `wsikit finetune-captioner --folds`.",
        "",
    ]
    return "\n".join(lines)
