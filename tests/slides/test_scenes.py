"""Scenes of slides beyond plain TIFF: areas of a Leica SCN, receipts, stores, batches and the command line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

import wsikit
from wsikit.batch.entry import SlideEntry
from wsikit.batch.finished import slide_request
from wsikit.batch.manifest import collect
from wsikit.cli.info import command as info_command
from wsikit.cli.tile import command as tile_command
from wsikit.errors import RequestError
from wsikit.slides import open_slide
from wsikit.slides.store import SlideStore

TILED = {"tile": (64, 64), "compression": "jpeg", "photometric": "rgb", "metadata": None}
CM = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
UM_PER_PX = 0.5


def write_scn(path: Path, areas: list[tuple[np.ndarray, tuple[int, int]]]) -> Path:
    """A Leica SCN: a macro and areas of one level at (x, y) px of the whole picture."""
    side = 1024

    def image(size: tuple[int, int], view: tuple[int, ...], ifd: int, lens: int) -> str:
        view = tuple(int(px * UM_PER_PX * 1000) for px in view)
        return (
            f'<image><pixels sizeX="{size[0]}" sizeY="{size[1]}"><dimension sizeX="{size[0]}" sizeY="{size[1]}" r="0" '
            f'ifd="{ifd}"/></pixels><view sizeX="{view[0]}" sizeY="{view[1]}" offsetX="{view[2]}" '
            f'offsetY="{view[3]}"/><scanSettings><objectiveSettings><objective>{lens}</objective></objectiveSettings>'
            "<illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings>"
            "</scanSettings></image>"
        )

    images = [image((128, 128), (side, side, 0, 0), 0, 1)]
    for number, (pixels, corner) in enumerate(areas, start=1):
        size = pixels.shape[1::-1]
        images.append(image(size, (*size, *corner), number, 20))
    nm = int(side * UM_PER_PX * 1000)
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection sizeX="{nm}" sizeY="{nm}">{"".join(images)}</collection></scn>'
    )
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        macro = np.full((128, 128, 3), 230, np.uint8)
        writer.write(macro, description=xml, resolution=(2500, 2500), resolutionunit="CENTIMETER", **TILED)
        for pixels, _ in areas:
            writer.write(pixels, **CM, **TILED)
    return path


@pytest.fixture(scope="module")
def two_sections(tmp_path_factory, texture) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for seed in (1, 2):
            writer.write(texture(512, 384, seed), **CM, **TILED)
    return path


def test_areas_of_an_scn_are_one_picture_or_scenes(tmp_path, texture):
    areas = [(texture(320, 256, 1), (100, 60)), (texture(256, 192, 2), (600, 500))]
    path = write_scn(tmp_path / "a.scn", areas)
    with open_slide(path) as slide:
        assert slide.dimensions == (1024, 1024)
        assert [scene.dimensions for scene in slide.info.scenes] == [(320, 256), (256, 192)]
        assert slide.info.scene is None
        assert "2 scanned areas, shown in one picture" in " ".join(slide.info.notes)
        whole = slide.read_region(0, 0, 1024, 1024)
    for number, (pixels, (x, y)) in enumerate(areas):
        height, width = pixels.shape[:2]
        with open_slide(path, scene=number) as slide, pickle.loads(pickle.dumps(slide)) as again:
            assert slide.info.scene == again.info.scene == number
            assert slide.dimensions == (width, height)
            region = slide.read_region(0, 0, width, height)
            np.testing.assert_array_equal(region, whole[y : y + height, x : x + width])
            np.testing.assert_array_equal(again.read_region(0, 0, width, height), region)
            assert np.abs(region.astype(int) - pixels).mean() < 12
            assert not [name for name in slide.info.properties if name.startswith("openslide.bounds")]
    with pytest.raises(RequestError, match="no scene 2: the file has scenes 0, 1"):
        open_slide(path, scene=2)


def test_a_changed_scene_makes_the_store_again(tmp_path, two_sections):
    stores = []
    for scene in (None, 1, 1, 0):
        with open_slide(two_sections, scene=scene) as slide:
            stores.append(wsikit.tile(slide, tmp_path / "a.zarr", mpp=1.0, patch_px=64))
    records = [store.record for store in stores]
    assert [record["source"]["scene"] for record in records] == [0, 1, 1, 0]
    digests = [record["receipt"]["digest"] for record in records]
    assert digests[0] != digests[1] == digests[2] != digests[3] == digests[0]


def test_a_store_without_pixels_reads_the_scene_it_was_made_from(tmp_path, two_sections):
    from wsikit.tiling.plan import ImageParameters

    with open_slide(two_sections, scene=1) as slide:
        wsikit.tile(slide, tmp_path / "a.zarr", mpp=1.0, patch_px=64, image=ImageParameters(pixels="none"))
        expected = slide.read_region(0, 0, 200, 100)
    with SlideStore(tmp_path / "a.zarr") as store:
        np.testing.assert_array_equal(store.read_region(0, 0, 200, 100), expected)
        assert store.info.scene == 1


def test_a_store_is_verified_against_its_own_scene(tmp_path, two_sections):
    with open_slide(two_sections, scene=1) as slide:
        wsikit.tile(slide, tmp_path / "a.zarr", mpp=1.0, patch_px=64)
    from wsikit.tiling.verify import verify

    assert verify(tmp_path / "a.zarr", source=two_sections).ok


def test_a_picture_without_a_name_is_not_stored_unless_asked_for(tmp_path, texture):
    from wsikit.tiling.plan import ImageParameters

    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(texture(512, 384, 1), **CM, **TILED)
        writer.write(texture(128, 96, 2), **TILED)
    assert wsikit.tile(path, tmp_path / "a.zarr", mpp=1.0, patch_px=64).info.associated == ()
    keep = ImageParameters(keep_label=True)
    assert wsikit.tile(path, tmp_path / "b.zarr", mpp=1.0, patch_px=64, image=keep).info.associated == ("image 2",)


def test_scenes_of_one_file_are_slides_of_their_own_in_a_manifest(tmp_path, two_sections):
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path,scene\n{two_sections},0\n{two_sections},1\n")
    entries = collect([], manifests=[manifest])
    assert [(entry.slide_id, entry.scene) for entry in entries] == [("a_scene0", "0"), ("a_scene1", "1")]
    requests = {slide_request(entry, {}, "model", {}) for entry in entries}
    assert len(requests) == 2
    for entry in entries:
        with entry.open() as slide:
            assert slide.info.scene == int(entry.scene)


def test_an_open_slide_is_run_with_its_scene(two_sections):
    with open_slide(two_sections, scene=1) as slide:
        assert SlideEntry.of(slide).scene == 1


@pytest.mark.parametrize("option", ["--scene", "--series"])
def test_info_lists_the_scenes_and_reads_the_requested_one(two_sections, option):
    found = CliRunner().invoke(info_command, [str(two_sections), option, "1"], standalone_mode=False)
    assert found.return_value == 0
    assert "0: 512 × 384 px" in found.output
    assert "1: 512 × 384 px (read)" in found.output
    as_json = json.loads(CliRunner().invoke(info_command, [str(two_sections), "--json"], standalone_mode=False).output)
    assert (as_json["scene"], len(as_json["scenes"])) == (0, 2)


def test_tile_takes_a_scene(tmp_path, two_sections):
    arguments = [str(two_sections), "-o", str(tmp_path / "a.zarr"), "--mpp", "1", "--scene", "1"]
    found = CliRunner().invoke(tile_command, arguments, standalone_mode=False)
    assert found.return_value == 0, found.output
    assert SlideStore.read_record(tmp_path / "a.zarr")["source"]["scene"] == 1


def test_run_reports_a_scene_that_does_not_exist_for_its_slide_only(tmp_path, two_sections):
    found = wsikit.run(two_sections, tmp_path / "out", scene=5)
    assert [row.status for row in found] == ["failed"]
    assert "no scene 5: the file has scenes 0, 1" in found[0].error
