"""The scene is a function of place: pixels and objects do not depend on the requested box."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.phantom import make_phantom
from wsikit.phantom.cells import OBJECT_KINDS
from wsikit.phantom.recipe import Disc, draw_recipe
from wsikit.phantom.render import NOISE_SIDE, OBJECT_MARGIN_UM, Scene
from wsikit.phantom.sprites import KINDS, bank
from wsikit.phantom.textures import textures


def _scene(subtype: str, *, seed: int = 3, mpp: float = 0.5, tissue: float = 0.7) -> Scene:
    return Scene(draw_recipe(seed, subtype, (1000.0, 800.0), tissue_fraction=tissue), mpp)


@pytest.mark.parametrize(("subtype", "mpp"), [("UD", 0.5), ("D", 0.5), ("PD", 0.8)])
def test_pixels_are_the_same_whatever_the_tile(subtype: str, mpp: float) -> None:
    scene = _scene(subtype, mpp=mpp)
    x, y, side = 701, 503, 300
    whole = scene.render((x, y, side, side))
    assert whole.std() > 10
    for tile in (97, 160):
        for left in range(0, side, tile):
            for top in range(0, side, tile):
                width, height = min(tile, side - left), min(tile, side - top)
                part = scene.render((x + left, y + top, width, height))
                assert np.array_equal(part, whole[top : top + height, left : left + width])


def test_blurred_pixels_are_the_same_whatever_the_tile() -> None:
    from dataclasses import replace

    recipe = draw_recipe(3, "PD", (1000.0, 800.0), tissue_fraction=0.9)
    scene = Scene(replace(recipe, blurs=(Disc(500.0, 400.0, 70.0),)), 0.5)
    box = (900, 700, 256, 200)
    whole = scene.render(box)
    assert not np.array_equal(whole, Scene(replace(recipe, blurs=()), 0.5).render(box))
    assert np.array_equal(scene.render((900, 700, 130, 200)), whole[:, :130])
    assert np.array_equal(scene.render((1030, 760, 126, 140)), whole[60:, 130:])


@pytest.mark.parametrize("subtype", ["UD", "PD", "D"])
def test_two_halves_hold_the_objects_of_the_whole(subtype: str) -> None:
    scene = _scene(subtype)

    def objects(box: tuple[int, int, int, int]) -> np.ndarray:
        um = tuple(v * scene.mpp for v in (box[0], box[1], box[0] + box[2], box[1] + box[3]))
        found = scene.plot(box).objects.inside(um)
        return np.stack([found.kind, found.x, found.y, found.size, found.angle, found.variant], axis=1)

    whole = objects((500, 400, 700, 500))
    halves = np.concatenate([objects((500, 400, 333, 500)), objects((833, 400, 367, 500))])
    assert len(whole) > 200
    order = [np.lexsort(rows.T) for rows in (whole, halves)]
    assert np.array_equal(whole[order[0]], halves[order[1]])


def test_objects_beyond_the_border_are_those_that_the_neighbour_sees() -> None:
    """What lies in the margin is drawn into the box, so it must be right too."""
    scene = _scene("D")
    margin, total = OBJECT_MARGIN_UM - 0.01, 0
    for x, y in ((500, 400), (930, 610), (740, 820)):
        um = (x * 0.5 - margin, y * 0.5 - margin, x * 0.5 + 40 + margin, y * 0.5 + 40 + margin)
        seen = [scene.plot(box).objects.inside(um) for box in ((x, y, 80, 80), (x - 300, y - 300, 700, 700))]
        places = [np.sort(objects.x + 1e4 * objects.y) for objects in seen]
        assert np.array_equal(places[0], places[1])
        total += len(places[0])
    assert total > 50


def test_only_fibrillary_tumour_holds_rosettes_and_only_d_holds_many_maturing_cells() -> None:
    kinds = {}
    for subtype in ("UD", "PD", "D"):
        objects = _scene(subtype).plot((0, 0, 2000, 1600)).objects
        kinds[subtype] = {kind: int((objects.kind == n).sum()) for n, kind in enumerate(OBJECT_KINDS)}
    assert kinds["UD"]["rosette"] == kinds["UD"]["differentiating"] == kinds["UD"]["ganglion"] == 0
    assert kinds["PD"]["rosette"] > 5
    assert kinds["D"]["differentiating"] > 10 * max(1, kinds["PD"]["differentiating"])


def test_neuropil_and_structureless_matrix_have_the_same_values_in_another_order() -> None:
    made = textures(0.5)
    assert np.array_equal(np.sort(made["fibrils"], axis=None), np.sort(made["grains"], axis=None))
    assert abs(np.corrcoef(made["fibrils"].ravel(), made["grains"].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_no_drawing_is_cut_off_at_its_edge(kind: str) -> None:
    drawings = bank(kind, 0.5)
    for stack, idle in ((drawings.keep, 1), (drawings.add, 0)):
        for edge in (stack[..., 0, :], stack[..., -1, :], stack[..., :, 0], stack[..., :, -1]):
            assert np.abs(edge - idle).max() < 0.15
    assert drawings.half * 0.5 < OBJECT_MARGIN_UM


def test_bare_glass_is_one_picture_and_light() -> None:
    scene = Scene(draw_recipe(1, "PD", (2000.0, 2000.0), tissue_fraction=0.05, artefacts=False), 0.5)
    box = (0, 0, 512, 512)
    assert scene.is_glass(box)
    assert np.array_equal(scene.render(box), scene.glass(512, 512))
    assert np.array_equal(scene.render((NOISE_SIDE, 0, 256, 256)), scene.glass(256, 256))
    assert scene.glass(256, 256).min() > 200


def test_scale_changes_the_pixels_but_not_the_scene() -> None:
    recipe = draw_recipe(3, "D", (1000.0, 800.0), tissue_fraction=0.8)
    fine, coarse = Scene(recipe, 0.5), Scene(recipe, 0.8)
    um = (400.0, 320.0, 560.0, 480.0)
    box = [tuple(round(v / scene.mpp) for v in (400, 320, 160, 160)) for scene in (fine, coarse)]
    found = [scene.plot(where).objects.inside(um) for scene, where in zip((fine, coarse), box, strict=True)]
    assert len(found[0]) > 50
    assert abs(len(found[0]) - len(found[1])) <= 4  # a cell at a border of tissues may fall to either side
    large, small = fine.render(box[0]), coarse.render(box[1])
    blocks = [image.reshape(20, side, 20, side, 3).mean((1, 3)) for image, side in ((small, 10), (large, 16))]
    assert np.corrcoef(blocks[0].ravel(), blocks[1].ravel())[0, 1] > 0.9


def test_a_slide_can_be_made_without_a_tissue_and_is_unchanged_otherwise(tmp_path: Path) -> None:
    usual = draw_recipe(3, "PD", (600.0, 600.0))
    assert draw_recipe(3, "PD", (600.0, 600.0), without=()) == usual
    assert draw_recipe(3, "PD", (600.0, 600.0), without=["blood"]).shares[2] == 0.0
    truth = make_phantom(tmp_path / "a.tiff", size_px=(896, 896), seed=3, without=["stroma", "blood"])
    assert truth.facts.fraction("stroma").max() == truth.facts.fraction("blood").max() == 0.0
    with pytest.raises(RequestError, match="without bone"):
        draw_recipe(3, "PD", (600.0, 600.0), without=["bone"])
