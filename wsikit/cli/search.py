"""`wsikit search`: patches by words."""

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
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="So many of the best.")
@click.option("--csv", "csv_path", type=click.Path(dir_okay=False), metavar="PATH", help="Write them to a table too.")
@grid_option
def command(stores: tuple[str, ...], query: str, top: int, csv_path: str | None, grid: str | None) -> int:
    """Find patches of STORE… whose captions and facts fit QUERY, such as "neuropil without rosettes".

    Every term must be stated or measured, and nothing may speak against it; amounts count ("abundant neuropil",
    "densely cellular"). A patch of which nothing is known matches nothing, "without" included. Places are level-0 px.
    """
    from rich.console import Console

    from wsikit.inference.search import search, write_hits

    found = search(list(stores), query, top=top, grid=grid)
    show(Console(), found)
    if csv_path:
        write_hits(csv_path, found.hits)
        click.echo(f"Written to {csv_path}")
    return 0


def show(console: Console, found: SearchResult) -> None:
    """The hits as a table, or which term nothing fits."""
    from rich.table import Table
    from rich.text import Text

    asked = ", ".join(f"{term.replace('_', ' ')} {grade}" for term, grade in found.wanted.items())
    console.print(f"Looking for: {asked}", highlight=False, markup=False)
    if not found.hits:
        alone = ", ".join(f"{term.replace('_', ' ')} {number}" for term, number in found.alone.items())
        console.print(f"None of {found.patches} patches. Patches by term alone: {alone}", highlight=False, markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("score", "slide", "x", "y", "why"):
        table.add_column(name, justify="right" if name in ("score", "x", "y") else "left")
    for hit in found.hits:
        table.add_row(f"{hit.score:.2f}", Text(hit.slide_id), str(hit.x), str(hit.y), Text(hit.why))
    console.print(table)
    more = f", the best {len(found.hits)} shown" if found.matching > len(found.hits) else ""
    console.print(f"{found.matching} of {found.patches} patches fit{more}.", highlight=False)
