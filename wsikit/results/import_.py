"""Import patches, features and regions of other tools into a slide store.

A store's patches are never replaced: features are added to a table with the same coordinates; otherwise a new table is
made.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError, StoreError
from wsikit.executor import Executor
from wsikit.exporters.palette import class_colors, hex_color
from wsikit.exporters.patch_source import FEATURES
from wsikit.geometry import PatchGrid, coverage
from wsikit.progress import SILENT, Progress
from wsikit.results.interop import read_external
from wsikit.results.interop_checks import Finding, check_external
from wsikit.results.interop_grid import grid_of
from wsikit.results.interop_patches import ExternalPatches
from wsikit.slides.base import Slide
from wsikit.slides.registry import open_slide
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import remove_partials
from wsikit.store.paths import place
from wsikit.store.receipts import Receipt, digest_of
from wsikit.store.table import ColumnSpec, PatchTable
from wsikit.tiling.columns import fill_columns
from wsikit.tiling.patches import quality_stage, write_roi, write_share, write_tissue
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.roi import FrameChoice, read_roi
from wsikit.tiling.tile import write_pixels
from wsikit.tissue.parameters import TissueParameters

logger = logging.getLogger(__name__)

IMPORT_REVISION = 1
REGIONS = "roi"
"""Layout name of GeoJSON regions."""


@dataclass(frozen=True)
class Imported:
    """The outcome of an import."""

    store: SlideStore
    table: PatchTable
    layout: str
    """Which tool's layout the file has."""
    columns: tuple[str, ...]
    """Columns written from the file, including `coords` where the table is new."""
    findings: tuple[Finding, ...]
    """Remarks about the file; none of them prevents the import."""


def check_import(
    path: str | os.PathLike[str],
    slide: Slide,
    *,
    layout: str = "auto",
    side_px: float | None = None,
    features: str | None = None,
) -> tuple[ExternalPatches, list[Finding]]:
    """Read a file and check it against its slide without writing. See `read_external` and `check_external`."""
    found = read_external(Path(path), layout=layout, slide_mpp=slide.mpp, features=features)
    wanted = None if features is None or found.features is None else features.removeprefix(FEATURES)
    if wanted is not None and wanted != found.encoder:
        raise RequestError(
            f"{path}: no features {wanted!r}; it holds those of {found.encoder or 'an encoder without name'}"
        )
    return found, check_external(found, slide_px=slide.dimensions, slide_mpp=slide.mpp, side_px=side_px)


