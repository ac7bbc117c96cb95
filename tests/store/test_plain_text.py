"""In a portable store, text columns are bytes too, for programs without a type for text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import zarr

import wsikit
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec
from wsikit.tiling.plan import ImageParameters


def portable(slide: Path, folder: Path) -> SlideStore:
    image = ImageParameters(profile="portable", regions="all")
    return wsikit.tile(slide, folder, patch_px=224, image=image)


def texts_of(store: SlideStore, column: str = "caption") -> list[str]:
    array = zarr.open_group(store.folder, mode="r")[f"patches/{store.grids()[0]}/text/{column}"]
    assert isinstance(array, zarr.Array)
    return [bytes(row).rstrip(b"\0").decode() for row in np.asarray(array[:])]


def test_captions_are_bytes_too(slide_path: Path, tmp_path: Path) -> None:
    store = portable(slide_path, tmp_path / "p.zarr")
    wsikit.caption(store)
    table = store.patches()
    assert any(table.read("caption"))
    assert texts_of(store) == list(table.read("caption"))
    assert "text" not in table.columns()
    assert not any(name.startswith("text") for name in table.frame())


def test_any_text_comes_back_and_other_rows_are_empty(slide_path: Path, tmp_path: Path) -> None:
    from wsikit.store.plain_text import write_plain_text

    store = portable(slide_path, tmp_path / "p.zarr")
    table = store.patches()
    words = [("größer als 3 µm", "", "日本")[row % 3] for row in range(len(table))]
    for receipt in (Receipt("a", 1), Receipt("b", 1)):
        for rows in table.prepare([ColumnSpec("note", "str")], receipt):
            assert not (table.folder / "text" / "note").exists(), "bytes of a replaced column do not stay"
            table.write("note", rows, np.array(words[rows], dtype=object))
        write_plain_text(table)
        assert texts_of(store, "note") == words
    written = (table.folder / "text" / "note" / "zarr.json").stat().st_mtime_ns
    write_plain_text(table)
    assert (table.folder / "text" / "note" / "zarr.json").stat().st_mtime_ns == written
    table.drop("note")
    assert not (table.folder / "text" / "note").exists()


def test_the_native_profile_has_the_column_alone(slide_path: Path, tmp_path: Path) -> None:
    store = wsikit.tile(slide_path, tmp_path / "n.zarr", patch_px=224)
    wsikit.caption(store)
    assert not (store.patches().folder / "text").exists()
    assert json.loads((store.folder / "patches" / "zarr.json").read_text())["node_type"] == "group"
