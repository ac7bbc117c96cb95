"""Options of `wsikit features` for features of whole slides, and what they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def slide_options(command: _Command) -> _Command:
    """`--slide`, `--slide-weights` and `--slide-table`, passed on as `slide`, `slide_weights`, `slide_table`."""
    options = (
        click.option(
            "--slide",
            metavar="POOLING",
            help="Also one vector per slide: mean, or abmil:PATH, chief:PATH, titan:PATH, prism:PATH (weights).",
        ),
        click.option(
            "--slide-weights", type=click.Choice(["tissue"]), help="mean: patches count by their tissue fraction."
        ),
        click.option(
            "--slide-table", type=click.Path(dir_okay=False), help="Also one .parquet or .csv, one row per slide."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def pool_store(
    store: str, *, features: str | None, slide: str, slide_weights: str | None, grid: str | None, device: str
) -> tuple[str, str]:
    """Make the slide features of a store; their name, and what to print."""
    from wsikit.inference.slide_features import slide_features

    on = "cpu" if device == "auto" else device
    found = slide_features(store, features=features, pooling=slide, weights=slide_weights, grid=grid, device=on)
    return (
        found.name,
        f"slide features {found.name}: {len(found.values)} numbers of {found.attributes['patches']} patches",
    )


def write_table(stores: Sequence[str], path: str, *, name: str | None, grid: str | None) -> str:
    """Write the slide features of stores as one table; what to print."""
    from wsikit.results.slide_table import write_slide_table

    return f"{path}: {write_slide_table(stores, path, name=name, grid=grid)} slides"
