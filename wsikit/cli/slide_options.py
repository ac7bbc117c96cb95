"""Options of `wsikit features` for features of whole slides, and what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from wsikit.errors import RequestError

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


class Pooling:
    """Makes the slide features of each store, and at the end their table. Does nothing without `--slide`."""

    def __init__(
        self, slide: str | None, weights: str | None, table: str | None, device: str, *, several: bool = False
    ) -> None:
        if slide is None and (weights or table):
            raise RequestError("--slide-weights and --slide-table go with --slide POOLING")
        if table is not None and several:
            raise RequestError("--slide-table holds the features of one encoder; give one --encoder")
        if table is not None and not table.lower().endswith((".parquet", ".csv")):
            raise RequestError(f"{table}: expected a name that ends in .parquet or .csv")
        self._slide, self._weights, self._table = slide, weights, table
        self._device = "cpu" if device == "auto" else device
        self._stores: list[str] = []
        self._made: tuple[str, str] = ("", "")

    def add(self, store: str, features: str, grid: str) -> None:
        """Make the slide features of a store, and print a line."""
        if self._slide is None:
            return
        from wsikit.inference.slide_features import slide_features

        found = slide_features(
            store, features=features, pooling=self._slide, weights=self._weights, grid=grid, device=self._device
        )
        self._stores.append(store)
        self._made = (found.name, grid)
        numbers, patches = len(found.values), found.attributes["patches"]
        click.echo(f"{store}: slide_features/{found.name}: {numbers} numbers of {patches} patches")

    def write_table(self) -> None:
        """Write the table of all stores, if one was asked for."""
        if self._table is None or not self._stores:
            return
        from wsikit.results.slide_table import write_slide_table

        name, grid = self._made
        click.echo(f"{self._table}: {write_slide_table(self._stores, self._table, name=name, grid=grid)} slides")
