"""The page beside an adapter or a captioner, written from record and figures. No figure in it is typed by hand."""

from __future__ import annotations

from typing import Any

from wsikit.training.captioner.scores import CaptionScore, TermScore


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


def captioner_card(metrics: dict[str, Any]) -> str:
    """Markdown for the packaged captioner, from the metrics of `pipelines/train_tiny_captioner.py` alone."""
    settings, data = metrics["settings"], metrics["settings"]["data"]
    lines = [
        f"# {settings['name']}",
        "",
        "> **DEMONSTRATION ONLY: trained on synthetic tissue, never on a patient's. Not for diagnosis.**",
        "",
        "A generative captioner: a Qwen2.5-VL built from its configuration and trained from nothing, "
        f"{metrics['parameters']:,} parameters, float16 on disk. It reads patches of {data['patch_px']} px at "
        f"{data['mpp']:g} µm/px and writes what `morphometry` would measure, in words without numbers. "
        "It is here so that captions by a vision-language model run on any laptop, offline, by the same code as a "
        "model ten thousand times its size. If you want the facts, ask `morphometry`: it measures them, faster.",
        "",
        "```python",
        f'load_vlm("{settings["name"]}").caption(patches, mpp={data["mpp"]:g})',
        "```",
        "",
        *_data(metrics),
        "",
        "## Measured: facts stated, against measurement",
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
        f"patches, {metrics['decided_alone']} were captioned again, alone, two words being too close for a batch.",
        "",
        f"Made by `{metrics['command']}`; all figures of this page are those of `metrics.json` beside it.",
        "",
        "## Examples",
        "",
        *[f"- measured: {e['measured']}\n  generated: {e['generated']}" for e in metrics["examples"][:4]],
        "",
        "## What does not hold",
        "",
        "- It repeats what can be measured, with errors; it knows nothing that measurement does not.",
        "- One scale, one stain, drawn tissue.",
        "- It cannot read: another prompt gives other words, not another answer.",
        "",
    ]
    return "\n".join(lines)


def _data(metrics: dict[str, Any]) -> list[str]:
    settings, data = metrics["settings"], metrics["settings"]["data"]
    seconds = metrics["seconds"]
    return [
        "## Data",
        "",
        f"Synthetic patches of `wsikit.phantom`: {metrics['patches']['training']} to train on (slides by seed "
        f"{data['train_seeds'][0]} to {data['train_seeds'][1] - 1}), epoch {metrics['best_epoch']} chosen by the loss "
        f"on seeds {data['validation_seeds'][0]} to {data['validation_seeds'][1] - 1}, tested on "
        f"{metrics['patches']['test']} of seeds {data['test_seeds'][0]} to {data['test_seeds'][1] - 1}. Targets are "
        "measured on the pixels; nobody described anything.",
        "",
        f"Before words, the vision part learned to measure: {metrics['unexplained']:.0%} of the facts' variance was "
        f"left unexplained on turned training patches. {seconds['eyes'] + seconds['captions']} s of training "
        f"on a CPU (threads: {settings['threads']}), besides {seconds['patches']} s to make the patches.",
    ]


def _table(scores: list[dict[str, Any]]) -> list[str]:
    rows = [CaptionScore(**score) for score in scores]
    return [
        "| | fact-F1, there or not | fact-F1, graded |",
        "|---|---|---|",
        *[f"| {row.name} | {row.fact_f1:.3f} | {row.fact_f1_graded:.3f} |" for row in rows],
    ]


def _terms(scores: list[dict[str, Any]]) -> list[str]:
    rows = [TermScore(**score) for score in scores]
    return [
        "Word by word: how often the grade is the measured one, beside how often the commonest grade is.",
        "",
        "| term | patches | right | commonest |",
        "|---|---|---|---|",
        *[f"| {row.term} | {row.n} | {row.accuracy:.2f} | {row.floor:.2f} |" for row in rows if row.n >= 20],
    ]


def _real(metrics: dict[str, Any]) -> list[str]:
    generated, *floors = (CaptionScore(**score) for score in metrics["real"])
    beaten = all(generated.fact_f1_graded > floor.fact_f1_graded for floor in floors)
    verdict = (
        "On tissue it has never seen the like of, it still beats both floors; that does not make it fit for use."
        if beaten
        else "**On real tissue it does not beat a captioner that never looks at the image. Do not use it there.**"
    )
    distinct = metrics["real_distinct"]
    return [
        f"**{generated.n} real patches: breast cancer (her2st), {metrics['real_mpp']:g} µm/px: another organ, scanner "
        "and scale**",
        "",
        *_table(metrics["real"]),
        "",
        f"{verdict} It said {distinct['generated']} different captions, measurement {distinct['measured']}.",
        "",
        "Words for the tone, which measurement uses at this scale and it was never taught, are left out. It goes on to "
        "speak of neuropil, rosettes and pale nuclei, which cannot be measured at this scale: each counts against it.",
        "",
        *_terms(metrics["real_terms"]),
    ]
