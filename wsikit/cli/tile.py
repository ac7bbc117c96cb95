"""`wsikit tile`: convert slides to stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from wsikit.cli.options import (
    MPP,
    assume_mpp_option,
    executor_of,
    executor_options,
    image_options,
    roi_options,
    scene_option,
    slides_argument,
)

if TYPE_CHECKING:
    from wsikit.tiling.plan import ImageParameters
    from wsikit.tiling.roi import FrameChoice


@click.command()
@slides_argument
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(),
    help="A store (….zarr) for one slide, or a folder; a path or a URL (s3://…).",
)
@click.option("--mpp", type=MPP, default=0.5, show_default=True, metavar="µm/px", help="Pixel size of the patches.")
@click.option(
    "--patch-size", "--patch-px", default=224, show_default=True, metavar="px", help="Side of a patch at --mpp."
)
@click.option(
    "--overlap", default=0, show_default=True, metavar="px", help="Overlap of neighbouring patches, at --mpp."
)
@click.option(
    "--min-tissue",
    default=0.25,
    show_default=True,
    metavar="FRACTION",
    help="Minimum fraction of tissue in a patch, 0–1.",
)
@roi_options
@image_options
@assume_mpp_option
@scene_option
@executor_options
def command(
    slides: tuple[str, ...],
    out: str,
    mpp: float,
    patch_size: int,
    overlap: int,
    min_tissue: float,
    roi: str | None,
    roi_classes: tuple[str, ...],
    min_roi: float,
    frame: FrameChoice,
    image: ImageParameters,
    assume_mpp: float | None,
    scene: str | None,
    scheduler: str,
    workers: int | None,
) -> int:
    """Convert slides to slide stores: pixels (OME-Zarr 0.5), tissue label, patch table.

    After an interruption, run the same command again: it does only what is missing.

    Exit status: 0 all slides are done, 1 some failed, 2 the request itself is wrong.
    """
    import contextlib
    from dataclasses import replace

    from wsikit.batch.manifest import find_slides
    from wsikit.batch.rois import with_rois
    from wsikit.cli.console import make_console, one_line
    from wsikit.cli.progress import TerminalProgress
    from wsikit.errors import RequestError, WsikitError
    from wsikit.store.paths import place
    from wsikit.tiling.patches import PatchParameters
    from wsikit.tiling.roi import read_roi
    from wsikit.tiling.tile import tile_slide

    patches = PatchParameters(mpp, patch_size, overlap, min_tissue)
    target = place(out)
    collected = find_slides(slides, assume_mpp=assume_mpp, scene=scene)
    for note in collected.notes:
        click.echo(f"note: {one_line(note)}", err=True)
    entries = list(collected.entries)
    entries = with_rois(entries, roi) if roi else entries
    single = target.suffix == ".zarr"
    if single and len(entries) > 1:
        raise RequestError(f"{out} is one store, but {len(entries)} slides are given. Give a folder with -o")
    executor = executor_of(scheduler, workers)
    failed = 0
    with TerminalProgress(make_console()) as progress:
        for entry in entries:
            folder = target if single else target / f"{entry.slide_id}.zarr"
            try:
                with contextlib.ExitStack() as opened:
                    slide = opened.enter_context(entry.open())
                    inside = None
                    if entry.roi:
                        inside = read_roi(entry.roi, classes=roi_classes, min_share=min_roi, slide=slide, frame=frame)
                        for note in inside.notes:
                            click.echo(f"note: {one_line(note)}", err=True)
                    wanted = replace(patches, roi=inside)
                    store = opened.enter_context(
                        tile_slide(slide, folder, patches=wanted, image=image, executor=executor, progress=progress)
                    )
                    progress.finish()
                    table = store.patches(wanted.grid(store).name)
                    area = store.tissue_record()["area_mm2"]
                    click.echo(f"{folder}: {len(table)} patches of {table.name}, {area:.4g} mm² of tissue")
            except Exception as error:  # any error of one slide is reported; the others are tiled
                progress.finish()
                failed += 1
                unexpected = "" if isinstance(error, WsikitError) else f"{entry.path}: {type(error).__name__}: "
                click.echo(f"wsikit: {unexpected}{error}", err=True)
    return 1 if failed else 0
