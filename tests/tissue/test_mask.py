"""What is tissue and what is not, on drawn overviews whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage as ndi

from wsikit.errors import RequestError
from wsikit.tissue import TissueMask, TissueParameters, mask_from_image

Mask = npt.NDArray[np.bool_]
Signal = npt.NDArray[np.float64]

DAB = (0.45, 0.95, 1.3)  # optical density of diaminobenzidine brown
PENS = {
    "blue": (45, 95, 190),
    "dark blue": (35, 45, 120),
    "green": (30, 130, 110),
    "red": (200, 50, 70),
    "black": (30, 30, 35),
}


@pytest.mark.parametrize("mpp", [4.0, 8.0, 16.0])
def test_a_square_millimetre_measures_one_square_millimetre_at_any_scale(
    canvas: Any, box: Callable[..., Mask], mpp: float
) -> None:
    side, size = round(1000 / mpp), round(2400 / mpp)
    drawn = canvas(size, size)
    drawn.stain(box(size, size, side // 2, side // 2, side // 2 + side, side // 2 + side))
    found = mask_from_image(drawn.image(), mpp)
    assert found.stain == "brightfield"
    assert found.mpp == (mpp, mpp)
    assert found.area_mm2 == pytest.approx((side * mpp / 1000) ** 2, rel=0.02)


def _with_biopsy(canvas: Any, height: int, width: int) -> TissueMask:
    """A biopsy 0.3 mm across on an empty slide: the overview at 8 µm/px."""
    y, x = np.ogrid[:height, :width]
    drawn = canvas(height, width)
    drawn.stain((y - height // 2) ** 2 + (x - width // 2) ** 2 <= (150 / 8) ** 2)
    return mask_from_image(drawn.image(), 8.0)


def test_the_same_biopsy_is_kept_on_portrait_and_landscape_slides(canvas: Any) -> None:
    """Thresholds that depend on the thumbnail's size keep it on one and drop it on the other."""
    portrait, landscape = _with_biopsy(canvas, 2000, 500), _with_biopsy(canvas, 500, 2000)
    assert portrait.area_mm2 == pytest.approx(np.pi * 0.15**2, rel=0.06)
    assert landscape.area_mm2 == pytest.approx(portrait.area_mm2, rel=0.02)


def test_more_glass_around_a_section_changes_nothing(
    canvas: Any, box: Callable[..., Mask], overlap: Callable[[Mask, Mask], float]
) -> None:
    small, large = canvas(300, 300), canvas(700, 1100)
    small.stain(box(300, 300, 100, 80, 200, 220))
    large.stain(box(700, 1100, 100, 80, 200, 220))
    found = mask_from_image(large.image(), 8.0).mask
    assert overlap(mask_from_image(small.image(), 8.0).mask, found[:300, :300]) > 0.98
    assert not found[300:].any()


def test_dust_is_dropped_by_its_area_in_mm2(canvas: Any, box: Callable[..., Mask]) -> None:
    drawn = canvas(400, 400)
    drawn.stain(box(400, 400, 50, 50, 62, 62))  # 96 µm square: 0.009 mm²
    drawn.stain(box(400, 400, 200, 200, 225, 225))  # 200 µm square: 0.04 mm²
    image = drawn.image()
    assert mask_from_image(image, 8.0).area_mm2 == pytest.approx(0.04, rel=0.15)
    keeps_all = mask_from_image(image, 8.0, TissueParameters(min_area_mm2=0.005))
    assert keeps_all.area_mm2 == pytest.approx(0.049, rel=0.15)
    assert mask_from_image(image, 8.0, TissueParameters(min_area_mm2=0.05)).area_mm2 == 0


def test_holes_are_filled_by_their_area_in_mm2(canvas: Any, box: Callable[..., Mask]) -> None:
    drawn = canvas(400, 400)
    section = box(400, 400, 50, 50, 350, 350)
    section[100:115, 100:115] = False  # 120 µm: a large fat cell, 0.014 mm²
    section[200:250, 200:250] = False  # 400 µm: a lumen, 0.16 mm²
    drawn.stain(section)
    found = mask_from_image(drawn.image(), 8.0).mask
    assert found[100:115, 100:115].all()
    assert not found[205:245, 205:245].any()


