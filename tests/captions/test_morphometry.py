"""The default captioner: what it reports at which pixel size, and that a caption depends on its own patch only."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsikit.captions import FACTS, Caption, Captioner, load_captioner
from wsikit.errors import RequestError

CAPTIONER = load_captioner()


def caption(image, mpp=0.5):
    return CAPTIONER.caption(image[None], mpp=mpp)[0]


@pytest.fixture(scope="module")
def tissue(draw_nuclei):
    """Nuclei on pink with noise, so that nothing is even."""
    rng = np.random.default_rng(1)
    image = draw_nuclei(0.5).astype(int) + rng.integers(-4, 5, (224, 224, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def test_the_default_is_a_captioner_with_a_json_fingerprint():
    import json

    assert isinstance(CAPTIONER, Captioner)
    assert CAPTIONER.fact_names == tuple(FACTS)
    assert json.loads(json.dumps(CAPTIONER.fingerprint())) == CAPTIONER.fingerprint()


def test_an_unknown_captioner_is_refused_by_name():
    with pytest.raises(RequestError, match="'morphometry'"):
        load_captioner("oracle")


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.7])
def test_numbers_of_a_drawn_scene_come_out_in_their_units(draw_nuclei, mpp):
    facts = caption(draw_nuclei(mpp), mpp).facts
    assert facts["nuclei"] == 36
    assert facts["nuclei_per_mm2"] == pytest.approx(36 / 0.112**2, rel=0.01)
    assert facts["nuclear_area_share"] == pytest.approx(36 * math.pi * 16 / 112**2, rel=0.3)
    assert facts["nuclear_size_cv"] < 0.1
    assert facts["elongated_nuclei_share"] == 0
    assert facts["tissue_share"] == 1


def test_one_scene_at_two_pixel_sizes_gives_the_same_micrometres(draw_nuclei):
    fine, coarse = (caption(draw_nuclei(mpp, diameter_um=9.0), mpp).facts for mpp in (0.25, 0.5))
    for name in ("nuclei", "nuclei_per_mm2", "nuclear_diameter_um", "nuclear_density", "nuclear_eccentricity"):
        assert fine[name] == pytest.approx(coarse[name], rel=0.06), name


def test_long_nuclei_are_called_elongated(draw_nuclei):
    found = caption(draw_nuclei(0.5, aspect=0.3))
    assert found.facts["elongated_nuclei_share"] > 0.8
    assert "elongated" in found.text


@pytest.mark.parametrize("mpp", [0.25, 0.6, 0.61, 1.0, 1.01, 1.5, 1.51, 2.0, 2.1, 4.0, 5.1, 16.0])
def test_nothing_is_stated_that_such_pixels_cannot_show(tissue, mpp):
    stated = caption(tissue, mpp)
    assert all(mpp <= FACTS[name].coarsest_mpp for name in stated.facts)
    assert ("nuclei" in stated.facts) == (mpp <= 1.5)
    assert ("nuclear_diameter_um" in stated.facts) == (mpp <= 1.0)
    assert ("fibrillary_share" in stated.facts) == (mpp <= 0.6)
    assert ("blood_share" in stated.facts) == (mpp <= 5.0)
    assert "haematoxylin_share" in stated.facts
    assert ("nuclei" in stated.text) == (mpp <= 1.5)


def test_what_blur_hides_is_not_stated(draw_nuclei):
    from scipy import ndimage as ndi

    image = draw_nuclei(0.5)
    blurred = ndi.gaussian_filter(image.astype(float), (5, 5, 0)).astype(np.uint8)
    found = caption(blurred)
    assert found.facts["blur_um"] > 1.5
    assert not {"fibrillary_share", "large_pale_nuclei_share", "rosette_like"} & set(found.facts)
    assert "blur" in found.text
    assert "neuropil" not in found.text


FLAT = {
    "white": (255, 255, 255), "glass": (243, 241, 244), "black": (0, 0, 0), "grey": (128, 128, 128),
    "pink": (230, 160, 200), "purple": (90, 60, 140), "green ink": (20, 140, 60), "red": (255, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("mpp", [0.25, 0.5, 4.0])
def test_an_even_patch_of_any_colour_is_described_without_nuclei(name, mpp):
    found = caption(np.full((64, 64, 3), FLAT[name], np.uint8), mpp)
    assert found.text
    assert "nuclei" not in found.facts
    assert "blur_um" not in found.facts
    expected = {"white": "Bare glass", "glass": "Bare glass", "black": "Not a stained bright field",
                "grey": "No stain colour", "pink": "eosin abundant", "purple": "Haematoxylin abundant"}  # fmt: skip
    assert expected.get(name, "") in found.text


def test_fluorescence_on_black_gets_no_tissue_facts():
    rng = np.random.default_rng(0)
    image = np.zeros((224, 224, 3), np.uint8)
    y, x = np.mgrid[:224, :224]
    for cx, cy in rng.integers(10, 214, (60, 2)):
        image[(x - cx) ** 2 + (y - cy) ** 2 < 60] = (20, 40, 220)
    found = caption(image)
    assert found.facts["black_share"] > 0.5
    assert set(found.facts) == {"tissue_share", "blank_share", "black_share", "grey_share"}
    assert "bright field" in found.text


def test_crowded_fluorescence_is_no_bright_field_either():
    """Two thirds of it are lit, in blue alone."""
    image = np.zeros((224, 224, 3), np.uint8)
    image[np.mgrid[:224, :224].sum(axis=0) % 12 < 8] = (5, 20, 230)
    assert "bright field" in caption(image).text


def test_a_shred_of_tissue_on_glass_is_not_counted_up_to_a_square_millimetre(draw_nuclei):
    image = np.full((224, 224, 3), 245, np.uint8)
    image[:20, :20] = draw_nuclei(0.5)[:20, :20]
    assert caption(image).text == "Bare glass: blank abundant (99 %)."


def _ring(kind: str, n_nuclei: int = 10):
    """A ring of nuclei of 7 µm around a core of 11 µm radius: "inward" fibrils, "grains" or a "lumen"."""
    y, x = (np.mgrid[:224, :224] + 0.5) * 0.5 - 56
    radius, turn = np.hypot(y, x), np.arctan2(y, x)
    rng = np.random.default_rng(6)
    eosin = 0.4 + 0.03 * rng.standard_normal((224, 224))
    core = radius < 12
    if kind == "inward":
        eosin[core] += 0.2 * np.sin(24 * turn)[core]
    if kind == "grains":
        eosin[core] += 0.14 * rng.standard_normal((224, 224))[core]
    if kind == "lumen":
        eosin[core] = 0
    nuclei = np.zeros((224, 224))
    for middle in (np.arange(n_nuclei) + 0.3) * 2 * np.pi / n_nuclei:
        distance = np.hypot(y - 15.5 * np.sin(middle), x - 15.5 * np.cos(middle))
        nuclei = np.maximum(nuclei, np.clip((3.5 - distance) / 0.5 + 0.5, 0, 1))
    return nuclei, eosin * (1 - nuclei)


def test_a_ring_around_inward_fibrils_is_rosette_like_and_other_rings_are_not(stain):
    found = caption(stain(*_ring("inward")))
    assert found.facts["rosette_like"] == 1
    assert "rosette-like rings present (1)" in found.text
    assert caption(stain(*_ring("grains"))).facts["rosette_like"] == 0
    assert caption(stain(*_ring("lumen"))).facts["rosette_like"] == 0
    assert caption(stain(*_ring("inward", n_nuclei=3))).facts.get("rosette_like", 0) == 0


def test_large_pale_nuclei_are_ganglion_like_only_with_a_nucleolus(draw_nuclei, stain):
    """Nine of 36 nuclei are made 10 µm wide and pale, with a dot of 2.4 µm or without."""
    y, x = (np.mgrid[:224, :224] + 0.5) * 0.5
    for dot, share in ((0.0, 0.0), (1.6, 0.25)):
        image = draw_nuclei(0.5)
        for cy in (29, 65, 101 - 18):
            for cx in (29, 65, 101 - 18):
                distance = np.hypot(y - cy, x - cx)
                inside = distance < 5
                amount = np.where(distance < 1.2, max(dot, 0.45), 0.45 + 0.3 * (distance > 4.3))
                image[inside] = stain(amount, 0.02 + 0 * amount)[inside]
        facts = caption(image).facts
        assert facts["large_pale_nuclei_share"] == pytest.approx(0.25, abs=0.03)
        assert facts["ganglion_like_share"] == pytest.approx(share, abs=0.03)


def test_grey_tissue_is_reported_to_have_no_colour(tissue):
    found = caption(np.repeat(tissue.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8))
    assert "No stain colour" in found.text
    assert "nuclei" not in found.facts


def test_brown_chromogen_is_neither_eosin_nor_red_cells(tissue):
    image = tissue.copy()
    image[:, :112] = np.rint(245 * 10.0 ** -np.array([0.25, 0.5, 0.72])).astype(np.uint8)
    assert caption(image).facts["brown_share"] == pytest.approx(0.5, abs=0.02)
    assert caption(image).facts["blood_share"] < 0.02


def test_pen_is_named():
    image = np.full((224, 224, 3), 243, np.uint8)
    image[64:] = (20, 60, 200)
    found = caption(image)
    assert found.facts["pen_share"] == pytest.approx(160 / 224, abs=0.3)  # its soft edge is not counted
    assert "pen" in found.text


def test_thin_walled_spaces_are_fat_and_a_hole_in_thick_tissue_is_a_lumen(stain):
    y, x = np.mgrid[:224, :224]
    wall = ((x % 74) < 5) | ((y % 74) < 5)
    fat = caption(stain(np.zeros((224, 224)), 0.5 * wall))
    assert fat.facts["fat_share"] > 0.7
    assert "fat abundant" in fat.text
    hole = (x - 112) ** 2 + (y - 112) ** 2 < 50**2
    lumen = caption(stain(np.zeros((224, 224)), 0.5 * ~hole))
    assert lumen.facts["lumen_share"] == pytest.approx(math.pi * 50**2 / 224**2, rel=0.05)
    assert lumen.facts["fat_share"] == 0


def test_glass_next_to_tissue_is_neither_fat_nor_lumen(stain):
    x = np.mgrid[:224, :224][1]
    facts = caption(stain(np.zeros((224, 224)), 0.5 * (x < 100))).facts
    assert facts["fat_share"] == facts["lumen_share"] == 0
    assert facts["blank_share"] == pytest.approx(124 / 224, abs=0.02)


def _stripes(angle_at, period_um):
    y, x = np.mgrid[:224, :224] * 0.5
    angle = angle_at(x, y)
    return np.sin(2 * np.pi / period_um * (x * np.cos(angle) + y * np.sin(angle)))


def _grain():
    """Some noise, as any scanner gives: a picture without any counts as out of focus."""
    return 0.02 * np.random.default_rng(5).standard_normal((224, 224))


def test_fibres_that_run_together_are_spindle_stroma_and_not_fibrils(stain):
    """Squares of 14 µm of lines, each turned a little; the phases differ as those of fibres do."""
    turns = 0.8 + np.random.default_rng(4).uniform(-0.3, 0.3, (8, 8))
    lines = _stripes(lambda x, y: turns[(y // 14).astype(int), (x // 14).astype(int)], period_um=3.0)
    facts = caption(stain(np.zeros((224, 224)), 0.4 + 0.12 * lines + _grain())).facts
    assert facts["spindle_share"] > 0.9
    assert facts["fibrillary_share"] < 0.05


def test_fibrils_in_all_directions_are_fibrillary_matrix_and_grains_are_not(stain):
    """Squares of 6 µm of fine lines, each turned another way, against noise of the same contrast."""
    rng = np.random.default_rng(3)
    turns = rng.uniform(0, np.pi, (19, 19))
    mat = _stripes(lambda x, y: turns[(y // 6).astype(int), (x // 6).astype(int)], period_um=2.2)
    mat = 0.4 + 0.12 * mat + _grain()
    noise = 0.4 + 0.085 * rng.standard_normal((224, 224))
    empty = np.zeros((224, 224))
    assert caption(stain(empty, mat)).facts["fibrillary_share"] > 0.35
    assert caption(stain(empty, noise)).facts["fibrillary_share"] < 0.1


def test_a_caption_does_not_depend_on_its_batch(tissue, draw_nuclei):
    others = [np.zeros_like(tissue), draw_nuclei(0.5, aspect=0.3), np.full_like(tissue, 250), tissue[::-1]]
    alone = caption(tissue)
    for place in range(5):
        batch = [*others[:place], tissue, *others[place:]]
        found = CAPTIONER.caption(np.stack(batch), mpp=0.5)
        assert found[place] == alone  # floats compared bitwise
        assert CAPTIONER.caption(np.stack(batch)[:, :, ::1], mpp=0.5)[place] == alone
    assert caption(np.asfortranarray(tissue)) == alone
    assert load_captioner().caption(tissue[None], mpp=0.5)[0] == alone


@pytest.mark.parametrize(("side", "mpp"), [(50, 4.0), (112, 0.5), (80, 0.7), (61, 1.3)])
def test_small_patches_that_share_calls_are_described_as_if_alone(tissue, side, mpp):
    """Bare, dark, even and stained ones among them, and more than are measured in one call."""
    rng = np.random.default_rng(8)
    places = rng.integers(0, 224 - side, (120, 2))
    images = np.stack([tissue[y : y + side, x : x + side] for y, x in places])
    images[3::7] = 250
    images[5::11] = 0
    images[6::13] = (230, 160, 200)
    images[4::9] = np.rot90(images[4::9], axes=(1, 2)) // 2 + 60
    together = CAPTIONER.caption(images, mpp=mpp)
    for index in (*range(20), 77, 119):
        assert together[index] == CAPTIONER.caption(images[index : index + 1], mpp=mpp)[0]


def test_threads_with_patches_of_several_sizes_do_not_disturb_each_other(tissue):
    batches = [
        (tissue[None, :side, :side].repeat(3, axis=0), mpp) for side, mpp in ((224, 0.5), (50, 4.0), (120, 0.7))
    ] * 4
    alone = [CAPTIONER.caption(images, mpp=mpp) for images, mpp in batches]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda batch: CAPTIONER.caption(batch[0], mpp=batch[1]), batches)) == alone


def test_real_patches_get_the_words_they_always_had(data_dir):
    """As the captioner of version 3 describes them; at 4 µm/px as version 2 did, patch by patch, with SciPy in double
    precision. Models are trained on these words: where they change, the captioner's version does.
    """
    rows = json.loads((Path(__file__).parent / "words.json").read_text(encoding="utf-8"))
    for archive, name, mpp, text in rows:
        with zipfile.ZipFile(data_dir / "patches" / archive) as opened:
            image = np.asarray(Image.open(io.BytesIO(opened.read(name))).convert("RGB"))
        assert caption(image, mpp).text == text, name
    assert CAPTIONER.fingerprint()["version"] == 3


def test_it_imports_neither_scipy_nor_scikit_image():
    code = "import sys, wsikit.captions.morphometry; print({'scipy', 'skimage', 'torch', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_any_size_of_patch_is_described_with_finite_numbers(tissue):
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 40), (2, 3), (17, 224), (64, 33), (301, 190)):
        image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        image[: height // 2] = tissue[: height // 2, :width] if height <= 224 else image[: height // 2]
        for mpp in (0.1, 0.5, 1.5, 16.0):
            found = caption(image, mpp)
            assert isinstance(found, Caption)
            assert all(math.isfinite(value) for value in found.facts.values())
    assert CAPTIONER.caption(np.zeros((0, 64, 64, 3), np.uint8), mpp=0.5) == []


@pytest.mark.parametrize(
    ("shape", "dtype", "mpp"),
    [((64, 64, 3), np.uint8, 0.5), ((1, 64, 64, 4), np.uint8, 0.5), ((1, 64, 64, 3), np.float32, 0.5),
     ((1, 0, 64, 3), np.uint8, 0.5), ((1, 64, 64, 3), np.uint8, 0.0), ((1, 64, 64, 3), np.uint8, math.nan)],
)  # fmt: skip
def test_what_is_no_patch_or_no_scale_is_refused(shape, dtype, mpp):
    with pytest.raises(RequestError, match="expected uint8|positive"):
        CAPTIONER.caption(np.zeros(shape, dtype), mpp=mpp)
