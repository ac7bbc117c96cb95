"""`wsikit export`: one output of a store."""

from __future__ import annotations

import click

from wsikit.cli.options import grid_option


@click.command()
@click.argument("store", type=click.Path())
@click.option(
    "--to", required=True, type=click.Choice(["png", "geojson", "report", "csv", "tiff"]), help="What to write."
)
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), help="The file to write.")
@grid_option
@click.option(
    "--method",
    default="mean",
    show_default=True,
    type=click.Choice(["mean", "hard", "confidence"]),
    help="Which vote to show.",
)
def command(store: str, to: str, out: str, grid: str | None, method: str) -> None:
    """Write a map (PNG), regions for QuPath (GeoJSON, level-0 px), a report (HTML), the patch table (CSV) or
    the pixels (tiled pyramidal TIFF, from the store's own bytes)."""
    from wsikit.batch.export import export

    click.echo(f"{export(store, to, out, grid=grid, method=method)}")
