"""The formats that results can be exported to: wsikit's own and those of plug-ins, by name.

An exporter is an object, or a class without arguments, with three attributes::

    class Tally:
        name = "tally"                              # wsikit export --to tally
        folder = False                              # writes one file; True: a folder

        def write(self, results, path, **options):  # results: StoredResults, path: pathlib.Path
            path.write_text(f"{results.slide_id}: {results.subtype}")

A package announces it under its name in the entry-point group `wsikit.exporters` (see `wsikit.plugins`).
`results` is a `wsikit.results.load.StoredResults`. Two more attributes are optional. `options` names the options of
`wsikit.export` (see `OPTIONS`) that the exporter takes; only those that the user set are passed, others are refused.
`in_place` is True if the exporter itself makes every file appear complete under its final name; otherwise `path` is
temporary, and the files are moved to their place only after `write` has returned.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from wsikit.errors import PluginError, RequestError, StoreError
from wsikit.plugins import load_plugin, plugin_names
from wsikit.store.atomic import PARTIAL_SUFFIX, atomic_write, flush, remove_partials_of
from wsikit.store.paths import upload
from wsikit.store.remote import RemotePath

if TYPE_CHECKING:
    from wsikit.exporters.patch_source import PatchSource
    from wsikit.results.load import StoredResults

logger = logging.getLogger(__name__)

OPTIONS = (
    "column",
    "threshold",
    "patches",
    "per",
    "features",
    "mpp",
    "style",
    "frame",
    "codec",
    "dicom_source",
    "dicom_patient",
    "on_note",
)
"""Options of `wsikit.export` that only some formats take. `on_note` is passed to every exporter that lists it."""


@runtime_checkable
class Exporter(Protocol):
    """Writes one slide's results in one format; see the module for the optional attributes."""

    @property
    def name(self) -> str:
        """What users type: `wsikit export --to NAME`."""

    @property
    def folder(self) -> bool:
        """Whether `path` is a folder to write into; otherwise it is the file to write."""

    def write(self, results: StoredResults, path: Path, **options: Any) -> None:
        """Write `results` to `path`.

        Raises
        ------
        WsikitError
            The results cannot be written in this format, such as a map without predictions.
        """


@dataclass(frozen=True)
class Format:
    """One of wsikit's own exporters."""

    name: str
    writer: Callable[..., None]
    """Called as writer(results, path, **options)."""
    folder: bool = False
    options: tuple[str, ...] = ()
    in_place: bool = True

    def write(self, results: StoredResults, path: Path, **options: Any) -> None:
        """Write `results` to `path`."""
        self.writer(results, path, **options)


def exporter_names() -> tuple[str, ...]:
    """Names of all formats, wsikit's own first, then those of plug-ins; no plug-in is imported.

    >>> exporter_names()[:3]
    ('png', 'geojson', 'ngff-labels')
    """
    return (*_OWN, *(name for name in plugin_names("exporters") if name not in _OWN))


def load_exporter(name: str) -> Exporter:
    """The exporter `name`. A plug-in is imported now; it cannot replace a format of wsikit's own.

    Raises
    ------
    RequestError
        There is no such format.
    PluginError
        The plug-in cannot be imported, or what it announces is not an exporter.

    >>> load_exporter("csv").folder
    False
    """
    if name in _OWN:
        return _OWN[name]
    if name not in plugin_names("exporters"):
        raise RequestError(f"export to {name!r}: no such format; choose one of {', '.join(exporter_names())}")
    found = load_plugin("exporters", name)
    try:
        exporter = found() if isinstance(found, type) else found
    except Exception as error:  # a plug-in may fail in any way
        raise PluginError(f"exporter {name!r} cannot be created: {type(error).__name__}: {error}") from error
    missing = [attribute for attribute in ("name", "folder", "write") if not hasattr(exporter, attribute)]
    if missing:
        raise PluginError(
            f"plug-in {name!r} for wsikit.exporters is not an exporter: it lacks {', '.join(missing)}. "
            "See wsikit.results.formats for what an exporter needs."
        )
    return exporter  # type: ignore[no-any-return]


def options_of(exporter: Exporter) -> tuple[str, ...]:
    """Names of the options that an exporter takes."""
    return tuple(getattr(exporter, "options", ()))


