"""`wsikit predict`: class probabilities for the patches of stores."""

from __future__ import annotations

import click

from wsikit.cli.options import (
    concepts_option,
    grid_option,
    model_option,
    stain_option,
    stores_argument,
    without_option,
)


@click.command()
@stores_argument
@model_option
@stain_option
@concepts_option
@without_option
@grid_option
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--features", metavar="DIR", help="Models of patients: folder of the slides' patch features.")
@click.option("-o", "--out", type=click.Path(file_okay=False), help="Models of patients: new folder for predictions.")
def command(
    stores: tuple[str, ...],
    model: str | None,
    stain: str | None,
    settings: tuple[str, ...],
    without: tuple[str, ...],
    grid: str | None,
    device: str,
    features: str | None,
    out: str | None,
) -> int:
    """Classify every readable patch of STORE from what the model reads: its image and, if there is one, its caption.

    With a model of patients (docs/survival.md), give a table instead of stores:  wsikit predict TABLE.csv --model
    OUT/model -o PREDICTIONS.
    """
    from wsikit.cli.cohort_models import is_cohort_model, predict_patients
    from wsikit.errors import RequestError

    if model is not None and is_cohort_model(model):
        if without:
            raise RequestError("--without is for models of patches, not of patients.")
        return predict_patients(stores, model, out, features, device)
    if features is not None or out is not None:
        raise RequestError("--features and -o are for models of patients (a folder with cohort.json).")
    from wsikit.cli.console import make_console
    from wsikit.cli.progress import TerminalProgress
    from wsikit.cli.stores import for_each_store
    from wsikit.encoders.device import check_device
    from wsikit.inference.left_out import parse_without
    from wsikit.inference.predict import predict
    from wsikit.inference.vote import table_prior
    from wsikit.models.concept_setting import parse_settings
    from wsikit.models.lazy import LazyModel

    outside = parse_without(without)
    lazy = LazyModel.of(model, device=device).with_concepts(parse_settings(settings))
    check_device(device)
    click.echo(lazy.info.notice, err=True)
    with TerminalProgress(make_console()) as progress:

        def classify(store: str) -> str:
            table = predict(store, model=lazy, stain=stain, without=outside, grid=grid, progress=progress)
            shift = table_prior(table)
            corrected = "" if shift is None else f"; vote and maps correct the probabilities {shift.words()}"
            return f"{len(table)} patches of {table.name} classified by {lazy.info.name}{corrected}"

        return for_each_store(stores, classify)
