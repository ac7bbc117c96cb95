"""`wsikit verify`: is a store whole, and is it what its source says?"""

from __future__ import annotations

import click

from wsikit.cli.options import stores_argument


@click.command()
@stores_argument
@click.option(
    "--source",
    type=click.Path(),
    metavar="SLIDE",
    help="The slide it was made from: compares the bytes of every passed tile, and the pixels of a sample.",
)
def command(stores: tuple[str, ...], source: str | None) -> int:
    """Read STORE again, all of it: checksums, missing tiles, patch tables. Exit status 1 if anything is wrong."""
    from rich.console import Console

    from wsikit.cli.progress import TerminalProgress
    from wsikit.cli.stores import for_each_store
    from wsikit.errors import RequestError
    from wsikit.tiling.verify import Verdict, verify

    if source is not None and len(stores) > 1:
        raise RequestError(f"--source is of one store; {len(stores)} were given")
    verdicts: list[Verdict] = []
    with TerminalProgress(Console()) as progress:

        def check(store: str) -> str:
            verdict = verify(store, source=source, progress=progress)
            verdicts.append(verdict)
            for problem in verdict.problems:
                click.echo(f"wsikit: {problem}", err=True)
            seen = f"{verdict.shards} shards, {verdict.chunks} tiles read again"
            if source is not None:
                seen += f", {verdict.compared_bytes} compared byte by byte, {verdict.compared_pixels} pixel by pixel"
            return f"{'whole' if verdict.ok else 'NOT whole'}: {seen}"

        failed = for_each_store(stores, check)
    return 1 if failed or any(not verdict.ok for verdict in verdicts) else 0
