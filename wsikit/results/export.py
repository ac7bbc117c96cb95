"""Write one output of a slide store: a map, outlines, a table, pixels, a report, or files of other tools."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from wsikit.errors import RequestError
from wsikit.results.formats import load_exporter, options_of, write_output
from wsikit.results.load import StoredResults
from wsikit.slides.fingerprint import fingerprint
from wsikit.slides.store import StoreLike, open_store
from wsikit.store.paths import place

logger = logging.getLogger(__name__)


def export(
    store: StoreLike,
    to: str,
    path: str | os.PathLike[str],
    *,
    grid: str | None = None,
    method: str | None = None,
    column: str | None = None,
    threshold: float | None = None,
    patches: bool = False,
    per: Literal["class", "region"] | None = None,
    features: str | None = None,
    mpp: float | None = None,
    style: Literal["over", "map"] | None = None,
    frame: Literal["auto", "level0", "bounds"] | None = None,
    codec: Literal["keep", "jpeg"] | None = None,
    dicom_source: str | os.PathLike[str] | None = None,
    dicom_patient: bool = False,
    on_note: Callable[[str], None] = logger.warning,
) -> Path:
    """Write one output of a store.

    Parameters
    ----------
    store
        A slide store, or its path or URL.
    to
        "png": subtype map, or any column, over the thumbnail. "geojson": regions for QuPath. "ngff-labels":
        classes as an OME-Zarr label, probabilities and gate as an OME-Zarr image. "ome-tiff": classes as a pyramid.
        "tiff": the pixels as a tiled pyramid, from the bytes in the store. "csv", "parquet": the patch table,
        coordinates in level-0 px. "report": one HTML file, of very many patches also a folder. "trident", "clam",
        "stamp", "atlaspatch": their HDF5 files. "torchmil", "soma": bags of .npy files. "anndata": one .h5ad file.
        "spatialdata": a folder, as LazySlide lays it out. "dicom-seg": the class map as a DICOM segmentation;
        "dicom-ann": its regions as DICOM bulk annotations.
        Or the name of a plug-in (`wsikit.results.formats`).
    path
        The file to write. For ngff-labels the store itself or a new OME-Zarr. For the files of other tools their job
        or output folder, in which each slide has its own files.
    grid
        Name of the patch grid; needed only where the store has several.
    method
        Which vote the map and the report show; None: that of the model.
    column
        png: a quantity to draw as a heat map instead of the classes (`wsikit.exporters.quantity`). geojson: regions
        where it is at or above `threshold`, instead of the classes.
    threshold
        geojson: of `column`; default 0.5.
    patches
        geojson: write each patch too, as a detection.
    per
        geojson: one annotation per "class" (default), or one per connected "region".
    features
        Files of other tools: encoder whose features are written, where the store has several. parquet: the only
        features that are written; default: all.
    mpp
        ome-tiff: µm per pixel of the finest level; default 2.
    style
        ome-tiff: classes "over" the grey slide (default), or the "map" alone.
    frame
        geojson: coordinates count from the corner of the slide ("level0"), or of its scanned area ("bounds"); "auto",
        the default: bounds if the slide states some, as QuPath shows it so. The file states the frame.
    codec
        tiff: "keep" the tiles of the store (default), or encode those that are not "jpeg" as JPEG: some readers, such
        as OpenSlide, refuse JPEG 2000 in a TIFF.
    dicom_source
        dicom-seg, dicom-ann: the slide in DICOM, a file or folder, whose instance and frame of reference the result
        refers to; None: made-up ones, which follow from the slide's fingerprint.
    dicom_patient
        dicom-seg, dicom-ann: copy patient, study and specimen from `dicom_source`; by default they are left out.
    on_note
        Called with each remark about what was written, one line each.

    Returns
    -------
    `path`.

    Raises
    ------
    RequestError
        There is no such format, an option does not belong to this format, or `path` is the slide of the store.
    PluginError
        The format is a plug-in that cannot be imported.
    StoreError
        The store has no patch table, or lacks the column that is needed.

    >>> import tempfile, wsikit
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = wsikit.make_phantom(f"{folder.name}/p.tif", size_px=(512, 512), seed=1)
    >>> store = wsikit.tile(f"{folder.name}/p.tif", f"{folder.name}/p.zarr")
    >>> wsikit.export(store, "csv", f"{folder.name}/patches.csv").name
    'patches.csv'
    """
    exporter = load_exporter(to)
    given: dict[str, Any] = {
        "column": column,
        "threshold": threshold,
        "patches": patches or None,
        "per": per,
        "features": features,
        "mpp": mpp,
        "style": style,
        "frame": frame,
        "codec": codec,
        "dicom_source": dicom_source,
        "dicom_patient": dicom_patient or None,
        "on_note": on_note if "on_note" in options_of(exporter) else None,
    }
    options = {name: value for name, value in given.items() if value is not None}
    target = place(path)
    opened = open_store(store)
    if target.is_file() and fingerprint(os.fspath(target)) == opened.record["source"]["fingerprint"]:
        raise RequestError(f"{target}: the slide that {opened.folder} was made from; give another file to write")
    write_output(exporter, StoredResults(opened, grid, method), target, options)
    logger.info("%s written", target)
    return target
