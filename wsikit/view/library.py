"""The stores that the viewer shows: one store, or those of a run's output folder. Nothing outside of them is opened.

A request is looked up by slide id among the stores that were found; an address is never turned into a path.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from urllib.parse import quote

from wsikit.batch.index import Addresses, render_index
from wsikit.batch.records import DONE, SlideRow, read_rows
from wsikit.errors import RequestError, StoreError
from wsikit.exporters.patch_tiles import PatchTiles, TileIndex
from wsikit.exporters.pyramid import encode_jpeg, hatch
from wsikit.exporters.report import render_report
from wsikit.inference.vote import own_parameters
from wsikit.results.load import StoredResults
from wsikit.results.outputs import thumbnail_jpeg
from wsikit.results.report import report_data
from wsikit.slides.store import SlideStore
from wsikit.store.paths import is_url, place
from wsikit.tiling.stream import read_patches
from wsikit.view.drawing import DrawnRegions
from wsikit.view.tiles import TileSet

OPEN_STORES = 8
"""Stores kept open at a time."""
PATCH_BYTES = 40_000_000
"""Maximum compressed size of a served page's per-patch data, bytes: it is not sent over a network."""


@dataclass(frozen=True)
class Choice:
    """Which of a store's results are shown."""

    method: str | None = None
    """Method of the vote; None: that of the model, or the first one that exists."""
    grid: str | None = None
    """Patch grid; None where the stores have only one."""


class Shown:
    """One open store with the content of its page."""

    def __init__(self, store: SlideStore, choice: Choice, home: str | None = None) -> None:
        self._home = home
        self.store = store
        self.tiles = TileSet(store)
        table = store.patches(choice.grid)
        votes, own = list(table.votes()), own_parameters(table).method
        method = choice.method or (own if own in votes or not votes else votes[0])
        self._results = StoredResults(store, table.name, method)
        self._patch_tiles: PatchTiles | None = None
        self.regions = DrawnRegions(store, self._results.class_map)

    def page(self) -> str:
        """The report's page, with pixels from this server."""
        served = self.tiles.pyramid("tile/", "patch/")
        data = report_data(self._results, served=served, patch_bytes=PATCH_BYTES)
        self._patch_tiles = PatchTiles.of(data.class_map, data.words)
        index = TileIndex("patch-data/", dict.fromkeys(self._patch_tiles.rows, ""))
        return render_report(data, home=self._home, tiles=index, draws=True)

    def patch_data(self, col: int, row: int) -> bytes | None:
        """The script with the data of the patches in a square of the grid; None if there are none."""
        if self._patch_tiles is None:
            self.page()
        assert self._patch_tiles is not None
        return self._patch_tiles.script(f"{col}_{row}")

    def thumbnail(self) -> bytes:
        return thumbnail_jpeg(self._results)

    def patch(self, row: int) -> bytes | None:
        """A patch as the model read it, JPEG; None if there is no such row."""
        coords = self._results.class_map.coords
        if not 0 <= row < len(coords):
            return None
        batch = read_patches(self.store, self._results.class_map.grid, coords[row : row + 1])
        pixels = batch.images[0] if batch.readable[0] else hatch(batch.images.shape[2:0:-1])
        return encode_jpeg(pixels, 92, "444")


class Library:
    """The stores that a viewer shows, opened on request. Thread-safe.

    Parameters
    ----------
    root
        A slide store, or the output folder of a run (with slides/ and results/).

    Raises
    ------
    RequestError
        There is neither at `root`.
    StoreError
        A symbolic link in the store leads out of it.
    """

    def __init__(self, root: str | os.PathLike[str], choice: Choice | None = None) -> None:
        self._choice = choice or Choice()
        self._lock = Lock()
        self._open: dict[str, Shown] = {}
        self.root = place(root)
        has_slides = not is_url(root) and (self.root / "slides").is_dir()
        self.is_run = has_slides and not (self.root / "zarr.json").exists()
        if self.is_run:
            self._stores = _stores_of(Path(self.root))
            if not self._stores:
                raise RequestError(f"{self.root}: no slide store below slides/. Give a store, or the folder of a run.")
        else:
            store = SlideStore(self.root)
            check_contained(self.root)
            self._stores = {store.slide_id: self.root}
            store.close()

    def names(self) -> list[str]:
        """Ids of the slides that can be shown."""
        return sorted(self._stores)

    def shown(self, slide_id: str) -> Shown | None:
        """An open store; None if there is none of this name."""
        if slide_id not in self._stores:
            return None
        with self._lock:
            known = self._open.pop(slide_id, None)
            if known is None:
                check_contained(self._stores[slide_id])
                known = Shown(SlideStore(self._stores[slide_id]), self._choice, home="../../" if self.is_run else None)
                while len(self._open) >= OPEN_STORES:
                    # another thread that is still reading from it reopens the files that it needs
                    self._open.pop(next(iter(self._open))).store.close()
            self._open[slide_id] = known  # last used, last in the order
            return known

    def index(self) -> str:
        """The page of all slides of a run."""
        root = Path(self.root).resolve()
        kept = root / "results"
        rows = [
            row
            for row in read_rows(root)
            if (kept / row.slide_id / "row.json").resolve().is_relative_to(root)  # not added by a link
        ]
        return render_index(rows, self._addresses, title=Path(self.root).resolve().name)

    def _addresses(self, row: SlideRow) -> Addresses:
        if row.slide_id not in self._stores or row.status != DONE:
            return Addresses(None, None)
        slide = f"slide/{quote(row.slide_id, safe='')}/"
        return Addresses(slide, f"{slide}thumbnail.jpg")


def check_contained(folder: Path) -> None:
    """StoreError if a symbolic link in a local store leads out of it. Stores at URLs have no links."""
    if is_url(folder):
        return
    root = folder.resolve()
    for parent, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise StoreError(f"{path}: a link that leads out of the store, which is not shown. Remove it.")


def _stores_of(out: Path) -> dict[str, Path]:
    """Stores below `out`/slides by slide id; stores that a link adds from elsewhere are left out."""
    root = out.resolve()
    found: dict[str, Path] = {}
    for path in sorted((out / "slides").glob("*.zarr")):
        if (path / "zarr.json").is_file() and path.resolve().is_relative_to(root):
            found[path.name.removesuffix(".zarr")] = path
    return found
