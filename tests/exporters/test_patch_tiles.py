"""The data of all patches next to a page: every patch once, its numbers to five digits, its texts as they are."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.patch_tiles import CELLS, PatchTiles, remove_others
from wsikit.exporters.patchdata import SHARED_CAPTION, PatchWords
from wsikit.exporters.pyramid import EmbeddedPyramid, Frame, encode_jpeg
from wsikit.exporters.report import ReportData, render_report, write_report
from wsikit.geometry import PatchGrid

ATTACK = '");</script><script>alert(1)</script>\u2028'


def read_tile(script: bytes) -> dict:
    """What a page reads from a tile."""
    name, text = re.fullmatch(rb'wsikitPatches\("(\d+_\d+)","([A-Za-z0-9+/=]*)"\);\n', script).groups()
    data = zlib.decompress(base64.b64decode(text))
    start = 4 + int.from_bytes(data[:4], "little")
    head = json.loads(data[4:start])
    found = {"name": name.decode(), **head}
    for column in head["int"]:
        found[column] = np.frombuffer(data, "<i4", head["n"], start)
        start += 4 * head["n"]
    for column in head["float"]:
        upper = np.frombuffer(data, np.uint8, 3 * head["n"], start).reshape(3, -1).astype(np.uint32)
        found[column] = (upper[0] << 24 | upper[1] << 16 | upper[2] << 8).astype("<u4").view("<f4")
        start += 3 * head["n"]
    assert start == len(data)
    return found


def slide(grid: PatchGrid, coords: np.ndarray) -> tuple[ClassMap, PatchWords]:
    rng = np.random.default_rng(0)
    n = len(coords)
    probs = rng.dirichlet([0.5] * 3, n)
    labels = probs.argmax(axis=1)
    labels[::17] = -1
    class_map = ClassMap(
        "s", grid, "made up", coords, labels, probs, ("a", "b", "c"), ("A", "B", "C"), ((0, 0, 0),) * 3
    )
    captions = np.array([f"patch {row}" for row in range(n)], dtype=object)
    captions[3], captions[5] = "", ATTACK
    facts = rng.lognormal(0, 8, (n, 4)).astype(np.float32) * rng.choice([-1, 1], (n, 4))
    facts[::5, 1], facts[::7, 2], facts[0, 3] = np.nan, 0.0, np.inf
    words = PatchWords(
        captions, captions == "patch 4", tuple("wxyz"), ("µm",) * 4, facts, rng.random(n), readable=rng.random(n) < 0.9
    )
    return class_map, words


GRIDS = {
    "plain": PatchGrid((100 * 150, 100 * 70), (0.5, 0.5), 100, 0.5),
    "overlapping": PatchGrid((100 * 150, 100 * 70), (0.5, 0.5), 150, 0.5, overlap_px=50),
    "free": PatchGrid((100 * 150, 100 * 70), (0.5, 0.5), 100, 0.5, anchored=False),
}


@pytest.mark.parametrize("kind", GRIDS)
def test_every_patch_is_in_the_tile_of_its_place_with_all_of_its_data(kind, tmp_path):
    grid = GRIDS[kind]
    rng = np.random.default_rng(1)
    coords = rng.integers(0, 6900, (5000, 2)) if kind == "free" else grid.all_coords()
    coords = np.unique(coords[rng.random(len(coords)) < 0.9], axis=0)
    class_map, words = slide(grid, coords)
    index = PatchTiles.of(class_map, words).write(tmp_path / "data")
    seen = []
    for name, digest in index.names.items():
        tile = read_tile((tmp_path / "data" / f"{name}_{digest}.js").read_bytes())
        rows = tile["row"]
        seen += rows.tolist()
        assert tile["name"] == name
        place = np.floor(coords[rows] / grid.stride + 0.5) // CELLS
        assert {f"{int(col)}_{int(row)}" for col, row in place} == {name}
        np.testing.assert_array_equal(np.column_stack([tile["x"], tile["y"]]), coords[rows])
        np.testing.assert_array_equal(tile["label"], class_map.labels[rows])
        np.testing.assert_array_equal(tile["unreadable"] == 1, ~words.readable[rows])
        for column, truth in [
            *((f"probs:{i}", class_map.probs[:, i]) for i in range(3)),
            *((f"facts:{i}", words.facts[:, i]) for i in range(4)),
            ("gate", words.gate),
        ]:
            np.testing.assert_allclose(tile[column], truth[rows], rtol=2**-16, atol=1e-37)
        texts = [tile["captions"][at] if at >= 0 else "" for at in tile["caption"].tolist()]
        expected = [str(text) for text in words.captions[rows]]
        expected = [f"{text} {SHARED_CAPTION}" if text == "patch 4" else text for text in expected]
        assert texts == expected
    assert sorted(seen) == list(range(len(coords)))
    assert len(index.names) > 1


@pytest.fixture
def data() -> ReportData:
    grid = GRIDS["plain"]
    class_map, words = slide(grid, grid.all_coords())
    frame = Frame(grid.slide_px, grid.slide_mpp)
    tile = encode_jpeg(np.full((110, 235, 3), 200, dtype=np.uint8))
    picture = np.full((70, 150, 3), 220, np.uint8)
    return ReportData(class_map, picture, None, words=words, pyramid=EmbeddedPyramid(frame, {(8, 0, 0): tile}, 8, 8))


def policy(html: str) -> str:
    return re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")


def test_a_page_that_holds_everything_is_one_file(data: ReportData, tmp_path: Path):
    write_report(tmp_path / "report.html", data)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    html = (tmp_path / "report.html").read_text()
    assert "strict-dynamic" not in policy(html)
    assert '"tiles":null' in html


def test_what_does_not_fit_lies_next_to_the_page_and_the_page_says_so(data: ReportData, tmp_path: Path):
    write_report(tmp_path / "slide 1.html", replace(data, patch_bytes=1))
    html = (tmp_path / "slide 1.html").read_text()
    index = json.loads(re.search(r'id="slide-data">(.*?)</script>', html, re.DOTALL)[1])["tiles"]
    assert index["base"] == "slide 1_patches/"
    found = {path.name for path in (tmp_path / "slide 1_patches").iterdir()}
    assert found == {f"{name}_{digest}.js" for name, digest in index["names"].items()}
    assert len(found) == 6
    assert "in the folder slide 1_patches next to this page" in html
    assert "Left out" not in html
    assert policy(html).endswith(" 'strict-dynamic'")
    assert "Left out to limit the page" in render_report(replace(data, patch_bytes=1)), "no place for a folder"


def test_files_of_an_earlier_page_are_removed_and_those_of_others_stay(data: ReportData, tmp_path: Path):
    page, folder = tmp_path / "report.html", tmp_path / "report_patches"
    write_report(page, replace(data, patch_bytes=1))
    before = {path.name for path in folder.iterdir()}
    (folder / "notes.txt").write_text("mine")
    changed = replace(data.class_map, labels=np.maximum(data.class_map.labels, 0))
    write_report(page, replace(data, class_map=changed, patch_bytes=1))
    after = {path.name for path in folder.iterdir()}
    assert len(after - {"notes.txt"}) == len(before)
    assert not before & after
    write_report(page, data)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    remove_others(folder, None)
    assert not folder.exists()


def test_equal_data_give_equal_files(data: ReportData, tmp_path: Path):
    tiles = PatchTiles.of(data.class_map, data.words)
    assert tiles.write(tmp_path / "a").names == tiles.write(tmp_path / "b").names
    assert tiles.script("999_0") is None
