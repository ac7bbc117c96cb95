"""What every reader of slides must do. To test a reader, inherit ReaderTests and give a file that it opens."""

from __future__ import annotations

import io
import pickle
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from wsikit.errors import RequestError, ScaleError
from wsikit.slides import Slide, open_slide
from wsikit.slides.registry import reader_class
from wsikit.testing import check_reader

Pixels = npt.NDArray[np.uint8]


class ReaderTests(ABC):
    """Inherit this, name the reader, and give the fixture `path` with a slide whose levels are `truth`."""

    reader: str

    @pytest.fixture
    @abstractmethod
    def path(self) -> Path:
        """A slide of 0.25 µm/px."""

    @pytest.fixture
    @abstractmethod
    def truth(self) -> list[Pixels]:
        """Pixels of each level, finest first."""

    @pytest.fixture
    def slide(self, path: Path) -> Slide:
        with open_slide(path, self.reader) as slide:
            yield slide

    def test_it_passes_the_conformance_checks(self, path):
        check_reader(reader_class(self.reader), path)

    def test_info_states_what_the_file_is(self, slide, truth):
        info = slide.info
        assert info.reader == self.reader
        assert info.dimensions == slide.dimensions == (truth[0].shape[1], truth[0].shape[0])
        assert info.level_dimensions == tuple((level.shape[1], level.shape[0]) for level in truth)
        assert info.mpp == slide.mpp == pytest.approx((0.25, 0.25), rel=1e-6)
        assert info.mpp_source not in ("unknown", "option")
        assert info.mpp_fault is None

    def test_pixels_of_every_level_are_the_files_own(self, slide, truth):
        for level, pixels in enumerate(truth):
            height, width = pixels.shape[:2]
            np.testing.assert_array_equal(slide.read_region(0, 0, width, height, level=level), pixels)

    def test_a_region_within_a_level_is_placed_by_level_0_pixels(self, slide, truth):
        for level, pixels in enumerate(truth):
            x, y = 37 << level, 61 << level
            region = slide.read_region(x, y, 70, 50, level=level)
            np.testing.assert_array_equal(region, pixels[61:111, 37:107])

    def test_the_mpp_of_a_level_returns_its_pixels_unchanged(self, slide, truth):
        for level, pixels in enumerate(truth):
            mpp = 0.25 * 2**level * 1.0005  # scanners do not state round numbers
            np.testing.assert_array_equal(slide.read_region(8, 16, 60, 40, mpp=mpp), self.box(pixels, level, 60, 40))

    def box(self, pixels: Pixels, level: int, width: int, height: int) -> Pixels:
        x, y = 8 >> level, 16 >> level
        return pixels[y : y + height, x : x + width]

    @pytest.mark.parametrize("mpp", [0.3, 0.437, 0.499])
    def test_between_levels_pixels_are_exact_area_averages(self, slide, truth, mpp, area_average):
        region = slide.read_region(20, 30, 64, 48, mpp=mpp)
        step = mpp / 0.25
        exact = area_average(truth[0], 20, 30, 20 + 64 * step, 30 + 48 * step, (64, 48))
        assert np.abs(region - exact).max() < 0.6

    def test_a_fractional_position_is_exact(self, slide, truth, area_average):
        region = slide.read_region(20.37, 30.81, 40, 40, mpp=0.3)
        exact = area_average(truth[0], 20.37, 30.81, 20.37 + 48, 30.81 + 48, (40, 40))
        assert np.abs(region - exact).max() < 0.6

    def test_outside_of_the_slide_it_is_white(self, slide, truth):
        height, width = truth[0].shape[:2]
        region = slide.read_region(width - 10, -5, 30, 20)
        assert (region[:5] == 255).all()
        assert (region[:, 10:] == 255).all()
        np.testing.assert_array_equal(region[5:, :10], truth[0][:15, -10:])
        assert (slide.read_region(width + 500, height + 500, 8, 8, mpp=1.1) == 255).all()

    def test_a_region_is_the_same_alone_or_within_a_larger_one(self, slide):
        large = slide.read_region(100, 100, 60, 60, mpp=0.5)
        small = slide.read_region(100 + 20 * 2, 100 + 30 * 2, 20, 10, mpp=0.5)
        np.testing.assert_array_equal(small, large[30:40, 20:40])

    def test_enlarged_neighbours_meet_without_a_seam(self, slide):
        large = slide.read_region(100, 100, 60, 60, mpp=0.2).astype(int)
        small = slide.read_region(100 + 20 * 0.8, 100 + 30 * 0.8, 20, 10, mpp=0.2)
        assert np.abs(small - large[30:40, 20:40]).max() <= 1

    def test_enlarging_up_to_twofold_is_smooth_and_in_place(self, slide, truth):
        region = slide.read_region(100, 100, 120, 120, mpp=0.125)
        shrunk = region.reshape(60, 2, 60, 2, 3).mean(axis=(1, 3))
        original = truth[0][100:160, 100:160].astype(float)
        shifted = truth[0][100:160, 101:161].astype(float)
        assert np.abs(shrunk - original).mean() < 0.2 * np.abs(shrunk - shifted).mean()

    def test_more_than_twofold_enlargement_is_refused_with_the_finest_scale(self, slide):
        with pytest.raises(ScaleError, match=r"0\.25 µm/px.*0\.125 µm/px or more"):
            slide.read_region(0, 0, 10, 10, mpp=0.12)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"mpp": 0.5, "level": 0},
            {"level": 17},
            {"level": -1},
            {"mpp": 0.0},
            {"mpp": float("nan")},
            {"width": 0},
            {"x": float("inf")},
        ],
    )
    def test_impossible_requests_are_refused(self, slide, wrong):
        request = {"x": 0, "y": 0, "width": 10, "height": 10, **wrong}
        with pytest.raises(RequestError):
            slide.read_region(**request)

    def test_the_thumbnail_is_the_whole_slide(self, slide, truth, area_average):
        height, width = truth[0].shape[:2]
        thumbnail = slide.thumbnail(100)
        assert thumbnail.shape == (round(100 * height / width), 100, 3)
        level = truth[min(2, len(truth) - 1)]
        exact = area_average(level, 0, 0, level.shape[1], level.shape[0], (100, thumbnail.shape[0]))
        assert np.abs(thumbnail - exact).max() < 0.6
        assert slide.thumbnail(10_000).shape == truth[0].shape

    def test_an_unknown_associated_image_is_refused(self, slide):
        with pytest.raises(RequestError, match="no associated image"):
            slide.associated("nonsense")

    def test_it_pickles_as_its_path_and_opens_again(self, slide):
        record = pickle.dumps(slide)
        assert len(record) < 1000
        with pickle.loads(record) as again:
            assert again.info == slide.info
            np.testing.assert_array_equal(again.read_region(5, 6, 30, 30), slide.read_region(5, 6, 30, 30))

    def test_a_given_mpp_survives_pickling(self, path):
        with (
            open_slide(path, self.reader, mpp=0.4, mpp_source="manifest") as slide,
            pickle.loads(pickle.dumps(slide)) as again,
        ):
            assert (again.mpp, again.mpp_source) == ((0.4, 0.4), "manifest")

    def test_threads_may_read_one_slide_at_once(self, slide, truth):
        places = [(x, y) for y in range(0, 400, 50) for x in range(0, 560, 70)]
        with ThreadPoolExecutor(4) as pool:
            regions = list(pool.map(lambda place: slide.read_region(*place, 64, 64), places))
        for (x, y), region in zip(places, regions):
            np.testing.assert_array_equal(region, truth[0][y : y + 64, x : x + 64])

    def test_changing_what_was_read_does_not_change_the_slide(self, slide, truth):
        slide.read_region(0, 0, 64, 64)[:] = 0
        np.testing.assert_array_equal(slide.read_region(0, 0, 64, 64), truth[0][:64, :64])

    def test_reading_a_closed_slide_is_refused(self, path):
        slide = open_slide(path, self.reader)
        slide.close()
        slide.close()
        with pytest.raises(RequestError, match="closed"):
            slide.read_region(300, 200, 10, 10)

    def test_the_card_shows_a_thumbnail_and_the_facts(self, slide):
        card = slide._repr_html_()
        assert "data:image/jpeg;base64," in card
        assert "640 × 480 px" in card
        assert "0.25 µm/px" in card
        assert "<script" not in card


