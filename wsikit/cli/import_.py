"""`wsikit import`: patches, features and regions of other tools into a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from wsikit.cli.options import MPP, executor_of, executor_options, frame_option, grid_option, image_options

if TYPE_CHECKING:
    from wsikit.tiling.plan import ImageParameters
    from wsikit.tiling.roi import FrameChoice


@click.command(name="import")
@click.argument("path", type=click.Path(exists=True))
@click.option("-o", "--out", type=click.Path(), metavar="STORE", help="The store, existing or new.")
@click.option("--slide", type=click.Path(exists=True), help="The slide of PATH; needed for a new store.")
@click.option(
    "--from",
    "layout",
    type=click.Choice(
        [
            "auto",
            "trident",
            "clam",
            "stamp",
            "atlaspatch",
            "wsinfer",
            "parquet",
            "anndata",
            "spatialdata",
            "torchmil",
            "soma",
            "roi",
        ]
    ),
    default="auto",
    show_default=True,
    help="Tool that wrote PATH. roi: regions drawn on the slide (GeoJSON).",
)
@click.option("--side", type=float, metavar="px", help="Side of a patch in level-0 px, if PATH does not state it.")
@click.option(
    "--patch-size", type=int, metavar="px", help="Side of a patch as the encoder read it, if PATH does not state it."
)
@click.option("--encoder", metavar="NAME", help="Name of the features, if PATH names none (CLAM).")
@click.option("--features", metavar="NAME", help="Which features to import, if PATH holds several.")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="roi: region classes to use; default: all.")
@click.option("--check", is_flag=True, help="Only check PATH and write nothing. Needs --slide or -o.")
@click.option("--assume-mpp", type=MPP, metavar="µm/px", help="Pixel size of --slide if it states none.")
@grid_option
@frame_option
@image_options
@executor_options
def command(
    path: str,
    out: str | None,
    slide: str | None,
    layout: str,
    side: float | None,
    patch_size: int | None,
    encoder: str | None,
    features: str | None,
    classes: tuple[str, ...],
    check: bool,
    assume_mpp: float | None,
    grid: str | None,
    frame: FrameChoice,
    image: ImageParameters,
    scheduler: str,
    workers: int | None,
) -> int:
    """Import patches, features or regions of other tools into a slide store.

    PATH is the file of one slide: HDF5 of TRIDENT, CLAM, STAMP 2 or AtlasPatch, CSV of wsinfer, Parquet, AnnData
    (.h5ad), a SpatialData folder, features/<slide>.npy of torchmil, <slide>.npy of soma, or GeoJSON of QuPath.
    GeoJSON regions become the column roi (fraction of each patch inside), which weights votes. A file that does not fit
    the slide is refused with the reasons: µm instead of px, no patch size, duplicate rows, NaN, coordinates outside of
    the slide.
    """
    from wsikit.batch.manifest import SlideEntry
    from wsikit.cli.console import make_console
    from wsikit.cli.progress import TerminalProgress
    from wsikit.errors import RequestError
    from wsikit.results.import_ import REGIONS, check_import, import_patches, import_roi

    if layout == REGIONS or (layout == "auto" and path.lower().endswith((".geojson", ".json", ".geojson.gz"))):
        if out is None:
            raise RequestError("regions need an existing store: -o STORE")
        table, share = import_roi(path, out, classes=classes, grid=grid, frame=frame, on_note=_note)
        click.echo(
            f"{out}: column roi of {table.name}: {int((share > 0).sum())} of {len(share)} patches touch a region"
        )
        return 0
    if check:
        source = slide or out
        if source is None:
            raise RequestError("--check compares the file with its slide: name it with --slide")
        found, findings = check_import(
            path, SlideEntry("", source, assume_mpp=assume_mpp).open(), layout=layout, side_px=side, features=features
        )
        for finding in findings:
            click.echo(f"{'fault' if finding.fatal else 'note'}: {finding.text}")
        click.echo(f"{path}: {found.layout}, {len(found.coords)} patches, {len(findings)} remarks")
        return 1 if any(finding.fatal for finding in findings) else 0
    if out is None:
        raise RequestError("name the store to write: -o STORE")
    opened = None if slide is None else SlideEntry("", slide, assume_mpp=assume_mpp).open()
    with TerminalProgress(make_console()) as progress:
        done = import_patches(
            path,
            out,
            slide=opened,
            layout=layout,
            side_px=side,
            patch_px=patch_size,
            encoder=encoder,
            features=features,
            image=image,
            executor=executor_of(scheduler, workers),
            progress=progress,
        )
    for finding in done.findings:
        click.echo(f"note: {finding.text}")
    click.echo(f"{out}: {len(done.table)} patches of {done.table.name} from {done.layout}: {', '.join(done.columns)}")
    return 0


def _note(text: str) -> None:
    click.echo(f"note: {text}", err=True)
