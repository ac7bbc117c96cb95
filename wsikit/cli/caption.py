"""`wsikit caption`: words for the patches of stores."""

from __future__ import annotations

import click

from wsikit.cli.options import executor_of, executor_options, grid_option, stores_argument


@click.command()
@stores_argument
@click.option("--captioner", default="morphometry", show_default=True, metavar="NAME", help="Who describes.")
@grid_option
@executor_options
def command(stores: tuple[str, ...], captioner: str, grid: str | None, scheduler: str, workers: int | None) -> int:
    """Describe every readable patch of STORE in words: columns caption and caption_facts."""
    from rich.console import Console

    from wsikit.cli.progress import TerminalProgress
    from wsikit.cli.stores import for_each_store
    from wsikit.inference.stages import caption

    executor = executor_of(scheduler, workers)
    with TerminalProgress(Console()) as progress:

        def describe(store: str) -> str:
            table = caption(store, captioner=captioner, grid=grid, executor=executor, progress=progress)
            return f"{len(table)} patches of {table.name} described by {captioner}"

        return for_each_store(stores, describe)