def check_options(exporter: Exporter, chosen: Mapping[str, Any]) -> None:
    """RequestError if `chosen` has an option that the exporter does not take."""
    for option in chosen:
        if option not in options_of(exporter):
            takers = [name for name, own in _OWN.items() if option in own.options]
            raise RequestError(
                f"--{option.replace('_', '-')} is not for {exporter.name}; it goes with --to {' or '.join(takers)}"
            )


def write_output(exporter: Exporter, results: StoredResults, target: Path, options: Mapping[str, Any]) -> None:
    """Let an exporter write to `target` so that no incomplete file appears under its final name.

    Into a folder that exists, the new files are moved when all of them are complete; other files in it stay.

    Raises
    ------
    RequestError
        `target` is a folder and the exporter writes a file, or the reverse; an option that it does not take.
    """
    check_options(exporter, options)
    if target.is_dir() and not exporter.folder:
        raise RequestError(f"{target}: a folder; give the file to write")
    if target.is_file() and exporter.folder:
        raise RequestError(f"{target}: a file; {exporter.name} is written into a folder")
    remove_partials_of(target)
    if getattr(exporter, "in_place", False):
        exporter.write(results, target, **options)
        return
    with new_files(target) if exporter.folder else atomic_write(target) as partial:
        exporter.write(results, partial, **options)
        if not partial.exists():
            raise PluginError(f"exporter {exporter.name!r} wrote nothing to the path that it was given")


@contextlib.contextmanager
def new_files(target: Path) -> Iterator[Path]:
    """An empty local folder; on success its files are moved below the folder `target`, on an exception removed.

    Files that are in `target` already stay, unless a new one has the same name.
    """
    remote = target if isinstance(target, RemotePath) else None
    parent = target.parent if remote is None else Path(tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    partial = parent / f".{target.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
    partial.mkdir()
    try:
        yield partial
        if remote is not None:
            upload(partial, remote)
        elif target.exists():
            files = [path for path in sorted(partial.rglob("*")) if path.is_file()]
            for path in files:
                flush(path)
            for path in files:
                place = target / path.relative_to(partial)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, place)
        else:
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


# ---- wsikit's own formats


def _png(results: StoredResults, path: Path, *, column: str | None = None) -> None:
    from wsikit.exporters.heatmap import write_map_png
    from wsikit.exporters.quantity import read_quantity
    from wsikit.exporters.scalemap import write_scale_png

    if column is None:
        write_map_png(path, results.class_map, results.thumbnail, results.result, reason=results.reason)
    else:
        write_scale_png(path, results.class_map, read_quantity(results.table, column), results.thumbnail)


def _geojson(
    results: StoredResults,
    path: Path,
    *,
    column: str | None = None,
    threshold: float | None = None,
    patches: bool = False,
    per: str = "class",
    frame: str = "auto",
    on_note: Callable[[str], None] = logger.warning,
) -> None:
    from wsikit.exporters.geojson import write_geojson

    class_map = results.class_map
    if column is not None:
        from wsikit.exporters.concept_regions import concept_regions
        from wsikit.exporters.quantity import read_quantity

        class_map = concept_regions(class_map, read_quantity(results.table, column), _threshold(threshold))
    elif threshold is None:
        class_map = class_map.with_unpredicted()
    else:
        raise RequestError("--threshold is of a column: name it with --column, such as --column localize_neuropil")
    measurements = results.measurements() if patches else None
    bounds = results.store.info.bounds
    common: dict[str, Any] = {"per": per, "frame": frame}  # checked there
    write_geojson(path, class_map, patches=measurements, bounds=bounds, **common)
    if bounds is not None and (bounds[0] or bounds[1]):
        if frame == "level0":
            on_note(f"{path}: level-0 px; QuPath shows the slide from x={bounds[0]}, y={bounds[1]} (--frame bounds)")
        else:
            on_note(f"{path}: coordinates count from x={bounds[0]}, y={bounds[1]}, as QuPath shows the slide (bounds)")


def _threshold(threshold: float | None) -> float:
    from wsikit.inference.localize import THRESHOLD

    return THRESHOLD if threshold is None else threshold


def _ngff(results: StoredResults, path: Path) -> None:
    from wsikit.exporters.ngff_maps import write_apart, write_in_store
    from wsikit.inference.localize import concept_columns

    if not concept_columns(results.table):
        _need_classes(results)
    if path.absolute() == results.store.folder.absolute():
        write_in_store(results.store, results.class_map, results.measurements())
    else:
        write_apart(path, results.store, results.class_map, results.measurements())


