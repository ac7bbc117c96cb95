"""Stained mounting medium around a section is not tissue; smooth tissue is, and a section keeps its area."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage as ndi

from wsikit.slides import open_slide
from wsikit.tissue import brightfield, mask_from_image
from wsikit.tissue.overview import read_overview

Mask = npt.NDArray[np.bool_]

EOSIN = np.array((0.15, 1.0, 0.5))
SECTION = (100, 100, 300, 350)


def halo(tissue: Mask, peak: float, width_px: float) -> npt.NDArray[np.float64]:
    """Optical density of dye that bled from the section and fades into the glass, outside of the section."""
    distance = ndi.distance_transform_edt(~tissue)
    return (peak * np.exp(-((distance / width_px) ** 2)) * ~tissue)[..., None] * EOSIN


@pytest.fixture
def without_medium(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Mask]:
    """without_medium(rgb, mpp): the mask if medium is not looked for."""

    def mask(rgb: npt.NDArray[np.uint8], mpp: float) -> Mask:
        with monkeypatch.context() as patch:
            patch.setattr(brightfield, "find_medium", lambda smooth, *_: np.zeros_like(smooth))
            return mask_from_image(rgb, mpp).mask

    return mask


@pytest.mark.parametrize("noise", [1.0, 3.0])
@pytest.mark.parametrize(("peak", "width_px"), [(0.16, 30), (0.2, 120), (0.3, 60), (0.4, 60)])
def test_dye_that_fades_into_the_glass_is_not_tissue(
    canvas: Any, box: Callable[..., Mask], peak: float, width_px: float, noise: float
) -> None:
    drawn, tissue = canvas(450, 600), box(450, 600, *SECTION)
    drawn.stain(tissue)
    drawn.od += halo(tissue, peak, width_px)
    found = mask_from_image(drawn.image(noise), 8.0).mask
    assert found[tissue].mean() > 0.995
    assert np.count_nonzero(found & ~tissue) < 0.02 * np.count_nonzero(tissue)


def test_dye_with_specks_of_dirt_in_it_is_not_tissue(canvas: Any, box: Callable[..., Mask]) -> None:
    drawn, tissue = canvas(450, 600), box(450, 600, *SECTION)
    drawn.stain(tissue)
    drawn.od += halo(tissue, 0.25, 80)
    specks = ndi.binary_dilation(drawn.rng.random(tissue.shape) < 0.0004, iterations=1) & ~tissue
    drawn.stain(specks, (0.5, 0.5, 0.5))
    found = mask_from_image(drawn.image(), 8.0).mask
    assert found[tissue].mean() > 0.99
    assert np.count_nonzero(found & ~tissue) < 0.06 * np.count_nonzero(tissue)


@pytest.mark.parametrize("blur_px", [0, 1, 2, 4])
@pytest.mark.parametrize("density", [0.16, 0.25, 0.4])
def test_a_smooth_field_with_an_edge_is_tissue_also_if_its_edge_is_blurred(
    canvas: Any, box: Callable[..., Mask], density: float, blur_px: float
) -> None:
    """Keratin, colloid or serum: light, without texture, and next to the glass."""
    drawn, tissue = canvas(450, 600), box(450, 600, *SECTION)
    drawn.od += ndi.gaussian_filter(tissue.astype(float), blur_px)[..., None] * EOSIN * density
    assert mask_from_image(drawn.image(), 8.0).mask[tissue].mean() > 0.92


def test_colloid_within_a_section_and_at_its_edge_is_kept_with_dye_around(
    canvas: Any, box: Callable[..., Mask]
) -> None:
    drawn, tissue = canvas(450, 600), box(450, 600, *SECTION)
    drawn.stain(tissue)
    y, x = np.mgrid[:450, :600]
    colloid = np.zeros_like(tissue)
    for row, column in drawn.rng.uniform(SECTION[:2], SECTION[2:], (40, 2)):
        colloid |= (y - row) ** 2 + (x - column) ** 2 < 10**2
    drawn.od[colloid & tissue] = 0.45 * EOSIN
    drawn.od += halo(tissue, 0.3, 60)
    found = mask_from_image(drawn.image(), 8.0).mask
    assert found[tissue].mean() > 0.97
    inside = ndi.binary_erosion(tissue, iterations=25)
    assert found[inside].all()
    assert np.count_nonzero(found & ~tissue) < 0.02 * np.count_nonzero(tissue)


@pytest.mark.parametrize(
    ("density", "texture"), [((0.45, 0.95, 1.3), 0.3), ((0.19, 0.17, 0.09), 0.3), ((0.22, 0.62, 0.36), 0.08)]
)
def test_brown_pale_and_even_sections_are_kept_within_a_bleed(
    canvas: Any, box: Callable[..., Mask], density: tuple[float, float, float], texture: float
) -> None:
    drawn, tissue = canvas(450, 600), box(450, 600, *SECTION)
    drawn.stain(tissue, density, texture)
    drawn.od += halo(tissue, 0.2, 60)
    found = mask_from_image(drawn.image(), 8.0).mask
    assert found[tissue].mean() > 0.98
    assert np.count_nonzero(found & ~tissue) < 0.02 * np.count_nonzero(tissue)


@pytest.mark.parametrize("blur_px", [2, 4, 8])
def test_a_section_out_of_focus_keeps_its_area(canvas: Any, box: Callable[..., Mask], blur_px: float) -> None:
    drawn, tissue = canvas(450, 600), box(450, 600, *SECTION)
    drawn.stain(tissue)
    drawn.od = ndi.gaussian_filter(drawn.od, (blur_px, blur_px, 0))
    assert mask_from_image(drawn.image(), 8.0).mask[tissue].all()


@pytest.mark.slow
def test_a_phantom_in_a_bleed_has_the_tissue_of_the_phantom_without_one(
    tmp_path: Path, without_medium: Callable[..., Mask]
) -> None:
    import wsikit

    wsikit.make_phantom(tmp_path / "p.tif", size_px=(1024, 1024), seed=3)
    mpp = 2.0
    with open_slide(tmp_path / "p.tif") as slide:
        rgb, _ = read_overview(slide, mpp)
    rgb = np.pad(rgb, ((350, 350), (350, 350), (0, 0)), constant_values=242)
    clear = mask_from_image(rgb, mpp).mask
    stained = np.clip((rgb + 1.0) * np.exp(-halo(clear, 0.25, 130)) - 1, 0, 255).round().astype(np.uint8)
    before = without_medium(stained, mpp)
    found = mask_from_image(stained, mpp).mask
    assert clear.any()
    assert np.count_nonzero(found & clear) > 0.97 * np.count_nonzero(clear)
    assert np.count_nonzero(found & ~clear) < 0.05 * np.count_nonzero(clear)
    assert np.count_nonzero(before & ~clear) > 0.3 * np.count_nonzero(clear)


def test_the_bleed_of_a_real_section_is_left_out_up_to_its_edge(slides_dir: Path) -> None:
    """her2st_C2: eosin on the right of the section was counted as a rim of 16 µm, 1 % of the area."""
    with open_slide(slides_dir / "her2st_C2_pyramid.tif") as slide:
        rgb, _ = read_overview(slide, 8.0)
    found = mask_from_image(rgb, 8.0)
    assert 7.45 < found.area_mm2 < 7.56
