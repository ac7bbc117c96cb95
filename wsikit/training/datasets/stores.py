"""Patches of slide stores, labelled by annotated regions (GeoJSON, as exported by QuPath).

A manifest CSV names the stores: store, regions[, patient][, slide][, grid]. The class of a patch is that of the region
containing its centre; regions are in level-0 px.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.errors import ReadError, RequestError
from wsikit.slides.store import SlideStore
from wsikit.store.table import PatchTable
from wsikit.tables import key, read_table
from wsikit.tiling.roi import Drawn, read_regions
from wsikit.tiling.stream import read_patches
from wsikit.training.datasets.images import Image
from wsikit.training.datasets.table import ImageTable

_NEEDED, _KNOWN = {"store", "regions"}, {"store", "regions", "patient", "slide", "grid"}


@dataclass(frozen=True)
class StorePixels:
    """Images of patches of several stores (see `wsikit.training.datasets.images.Pixels`)."""

    folders: tuple[str, ...]
    grids: tuple[str, ...]
    """Name of the grid in each store."""
    store_of_row: npt.NDArray[np.int64]
    coords: npt.NDArray[np.int64]
    """(N, 2) level-0 px."""

    def read(self, rows: Sequence[int]) -> list[Image]:
        chosen = np.asarray(rows, dtype=np.int64)
        images: list[Image | None] = [None] * len(chosen)
        for index in np.unique(self.store_of_row[chosen]):
            there = np.flatnonzero(self.store_of_row[chosen] == index)
            there = there[np.lexsort(self.coords[chosen[there]].T)]  # row-major: each tile is decoded once
            with SlideStore(self.folders[index]) as store:
                grid = store.patches(self.grids[index]).grid
                batch = read_patches(store, grid, self.coords[chosen[there]])
                if not batch.readable.all():
                    x, y = self.coords[chosen[there]][int(np.argmin(batch.readable))].tolist()
                    side = tuple(round(length) for length in grid.side)
                    raise ReadError(self.folders[index], 0, (x, y, *side), "a labelled patch is not readable")
            for place, image in zip(there, batch.images, strict=True):
                images[place] = image
        return [image for image in images if image is not None]

    def tables(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[PatchTable, npt.NDArray[np.int64], list[int]]]:
        """The patch table of each store that has some of these rows, open for one turn of the loop; the places of its
        patches among `rows`, and their rows in the table."""
        for index, (folder, grid) in enumerate(zip(self.folders, self.grids, strict=True)):
            there = np.flatnonzero(self.store_of_row[rows] == index)
            if not len(there):
                continue
            with SlideStore(folder) as store:
                table = store.patches(grid)
                places = {(x, y): row for row, (x, y) in enumerate(table.coords.tolist())}
                yield table, there, [places[x, y] for x, y in self.coords[rows[there]].tolist()]


def read_stores(manifest: str | Path) -> ImageTable:
    """Read labelled patches of slide stores, store by store, in each store's order.

    Patches outside all regions and unreadable patches are left out. Captions are those of the store's column
    `caption`, if it has one. Paths in the manifest are relative to it.

    Raises
    ------
    RequestError
        If the manifest or a region file is wrong, a patch's centre lies in regions of two classes, the stores are at
        different scales, or no patch is labelled.
    """
    path = Path(manifest)
    parts = [_read_store(path, line, row) for line, row in _manifest_rows(path)]
    scales = {(part.table.grid.patch_px, round(part.table.grid.target_mpp, 6)) for part in parts}
    if len(scales) > 1:
        raise RequestError(f"{path}: patches of different size or µm/px: {sorted(scales)}. Give one grid for all.")
    n_rows = [len(part.rows) for part in parts]
    if not sum(n_rows):
        raise RequestError(f"{path}: no patch's centre lies in a region. Are the regions in level-0 pixels?")
    coords = np.concatenate([part.table.coords[part.rows] for part in parts])
    scale = np.array([part.table.grid.slide_mpp for part in parts])  # (S, 2) µm/px of level 0
    store_of_row = np.repeat(np.arange(len(parts)), n_rows)
    pixels = StorePixels(
        tuple(str(part.store.folder) for part in parts), tuple(p.table.name for p in parts), store_of_row, coords
    )
    names = [parts[index].store.slide_id for index in store_of_row]
    files = tuple(f"{name}/{x}_{y}" for name, (x, y) in zip(names, coords.tolist(), strict=True))
    if len(set(files)) != len(files):
        raise RequestError(f"{path}: duplicate slide. Keep one row per store.")
    return ImageTable(
        files=files,
        captions=tuple(caption for part in parts for caption in part.captions),
        classes=tuple(label for part in parts for label in part.labels),
        patients=tuple(parts[index].patient for index in store_of_row),
        slides=tuple(parts[index].slide or name for index, name in zip(store_of_row, names, strict=True)),
        coords=coords.astype(np.float64),
        source=str(path),
        pixels=pixels,
        rows=tuple(range(len(files))),
        mpp=parts[0].table.grid.target_mpp,
        places_um=coords * scale[store_of_row],
    )


@dataclass(frozen=True)
class _Labelled:
    store: SlideStore
    table: PatchTable
    patient: str | None
    slide: str | None
    rows: npt.NDArray[np.int64]
    labels: list[str]
    captions: list[str | None]


def _manifest_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    if not path.is_file():
        raise RequestError(f"{path}: no such file. Give a CSV with the columns store, regions, patient.")
    table = read_table(path, sorted(_KNOWN), what="manifest")
    unknown = set(table.columns) - {column for column in table.columns if key(column) in map(key, _KNOWN)}
    if not set(table.used) >= _NEEDED or unknown or not table.rows:
        raise RequestError(
            f"{path}: {len(table.rows)} rows with the columns {sorted(table.columns)}; expected store, regions and "
            f"optionally {', '.join(sorted(_KNOWN - _NEEDED))}."
        )
    for line, fault in table.faults.items():
        raise RequestError(f"{path}, line {line}: {fault}")
    return [(line, {name: row.get(name, "") for name in _KNOWN}) for line, row in table.rows]


def _read_store(manifest: Path, line: int, row: dict[str, str]) -> _Labelled:
    for name in ("store", "regions"):
        if not row[name]:
            raise RequestError(f"{manifest}, line {line}: no {name}. Give each row a store and its regions.")
    with SlideStore(manifest.parent / row["store"]) as store:
        table = store.patches(row.get("grid") or None)
        labels = label_patches(table, read_regions(manifest.parent / row["regions"], slide=store))
        rows = np.flatnonzero([label is not None for label in labels])
        columns = table.columns()
        if "readable" in columns:
            rows = rows[table.read("readable")[rows] > 0]
        texts = table.read("caption") if "caption" in columns else np.full(len(table), None, dtype=object)
    return _Labelled(
        store=store,
        table=table,
        patient=row.get("patient") or None,
        slide=row.get("slide") or None,
        rows=rows,
        labels=[str(labels[i]) for i in rows],
        captions=[str(texts[i]) if texts[i] else None for i in rows],
    )


def label_patches(table: PatchTable, regions: Sequence[Drawn]) -> list[str | None]:
    """Class of the region that contains each patch's centre; None outside all regions.

    Raises
    ------
    RequestError
        If a centre lies in regions of two classes.
    """
    from shapely import contains_xy, prepare

    centres = table.coords + np.asarray(table.grid.side) / 2  # (N, 2) level-0 px
    labels: list[str | None] = [None] * len(centres)
    for drawn in regions:
        prepare(drawn.shape)
        for row in np.flatnonzero(contains_xy(drawn.shape, centres[:, 0], centres[:, 1])):
            if labels[row] is not None:
                x, y = centres[row]
                raise RequestError(
                    f"{table.folder}: the patch around x={x:.0f} y={y:.0f} lies in regions of {labels[row]!r} and "
                    f"{drawn.label!r}. Regions of different classes must not overlap."
                )
            labels[row] = drawn.label
    return labels
