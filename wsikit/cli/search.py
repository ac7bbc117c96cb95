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
    from wsikit.inference.search import search, write_matches

    found = search(list(stores), query, top=top, grid=grid)
    show(make_console(), found)
    if csv_path:
        write_matches(csv_path, found.matches)
        click.echo(f"Written to {csv_path}")
    return 0


def show(console: Console, found: SearchResult) -> None:
    """Print the results as a table; if there are none, the number of patches for each term alone."""
    from rich.table import Table
    from rich.text import Text

    terms = ", ".join(f"{term.replace('_', ' ')} {grade}" for term, grade in found.terms.items())
    console.print(f"Looking for: {terms}", highlight=False, markup=False)
    if not found.matches:
        alone = ", ".join(f"{term.replace('_', ' ')} {number}" for term, number in found.n_by_term.items())
        line = f"No match in {found.n_patches} patches. Matches for each term alone: {alone}"
        console.print(line, highlight=False, markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("score", "slide", "x", "y", "why"):
        table.add_column(name, justify="right" if name in ("score", "x", "y") else "left")
    for one in found.matches:
        table.add_row(f"{one.score:.2f}", Text(one.slide_id), str(one.x), str(one.y), Text(one.why))
    console.print(table)
    more = f", the best {len(found.matches)} shown" if found.n_matches > len(found.matches) else ""
    console.print(f"{found.n_matches} of {found.n_patches} patches match{more}.", highlight=False)