@pytest.mark.parametrize("colour", PENS)
def test_pen_on_the_glass_is_excluded(
    canvas: Any, box: Callable[..., Mask], overlap: Callable[[Mask, Mask], float], colour: Any
) -> None:
    drawn, tissue = canvas(500, 600), box(500, 600, 200, 100, 400, 350)
    drawn.stain(tissue)
    drawn.pen(box(500, 600, 60, 60, 110, 540) | box(500, 600, 60, 480, 420, 540), PENS[colour])
    found = mask_from_image(drawn.image(), 8.0).mask
    assert overlap(found, tissue) > 0.97
    assert not found[:, 450:].any()


@pytest.mark.parametrize("colour", ["blue", "dark blue", "green", "black"])
def test_a_pen_stroke_over_tissue_is_excluded(canvas: Any, box: Callable[..., Mask], colour: Any) -> None:
    drawn, stroke = canvas(500, 600), box(500, 600, 240, 20, 280, 580)
    drawn.stain(box(500, 600, 150, 150, 400, 450), (0.4, 0.8, 0.45))
    drawn.pen(stroke, PENS[colour])
    found = mask_from_image(drawn.image(), 8.0).mask
    assert found[stroke].mean() < 0.02
    assert found[170:220, 160:440].all()
    assert found[300:380, 160:440].all()


def test_the_faded_edge_of_a_pen_stroke_is_excluded(canvas: Any, box: Callable[..., Mask]) -> None:
    drawn = canvas(500, 600)
    drawn.pen(box(500, 600, 200, 100, 300, 500), PENS["blue"], softness=20.0)
    assert mask_from_image(drawn.image(), 8.0).area_mm2 == 0


def test_a_blue_stain_is_not_mistaken_for_blue_pen(
    canvas: Any, box: Callable[..., Mask], overlap: Callable[[Mask, Mask], float]
) -> None:
    """Giemsa, trichrome: the hue of a pen, but with cells in it."""
    drawn, tissue = canvas(400, 400), box(400, 400, 60, 60, 340, 340)
    drawn.stain(tissue, (0.8, 0.45, 0.2), texture=0.35)
    assert overlap(mask_from_image(drawn.image(), 8.0).mask, tissue) > 0.97


def test_black_within_tissue_is_pigment_and_on_glass_it_is_pen(canvas: Any, box: Callable[..., Mask]) -> None:
    drawn = canvas(500, 500)
    drawn.stain(box(500, 500, 50, 50, 300, 450))
    drawn.pen(box(500, 500, 150, 200, 190, 260), PENS["black"])
    drawn.pen(box(500, 500, 400, 100, 440, 400), PENS["black"])
    found = mask_from_image(drawn.image(), 8.0).mask
    assert found[150:190, 200:260].mean() > 0.95
    assert not found[350:].any()


@pytest.mark.parametrize("level", [0, 14, 60])
def test_a_black_scanner_border_is_excluded(
    canvas: Any, box: Callable[..., Mask], overlap: Callable[[Mask, Mask], float], level: int
) -> None:
    drawn, tissue = canvas(500, 600), box(500, 600, 150, 160, 350, 420)
    drawn.stain(tissue)
    image = drawn.image()
    border = np.clip(drawn.rng.normal(level, level / 30, image.shape), 0, 255).astype(np.uint8)
    image[:70], image[:, :90], image[-30:] = border[:70], border[:, :90], border[-30:]
    found = mask_from_image(image, 8.0)
    assert found.stain == "brightfield"
    assert overlap(found.mask, tissue) > 0.97


