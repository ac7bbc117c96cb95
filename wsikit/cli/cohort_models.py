"""`wsikit predict` and `wsikit evaluate` with a model of patients (OUT/model of a training of a cohort)."""

from __future__ import annotations

from pathlib import Path

import click

ABOUT_FILE = "cohort.json"
"""Same as `wsikit.training.cohort.deployed.ABOUT_FILE`, which imports NumPy."""


def is_cohort_model(model: str | None) -> bool:
    """Whether `--model` names the folder of a model of patients."""
    return model is not None and (Path(model) / ABOUT_FILE).is_file()


def predict_patients(tables: tuple[str, ...], model: str, out: str | None, features: str | None, device: str) -> int:
    """Predict the patients of one table."""
    from wsikit.errors import RequestError

    if len(tables) != 1:
        raise RequestError(f"model {model}: reads a table of patients. Give one CSV, not {len(tables)} arguments.")
    if out is None:
        raise RequestError("no output folder: give one with -o.")
    from wsikit.encoders.device import check_device

    check_device(device)
    from wsikit.training.cohort.deployed import load_cohort_model
    from wsikit.training.cohort.new_patients import predict_new

    loaded = load_cohort_model(model, device=_named(device))
    click.echo(loaded.about["notice"], err=True)
    n, seen = predict_new(loaded, tables[0], Path(out), features=features)
    if seen:
        click.echo(f"{seen} of {n} patients were in the training: their predictions are too good.", err=True)
    click.echo(f"{out}: patients.csv with {n} patients, curves.csv, patients/")
    return 0


def evaluate_patients(
    model: str, config: str | None, data: str | None, out: str, allow_seen: bool, device: str, as_json: bool
) -> int:
    """Evaluate on the table of a configuration."""
    import json

    from wsikit.training.cohort.config import CohortTrainConfig
    from wsikit.training.run_record import CONFIG_COPY
    from wsikit.training.task import read_config

    settings = read_config(config or Path(model).parent / CONFIG_COPY, CohortTrainConfig, data=data)
    from wsikit.training.cohort.deployed import load_cohort_model
    from wsikit.training.cohort.lines import summary_lines
    from wsikit.training.cohort.new_patients import evaluate_new

    loaded = load_cohort_model(model, device=_named(device))
    metrics = evaluate_new(
        loaded, settings, Path(out), allow_seen=allow_seen, message=lambda text: click.echo(text, err=True)
    )
    if as_json:
        click.echo(json.dumps(metrics, ensure_ascii=False))
        return 0
    for line in summary_lines(metrics):
        click.echo(line)
    return 0


def _named(device: str) -> str:
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
