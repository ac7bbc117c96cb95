"""`wsikit bench`: speed of reading patches from a slide, and its bottleneck."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from wsikit.bench.measure import BenchResult


@click.command()
@click.argument("slide", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--mpp", type=float, metavar="µm/px", help="Pixel size of the patches; default: the slide's own.")
@click.option(
    "--patches", default=1000, show_default=True, metavar="N", help="Maximum number of patches of 224 px per pass."
)
@click.option("--repeat", default=5, show_default=True, metavar="N", help="Passes per reader, interleaved.")
@click.option("--threads", default=1, show_default=True, metavar="N", help="Decoding threads of wsikit.")
def command(slide: str, as_json: bool, mpp: float | None, patches: int, repeat: int, threads: int) -> int:
    """Read patches of SLIDE (or of a store) with wsikit and with every other installed reader, and compare the speed.

    Before anything is timed, some patches of each reader are compared with wsikit's; readers whose pixels differ, as
    with false colours, are marked. pyvips uses libvips' own TIFF loader unless libvips has OpenSlide (the wheel of
    PyPI has not). The limit is decoding each tile once. Each reader has its own process; medians are given. Files are
    cached: the first pass is a warm-up.
    """
    import json

    from wsikit.bench.measure import bench

    result = bench(slide, mpp=mpp, patches=patches, repeat=repeat, threads=threads)
    if as_json:
        click.echo(json.dumps(result.to_json(), ensure_ascii=False))
    else:
        _show(result)
    return 0


def _show(result: BenchResult) -> None:
    """Print the readers as a table, the fastest first."""
    from rich.console import Console
    from rich.table import Table

    scale = f"{result.mpp:g} µm/px" if result.mpp else "the slide's own scale"
    title = f"{result.slide}: {result.patches} patches of {result.patch_px} px at {scale}, from level {result.level}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("reader", no_wrap=True)
    for heading in ("patches/s", "MP/s", "× limit", "CPUs", "peak MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    order = sorted(result.readers.items(), key=lambda item: -(item[1].patches_per_s or 0))
    for name, speed in order:
        numbers = (speed.patches_per_s, speed.mp_per_s, speed.ratio_to_limit, speed.cpus, speed.peak_rss_mb)
        formats = ("{:.0f}", "{:.0f}", "{:.2f}", "{:.2f}", "{:.0f}")
        cells = ["–" if value is None else form.format(value) for value, form in zip(numbers, formats, strict=True)]
        table.add_row(name, *cells, speed.remark)
    console = Console(highlight=False)
    console.print(table)
    console.print(
        result.bottleneck.line if result.bottleneck else "Its reader gives no access to tiles: no limit known."
    )
