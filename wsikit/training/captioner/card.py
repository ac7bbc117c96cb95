"""Model card of an adapter or captioner, generated from its record and metrics; no number is typed by hand."""

from __future__ import annotations

from typing import Any

from wsikit.training.captioner.scores import CaptionScore, TermScore


def adapter_card(record: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Markdown for a fine-tuned captioner.

    Parameters
    ----------
    record
        Content of wsikit.json.
    metrics
        Content of metrics.json.
    """
    data, settings, patients = record["data"], record["settings"], record["patients"]
    lines = [
        f"# Captioner adapter for {record['base']['name']}",
        "",
        "> Research use only. Not for diagnosis. Captions are generated text: they may name absent findings.",
        "",
        f"LoRA, rank {settings['rank']}, alpha {settings['alpha']:g}, dropout {settings['dropout']:g}, on "
        f"{len(record['modules'])} linear layers (listed in wsikit.json). Base fingerprint "
        f"`{record['base']['fingerprint'][:16]}`; other bases are refused.",
        "",
        f"Prompt: “{record['chat']['prompt']}” Images at {record['chat']['image_px']} px"
        + (f", {record['mpp']:.3g} µm/px." if record["mpp"] else "; their µm/px was not stated."),
        "",
        "## Data",
        "",
        f"{data['training_rows']} training images of {len(patients['trained'])} patients, {data['validation_rows']} "
        f"of {len(patients['validated'])} other patients for validation (identified by: {patients['known_by']}). "
        f"Words that name the diagnosis were removed from {data['descriptions_scrubbed']} descriptions. "
        f"{data['undescribed_rows']} rows without a description were left out.",
        "",
        "## Measured on the validation patients",
        "",
        "| epoch | loss | fact-F1, presence | fact-F1, graded | training loss |",
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
        "The epoch was chosen by the loss on these same patients, so they are slightly optimistic. For captions of "
        "the training patients, use `wsikit finetune-captioner --folds`.",
        "",
    ]
    return "\n".join(lines)


def captioner_card(metrics: dict[str, Any]) -> str:
    """Markdown for the packaged captioner, from the metrics of `pipelines/train_tiny_captioner.py` alone."""
    settings, data = metrics["settings"], metrics["settings"]["data"]
    lines = [
        f"# {settings['name']}",
        "",
        "> **DEMONSTRATION ONLY: trained on synthetic tissue, never on a patient's. Not for diagnosis.**",
        "",
        "A generative captioner: a Qwen2.5-VL built from its configuration and trained from scratch, "
        f"{metrics['parameters']:,} parameters, float16 on disk. It reads patches of {data['patch_px']} px at "
        f"{data['mpp']:g} µm/px and describes what `morphometry` measures, in words without numbers. "
        "It shows captioning by a vision-language model on any laptop, offline, with the same code as for a model ten "
        "thousand times its size. For the facts, use `morphometry`: it measures them, and faster.",
        "",
        "```python",
        f'load_vlm("{settings["name"]}").caption(patches, mpp={data["mpp"]:g})',
        "```",
        "",
        *_data(metrics),
        "",
        "## Evaluation: stated facts compared with measurement",
        "",
        f"**{metrics['patches']['test']} patches of unseen synthetic slides**",
        "",
        *_table(metrics["phantom"]),
        "",
        *_terms(metrics["phantom_terms"]),
    ]
    if "real" in metrics:
        lines += ["", *_real(metrics)]
    lines += [
        "",
        f"Speed: {metrics['patches_per_second']:g} patches/s on one thread of a CPU, in batches of 32. Of the test "
        f"patches, {metrics['decided_alone']} were captioned again one by one, as two words had nearly equal scores.",
        "",
        f"Made by `{metrics['command']}`; all numbers on this page come from `metrics.json` in the same folder.",
        "",
        "## Examples",
        "",
        *[f"- measured: {e['measured']}\n  generated: {e['generated']}" for e in metrics["examples"][:4]],
        "",
        "## Limitations",
        "",
        "- It repeats what can be measured, with errors; it adds no information to the measurement.",
        "- One scale, one stain, drawn tissue.",
        "- It does not follow instructions: another prompt changes the words, not the task.",
        "",
    ]
    return "\n".join(lines)


def _data(metrics: dict[str, Any]) -> list[str]:
    settings, data = metrics["settings"], metrics["settings"]["data"]
    seconds = metrics["seconds"]
    return [
        "## Data",
        "",
        f"Synthetic patches of `wsikit.phantom`: {metrics['patches']['training']} for training (slides by seed "
        f"{data['train_seeds'][0]} to {data['train_seeds'][1] - 1}), epoch {metrics['best_epoch']} chosen by the loss "
        f"on seeds {data['validation_seeds'][0]} to {data['validation_seeds'][1] - 1}, tested on "
        f"{metrics['patches']['test']} of seeds {data['test_seeds'][0]} to {data['test_seeds'][1] - 1}. Targets are "
        "measured on the pixels; there are no human descriptions.",
        "",
        f"The vision part was pretrained to predict the facts: {metrics['unexplained']:.0%} of their variance was "
        f"unexplained on rotated training patches. {seconds['eyes'] + seconds['captions']} s of training "
        f"on a CPU (threads: {settings['threads']}), plus {seconds['patches']} s to make the patches.",
    ]


def _table(scores: list[dict[str, Any]]) -> list[str]:
    rows = [CaptionScore(**score) for score in scores]
    return [
        "| | fact-F1, presence | fact-F1, graded |",
        "|---|---|---|",
        *[f"| {row.name} | {row.fact_f1:.3f} | {row.fact_f1_graded:.3f} |" for row in rows],
    ]


def _terms(scores: list[dict[str, Any]]) -> list[str]:
    rows = [TermScore(**score) for score in scores]
    return [
        "Per term: accuracy of the grade, and accuracy of always stating the most common grade.",
        "",
        "| term | patches | accuracy | most common grade |",
        "|---|---|---|---|",
        *[f"| {row.term} | {row.n} | {row.accuracy:.2f} | {row.floor:.2f} |" for row in rows if row.n >= 20],
    ]


def _real(metrics: dict[str, Any]) -> list[str]:
    generated, *baselines = (CaptionScore(**score) for score in metrics["real"])
    beaten = all(generated.fact_f1_graded > baseline.fact_f1_graded for baseline in baselines)
    verdict = (
        "On out-of-distribution tissue it still exceeds both baselines; that does not make it suitable for use."
        if beaten
        else "**On real tissue it is no better than a captioner without the image. Do not use it there.**"
    )
    distinct = metrics["real_distinct"]
    return [
        f"**{generated.n} real patches: breast cancer (her2st), {metrics['real_mpp']:g} µm/px: another organ, scanner "
        "and scale**",
        "",
        *_table(metrics["real"]),
        "",
        f"{verdict} It gave {distinct['generated']} different captions, measurement {distinct['measured']}.",
        "",
        "Colour words, which measurement uses at this scale and training did not contain, are left out. It still "
        "mentions neuropil, rosettes and pale nuclei, which cannot be measured at this scale: each counts as an error.",
        "",
        *_terms(metrics["real_terms"]),
    ]