def test_a_black_border_along_tissue_without_any_glass_is_excluded(canvas: Any) -> None:
    drawn = canvas(300, 300)
    drawn.stain(np.ones((300, 300), bool))
    image = drawn.image()
    image[:, :60] = 5
    found = mask_from_image(image, 8.0).mask
    assert not found[:, :60].any()
    assert found[:, 70:].all()


def test_dark_tissue_at_the_edge_is_not_a_border(canvas: Any, box: Callable[..., Mask]) -> None:
    drawn = canvas(300, 300)
    drawn.stain(box(300, 300, 0, 50, 150, 250), (1.5, 1.75, 1.15))  # (54, 42, 76): densely packed nuclei
    assert mask_from_image(drawn.image(), 8.0).mask[:140, 60:240].mean() > 0.98


GLASS_COLOURS = {"white": (255, 255, 255), "usual": (241, 240, 242), "pink": (235, 203, 216), "dim": (182, 181, 183)}


@pytest.mark.parametrize("colour", GLASS_COLOURS)
def test_an_empty_slide_has_no_tissue_whatever_its_tint(canvas: Any, colour: Any) -> None:
    assert mask_from_image(canvas(300, 400, glass=GLASS_COLOURS[colour]).image(), 8.0).area_mm2 == 0


def test_the_noise_of_a_poor_camera_is_not_tissue(canvas: Any) -> None:
    drawn = canvas(400, 400)
    mottled = ndi.gaussian_filter(drawn.rng.normal(size=drawn.od.shape), (1.5, 1.5, 0))
    drawn.od += 0.045 * mottled / mottled.std()
    assert mask_from_image(drawn.image(noise=3.0), 8.0).area_mm2 == 0


@pytest.mark.parametrize("colour", GLASS_COLOURS)
def test_a_section_is_found_on_glass_of_any_tint(
    canvas: Any, box: Callable[..., Mask], overlap: Callable[[Mask, Mask], float], colour: Any
) -> None:
    drawn, tissue = canvas(300, 400, glass=GLASS_COLOURS[colour]), box(300, 400, 80, 80, 220, 330)
    drawn.stain(tissue)
    assert overlap(mask_from_image(drawn.image(), 8.0).mask, tissue) > 0.97


def test_glass_next_to_a_fill_of_another_white_is_glass(
    canvas: Any, box: Callable[..., Mask], overlap: Callable[[Mask, Mask], float]
) -> None:
    """Scanners fill what they did not scan with a constant; the glass next to it is darker and tinted."""
    drawn, tissue = canvas(500, 500, glass=(226, 200, 213)), box(500, 500, 250, 150, 400, 400)
    drawn.stain(tissue)
    image = drawn.image()
    image[:180] = 243
    assert overlap(mask_from_image(image, 8.0).mask, tissue) > 0.97


def test_a_smear_of_eosin_on_the_glass_is_not_tissue(
    canvas: Any, box: Callable[..., Mask], overlap: Callable[[Mask, Mask], float]
) -> None:
    drawn, tissue = canvas(400, 600), box(400, 600, 100, 100, 300, 250)
    drawn.stain(tissue)
    smear = 0.1 * np.exp(-((np.arange(600) - 450) ** 2) / (2 * 60.0**2))
    drawn.od += smear[None, :, None] * np.array([0.15, 1.0, 0.5])
    assert overlap(mask_from_image(drawn.image(), 8.0).mask, tissue) > 0.96


def test_a_slide_full_of_tissue_is_all_tissue(canvas: Any) -> None:
    drawn = canvas(200, 300)
    drawn.stain(np.ones((200, 300), bool))
    assert mask_from_image(drawn.image(), 8.0).mask.mean() > 0.99


def test_brown_and_pale_counterstain_are_kept(
    canvas: Any, box: Callable[..., Mask], overlap: Callable[[Mask, Mask], float]
) -> None:
    drawn, tissue = canvas(300, 500), box(300, 500, 60, 60, 240, 440)
    drawn.stain(box(300, 500, 60, 60, 240, 200), DAB)
    drawn.stain(box(300, 500, 60, 200, 240, 440), (0.19, 0.17, 0.09))  # hematoxylin alone, as light as it gets
    assert overlap(mask_from_image(drawn.image(), 8.0).mask, tissue) > 0.97


