"""`wsikit features`: features of the patches of stores and slides, by any encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from wsikit.cli.options import MPP, assume_mpp_option, engine_options, grid_option, scene_option
from wsikit.cli.slide_options import Pooling, slide_options

if TYPE_CHECKING:
    from pathlib import Path

    from wsikit.batch.entry import SlideEntry
    from wsikit.encoders.lazy import LazyEncoder
    from wsikit.inference.feature_grid import GridRequest
    from wsikit.inference.features import Computed, FeatureSettings
    from wsikit.progress import Progress
    from wsikit.slides.store import SlideStore


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(), metavar="STORE|SLIDE|DIR…")
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    required=True,
    metavar="NAME",
    help="Preset (wsikit encoders lists them), folder or file, hf-hub:ID, or random:TIMM_NAME; may be given again.",
)
@click.option(
    "-o", "--out", type=click.Path(), help="Folder for the stores of slide files, or a store (….zarr) for one."
)
@click.option("--mpp", type=MPP, metavar="µm/px", help="Pixel size of the patches; default: that of the encoder.")
@click.option(
    "--patch-px", "--patch-size", type=int, metavar="px", help="Side of a patch; default: that of the encoder."
)
@click.option("--overlap", type=int, metavar="px", help="Overlap of neighbouring patches, at --mpp.")
@grid_option
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--dtype", default="float16", show_default=True, type=click.Choice(["float16", "float32"]))
@click.option("--shared", is_flag=True, help="Also the places of patches in the space shared with texts.")
@engine_options
@assume_mpp_option
@scene_option
@slide_options
def command(
    paths: tuple[str, ...],
    encoders: tuple[str, ...],
    out: str | None,
    mpp: float | None,
    patch_px: int | None,
    overlap: int | None,
    grid: str | None,
    device: str,
    dtype: str,
    shared: bool,
    download: bool,
    engine: str,
    precision: str,
    assume_mpp: float | None,
    scene: str | None,
    slide: str | None,
    slide_weights: str | None,
    slide_table: str | None,
) -> int:
    """Compute the features of all patches by an encoder: column features_NAME of the patch table.

    Slide files are tiled first, into --out. After an interruption, run the same command again: what is there is kept.

    Exit status: 0 all are done, 1 some failed, 2 the request itself is wrong.
    """
    from wsikit.cli.console import make_console, one_line
    from wsikit.cli.progress import TerminalProgress
    from wsikit.encoders.device import check_device
    from wsikit.encoders.engine_request import check_engine
    from wsikit.encoders.lazy import LazyEncoder
    from wsikit.errors import ModelError, RequestError, WsikitError
    from wsikit.inference.feature_grid import GridRequest
    from wsikit.inference.features import FeatureSettings, check_settings
    from wsikit.slides.store import SlideStore

    settings = FeatureSettings(dtype, shared, engine, precision)
    request = GridRequest(grid, mpp, patch_px, overlap)
    try:
        lazy = [LazyEncoder.of(name, device=device, download=download) for name in encoders]
    except ModelError as error:
        raise RequestError(str(error)) from error  # nothing has been started
    if len({one.info.column for one in lazy}) < len(lazy):
        raise RequestError(f"--encoder {', '.join(encoders)}: two have the same name.")
    for one in lazy:
        check_settings(one.info, settings)
    check_engine(engine, precision, device=device)
    targets = _targets(paths, out, assume_mpp, scene)
    check_device(device)
    for notice in dict.fromkeys(one.info.notice for one in lazy if one.info.notice):
        click.echo(notice, err=True)
    pooling = Pooling(slide, slide_weights, slide_table, device, several=len(lazy) > 1)
    failed = 0
    with TerminalProgress(make_console()) as progress_of_all:
        if len(targets) > 1:
            progress_of_all.slides(len(targets))
        for folder, entry in targets:
            progress = progress_of_all.for_slide(folder.name.removesuffix(".zarr"))
            try:
                if entry is None:
                    with SlideStore(folder) as store:
                        _encode(store, lazy, request, settings, progress, pooling)
                else:
                    with _tiled(entry, folder, lazy[0], request, progress) as store:
                        _encode(store, lazy, request, settings, progress, pooling)
            except RequestError:
                raise
            except Exception as error:  # any error of one slide is reported; the others go on
                progress.finish()
                failed += 1
                where = entry.path if entry is not None else folder
                unexpected = "" if isinstance(error, WsikitError) else f"{where}: {type(error).__name__}: "
                click.echo(f"wsikit: {one_line(unexpected + str(error))}", err=True)
                if any(error is one.load.error for one in lazy):
                    break  # the encoder cannot be loaded: no slide can be done
            progress.finish()
            progress_of_all.slide_done()
    pooling.write_table()
    return 1 if failed else 0


def _encode(
    store: SlideStore,
    encoders: list[LazyEncoder],
    request: GridRequest,
    settings: FeatureSettings,
    progress: Progress,
    pooling: Pooling,
) -> None:
    """The columns of all encoders, and a line on each."""
    from wsikit.cli.console import one_line
    from wsikit.inference.features import compute_features

    for encoder in encoders:
        found = compute_features(store, encoder, request, settings, progress=progress)
        for note in found.notes:
            click.echo(f"warning: {store.folder}: {one_line(note)}", err=True)
        click.echo(f"{store.folder}: {in_words(found, encoder)}")
        pooling.add(str(store.folder), encoder.info.name, found.table.name)


def in_words(found: Computed, encoder: LazyEncoder) -> str:
    """One line: where the column is, how fast it was made, and what that was bound by."""
    table, done, info = found.table, found.done, encoder.info
    column = f"patches/{table.name}/{info.column} ({len(table)} × {info.width})"
    if not len(table):
        return f"{column}: the slide has no patches, as no tissue was found"
    if not done.patches:
        return f"{column} is up to date"
    speed = f"{done.patches / max(done.seconds, 1e-9):.3g} patches/s, bound by {_bound(done.waits.bound_by)}"
    how = ", ".join(done.engine[name] for name in ("engine", "precision", "device"))
    return f"{column}: {speed}; {how} ({done.reason})"


def _bound(by: str) -> str:
    return "reading" if by == "reading" else "the model"


def _targets(
    paths: tuple[str, ...], out: str | None, assume_mpp: float | None, scene: str | None
) -> list[tuple[Path, SlideEntry | None]]:
    """The stores, each with the slide that it is to be made from, or None for one that is there."""
    from wsikit.batch.manifest import find_slides
    from wsikit.cli.console import one_line
    from wsikit.cli.stores import is_store, stores_at
    from wsikit.errors import RequestError
    from wsikit.store.paths import place

    stores = [store for path in paths for store in stores_at(path)]
    others = [path for path in paths if not stores_at(path)]
    slides: list[SlideEntry] = []
    if others:
        collected = find_slides(others, assume_mpp=assume_mpp, scene=scene)
        for note in collected.notes:
            click.echo(f"note: {one_line(note)}", err=True)
        for entry in collected.entries:
            if is_store(entry.path):
                stores.append(place(entry.path))
            else:
                slides.append(entry)
    targets: list[tuple[Path, SlideEntry | None]] = [(store, None) for store in dict.fromkeys(stores)]
    if not slides:
        return targets
    if out is None:
        raise RequestError(
            f"{slides[0].path}: a slide, which has to be tiled first; give a folder for its store, -o DIR."
        )
    target = place(out)
    single = target.suffix == ".zarr"
    if single and len(slides) > 1:
        raise RequestError(f"{out} is one store, but {len(slides)} slides are given. Give a folder with -o")
    return targets + [(target if single else target / f"{entry.slide_id}.zarr", entry) for entry in slides]


def _tiled(
    entry: SlideEntry, folder: Path, encoder: LazyEncoder, request: GridRequest, progress: Progress
) -> SlideStore:
    """The store of a slide, with the patches of the first encoder, as `wsikit tile` makes it."""
    from wsikit.tiling.tile import tile_slide

    with entry.open() as slide:
        store = tile_slide(slide, folder, patches=request.parameters(encoder.info), progress=progress)
        progress.finish()
        return store
