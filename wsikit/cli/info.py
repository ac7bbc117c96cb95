"""`wsikit info`: what a slide is. Nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from wsikit.cli.options import scene_option

if TYPE_CHECKING:
    from wsikit.slides.base import SlideInfo


@click.command()
@click.argument("slides", nargs=-1, required=True, metavar="SLIDE…", type=click.Path())
@click.option(
    "--reader",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Reader to open the slide with: tiff, multichannel, ndpi, dicom, openslide, tiffslide, image, store, or a "
    "plug-in. auto: chosen by the content of the file.",
)
@scene_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per slide and line on standard output.")
def command(slides: tuple[str, ...], reader: str, scene: str | None, as_json: bool) -> int:
    """Show what SLIDE is: size in px and mm, pixel size in µm/px and its source, magnification, levels, vendor, reader;
    and per level whether a store keeps the tiles as they are, or why it encodes them again. If it has several main
    images (scenes), they are listed.

    Exit status: 0 all slides could be opened, 1 some could not, 2 the request itself is wrong.
    """
    import json

    from wsikit.errors import RequestError, WsikitError
    from wsikit.slides.html import stored_as
    from wsikit.slides.registry import open_slide
    from wsikit.slides.storage import storage_of

    failed = 0
    for path in slides:
        try:
            with open_slide(path, reader, scene=scene) as slide:
                info, rows, storage = slide.info, stored_as(slide), storage_of(slide)
        except RequestError:
            raise
        except (WsikitError, OSError) as error:
            failed += 1
            click.echo(f"wsikit: {error}", err=True)
            if as_json:
                click.echo(json.dumps({"path": path, "error": str(error)}))
            continue
        if as_json:
            click.echo(json.dumps({**info.to_json(), "storage": [vars(level) for level in storage]}))
        else:
            _show(info, rows)
    return 1 if failed else 0


def _show(info: SlideInfo, rows: dict[str, str]) -> None:
    """Print the facts as a table, then `rows`."""
    from rich.table import Table

    from wsikit.cli.console import make_console
    from wsikit.slides.html import facts
    from wsikit.slides.scale import how_to_give

    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in {**facts(info), **rows}.items():
        table.add_row(name, value)
    console = make_console()
    console.print(table)
    if info.mpp is None:
        console.print(how_to_give(info.path), markup=False, style="yellow")
    console.print()
