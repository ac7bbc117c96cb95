"""Patches of stores by annotated regions: truth is a count of patch centres in boxes known beforehand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.inference.caption import caption
from wsikit.slides import open_slide
from wsikit.tiling.tile import tile
from wsikit.training.datasets import read_stores

LEFT, RIGHT = (300, 300, 700, 800), (700, 300, 1100, 800)
"""Boxes x0, y0, x1, y1 in level-0 px."""


def feature(label: str | None, box: tuple[int, int, int, int], hole: tuple[int, int, int, int] | None = None) -> dict:
    def ring(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
        return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]

    rings = [ring(*box)] + ([ring(*hole)] if hole else [])
    properties = {"objectType": "annotation"} | ({"classification": {"name": label}} if label else {})
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}, "properties": properties}


def inside(coords: np.ndarray, side: tuple[float, float], box: tuple[int, int, int, int]) -> np.ndarray:
    x, y = (coords + np.array(side) / 2).T
    return (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])


@pytest.fixture
def folder(tmp_path: Path, slide_path: Path) -> Path:
    with tile(slide_path, tmp_path / "disc.zarr", patch_px=64):
        pass
    rows = [["store", "regions", "patient"], ["disc.zarr", "disc.geojson", "p7"]]
    with open(tmp_path / "slides.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


def draw(folder: Path, *features: dict) -> Path:
    (folder / "disc.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return folder / "slides.csv"


def test_a_patch_has_the_class_of_the_region_that_its_centre_lies_in(folder: Path):
    hole = (400, 400, 500, 500)
    manifest = draw(folder, feature("UD", LEFT, hole), feature("D", RIGHT), feature(None, (0, 0, 1500, 1100)))
    caption(folder / "disc.zarr")
    found = read_stores(manifest)
    with open_slide(folder / "disc.zarr") as store:
        table = store.patches()
        side, coords, texts = table.grid.side, table.coords, table.read("caption")
        left = inside(coords, side, LEFT) & ~inside(coords, side, hole)
        right = inside(coords, side, RIGHT)
        assert [found.classes.count(name) for name in ("UD", "D")] == [left.sum(), right.sum()]
        assert left.sum() > 10
        rows = np.flatnonzero(left | right)
        assert found.coords is not None
        assert (found.coords == coords[rows]).all()
        assert found.captions == tuple(texts[rows])
        assert set(found.patients) == {"p7"}
        assert set(found.slides) == {"disc"}
        assert found.mpp == 0.5
        chosen = [len(rows) - 1, 0, 5]
        for row, image in zip(chosen, found.images(chosen), strict=True):
            x, y = coords[rows[row]]
            assert (image == store.read_region(int(x), int(y), 64, 64, mpp=0.5)).all()


def test_regions_of_two_classes_must_not_share_a_patch(folder: Path):
    manifest = draw(folder, feature("UD", LEFT), feature("D", (600, 300, 1100, 800)))
    with pytest.raises(RequestError, match="lies in regions of 'UD' and 'D'. Regions of"):
        read_stores(manifest)


def test_what_is_wrong_with_regions_or_manifest_is_said(folder: Path):
    with pytest.raises(RequestError, match="no patch's centre lies in a region"):
        read_stores(draw(folder, feature("UD", (0, 0, 5, 5))))
    with pytest.raises(RequestError, match="no region has a class"):
        read_stores(draw(folder, feature(None, LEFT)))
    line = feature("UD", LEFT) | {"geometry": {"type": "LineString", "coordinates": [[0, 0], [9, 9]]}}
    with pytest.raises(RequestError, match=r"feature 1 \(UD\) is a LineString; expected Polygon"):
        read_stores(draw(folder, line))
    (folder / "slides.csv").write_text("store,labels\ndisc.zarr,x\n")
    with pytest.raises(RequestError, match=r"columns \['labels', 'store'\]; expected store, regions"):
        read_stores(folder / "slides.csv")
