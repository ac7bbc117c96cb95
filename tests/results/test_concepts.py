"""Maps of concepts in every output: PNG, GeoJSON, OME-Zarr, report, viewer, tables; all in the slide's frame."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import zarr
from PIL import Image

import wsikit
from wsikit.errors import RequestError, StoreError
from wsikit.exporters.quantity import concept_quantities, known_quantities, read_quantity
from wsikit.exporters.report import _layers
from wsikit.results.load import StoredResults
from wsikit.results.outputs import outputs_receipt
from wsikit.results.report import report_data
from wsikit.slides.store import SlideStore
from wsikit.view.library import Library

SQUARE = (288, 352, 288 + 384, 352 + 384)  # of the planted square, level-0 px
COLUMN = "localize_undifferentiated-cells"


@pytest.fixture
def localised(square_store: SlideStore, colour_encoder: Any) -> SlideStore:
    """The store with the map of one concept, without predictions."""
    colour_encoder.info = type(colour_encoder)(notice="An encoder of colours.").info
    wsikit.localize(square_store, ["undifferentiated cells"], encoder=colour_encoder, sigma=0)
    return square_store


def test_the_quantity_has_title_unit_and_limits_under_both_names(localised: SlideStore) -> None:
    table = localised.patches()
    found = read_quantity(table, COLUMN)
    assert (found.title, found.unit) == ("Undifferentiated cells: probability by text", "probability")
    assert found.limits == (0, 1)
    assert found.notice == "An encoder of colours."
    assert found.summary == "Presence on the slide 1.00 · p ≥ 0.5 on 0.0369 mm², 144 of 1,024 patches"
    assert found.remark.startswith("Compared with: Background; Fibrous stroma; ")
    for name in ("localize:undifferentiated-cells", "localize:Undifferentiated cells"):
        assert np.array_equal(read_quantity(table, name).values, found.values)
    assert COLUMN in known_quantities(table)
    assert [one.name for one in concept_quantities(table)] == [COLUMN]
    with pytest.raises(StoreError, match="no column 'localize_fat'"):
        read_quantity(table, "localize:fat")


def test_the_png_shows_the_square_where_it_is(localised: SlideStore, tmp_path: Path) -> None:
    wsikit.export(localised, "png", tmp_path / "map.png", column=COLUMN)
    page = np.asarray(Image.open(tmp_path / "map.png").convert("RGB")).astype(int)
    yellow = (page[..., 0] > 180) & (page[..., 1] > 180) & (page[..., 2] < 110)  # the upper end of viridis
    rows, cols = np.nonzero(yellow[:, : round(8.3 * 150)])  # left of the colour bar
    px = 8.0 * 150 / 1024  # the picture is 8 in wide
    np.testing.assert_allclose(np.ptp(cols) + 1, 384 * px, rtol=0.02)
    np.testing.assert_allclose(np.ptp(rows) + 1, 384 * px, rtol=0.02)
    np.testing.assert_allclose(cols.min(), 0.35 * 150 + 288 * px, atol=3)
    slide = page[:, round(8.65 * 150) : round(16.65 * 150)]  # right of the map, in the same frame
    blue = np.abs(slide - (70, 60, 150)).max(axis=2) < 25
    np.testing.assert_allclose(np.flatnonzero(blue.any(axis=1))[[0, -1]], [rows.min(), rows.max()], atol=3)
    in_map = np.array([cols.min(), cols.max()]) - 0.35 * 150
    np.testing.assert_allclose(np.flatnonzero(blue.any(axis=0))[[0, -1]], in_map, atol=3)


def test_the_words_that_were_asked_for_are_shown_also_where_the_map_is_there(
    square_store: SlideStore, colour_encoder: Any
) -> None:
    (first,) = wsikit.localize(square_store, ["haemorrhage"], encoder=colour_encoder)
    texts, table = len(colour_encoder.texts), square_store.patches()
    before = table.read("localize_haemorrhage")
    (again,) = wsikit.localize(square_store, ["blood"], encoder=colour_encoder)
    assert (first.title, again.title, len(colour_encoder.texts)) == ("Haemorrhage", "Blood (Haemorrhage)", texts)
    assert np.array_equal(table.read("localize_haemorrhage"), before)
    assert read_quantity(table, "localize:blood").title == "Blood (Haemorrhage): probability by text"
    (other,) = wsikit.localize(square_store, ["blood"], against=["collagen", "fat"], encoder=colour_encoder)
    assert other.against == ("Background", "Fat", "Collagen (Fibrous stroma)")
    remark = read_quantity(table, "localize_haemorrhage").remark
    assert remark == "Compared with: Background; Fat; Collagen (Fibrous stroma)."


def test_texts_that_differ_in_a_sign_have_a_column_each_and_one_of_an_older_name_is_read(
    square_store: SlideStore, colour_encoder: Any
) -> None:
    maps = wsikit.localize(square_store, ["pink+", "pink-", "pink"], encoder=colour_encoder)
    assert len({one.column for one in maps}) == 3
    table = square_store.patches()
    table.drop("localize_pink")
    os.rename(table.folder / maps[0].column, table.folder / "localize_pink")
    assert read_quantity(table, "localize:pink+").title == "Pink+: probability by text"
    assert read_quantity(table, "localize:pink-").title == "Pink-: probability by text"
    assert len(concept_quantities(table)) == 2


def test_a_saturated_map_is_stated(square_store: SlideStore, colour_encoder: Any) -> None:
    wsikit.localize(square_store, ["neuropil", "undifferentiated cells"], encoder=colour_encoder)
    remarks = [one.remark for one in concept_quantities(square_store.patches())]
    assert ["Saturated: p ≥ 0.99 on 86 % of the patches" in remark for remark in remarks] == [
        True,
        False,
    ]


def test_the_geojson_is_the_square(localised: SlideStore, tmp_path: Path) -> None:
    wsikit.export(localised, "geojson", tmp_path / "s.geojson", column=COLUMN, threshold=0.5)
    (feature,) = json.loads((tmp_path / "s.geojson").read_text())["features"]
    assert shapely.geometry.shape(feature["geometry"]).equals(shapely.box(*SQUARE))
    properties = feature["properties"]
    assert properties["classification"]["name"].startswith("Undifferentiated cells")
    assert properties["measurements"]["n_patches"] == 144
    assert properties["measurements"]["mean_probability"] > 0.9
    assert properties["metadata"]["notice"] == "An encoder of colours."
    with pytest.raises(RequestError, match="between 0 and 1"):
        wsikit.export(localised, "geojson", tmp_path / "s.geojson", column=COLUMN, threshold=1.5)
    with pytest.raises(RequestError, match="--column"):
        wsikit.export(localised, "geojson", tmp_path / "s.geojson", threshold=0.5)
    with pytest.raises(RequestError, match="threshold"):
        wsikit.export(localised, "csv", tmp_path / "s.csv", threshold=0.5)


@pytest.mark.parametrize("place", ["apart.zarr", "square.zarr"])
def test_ome_zarr_has_a_channel_of_the_concept_in_the_frame_of_the_slide(
    localised: SlideStore, tmp_path: Path, place: str
) -> None:
    wsikit.export(localised, "ngff-labels", tmp_path / place)
    group = zarr.open_group(tmp_path / place / ("maps" if place == "square.zarr" else ""), mode="r")
    ome: Any = group.attrs["ome"]
    assert [channel["label"] for channel in ome["omero"]["channels"]] == [COLUMN.replace("_", " ")]
    values = np.asarray(group["0"])
    assert values.shape == (1, 32, 32)
    truth = np.zeros((32, 32), bool)
    truth[SQUARE[1] // 32 : SQUARE[3] // 32, SQUARE[0] // 32 : SQUARE[2] // 32] = True
    assert np.array_equal(values[0] > 0.5, truth)
    scale = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
    assert scale[-2:] == [16.0, 16.0]  # µm: 32 px of 0.5
    assert not (tmp_path / "apart.zarr" / "labels").exists()


def test_report_and_viewer_have_a_layer_also_without_a_model(localised: SlideStore) -> None:
    data = report_data(StoredResults(localised))
    keys = [layer.key for layer in _layers(data)]
    assert keys == ["patches", "localize-undifferentiated-cells"]
    layer = _layers(data)[1]
    assert (layer.short, layer.low, layer.high) == ("Undifferentiated cells", "0", "1")
    assert "An encoder of colours." in layer.note
    assert (layer.width, layer.height) == (1024, 1024)
    found = {section.title: dict(section.rows) for section in data.provenance}["Found by text"]
    assert found["Undifferentiated cells"] == "presence 1.00, 0.0369 mm² of p ≥ 0.5, encoder colours"
    library = Library(localised.folder)
    shown = library.shown(localised.slide_id)
    assert shown is not None
    page = shown.page()
    assert "localize-undifferentiated-cells" in page
    shown.store.close()


def test_the_outputs_of_a_run_depend_on_the_maps(square_store: SlideStore, colour_encoder: Any) -> None:
    before = outputs_receipt(StoredResults(square_store)).digest
    wsikit.localize(square_store, ["neuropil"], encoder=colour_encoder)
    first = outputs_receipt(StoredResults(square_store)).digest
    wsikit.localize(square_store, ["neuropil"], encoder=colour_encoder, sigma=0)
    assert len({before, first, outputs_receipt(StoredResults(square_store)).digest}) == 3


def test_tables_have_the_column(localised: SlideStore) -> None:
    assert COLUMN in localised.patches().frame()
    assert localised.patches().units(COLUMN) == {COLUMN: "probability"}
