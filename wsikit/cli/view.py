"""`wsikit view`: a slide's report at full resolution in the browser, served on this computer only."""

from __future__ import annotations

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

    The server listens on 127.0.0.1 only, never writes, and serves only these stores. Stop it with Ctrl-C.
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
    what = names[0] if not library.is_run else f"{len(names)} slides"
    click.echo(f"{what}: {viewer.url}  (this computer only; stop with Ctrl-C)")
    if open_browser:
        click.launch(viewer.url)
    try:
        viewer.serve()
    except KeyboardInterrupt:
        click.echo("stopped")
    return 0