def import_patches(
    path: str | os.PathLike[str],
    store: str | os.PathLike[str],
    *,
    slide: Slide | str | os.PathLike[str] | None = None,
    layout: str = "auto",
    side_px: float | None = None,
    patch_px: int | None = None,
    encoder: str | None = None,
    features: str | None = None,
    image: ImageParameters | None = None,
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> Imported:
    """Import the patches, and features or probabilities, of another tool's file into a store.

    Rows are stored in row-major order, as in every table; the file's order is not kept.

    Parameters
    ----------
    path
        The file of one slide: HDF5, CSV of wsinfer, Parquet, .h5ad, features/<slide>.npy of a torchmil bag, or the
        folder of SpatialData.
    store
        The slide store; it is created if it does not exist.
    slide
        The slide of the file; not needed if `store` exists.
    layout
        One of `wsikit.results.interop.LAYOUTS`; "auto" recognises the layout by the file's content.
    side_px, patch_px
        Side of a patch in level-0 px, and in px as the encoder read it, if the file does not state it correctly.
    encoder
        Name of the features, if the file names none (CLAM) or another name is preferred.
    features
        Which features to import, where the file holds several.
    image
        How pixels are stored in a new store.
    executor
        Where tiles are encoded; by default in this process.
    progress
        Receives the progress of storing pixels.

    Raises
    ------
    RequestError
        The file has none of these layouts, or does not fit the slide; every fault is named in one sentence.
    StoreError
        The store has a table of the same grid with other patches.

    >>> import tempfile, wsikit
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = wsikit.make_phantom(f"{folder.name}/p.tif", size_px=(512, 512), seed=1)
    >>> store = wsikit.tile(f"{folder.name}/p.tif", f"{folder.name}/p.zarr")
    >>> _ = wsikit.export(store, "atlaspatch", f"{folder.name}/job", on_note=print)  # doctest: +ELLIPSIS
    /...p.zarr: no features in the table; atlaspatch got only coordinates
    >>> import_patches(f"{folder.name}/job/patches/p.h5", store.folder).layout
    'atlaspatch'
    """
    target = place(store)
    opened = _slide_of(path, target, slide)
    found, findings = check_import(path, opened, layout=layout, side_px=side_px, features=features)
    if encoder and encoder != found.encoder:
        found = replace(found, encoder=encoder, column={})  # the file's record is that of another name
    fatal = [finding.text for finding in findings if finding.fatal]
    if fatal:
        raise RequestError(f"{path} ({found.layout}) does not fit {opened.path}: {'; '.join(fatal)}.")
    image = image or ImageParameters()
    written = (
        opened
        if isinstance(opened, SlideStore) and opened.folder == target
        else write_pixels(opened, target, None, TissueParameters(), image, executor or Executor(), progress)
    )
    table, order, is_new = _table_for(written, found, side_px, patch_px)
    columns = _write_columns(table, found, order)
    findings += _left_out(found, order)
    fill_columns(written, table, [quality_stage(table)], executor, progress)
    return Imported(written, table, found.layout, (*(("coords",) if is_new else ()), *columns), tuple(findings))


def import_roi(
    path: str | os.PathLike[str],
    store: str | os.PathLike[str],
    *,
    classes: Sequence[str] = (),
    grid: str | None = None,
    frame: FrameChoice = "auto",
    on_note: Callable[[str], None] = logger.warning,
) -> tuple[PatchTable, npt.NDArray[np.float32]]:
    """Write the column `roi` of a store: the fraction of each patch inside the regions of a GeoJSON file, float32 (N,).

    No patch is removed; votes are weighted by the column.

    Parameters
    ----------
    path
        GeoJSON of QuPath.
    classes
        Names of the region classes that are used; empty: all.
    grid
        Name of the patch grid; needed only where the store has several.
    frame
        What the coordinates count from: "auto", "level0" or "bounds" (see `wsikit.tiling.roi.FRAMES`).
    on_note
        Called with each remark on the file.

    Returns
    -------
    The table, and the column.
    """
    opened = SlideStore(store)
    table = opened.patches(grid)
    roi = read_roi(Path(path), classes=classes, slide=opened, frame=frame)
    for note in roi.notes:
        on_note(note)
    return table, write_roi(table, roi)


def _slide_of(path: str | os.PathLike[str], target: Path, slide: Slide | str | os.PathLike[str] | None) -> Slide:
    if slide is None:
        try:
            return SlideStore(target)
        except StoreError as error:
            raise RequestError(f"{target}: no slide store there. Name the slide of {path} (--slide).") from error
    return open_slide(slide) if isinstance(slide, str | os.PathLike) else slide


def _table_for(
    store: SlideStore, found: ExternalPatches, side_px: float | None, patch_px: int | None
) -> tuple[PatchTable, npt.NDArray[np.int64], bool]:
    """The table of the file's patches, the file's row for each of its rows (-1: none), and whether the table is new."""
    coords = np.rint(found.coords).astype(np.int64)
    order = np.lexsort((coords[:, 0], coords[:, 1]))
    coords = coords[order]
    grid = _grid_for(store, found, coords, side_px, patch_px)
    folder = store.folder / "patches" / grid.name
    if grid.name in store.grids():
        table = PatchTable(folder)
        if np.array_equal(table.coords, coords):
            return table, order, False
        known = _known_rows(table, coords) if found.features is not None else None
        if known is not None:
            return table, np.where(known < 0, -1, order[known]), False
        raise StoreError(
            f"{folder}: already holds {len(table)} patches that differ from the {len(coords)} of {found.path}. Import "
            "into another store."
        )
    remove_partials(store.folder)
    return _new_table(store, folder, grid, coords, found), order, True


def _grid_for(
    store: SlideStore,
    found: ExternalPatches,
    coords: npt.NDArray[np.int64],
    side_px: float | None,
    patch_px: int | None,
) -> PatchGrid:
    """The grid of the file's patches; the one that the file states, if it is a grid of this slide."""
    stated = found.grid
    if stated is not None and side_px is None and patch_px is None:
        of_slide = stated.slide_px == tuple(store.dimensions) and stated.slide_mpp == tuple(store.mpp)
        if of_slide and stated.fault(coords) is None:
            return stated
    side = side_px or found.side_px
    assert side is not None  # otherwise there is a fatal finding
    return grid_of(
        coords,
        slide_px=store.dimensions,
        slide_mpp=store.mpp,
        side_px=side,
        patch_px=patch_px or found.patch_px or round(side),
        overlap_px=found.overlap_px or 0,
    )


def _left_out(found: ExternalPatches, order: npt.NDArray[np.int64]) -> list[Finding]:
    """What the file has not, and has more than the table."""
    notes = []
    n_lacking, n_more = int((order < 0).sum()), len(found.coords) - int((order >= 0).sum())
    if n_lacking:
        notes.append(
            f"no features of {n_lacking} of {len(order)} patches, which could not be read or extend over the slide's "
            "edge: NaN"
        )
    if n_more:
        notes.append(f"{n_more} of {len(found.coords)} patches of the file are not in the table: not used")
    return [Finding(note, False) for note in notes]


def _known_rows(table: PatchTable, coords: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """For each row of the table, its row in `coords` (row-major), or -1 where the file has no such patch.

    Files for training leave out patches without features, and some tools those that extend over the slide's edge. None
    if any other patch is missing. Further patches in the file do no harm.
    """
    places, side = table.coords, np.asarray(table.grid.side)
    rows = {place: row for row, place in enumerate(map(tuple, coords.tolist()))}
    found = np.asarray([rows.get(place, -1) for place in map(tuple, places.tolist())], dtype=np.int64)
    may_lack = (places + side > np.asarray(table.grid.slide_px) + 0.5).any(axis=1)
    if "readable" in table.columns():
        may_lack |= table.read("readable") == 0
    return None if (~may_lack & (found < 0)).any() or not (found >= 0).any() else found


def _new_table(
    store: SlideStore, folder: Path, grid: PatchGrid, coords: npt.NDArray[np.int64], found: ExternalPatches
) -> PatchTable:
    tissue = write_tissue(store, TissueParameters())
    parameters = {"layout": found.layout, "file": Path(found.path).name, "coords": digest_of(coords.tolist())}
    receipt = Receipt("import", IMPORT_REVISION, parameters, {"tissue": tissue.digest})
    table = PatchTable.create(folder, grid, coords, receipt)
    mask, downsample = store.tissue()
    write_share(table, "tissue", coverage(mask, downsample, coords, grid.side), receipt)
    return table


def _write_columns(table: PatchTable, found: ExternalPatches, order: npt.NDArray[np.int64]) -> list[str]:
    """Write features or probabilities of the file in the table's order; return the names of their columns."""
    coords = table.receipt("coords")
    assert coords is not None
    for values, name, attributes in _columns_of(found):
        data = np.ascontiguousarray(values[order])
        data[order < 0] = np.nan
        parameters = {"layout": found.layout, "file": Path(found.path).name, "values": _digest(data)}
        receipt = Receipt("import", IMPORT_REVISION, parameters, {"patches": coords.digest})
        spec = ColumnSpec(name, data.dtype.name, data.shape[1], {**attributes, "imported_from": found.layout})
        for rows in table.prepare([spec], receipt):
            table.write(name, rows, data[rows])
    return [name for _, name, _ in _columns_of(found)]


def _columns_of(found: ExternalPatches) -> list[tuple[npt.NDArray[Any], str, dict[str, Any]]]:
    columns: list[tuple[npt.NDArray[Any], str, dict[str, Any]]] = []
    if found.features is not None:
        attributes = {"encoder": found.encoder, **found.column}
        columns.append((found.features, f"{FEATURES}{_column_name(found.encoder)}", attributes))
    if found.probs is not None:
        columns.append((found.probs, "probability", {"names": list(found.classes), "model": _model(found)}))
    return columns


def _column_name(encoder: str) -> str:
    """An encoder's name as part of a column name, without path separators."""
    return "".join(char if char.isalnum() or char in "-." else "_" for char in encoder).strip("._") or "imported"


def _model(found: ExternalPatches) -> dict[str, Any]:
    """The model record that maps and votes need; here only the classes are known."""
    return {
        "name": found.layout,
        "version": "",
        "fingerprint": digest_of([found.layout, list(found.classes)]),
        "class_names": list(found.classes),
        "colors": [hex_color(color) for color in class_colors(found.classes)],
        "background": [],
        "notice": "",
    }


def _digest(values: npt.NDArray[Any]) -> str:
    import hashlib

    return hashlib.sha256(values.tobytes()).hexdigest()
