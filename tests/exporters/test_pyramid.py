"""The slide inside a page: tiles where they belong, as deep as the bytes allow, deeper at the shown patches."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from wsikit.exporters.layers import map_layers
from wsikit.exporters.pyramid import TILE_PX, Frame, embed, frame_of, read_tile
from wsikit.slides.registry import open_slide


def decoded(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def stitched(pyramid, level: int) -> np.ndarray:
    width, height = pyramid.frame.level_size(level)
    out = np.zeros((height, width, 3), np.uint8)
    for (at, col, row), jpeg in pyramid.tiles.items():
        if at == level:
            tile = decoded(jpeg)
            out[row * TILE_PX :, col * TILE_PX :][: tile.shape[0], : tile.shape[1]] = tile
    return out


def test_the_finest_level_is_the_slide_itself(slide_path, pixels):
    with open_slide(slide_path) as slide:
        pyramid = embed(slide, [(0, 0, 1500, 1100)], [])
    assert pyramid.frame.level_um(pyramid.whole_level) == 0.5
    assert np.abs(stitched(pyramid, pyramid.whole_level).astype(int) - pixels).mean() < 3
    coarse = stitched(pyramid, pyramid.whole_level - 1)
    expected = pixels.reshape(550, 2, 750, 2, 3).mean(axis=(1, 3))
    assert np.abs(coarse - expected).mean() < 3


def test_with_few_bytes_only_the_shown_patches_are_deep(slide_path):
    with open_slide(slide_path) as slide:
        shallow = embed(slide, [(0, 0, 1500, 1100)], [(600, 500, 100, 100)], whole_bytes=1, deep_bytes=10**6)
    frame, deepest = shallow.frame, shallow.frame.deepest
    assert shallow.whole_level < shallow.deep_level == deepest
    deep = {place for place in shallow.tiles if place[0] == deepest}
    assert deep == set(frame.tiles_over(deepest, (540, 440, 220, 220)))
    none = embed(open_slide(slide_path), [(0, 0, 1500, 1100)], [], whole_bytes=1)
    assert none.deep_level == none.whole_level


def test_glass_is_not_embedded_in_fine_levels(write_slide, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr("wsikit.exporters.pyramid.ALL_TILES_PX", 256)
    with open_slide(write_slide(tmp_path / "a.tiff", pixels)) as slide:
        pyramid = embed(slide, [(0, 0, 256, 256), (250, 0, 20, 20)], [])
    finest = {place[1:] for place in pyramid.tiles if place[0] == pyramid.frame.deepest}
    assert finest == {(0, 0), (1, 0)}


def test_what_cannot_be_read_is_hatched_and_never_white(slide_path, damage_tile):
    damage_tile(slide_path, 4, 4)
    with open_slide(slide_path) as slide:
        tile = read_tile(slide, (512, 512, 256, 256), (256, 256))
    assert set(np.unique(tile[:128, :128])) == {90, 170}
    assert tile[128:, 128:].std() > 5
    assert not (tile[:128, :128] == 255).any()


def test_non_square_pixels_become_square():
    frame = Frame((1000, 1000), (0.5, 0.25))
    assert frame.size == (2000, 1000)
    box, size = frame.tile_box((frame.deepest, 1, 0))
    assert box == (128, 0, 128, 256)
    assert size == (256, 256)


def test_tiles_of_a_level_cover_it_once(slide_path):
    with open_slide(slide_path) as slide:
        frame = frame_of(slide)
    for level in range(frame.deepest + 1):
        boxes = [frame.tile_box(place)[0] for place in frame.tiles_over(level, (0, 0, 1500, 1100))]
        area = sum(width * height for _, _, width, height in boxes)
        width, height = frame.level_size(level)
        assert area == pytest.approx(width * height * 4.0 ** (frame.deepest - level))


# ---- map layers


def rgba(layer) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(layer.png)).convert("RGBA"))


def test_layers_show_each_patch_in_its_colour_at_its_place(class_map_of):
    class_map = class_map_of(np.array([[0, 1, 1], [3, -1, -2]]))
    layers = {layer.key: layer for layer in map_layers(class_map, {"gate": np.array([0.0, 0.5, 1.0, np.nan, np.nan])})}
    assert list(layers) == ["subtype", "probability-UD", "probability-PD", "probability-D", "gate"]
    picture = rgba(layers["subtype"])
    cell = picture.shape[0] // 2
    middle = picture[cell // 2 :: cell, cell // 2 :: cell]
    assert tuple(middle[0, 0, :3]) == class_map.colors[0]
    assert tuple(middle[0, 1, :3]) == class_map.colors[1]
    assert middle[1, 2, 3] == 0
    assert middle[1, 0, 3] < middle[0, 0, 3]  # background is faint
    assert layers["subtype"].width == 3 * class_map.grid.stride[0]
    gate = rgba(layers["gate"])[cell // 2 :: cell, cell // 2 :: cell]
    brightness = gate[0, :, :3].sum(axis=1)
    assert (np.diff(brightness.astype(int)) > 100).all()


def test_layers_end_at_the_slides_edge(class_map_of):
    class_map = class_map_of(np.zeros((2, 2), int), slide_px=(336, 448))  # the second column reaches half over
    picture = rgba(map_layers(class_map)[0])
    half = picture.shape[1] * 3 // 4
    assert (picture[:, :half, 3] > 0).all()
    assert not picture[:, half:, 3].any()


def test_values_without_any_number_give_no_layer(class_map_of):
    class_map = class_map_of(np.array([[0, 1]]))
    assert "ood_score" not in {layer.key for layer in map_layers(class_map, {"ood_score": np.full(2, np.nan)})}
