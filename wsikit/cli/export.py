"""`wsikit export`: one output of a store."""

from __future__ import annotations

from typing import Any

import click

from wsikit.cli.options import grid_option


@click.command()
@click.argument("store", type=click.Path())
@click.option("--to", required=True, metavar="FORMAT", help="One of the formats above, or the name of a plug-in.")
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(),
    help="File to write; for ngff-labels the store itself or a new .zarr, for the files of other tools a folder.",
)
@grid_option
@click.option("--method", metavar="NAME", help="png, report: which vote to show; default: that of the model, or mean.")
@click.option(
    "--column",
    metavar="NAME",
    help="png: a column as heat map; geojson: its regions. gate, entropy, margin, ood_score, probability:PD, "
    "localize_neuropil, caption_facts:nuclei_per_mm2 …",
)
@click.option(
    "--threshold", type=float, metavar="X", help="geojson: regions where --column is at least X; default 0.5."
)
@click.option("--patches", is_flag=True, help="geojson: write each patch, too, as a detection with measurements.")
@click.option("--per", type=click.Choice(["class", "region"]), help="geojson: one annotation per class, or per region.")
@click.option("--features", metavar="NAME", help="Files of other tools, parquet: which features, if there are several.")
@click.option("--mpp", type=float, metavar="µm/px", help="ome-tiff: pixel size of the finest level; default 2.")
@click.option("--style", type=click.Choice(["over", "map"]), help="ome-tiff: classes over the grey slide, or alone.")
@click.option(
    "--frame",
    type=click.Choice(["auto", "level0", "bounds"]),
    help="geojson: coordinates count from the corner of level 0, or of the slide's bounds; default auto: as QuPath "
    "opens the slide.",
)
@click.option(
    "--codec",
    type=click.Choice(["keep", "jpeg"]),
    help="tiff: keep the tiles of the store (default), or encode those that are not JPEG as JPEG, for every reader.",
)
@click.option(
    "--dicom-source",
    type=click.Path(),
    metavar="PATH",
    help="dicom-seg, dicom-ann: the slide in DICOM, to which the result refers; default: made-up identifiers.",
)
@click.option("--dicom-patient", is_flag=True, help="dicom-seg, dicom-ann: copy patient data from --dicom-source.")
def command(store: str, to: str, out: str, grid: str | None, method: str | None, **options: Any) -> None:
    """Write one output of a slide store.

    \b
    png          subtype map, or any column (--column), over the slide: legend, scale bar, units
    geojson      regions per class, and patches, for QuPath (--per, --patches, --frame); or those of a column
                 (--column, --threshold)
    ngff-labels  classes as OME-Zarr label, probabilities and gate as OME-Zarr image
    ome-tiff     classes over the slide as a pyramid (--mpp, --style)
    tiff         the slide's pixels as a tiled pyramid, from the bytes in the store
    csv parquet  the patch table, one row per patch (level-0 px)
    report       one HTML file (of very many patches also a folder)
    trident clam stamp atlaspatch   coordinates, and features if there are any, in the files of these tools
    torchmil     features and coordinates as bags (.npy) for torchmil
    soma         features and coordinates as sets (.npy) for soma
    anndata      .h5ad: patches with features, columns and coordinates, for Scanpy and Squidpy
    spatialdata  the same as a SpatialData folder, for LazySlide (needs wsikit[spatialdata])
    dicom-seg    classes as a DICOM segmentation (label map), for PACS and slide viewers (needs wsikit[dicom])
    dicom-ann    regions as DICOM bulk annotations: polygons in level-0 px (needs wsikit[dicom])

    Plug-ins add formats: an unknown FORMAT lists all that are installed.
    """
    from wsikit.results.export import export

    written = export(store, to, out, grid=grid, method=method, on_note=_note, **options)
    click.echo(f"{written}")


def _note(text: str) -> None:
    click.echo(f"note: {text}", err=True)
