"""One output of a store on request: maps, outlines, tables, pixels, files of other tools.

This is the glue: it knows the store's columns and the exporters' plain data, and neither knows the other.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError, StoreError
from wsikit.exporters.geojson import write_geojson
from wsikit.exporters.hdf5 import LAYOUTS, PatchSource, choose_features, nominal_field, write_layout
from wsikit.exporters.heatmap import write_map_png
from wsikit.exporters.quantity import read_quantity
from wsikit.exporters.report import write_report
from wsikit.exporters.rows import write_csv, write_parquet
from wsikit.exporters.tiff import write_tiff
from wsikit.results.load import StoredResults, load_results, whole_slide
from wsikit.results.report import report_data
from wsikit.slides.store import SlideStore
from wsikit.store.paths import place
from wsikit.store.table import PatchTable

logger = logging.getLogger(__name__)

FORMATS = ("png", "geojson", "ngff-labels", "ome-tiff", "tiff", "csv", "parquet", "report", *LAYOUTS)
FOLDERS = ("ngff-labels", *LAYOUTS)
"""Formats that are written into a folder."""


@dataclass(frozen=True)
class ExportOptions:
    """What else can be chosen; each is of some formats only, and refused by the others."""

    column: str | None = None
    """png: a quantity to draw as a heat map in place of the classes (`wsikit.exporters.quantity`)."""
    patches: bool = False
    """geojson: each patch too, as a detection."""
    per: Literal["class", "region"] | None = None
    """geojson: one annotation per class (as without it), or one per connected region."""
    features: str | None = None
    """trident, clam, stamp, atlaspatch: encoder whose features are written, where the store has several."""
    mpp: float | None = None
    """ome-tiff: µm/px of the finest level."""
    style: Literal["over", "map"] | None = None
    """ome-tiff: classes over the grey slide (as without it), or alone."""

    def check(self, to: str) -> None:
        """RequestError if something is chosen that format `to` does not know."""
        for option in fields(self):
            if getattr(self, option.name) != option.default and to not in _FORMATS_OF[option.name]:
                raise RequestError(
                    f"--{option.name} is not for {to}; it goes with --to {' or '.join(_FORMATS_OF[option.name])}"
                )


_FORMATS_OF = {
    "column": ("png",),
    "patches": ("geojson",),
    "per": ("geojson",),
    "features": LAYOUTS,
    "mpp": ("ome-tiff",),
    "style": ("ome-tiff",),
}


def export(
    store: SlideStore | str | os.PathLike[str],
    to: str,
    path: str | os.PathLike[str],
    *,
    grid: str | None = None,
    method: str = "mean",
    options: ExportOptions | None = None,
    on_note: Callable[[str], None] = logger.warning,
) -> Path:
    """Write one output of a store.

    Parameters
    ----------
    to
        "png": subtype map, or any column, over the thumbnail. "geojson": regions for QuPath, level-0 px. "ngff-labels":
        classes as an OME-Zarr label, probabilities and gate as an OME-Zarr image. "ome-tiff": classes as a pyramid.
        "tiff": the pixels as a tiled pyramid, from the bytes that the store holds. "csv", "parquet": the patch table,
        places in level-0 px. "report": one HTML file. "trident", "clam", "stamp", "atlaspatch": their HDF5 files.
    path
        The file to write; for `FOLDERS` the folder: of ngff-labels the store itself or a new OME-Zarr, of other tools
        what they call their job or output folder, in which each slide has its own files.
    method
        Which vote the map and the report show.
    on_note
        Told what is worth knowing of what was written, a line each.

    Returns
    -------
    `path`.

    Raises
    ------
    RequestError
        There is no such format, or `options` are not of this format.
    StoreError
        The store has no patch table, or lacks the column that is asked for.
    """
    if to not in FORMATS:
        raise RequestError(f"export to {to!r}: choose one of {', '.join(FORMATS)}")
    chosen = options or ExportOptions()
    chosen.check(to)
    opened = store if isinstance(store, SlideStore) else SlideStore(store)
    target = place(path)
    if target.is_dir() and to not in FOLDERS:
        raise RequestError(f"{target}: a folder; give the file to write")
    if target.is_file() and to in FOLDERS:
        raise RequestError(f"{target}: a file; {to} is written into a folder")
    if to == "tiff":
        write_tiff(opened, target)
        return target
    table = opened.patches(grid)
    if to in LAYOUTS:
        _write_layout(opened, table, to, target, chosen, on_note)
    elif to in ("csv", "parquet"):
        write_csv(target, table) if to == "csv" else write_parquet(target, table, slide_id=opened.slide_id)
    else:
        _WRITERS[to](opened, load_results(opened, table, method=method), target, chosen)
    return target


def _png(store: SlideStore, found: StoredResults, target: Path, options: ExportOptions) -> None:
    thumbnail = whole_slide(store)
    if options.column is None:
        write_map_png(target, found.class_map, thumbnail, found.result, reason=found.reason)
        return
    from wsikit.exporters.scalemap import write_scale_png

    write_scale_png(target, found.class_map, read_quantity(found.table, options.column), thumbnail)


def _geojson(store: SlideStore, found: StoredResults, target: Path, options: ExportOptions) -> None:
    measurements = _measurements(found) if options.patches else None
    write_geojson(target, found.class_map, per=options.per or "class", patches=measurements)


def _ngff(store: SlideStore, found: StoredResults, target: Path, options: ExportOptions) -> None:
    from wsikit.exporters.ngff_maps import write_apart, write_in_store

    _need_classes(found)
    channels = _measurements(found)
    inside = target.absolute() == store.folder.absolute()
    for written in (
        write_in_store(store, found.class_map, channels)
        if inside
        else write_apart(target, store, found.class_map, channels)
    ):
        logger.info("%s written", written)


def _ome_tiff(store: SlideStore, found: StoredResults, target: Path, options: ExportOptions) -> None:
    from wsikit.exporters.ome_tiff import DEFAULT_MPP, write_ome_tiff

    _need_classes(found)
    mpp = options.mpp or max(DEFAULT_MPP, *store.mpp)
    write_ome_tiff(target, found.class_map, store, mpp=mpp, style=options.style or "over")


def _report(store: SlideStore, found: StoredResults, target: Path, options: ExportOptions) -> None:
    write_report(target, report_data(found, whole_slide(store)))


_WRITERS: dict[str, Callable[[SlideStore, StoredResults, Path, ExportOptions], None]] = {
    "png": _png,
    "geojson": _geojson,
    "ngff-labels": _ngff,
    "ome-tiff": _ome_tiff,
    "report": _report,
}


def _measurements(found: StoredResults) -> dict[str, npt.NDArray[np.floating]]:
    """(N,) per patch by name: the probability of each class, the gate and, where there are, ood_score and ROI share."""
    table, columns = found.table, found.table.columns()
    measured: dict[str, npt.NDArray[np.floating]] = {}
    if found.class_map.probs is not None:
        for index, code in enumerate(found.class_map.classes):
            measured[f"probability {code}"] = found.class_map.probs[:, index]
    for name in ("gate", "ood_score", "roi"):
        if name in columns:
            measured[name] = table.read(name)
    return measured


def _need_classes(found: StoredResults) -> None:
    if not found.class_map.classes:
        raise StoreError(f"{found.table.folder}: no classes to map ({found.reason}). Run wsikit predict first.")


def _write_layout(
    store: SlideStore, table: PatchTable, to: str, target: Path, options: ExportOptions, on_note: Callable[[str], None]
) -> None:
    source = PatchSource(
        slide_id=store.slide_id,
        table=table,
        features=choose_features(table, options.features),
        file_name=str(store.record["source"]["name"]),
    )
    for written in write_layout(to, target, source):
        logger.info("%s written", written)
    if source.features is None:
        on_note(f"{store.folder}: no features in the table; {to} got places only")
    if to in ("trident", "atlaspatch"):
        read = nominal_field(table.grid, source.side_px) * source.side_px
        if abs(read - source.side_px) >= 1:
            on_note(f"patches are {source.side_px} level-0 px wide; by its magnifications {to} reads {read:.0f}")