def test_pale_fat_is_kept_with_its_empty_cells(
    canvas: Any, box: Callable[..., Mask], overlap: Callable[[Mask, Mask], float]
) -> None:
    """Walls 1 px wide around cells of 50-120 µm, next to some stroma. Nine tenths of the area are as clear as glass."""
    drawn, fat = canvas(400, 400), box(400, 400, 100, 100, 300, 260)
    seeds = drawn.rng.uniform(0, 400, (2200, 2))
    y, x = np.mgrid[:400, :400]
    from scipy.spatial import cKDTree

    cell = cKDTree(seeds).query(np.stack([y, x], axis=-1))[1]
    walls = (ndi.maximum_filter(cell, 2) != ndi.minimum_filter(cell, 2)) & fat
    gaps = ndi.binary_dilation(drawn.rng.random((400, 400)) < 0.012, iterations=1)  # a third of the walls is torn
    drawn.stain(walls & ~gaps, (0.05, 0.16, 0.09))
    drawn.stain(box(400, 400, 100, 260, 300, 290))
    found = mask_from_image(drawn.image(), 8.0).mask
    assert overlap(found, fat | box(400, 400, 100, 260, 300, 290)) > 0.93


def test_dust_bubbles_and_the_edge_of_the_cover_glass_are_excluded(canvas: Any) -> None:
    drawn = canvas(500, 500)
    y, x = np.mgrid[:500, :500]
    ring = np.abs(np.hypot(y - 300, x - 300) - 70) < 2
    edge = np.abs(x - 60) < 2
    specks = ndi.binary_dilation(drawn.rng.random((500, 500)) < 0.001, iterations=1)
    drawn.stain(ring | edge | specks, (0.6, 0.6, 0.6), texture=0.1)
    assert mask_from_image(drawn.image(), 8.0).area_mm2 == 0


def test_scattered_crystals_of_dye_are_not_joined_to_tissue(canvas: Any) -> None:
    """Specks of 24 µm, as far apart: closing gaps would make one piece of them."""
    drawn = canvas(400, 400)
    specks = np.zeros((400, 400), bool)
    for row in range(100, 250, 6):
        for column in range(100, 250, 6):
            specks[row : row + 3, column : column + 3] = True
    drawn.stain(specks, (0.6, 0.9, 0.4))
    assert mask_from_image(drawn.image(), 8.0).area_mm2 == 0


def test_a_grey_stain_is_kept(canvas: Any, box: Callable[..., Mask], overlap: Callable[[Mask, Mask], float]) -> None:
    """Silver: no colour, but texture, and larger than dust."""
    drawn, tissue = canvas(300, 300), box(300, 300, 80, 80, 220, 220)
    drawn.stain(tissue, (0.5, 0.52, 0.55), texture=0.5)
    assert overlap(mask_from_image(drawn.image(), 8.0).mask, tissue) > 0.97


def _nuclei(
    canvas: Any,
    box: Callable[..., Mask],
    tissue_box: tuple[int, int, int, int],
    *,
    share: float = 0.05,
    faint: float = 5.0,
) -> tuple[Signal, Mask]:
    """Glowing nuclei on `share` of the pixels, on faintly glowing tissue: signal (h, w), and the tissue (h, w)."""
    drawn, tissue = canvas(300, 400), box(300, 400, *tissue_box)
    dots = (drawn.rng.random((300, 400)) < share) & tissue
    signal = 4 + faint * tissue + 150 * ndi.gaussian_filter(dots.astype(float), 0.7) / 0.3
    return np.clip(signal + drawn.rng.normal(0, 1, signal.shape), 0, 255), tissue


