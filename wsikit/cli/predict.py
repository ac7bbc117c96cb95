"""`wsikit predict`: class probabilities for the patches of stores."""

from __future__ import annotations

import click

from wsikit.cli.options import grid_option, model_option, stores_argument


@click.command()
@stores_argument
@model_option
@grid_option
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
def command(stores: tuple[str, ...], model: str | None, grid: str | None, device: str) -> int:
    """Classify every readable patch of STORE from its image and, if there is one, its caption."""
    from rich.console import Console

    from wsikit.cli.progress import TerminalProgress
    from wsikit.cli.stores import for_each_store
    from wsikit.inference.predict import Predictor
    from wsikit.inference.stages import predict
    from wsikit.models.config import DEFAULT_MODEL
    from wsikit.models.io import load_model

    predictor = Predictor(load_model(model or DEFAULT_MODEL), device=device)  # type: ignore[arg-type]
    click.echo(predictor.model.config.notice, err=True)
    with TerminalProgress(Console()) as progress:

        def classify(store: str) -> str:
            table = predict(store, model=predictor, grid=grid, progress=progress)
            return f"{len(table)} patches of {table.name} classified by {predictor.model.config.name}"

        return for_each_store(stores, classify)
