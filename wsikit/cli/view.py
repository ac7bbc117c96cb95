"""`wsikit view`: a slide's report at full resolution in the browser, served on this computer only."""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import click

from wsikit.cli.options import grid_option


@click.command()
@click.argument("path", type=click.Path(), metavar="STORE|OUT")
@click.option(
    "--port", default=0, show_default="any free port", type=click.IntRange(0, 65535), help="Port to listen on."
)
@click.option("--open/--no-open", "open_browser", default=False, help="Open the browser.")
@grid_option
@click.option("--method", metavar="NAME", help="Which vote to show; default: that of the model, or the only one.")
def command(path: str, port: int, open_browser: bool, grid: str | None, method: str | None) -> int:
    """Show STORE, or all slides of a run's output folder OUT, in the browser at full resolution.

    The server listens on 127.0.0.1 only and serves only these stores. The printed address has a token that each
    request needs, so that other accounts of this computer cannot read the slides. Regions that you draw are saved next
    to the store, as <store>.geojson, for --roi and for training; nothing else is written. Stop it with Ctrl-C.
    """
    from wsikit.errors import RequestError
    from wsikit.view.library import Choice, Library
    from wsikit.view.server import Viewer

    library = Library(path, Choice(method, grid))
    try:
        viewer = Viewer(library, port)
    except OSError as error:
        raise RequestError(
            f"port {port}: {error.strerror or error}. Give another port, or none for any free port."
        ) from error
    names = library.names()
    if not library.is_run:
        library.shown(names[0])  # errors of a single store appear now, not in the browser
    what = names[0] if not library.is_run else f"{len(names)} slide{'' if len(names) == 1 else 's'}"
    click.echo(f"{what}: {viewer.url}  (this computer only; stop with Ctrl-C)")
    try:
        with opened_privately(viewer.url) if open_browser else nullcontext():
            viewer.serve()
    except KeyboardInterrupt:
        click.echo("stopped")
    return 0


@contextmanager
def opened_privately(url: str) -> Iterator[Path]:
    """Open the browser at a private file that leads to `url`: other accounts can read the arguments of a process."""
    with tempfile.TemporaryDirectory(prefix="wsikit-view-") as folder:  # for its owner only
        page = Path(folder) / "open.html"
        page.write_text(f'<!DOCTYPE html><meta http-equiv="refresh" content="0;url={html.escape(url)}">', "utf-8")
        click.launch(os.fspath(page))
        yield page
