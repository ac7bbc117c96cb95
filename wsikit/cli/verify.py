"""`wsikit verify`: is a store complete, and is it equal to its source?"""

from __future__ import annotations

import click

from wsikit.cli.options import stores_argument


@click.command()
@stores_argument
@click.option(
    "--source",
    type=click.Path(),
    metavar="SLIDE",
    help="Source slide of the store: compare the bytes of each pass-through tile, and the pixels of a sample.",
)
def command(stores: tuple[str, ...], source: str | None) -> int:
    """Verify all of STORE: checksums, missing tiles, patch tables.

    Exit status: 0 all stores are complete, 1 at least one is not, 2 the request itself is wrong.
    """
    from wsikit.cli.console import make_console
    from wsikit.cli.progress import TerminalProgress
    from wsikit.cli.stores import for_each_store
    from wsikit.errors import RequestError
    from wsikit.tiling.verify import Verdict, verify

    if source is not None and len(stores) > 1:
        raise RequestError(f"--source belongs to one store, but {len(stores)} stores are given. Verify them one by one")
    verdicts: list[Verdict] = []
    with TerminalProgress(make_console()) as progress:

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