def _ome_tiff(results: StoredResults, path: Path, *, mpp: float | None = None, style: str = "over") -> None:
    from wsikit.exporters.ome_tiff import DEFAULT_MPP, write_ome_tiff

    _need_classes(results)
    finest = max(DEFAULT_MPP, *results.store.mpp) if mpp is None else mpp
    class_map = results.class_map.as_voted(results.result)
    write_ome_tiff(path, class_map, results.store, mpp=finest, style=style)  # type: ignore[arg-type]


def _tiff(
    results: StoredResults, path: Path, *, codec: str = "keep", on_note: Callable[[str], None] | None = None
) -> None:
    from wsikit.exporters.tiff import write_tiff

    write_tiff(results.store, path, codec=codec, on_note=on_note)  # type: ignore[arg-type]  # checked there


def _csv(results: StoredResults, path: Path) -> None:
    from wsikit.exporters.rows import write_csv

    write_csv(path, results.table)


def _parquet(results: StoredResults, path: Path, *, features: str | None = None) -> None:
    from wsikit.exporters.patch_source import choose_features
    from wsikit.exporters.rows import write_parquet

    column = None if features is None else choose_features(results.table, features)
    write_parquet(path, results.table, slide_id=results.slide_id, features=column)


def _report(results: StoredResults, path: Path) -> None:
    from wsikit.exporters.report import write_report
    from wsikit.results.report import report_data

    write_report(path, report_data(results))


def _layout(layout: str) -> Callable[..., None]:
    """Writer of another tool's HDF5 files."""

    def write(
        results: StoredResults, path: Path, *, features: str | None = None, on_note: Callable[[str], None] | None = None
    ) -> None:
        from wsikit.exporters.hdf5 import nominal_field, write_layout

        source = _source(results, features, whole_slide=layout == "trident")
        with new_files(path) as partial:
            write_layout(layout, partial, source, final=path)
        notes = list(_notes(results, source, layout))
        if layout in ("trident", "atlaspatch"):
            read_px = nominal_field(source.grid, source.side_px, whole=layout == "atlaspatch")
            read_px *= source.side_px
            if abs(read_px - source.side_px) >= 1:
                notes.append(
                    f"patches are {source.side_px} level-0 px wide; from its magnifications {layout} will read "
                    f"{read_px:.0f} px"
                )
        for note in notes if on_note is not None else ():
            on_note(note)  # type: ignore[misc]

    return write


def _soma(
    results: StoredResults, path: Path, *, features: str | None = None, on_note: Callable[[str], None] | None = None
) -> None:
    from wsikit.exporters.torchmil import SOMA, write_bag

    source = _source(results, features)
    with new_files(path) as partial:
        write_bag(partial, source, layout=SOMA, final=path)
    for note in _notes(results, source, SOMA) if on_note is not None else ():
        on_note(note)  # type: ignore[misc]


def _torchmil(
    results: StoredResults, path: Path, *, features: str | None = None, on_note: Callable[[str], None] | None = None
) -> None:
    from wsikit.exporters.torchmil import neighbour_distance, write_bag

    source = _source(results, features)
    with new_files(path) as partial:
        write_bag(partial, source, final=path)
    notes = [
        *_notes(results, source, "torchmil"),
        f"coordinates are level-0 px: give torchmil dist_thr={neighbour_distance(source):.0f}, as its default of 1.5 "
        "links no patches",
    ]
    for note in notes if on_note is not None else ():
        on_note(note)  # type: ignore[misc]


def _anndata(results: StoredResults, path: Path, *, features: str | None = None) -> None:
    from wsikit.exporters.anndata import write_h5ad

    class_map = results.class_map
    write_h5ad(
        path,
        _source(results, features),
        labels=class_map.labels,
        classes=class_map.classes,
        votes=results.table.votes(),
        thumbnail=results.thumbnail,
    )


def _spatialdata(results: StoredResults, path: Path, *, features: str | None = None) -> None:
    from wsikit.exporters.spatialdata import write_spatialdata

    if path.exists() and any(path.iterdir()):
        raise RequestError(f"{path}: not empty; SpatialData needs a new folder")
    class_map = results.class_map
    with new_files(path) as partial:
        write_spatialdata(
            partial,
            _source(results, features),
            labels=class_map.labels,
            classes=class_map.classes,
            votes=results.table.votes(),
            thumbnail=results.thumbnail,
        )


