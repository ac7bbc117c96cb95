"""Masks of slides: read in blocks, unreadable parts marked; real slides compared with manual outlines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from wsikit.errors import ReadError, ScaleError
from wsikit.geometry import PatchGrid, coverage
from wsikit.slides import open_slide
from wsikit.tissue import TissueParameters, mask_from_image, tissue_mask
from wsikit.tissue.overview import read_overview

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]


class PaintedSlide:
    """A slide of one level, an array in memory; reads that touch `broken` (x, y, w, h; level-0 px) fail."""

    path = "painted"
    mpp_source = "test"
    level_downsamples = ((1.0, 1.0),)

    def __init__(self, pixels: Image, mpp: tuple[float, float] = (2.0, 2.0), broken: Box | None = None) -> None:
        self.pixels, self.mpp, self.broken = pixels, mpp, broken
        self.dimensions = (pixels.shape[1], pixels.shape[0])
        self.reads: list[float] = []

    def read_region(self, x: float, y: float, width: int, height: int, *, mpp: float) -> Image:
        step = (mpp / self.mpp[0], mpp / self.mpp[1])
        left, top, right, bottom = x, y, x + width * step[0], y + height * step[1]
        self.reads.append((right - left) * (bottom - top))
        if self.broken is not None:
            bx, by, bw, bh = self.broken
            if left < bx + bw and right > bx and top < by + bh and bottom > by:
                raise ReadError(self.path, 0, (int(left), int(top), int(right - left), int(bottom - top)), "test")
        columns = np.minimum((left + (np.arange(width) + 0.5) * step[0]).astype(int), self.dimensions[0] - 1)
        rows = np.minimum((top + (np.arange(height) + 0.5) * step[1]).astype(int), self.dimensions[1] - 1)
        return self.pixels[rows][:, columns]


@pytest.fixture
def painted(canvas: Any, box: Callable[..., Mask]) -> tuple[Image, Mask]:
    """A section of 4 × 3 mm on a slide of 8 × 6 mm at 2 µm/px, and the section in level-0 px."""
    drawn, section = canvas(750, 1000), box(750, 1000, 200, 250, 575, 750)
    drawn.stain(section)
    return drawn.image().repeat(4, axis=0).repeat(4, axis=1), section.repeat(4, axis=0).repeat(4, axis=1)


def test_mask_pixels_cover_their_stated_positions(painted: tuple[Image, Mask]) -> None:
    pixels, section = painted
    found = tissue_mask(PaintedSlide(pixels))
    assert found.downsample == (4.0, 4.0)
    assert found.area_mm2 == pytest.approx(12.0, rel=0.02)
    grid = PatchGrid(slide_px=(4000, 3000), slide_mpp=(2.0, 2.0), patch_px=112, target_mpp=2.0)
    coords = grid.all_coords()
    shares = coverage(found.mask, found.downsample, coords, grid.side)
    recount = [section[y : y + 112, x : x + 112].sum() / 112**2 for x, y in coords]
    np.testing.assert_allclose(shares, recount, atol=0.05)


def test_a_slide_with_oblong_pixels_is_measured_along_both_axes(painted: tuple[Image, Mask]) -> None:
    pixels, _ = painted
    found = tissue_mask(PaintedSlide(pixels[:, ::2], mpp=(4.0, 2.0)))
    assert found.downsample == (2.0, 4.0)
    assert found.area_mm2 == pytest.approx(12.0, rel=0.02)


def test_blocks_are_bounded_and_leave_no_seam(painted: tuple[Image, Mask]) -> None:
    pixels, _ = painted
    slide = PaintedSlide(pixels)
    rgb, unreadable = read_overview(slide, 8.0)
    assert max(slide.reads) <= 2048**2 < pixels.shape[0] * pixels.shape[1]
    np.testing.assert_array_equal(rgb, pixels[2::4, 2::4])
    assert not unreadable.any()


def test_unreadable_area_is_marked_and_is_neither_glass_nor_tissue(
    painted: tuple[Image, Mask], box: Callable[..., Mask], overlap: Callable[[Mask, Mask], float]
) -> None:
    pixels, section = painted
    slide = PaintedSlide(pixels, broken=(1200, 1000, 480, 480))
    found = tissue_mask(slide)
    height, width = found.mask.shape
    assert not (box(height, width, 250, 300, 370, 420) & ~found.unreadable).any()
    # the smallest block is 16 mask px wide
    assert not (found.unreadable & ~box(height, width, 234, 284, 386, 436)).any()
    assert not (found.mask & found.unreadable).any()
    assert overlap(found.mask, section[2::4, 2::4] & ~found.unreadable) > 0.97
    assert found.unreadable_fraction == pytest.approx(found.unreadable.mean())


def test_a_slide_without_any_readable_pixel_is_an_error(painted: tuple[Image, Mask]) -> None:
    with pytest.raises(ReadError, match="painted"):
        tissue_mask(PaintedSlide(painted[0], broken=(0, 0, 4000, 3000)))


def test_a_slide_whose_first_rows_are_unreadable_is_read_below_them(painted: tuple[Image, Mask]) -> None:
    """The first blocks have thousands of unreadable parts, more than are tried on a slide with nothing readable."""
    _, unreadable = read_overview(PaintedSlide(painted[0], broken=(0, 0, 4000, 2048)), 8.0)
    assert unreadable[:512].all()
    assert not unreadable[512:].any()


def test_the_part_of_the_last_pixel_beyond_the_slide_is_not_mistaken_for_signal() -> None:
    """Beyond a slide it is white; on a dark field a sliver of it would glow along the edge."""
    dark = np.random.default_rng(0).poisson(4, (501, 701, 3)).astype(np.uint8)

    class WhiteBeyond(PaintedSlide):
        def read_region(self, x: float, y: float, width: int, height: int, *, mpp: float) -> Image:
            region = super().read_region(x, y, width, height, mpp=mpp).copy()
            region[:, (x + np.arange(1, width + 1) * 4) > self.dimensions[0]] = 255
            return region

    assert tissue_mask(WhiteBeyond(dark)).area_mm2 == 0


def test_a_slide_coarser_than_the_mask_is_masked_at_its_own_scale(painted: tuple[Image, Mask]) -> None:
    found = tissue_mask(PaintedSlide(painted[0][::8, ::8], mpp=(16.0, 16.0)))
    assert found.mpp == (16.0, 16.0)
    assert found.downsample == (1.0, 1.0)


def test_a_slide_of_unknown_scale_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "unscaled.tif"
    tifffile.imwrite(path, np.full((512, 512, 3), 240, np.uint8), tile=(256, 256), photometric="rgb")
    with open_slide(path) as slide, pytest.raises(ScaleError, match="mpp"):
        tissue_mask(slide)


# Of each real slide: pixel size if it states none, least and most tissue in mm² (the outline on the overview, ± 8 %),
# and places (x, y as shares of width and height) where there is tissue and where there is none.
REAL = {
    "CMU-1-Small-Region.svs": (None, 0.62, 0.73, [(0.4, 0.5), (0.3, 0.9)], [(0.1, 0.5), (0.9, 0.1), (0.95, 0.7)]),
    "her2st_C2_pyramid.tif": (None, 7.0, 8.2, [(0.6, 0.6), (0.4, 0.58)], [(0.88, 0.3), (0.5, 0.1), (0.2, 0.9)]),
    "oral_scc_gallery-06.tif": (0.5, 4.8, 5.7, [(0.4, 0.5), (0.6, 0.75)], [(0.5, 0.3), (0.9, 0.1), (0.05, 0.9)]),
    "serrated_adenoma_gallery-01_half.tif": (1.0, 31.8, 37.3, [(0.4, 0.3), (0.48, 0.6)], [(0.1, 0.1), (0.71, 0.385)]),
}


@pytest.mark.parametrize("name", REAL)
def test_real_sections_are_outlined_as_a_person_would(slides_dir: Path, name: str) -> None:
    mpp, least, most, tissue, glass = REAL[name]
    with open_slide(slides_dir / name, mpp=mpp) as slide:
        found = tissue_mask(slide)
    height, width = found.mask.shape
    assert least <= found.area_mm2 <= most
    assert [bool(found.mask[int(y * height), int(x * width)]) for x, y in tissue] == [True] * len(tissue)
    assert [bool(found.mask[int(y * height), int(x * width)]) for x, y in glass] == [False] * len(glass)


def test_a_real_fluorescence_slide_is_kept(slides_dir: Path) -> None:
    """The section fills the field but for two dark strips, at the upper left and along the bottom."""
    with open_slide(slides_dir / "test3-DAPI-2-387.ndpi") as slide:
        found = tissue_mask(slide)
    assert found.stain == "fluorescence"
    assert 0.80 < found.mask.mean() < 0.92
    assert not found.mask[:20, :10].any()
    assert not found.mask[-4:].any()
    assert found.mask[50:90, 30:100].all()


@pytest.mark.parametrize("syntax", ["raw", "jpeg", "jpeg2000"])
def test_blue_stained_marrow_is_kept_with_its_black_bone_in_every_codec(slides_dir: Path, syntax: str) -> None:
    """Stained blue, between large empty spaces; its pixels are stated to be 16.8 µm wide."""
    with open_slide(slides_dir / "dicom" / f"gcp_wsi2dcm_{syntax}.dcm") as slide:
        found = tissue_mask(slide)
    assert found.mpp == pytest.approx((16.783, 16.783), abs=0.001)
    assert 0.78 < found.mask.mean() < 0.86
    assert found.mask[500, 100]  # bone
    assert not found.mask[240, 310]  # an empty space


def test_real_fat_is_kept(data_dir: Path, overlap: Callable[[Mask, Mask], float]) -> None:
    """Patches of fat from colon resections, at 0.5 µm/px, laid out as a section on glass."""
    import io
    import zipfile

    from PIL import Image

    with zipfile.ZipFile(data_dir / "patches" / "nct_crc7.zip") as archive:
        names = sorted(name for name in archive.namelist() if "/ADI" in f"/{name}")
        patches = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    small = [np.asarray(patch.resize((14, 14), Image.Resampling.BOX)) for patch in patches]  # 8 µm/px
    rng = np.random.default_rng(0)
    rows = [np.concatenate([np.rot90(small[i], k) for i, k in rng.integers(0, [len(small), 4], (10, 2))], axis=1)]
    for _ in range(9):
        order = rng.integers(0, [len(small), 4], (10, 2))
        rows.append(np.concatenate([np.rot90(small[i], k) for i, k in order], axis=1))
    overview = np.clip(rng.normal((241, 240, 242), 1.0, (400, 400, 3)), 0, 255).astype(np.uint8)
    section = np.zeros((400, 400), bool)
    section[100:240, 100:240] = True
    overview[section] = np.concatenate(rows).reshape(-1, 3)
    assert overlap(mask_from_image(overview, 8.0).mask, section) > 0.93


def test_parameters_are_kept_with_the_mask(painted: tuple[Image, Mask]) -> None:
    parameters = TissueParameters(mpp=16.0, min_area_mm2=0.1)
    found = tissue_mask(PaintedSlide(painted[0]), parameters)
    assert found.parameters == parameters
    assert found.mpp == (16.0, 16.0)


def test_the_tissue_of_a_phantom_is_found(tmp_path: Path, overlap: Callable[[Mask, Mask], float]) -> None:
    """The truth draws every strand of tissue; the mask closes gaps of up to 48 µm and fills small holes."""
    from wsikit.phantom import make_phantom

    path = tmp_path / "phantom.tiff"
    truth = make_phantom(path, size_px=(1792, 1280), subtype="PD", seed=3, tissue_fraction=0.4, artefacts=False)
    with open_slide(path) as slide:
        found = tissue_mask(slide)
    assert found.downsample == truth.mask_downsample
    height, width = truth.tissue_mask.shape
    assert overlap(found.mask[:height, :width], truth.tissue_mask) > 0.9
    assert found.area_mm2 == pytest.approx(truth.tissue_mm2, rel=0.08)