class TestTiff(ReaderTests):
    reader = "tiff"

    @pytest.fixture
    def path(self, pyramid):
        return pyramid

    @pytest.fixture
    def truth(self, levels):
        return levels


class TestOpenSlide(TestTiff):
    reader = "openslide"


class TestTiffSlide(TestTiff):
    reader = "tiffslide"


class TestImage(ReaderTests):
    reader = "image"

    @pytest.fixture
    def path(self, picture):
        return picture

    @pytest.fixture
    def truth(self, levels):
        return levels[:1]


class TestNdpi(ReaderTests):
    reader = "ndpi"

    @pytest.fixture
    def stored(self, levels, ndpi_image):
        """Images of a quarter of a row per restart interval, which decode without loss of place at their edges."""
        return [
            ndpi_image(level, blocks=level.shape[1] // 32, lens=40 / 2**number) for number, level in enumerate(levels)
        ]

    @pytest.fixture
    def path(self, tmp_path, stored, write_ndpi):
        return write_ndpi(tmp_path / "slide.ndpi", stored)

    @pytest.fixture
    def truth(self, stored):
        return [np.asarray(Image.open(io.BytesIO(image["stream"]))) for image in stored]


class TestDicom(ReaderTests):
    reader = "dicom"

    @pytest.fixture
    def path(self, tmp_path, levels, tiles_of, write_dicom):
        for number, level in enumerate(levels):
            frames = [imagecodecs.jpeg2k_encode(tile, level=0, codecformat="j2k") for tile in tiles_of(level, 64)]
            options = {"syntax": "1.2.840.10008.1.2.4.90", "photometric": "YBR_RCT", "mpp": 0.25 * 2**number}
            write_dicom(tmp_path / f"{number}.dcm", frames, level.shape[1::-1], **options)
        return tmp_path / "0.dcm"

    @pytest.fixture
    def truth(self, levels):
        return levels