def _dicom(kind: str) -> Callable[..., None]:
    """Writer of a DICOM object: seg or ann."""

    def write(
        results: StoredResults,
        path: Path,
        *,
        dicom_source: str | os.PathLike[str] | None = None,
        dicom_patient: bool = False,
        on_note: Callable[[str], None] = logger.warning,
    ) -> None:
        from wsikit.exporters import dicom_codes
        from wsikit.exporters import dicom_source as sources

        dicom_codes.need_highdicom()
        _need_classes(results)
        source = sources.dicom_source(results.store, dicom_source, with_patient=dicom_patient)
        if kind == "seg":
            from wsikit.exporters.dicom_seg import write_dicom_seg as write_object
        else:
            from wsikit.exporters.dicom_ann import write_dicom_ann as write_object  # type: ignore[assignment]
        with atomic_write(path) as partial:
            write_object(partial, results.class_map.with_unpredicted(), source, results.model)
        if source.made_up:
            on_note(f"{path}: refers to a made-up DICOM slide; --dicom-source FILE refers to a real one")

    return write


def _source(results: StoredResults, features: str | None, *, whole_slide: bool = False) -> PatchSource:
    """The patches and features to write; with `whole_slide` also the slide features made of these features."""
    from wsikit.exporters.patch_source import PatchSource, choose_features
    from wsikit.store.slide_vectors import read_slide_vector, slide_vector_names

    table = results.table
    column = choose_features(table, features)
    found = [read_slide_vector(table, name) for name in slide_vector_names(table)] if whole_slide else []
    receipt = None if column is None else table.receipt(column)
    return PatchSource(
        slide_id=results.slide_id,
        table=table,
        features=column,
        file_name=str(results.store.record["source"]["name"]),
        slide_vectors={
            vector.name: vector.values
            for vector in found
            if vector is not None and receipt is not None and vector.receipt.inputs.get("features") == receipt.digest
        },
    )


def _notes(results: StoredResults, source: PatchSource, layout: str) -> Iterator[str]:
    """What is not in the file, or not as it is in the store."""
    if source.features is None:
        yield f"{results.store.folder}: no features in the table; {layout} got only coordinates"
        return
    left_out = len(source.table) - source.n_rows
    if left_out:
        yield f"{left_out} of {len(source.table)} patches have no features (they could not be read): left out"
    if layout == "stamp" and source.table.type_name(source.features) != "float16":
        yield f"{source.table.type_name(source.features)} features are rounded to float16, as STAMP stores them"


def _need_classes(results: StoredResults) -> None:
    if not results.class_map.classes:
        raise StoreError(f"{results.table.folder}: no classes to map ({results.reason}). Run wsikit predict first.")


_LAYOUT_OPTIONS = ("features", "on_note")
_DICOM_OPTIONS = ("dicom_source", "dicom_patient", "on_note")
_OWN: dict[str, Format] = {
    own.name: own
    for own in (
        Format("png", _png, options=("column",)),
        Format("geojson", _geojson, options=("column", "threshold", "patches", "per", "frame", "on_note")),
        Format("ngff-labels", _ngff, folder=True),
        Format("ome-tiff", _ome_tiff, options=("mpp", "style")),
        Format("tiff", _tiff, options=("codec", "on_note")),
        Format("csv", _csv),
        Format("parquet", _parquet, options=("features",)),
        Format("report", _report),
        Format("trident", _layout("trident"), folder=True, options=_LAYOUT_OPTIONS),
        Format("clam", _layout("clam"), folder=True, options=_LAYOUT_OPTIONS),
        Format("stamp", _layout("stamp"), folder=True, options=_LAYOUT_OPTIONS),
        Format("atlaspatch", _layout("atlaspatch"), folder=True, options=_LAYOUT_OPTIONS),
        Format("torchmil", _torchmil, folder=True, options=_LAYOUT_OPTIONS),
        Format("soma", _soma, folder=True, options=_LAYOUT_OPTIONS),
        Format("anndata", _anndata, options=("features",)),
        Format("dicom-seg", _dicom("seg"), options=_DICOM_OPTIONS),
        Format("dicom-ann", _dicom("ann"), options=_DICOM_OPTIONS),
        Format("spatialdata", _spatialdata, folder=True, options=("features",)),
    )
}

OWN_FORMATS: tuple[str, ...] = tuple(_OWN)
"""Names of wsikit's own formats."""
