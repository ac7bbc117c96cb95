"""`wsikit search`: find patches by their captions and facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from wsikit.cli.options import grid_option

if TYPE_CHECKING:
    from rich.console import Console

    from wsikit.inference.search import SearchResult


@click.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path(), metavar="STORE…")
@click.argument("query")
@click.option(
    "--top", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="Maximum number of results."
)
@click.option(
    "--csv", "csv_path", type=click.Path(dir_okay=False), metavar="PATH", help="Also write the results to a table."
)
@grid_option
def command(stores: tuple[str, ...], query: str, top: int, csv_path: str | None, grid: str | None) -> int:
    """Find patches of STORE… whose captions and facts match QUERY, such as "neuropil without rosettes".

    A patch matches if each term of QUERY is in its caption or in its measured facts, and nothing contradicts it.
    Amounts are compared too ("abundant neuropil", "densely cellular"). A patch without caption and facts never
    matches, not even a term with "without". Positions are level-0 px.
    """
    from wsikit.cli.console import make_console
    from wsikit.inference.search import search, write_hits

    found = search(list(stores), query, top=top, grid=grid)
    show(make_console(), found)
    if csv_path:
        write_hits(csv_path, found.hits)
        click.echo(f"Written to {csv_path}")
    return 0


def show(console: Console, found: SearchResult) -> None:
    """Print the results as a table; if there are none, the number of patches for each term alone."""
    from rich.table import Table
    from rich.text import Text

    asked = ", ".join(f"{term.replace('_', ' ')} {grade}" for term, grade in found.wanted.items())
    console.print(f"Looking for: {asked}", highlight=False, markup=False)
    if not found.hits:
        alone = ", ".join(f"{term.replace('_', ' ')} {number}" for term, number in found.alone.items())
        console.print(
            f"No match in {found.patches} patches. Matches for each term alone: {alone}", highlight=False, markup=False
        )
        return
    table = Table(box=None, pad_edge=False)
    for name in ("score", "slide", "x", "y", "why"):
        table.add_column(name, justify="right" if name in ("score", "x", "y") else "left")
    for hit in found.hits:
        table.add_row(f"{hit.score:.2f}", Text(hit.slide_id), str(hit.x), str(hit.y), Text(hit.why))
    console.print(table)
    more = f", the best {len(found.hits)} shown" if found.matching > len(found.hits) else ""
    console.print(f"{found.matching} of {found.patches} patches match{more}.", highlight=False)
