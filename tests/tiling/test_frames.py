"""Coordinates of regions that count from the slide's bounds, as QuPath shows a slide that states them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import shapely
import tifffile

import wsikit
from wsikit.errors import RequestError
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.roi import read_regions, read_roi

AT = (600, 400)
"""Corner of the scanned area, level-0 px."""
SIDE, GLASS = 1400, 240


@pytest.fixture(scope="module")
def leica(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Leica SCN of 0.5 µm/px: a collection of 1400 × 1400 px, of which 512 × 384 px at (600, 400) were scanned."""
    path = tmp_path_factory.mktemp("scn") / "x.scn"
    rng = np.random.default_rng(3)
    tissue = rng.normal((200, 140, 180), 12, (384, 512, 3)).clip(0, 255).astype(np.uint8)
    tissue[:40] = tissue[:, :40] = GLASS
    micron = 500  # nm per px

    def image(size: tuple[int, int], nm: tuple[int, int, int, int], ifd: int, lens: int) -> str:
        return (
            f'<image><creationDate>2021-05-05T05:05:05Z</creationDate><device model="m" version="1"/><pixels '
            f'sizeX="{size[0]}" sizeY="{size[1]}"><dimension sizeX="{size[0]}" sizeY="{size[1]}" r="0" ifd="{ifd}"/>'
            f'</pixels><view sizeX="{nm[0]}" sizeY="{nm[1]}" offsetX="{nm[2]}" offsetY="{nm[3]}" spacingZ="0"/>'
            f"<scanSettings><objectiveSettings><objective>{lens}</objective></objectiveSettings>"
            "<illuminationSettings><numericalAperture>0.5</numericalAperture>"
            "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
        )

    whole = SIDE * micron
    macro = image((140, 140), (whole, whole, 0, 0), 0, 1)
    scan = image((512, 384), (512 * micron, 384 * micron, AT[0] * micron, AT[1] * micron), 1, 20)
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection '
        f'sizeX="{whole}" sizeY="{whole}"><barcode>MQ==</barcode>{macro}{scan}</collection></scn>'
    )
    options: dict[str, Any] = {"tile": (128, 128), "photometric": "rgb", "metadata": None, "compression": "jpeg"}
    options |= {"resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        glass: np.ndarray = np.full((140, 140, 3), GLASS, np.uint8)
        tiff.write(glass, description=xml, resolution=(2000, 2000), **options)
        tiff.write(tissue, resolution=(20000, 20000), **options)
    return path


def geojson(path: Path, shape: shapely.Geometry, *, by_qupath: bool = True, **members: Any) -> Path:
    properties: dict[str, Any] = {"objectType": "annotation"} if by_qupath else {}
    feature = {"type": "Feature", "geometry": json.loads(shapely.to_geojson(shape)), "properties": properties}
    path.write_text(json.dumps({"type": "FeatureCollection", **members, "features": [feature]}), encoding="utf-8")
    return path


def corner(path: Path, slide: Any, **options: Any) -> tuple[float, float]:
    return read_roi(path, slide=slide, **options).shape.bounds[:2]


def test_bounds_are_those_of_openslide_and_travel_into_the_store(leica: Path, tmp_path: Path) -> None:
    truth = openslide.OpenSlide(str(leica)).properties
    with wsikit.open_slide(leica) as slide:
        assert slide.info.bounds == (*AT, 512, 384)
        assert slide.info.bounds == tuple(int(truth[f"openslide.bounds-{k}"]) for k in ("x", "y", "width", "height"))
        assert slide.info.to_json()["bounds"] == [*AT, 512, 384]
        assert any("openslide.bounds" in note for note in slide.info.notes)
    for pixels in ("keep", "none"):
        image = ImageParameters(pixels=pixels)  # type: ignore[arg-type]
        with wsikit.tile(leica, tmp_path / f"{pixels}.zarr", image=image) as store:
            assert store.info.bounds == (*AT, 512, 384)


def test_regions_of_qupath_count_from_the_bounds_and_others_from_level_0(leica: Path, tmp_path: Path) -> None:
    drawn = geojson(tmp_path / "q.geojson", shapely.box(10, 20, 110, 120))
    other = geojson(tmp_path / "o.geojson", shapely.box(10, 20, 110, 120), by_qupath=False)
    with wsikit.open_slide(leica) as slide:
        assert corner(drawn, slide) == (610, 420)
        assert corner(drawn, slide, frame="level0") == (10, 20)
        assert corner(other, slide) == (10, 20)
        assert corner(other, slide, frame="bounds") == (610, 420)
        roi = read_roi(drawn, slide=slide)
        assert roi.frame == "bounds (x=600, y=400)"
        assert "shifted by x=600, y=400" in roi.notes[0]
        assert "--frame bounds" in read_roi(other, slide=slide).notes[0]
        classed = json.loads(drawn.read_text())
        classed["features"][0]["properties"]["classification"] = {"name": "Tumor"}
        drawn.write_text(json.dumps(classed))
        notes: list[str] = []
        (region,) = read_regions(drawn, slide=slide, on_note=notes.append)
        assert region.shape.bounds[:2] == (610, 420)
        assert len(notes) == 1
        with pytest.raises(RequestError, match="choose one of auto"):
            read_roi(drawn, slide=slide, frame="qupath")  # type: ignore[arg-type]


def test_a_slide_without_bounds_is_never_shifted(slide_path: Path, tmp_path: Path) -> None:
    drawn = geojson(tmp_path / "q.geojson", shapely.box(10, 20, 110, 120))
    with wsikit.open_slide(slide_path) as slide:
        for frame in ("auto", "level0", "bounds"):
            roi = read_roi(drawn, slide=slide, frame=frame)  # type: ignore[arg-type]
            assert (roi.shape.bounds[:2], roi.frame, roi.notes) == ((10, 20), "level0", ())


def test_the_frame_that_a_file_states_counts_more_than_its_program(leica: Path, tmp_path: Path) -> None:
    box = shapely.box(10, 20, 110, 120)
    level0 = geojson(tmp_path / "a.geojson", box, wsikit={"frame": "level0", "origin": [0, 0]})
    bounds = geojson(tmp_path / "b.geojson", box, wsikit={"frame": "bounds", "origin": [600, 400]}, by_qupath=False)
    with wsikit.open_slide(leica) as slide:
        assert corner(level0, slide) == (10, 20)
        assert corner(bounds, slide) == (610, 420)


def test_a_run_finds_the_tissue_in_a_region_drawn_in_qupath(leica: Path, tmp_path: Path) -> None:
    drawn = geojson(tmp_path / "q.geojson", shapely.box(0, 0, 512, 384))
    image = ImageParameters(pixels="none")
    with wsikit.tile(leica, tmp_path / "s.zarr", patch_px=64, roi=drawn, image=image) as store:
        table = store.patches()
        assert len(table) > 20
        assert (table.coords >= np.array(AT) - 64).all()
        assert table.attributes("roi")["frame"] == "bounds (x=600, y=400)"
    nothing = wsikit.tile(leica, tmp_path / "t.zarr", patch_px=64, roi=drawn, roi_frame="level0", image=image)
    assert len(nothing.patches()) == 0
    assert len(wsikit.patches(leica, patch_px=64, roi=drawn)) == len(SlideStore(tmp_path / "s.zarr").patches())


def test_our_own_outlines_come_back_to_their_place(leica: Path, tmp_path: Path) -> None:
    """Export in each frame, read back: the same area. QuPath keeps the metadata of an object, not that of the file."""
    store = wsikit.tile(leica, tmp_path / "s.zarr", patch_px=64, image=ImageParameters(pixels="none"))
    table = store.patches()
    model = {
        "name": "m",
        "version": "1",
        "fingerprint": "f",
        "class_names": ["a", "b"],
        "colors": ["#000000", "#ffffff"],
        "background": [],
        "notice": "",
    }
    spec = ColumnSpec("probability", "float32", 2, {"names": ["a", "b"], "model": model})
    for rows in table.prepare([spec], Receipt("predict", 1, {}, {})):
        table.write("probability", rows, np.tile(np.float32([0.9, 0.1]), (rows.stop - rows.start, 1)))
    truth = shapely.union_all(shapely.box(*table.coords.T, *(table.coords + 64).T))
    notes: list[str] = []
    for frame, least in (("auto", 0), ("bounds", 0), ("level0", 500)):
        path = wsikit.export(
            store, "geojson", tmp_path / f"{frame}.geojson", frame=frame, patches=True, on_note=notes.append
        )
        record = json.loads(path.read_text())
        first = record["features"][0]["geometry"]
        assert shapely.from_geojson(json.dumps(first)).bounds[0] >= least - 64
        assert read_roi(path, slide=store).shape.equals(truth)
        del record["wsikit"]  # through QuPath
        path.write_text(json.dumps(record))
        assert read_roi(path, slide=store).shape.equals(truth)
    assert len(notes) == 3
    assert "as QuPath shows the slide" in notes[0]