@pytest.mark.parametrize("colour", [(0, 0, 1), (1, 1, 1), (0.2, 1, 0.9)])
def test_fluorescence_is_kept_on_black_in_any_colour(
    canvas: Any, box: Callable[..., Mask], overlap: Callable[[Mask, Mask], float], colour: Any
) -> None:
    signal, tissue = _nuclei(canvas, box, (60, 80, 240, 320))
    found = mask_from_image((signal[..., None] * np.array(colour)).astype(np.uint8), 8.0)
    assert found.stain == "fluorescence"
    assert overlap(found.mask, tissue) > 0.93


def test_sparse_nuclei_make_one_tissue_though_it_is_dark_between_them(
    canvas: Any, box: Callable[..., Mask], overlap: Callable[[Mask, Mask], float]
) -> None:
    """Some 60 µm apart, and nothing glows between them."""
    signal, tissue = _nuclei(canvas, box, (60, 80, 240, 320), share=0.02, faint=0.0)
    assert overlap(mask_from_image(np.stack([signal] * 3, axis=-1).astype(np.uint8), 8.0).mask, tissue) > 0.9


def test_bright_fluorescence_in_one_colour_is_not_stain(box: Callable[..., Mask]) -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    image[box(300, 400, 60, 80, 240, 320), 1] = 190
    found = mask_from_image(image, 8.0)
    assert found.stain == "fluorescence"
    assert found.area_mm2 == pytest.approx(180 * 240 * 0.008**2, rel=0.07)


def test_a_grey_signal_that_fades_gradually_is_not_stain(canvas: Any, box: Callable[..., Mask]) -> None:
    """Autofluorescence, bright and of one piece: neither scattered nor of one colour."""
    drawn = canvas(300, 400)
    glow = ndi.gaussian_filter(drawn.rng.normal(size=(300, 400)), 4)
    signal = box(300, 400, 60, 80, 240, 320) * np.clip(90 + 35 * glow / glow.std(), 32, 255)
    assert mask_from_image(np.stack([signal] * 3, axis=-1).astype(np.uint8), 8.0).stain == "fluorescence"


def test_a_speck_of_light_is_dust(box: Callable[..., Mask]) -> None:
    image = np.random.default_rng(0).poisson(4, (300, 400, 3)).astype(np.uint8)
    image[box(300, 400, 100, 100, 107, 107)] = 200  # 56 µm
    assert mask_from_image(image, 8.0).area_mm2 == 0


@pytest.mark.parametrize("drift", [0.0, 3.0])
def test_an_empty_dark_field_has_no_tissue(drift: float) -> None:
    noise = np.random.default_rng(0).poisson(5, (300, 300, 3)) + drift * np.linspace(0, 1, 300)[None, :, None]
    found = mask_from_image(noise.astype(np.uint8), 8.0)
    assert (found.stain, found.area_mm2) == ("fluorescence", 0)


def test_the_steps_of_a_noiseless_dark_field_are_not_tissue(box: Callable[..., Mask]) -> None:
    image = np.full((300, 300, 3), 2, np.uint8)
    image[box(300, 300, 100, 100, 200, 200)] = 6
    assert mask_from_image(image, 8.0).area_mm2 == 0


def test_the_kind_of_slide_can_be_given_instead_of_detected(canvas: Any) -> None:
    image = canvas(100, 100).image()
    assert mask_from_image(image, 8.0, TissueParameters(stain="fluorescence")).stain == "fluorescence"


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 700)])
def test_a_tiny_overview_gives_a_mask(size: tuple[int, int]) -> None:
    assert mask_from_image(np.full((*size, 3), 240, np.uint8), 8.0).mask.shape == size


@pytest.mark.parametrize(
    "setting", [{"mpp": 0.0}, {"min_area_mm2": -1.0}, {"closing_um": float("nan")}, {"stain": "bright"}]
)
def test_absurd_parameters_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(setting))):
        TissueParameters(**setting)


def test_an_overview_that_is_not_an_rgb_image_is_refused() -> None:
    with pytest.raises(RequestError, match="uint8"):
        mask_from_image(np.zeros((10, 10), np.uint8), 8.0)
