"""Readers that other packages announce by entry points, and the checks that they are tested with."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import wsikit
from wsikit.batch.discovery import slides_below
from wsikit.errors import BrokenSlideError, PluginError, RequestError, StoreError, UnsupportedSlideError
from wsikit.slides import BaseSlide, SlideInfo, open_slide
from wsikit.slides.registry import READERS, choose_reader, reader_names
from wsikit.slides.store import SlideStore
from wsikit.testing import check_reader
from wsikit.tiling.image import ImageParameters
from wsikit.tiling.tile import tile

TOYS = Path(__file__).parents[1] / "plugins"
ENTRY_POINTS = """
[wsikit.readers]
numpy = toy_reader:NumpySlide
absent = a_package_that_is_not_installed:Slide
tiff = toy_reader:NumpySlide
misnamed = faulty_readers:Misnamed
greedy = faulty_readers:Greedy
nervous = faulty_readers:Nervous
silent = faulty_readers:Silent
"""
FAULTY_READERS = """
from toy_reader import NumpySlide
class Misnamed(NumpySlide): pass
class Greedy:
    def __init__(self, path, *, mpp=None, mpp_source="option"): raise KeyError("no such\\nblock")
    @staticmethod
    def reads(path, head): return head.startswith(b"GREEDY")
class Nervous:
    @staticmethod
    def reads(path, head): return 1 / 0
class Silent: pass
"""


@pytest.fixture(autouse=True)
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that announces the toy reader, one whose import fails, and others with faults."""
    site = tmp_path / "site"
    info = site / "toys-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "faulty_readers.py").write_text(FAULTY_READERS)
    for folder in (TOYS, site):
        monkeypatch.syspath_prepend(str(folder))
    return site


@pytest.fixture
def picture_npy(tmp_path: Path, levels: list[npt.NDArray[np.uint8]]) -> Path:
    path = tmp_path / "colon_0.5um.npy"
    np.save(path, levels[0])
    return path


def test_a_file_that_no_built_in_reader_supports_is_opened_by_the_plug_in_that_reads_it(picture_npy, levels) -> None:
    assert choose_reader(str(picture_npy)) == "numpy"
    with wsikit.open_slide(picture_npy) as slide:
        assert (slide.info.reader, slide.mpp, slide.mpp_source) == ("numpy", (0.5, 0.5), "file name")
        np.testing.assert_array_equal(slide.read_region(100, 50, 200, 100), levels[0][50:150, 100:300])
        with pickle.loads(pickle.dumps(slide)) as again:
            assert again.info == slide.info


def test_the_slides_of_a_plug_in_are_found_in_folders_by_the_suffixes_that_it_states(picture_npy, plugins) -> None:
    (picture_npy.parent / "notes.abc").touch()
    found, notes = slides_below(picture_npy.parent)
    assert found == [picture_npy]
    assert any("slides of the reader 'absent' are not looked for" in note for note in notes)
    (plugins / "toys-0.1.dist-info" / "entry_points.txt").write_text("")
    assert slides_below(picture_npy.parent) == ([], [])


def test_a_plug_in_can_be_chosen_by_name_and_given_a_pixel_size(picture_npy) -> None:
    with open_slide(picture_npy, "numpy", mpp=0.25, mpp_source="manifest") as slide:
        assert (slide.mpp, slide.mpp_source) == ((0.25, 0.25), "manifest")


def test_the_toy_passes_the_conformance_checks(picture_npy) -> None:
    from toy_reader import NumpySlide

    check_reader(NumpySlide, picture_npy)


@pytest.mark.parametrize("option", [[], ["--reader", "numpy"]])
def test_wsikit_info_shows_what_a_plug_in_opens(picture_npy, plugins, option) -> None:
    path = os.pathsep.join([str(TOYS), str(plugins), str(Path(wsikit.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", "from wsikit.cli.main import main; main()", "info", *option, str(picture_npy)],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "640 × 480 px (0.32 × 0.24 mm)" in done.stdout
    assert "(read with numpy)" in done.stdout


def test_what_a_plug_in_opens_is_tiled_and_a_store_without_pixels_finds_it_again(picture_npy, tmp_path) -> None:
    stored = tile(picture_npy, tmp_path / "stored.zarr", mpp=0.5, patch_px=64, image=ImageParameters(codec="zstd"))
    virtual = tile(picture_npy, tmp_path / "virtual.zarr", mpp=0.5, patch_px=64, image=ImageParameters(pixels="none"))
    with open_slide(picture_npy) as slide, stored, virtual, SlideStore(virtual.path) as again:
        assert stored.record["source"]["reader"] == "numpy"
        for store in (stored, again):
            np.testing.assert_array_equal(store.read_region(30, 20, 200, 90), slide.read_region(30, 20, 200, 90))


def test_a_store_without_pixels_names_the_plug_in_that_its_source_needs(picture_npy, tmp_path, plugins):
    tile(picture_npy, tmp_path / "virtual.zarr", image=ImageParameters(pixels="none")).close()
    (plugins / "toys-0.1.dist-info" / "entry_points.txt").write_text("")
    with pytest.raises(
        StoreError, match=r"virtual\.zarr: holds no pixels, and its slide cannot be .*no plug-in 'numpy'"
    ):
        SlideStore(tmp_path / "virtual.zarr")


def test_built_in_readers_are_asked_first_and_keep_their_names(pyramid) -> None:
    assert reader_names()[0] == "tiff"
    assert reader_names().count("tiff") == 1
    assert set(reader_names()[len(READERS) :]) == {"absent", "greedy", "misnamed", "nervous", "numpy", "silent"}
    with open_slide(pyramid) as slide:
        assert type(slide).__name__ == "TiffSlide"


def test_a_plug_in_that_cannot_be_imported_is_named_with_its_error_when_asked_for(picture_npy) -> None:
    with pytest.raises(PluginError, match=r"'absent'.*\(package toys 0\.1\).*a_package_that_is_not_installed"):
        open_slide(picture_npy, "absent")


def test_where_no_reader_opens_a_file_the_plug_ins_that_failed_are_named(tmp_path) -> None:
    path = tmp_path / "notes.abc"
    path.write_text("not a slide " * 20)
    with pytest.raises(UnsupportedSlideError) as caught:
        open_slide(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a slide or picture of any format known here. ")
    assert "'absent'" in message
    assert "No module named 'a_package_that_is_not_installed'" in message
    assert "'nervous' for wsikit.readers failed in reads(): ZeroDivisionError" in message
    assert "'silent' for wsikit.readers has no method reads" in message
    assert "\n" not in message


def test_an_unknown_name_is_refused_with_the_plug_ins_among_the_choices(picture_npy) -> None:
    with pytest.raises(RequestError, match="choose auto or one of tiff, .*store, .*numpy"):
        open_slide(picture_npy, "numpi")


def test_a_plug_in_that_states_another_name_is_refused(picture_npy) -> None:
    with pytest.raises(PluginError, match="'misnamed' .* calls itself 'numpy'"):
        open_slide(picture_npy, "misnamed")


def test_any_error_of_a_plug_in_becomes_one_line_about_the_file(tmp_path) -> None:
    path = tmp_path / "a.greedy"
    path.write_bytes(b"GREEDY" * 30)
    with pytest.raises(BrokenSlideError) as caught:
        open_slide(path)
    assert str(caught.value).startswith(f"{path}: the plug-in reader 'greedy' cannot open it (KeyError: ")
    assert "\n" not in str(caught.value)


def test_a_built_in_reader_that_cannot_names_the_plug_in_that_can(picture_npy) -> None:
    with pytest.raises(UnsupportedSlideError, match=r"reader 'image' cannot open it: .*Readers that can: numpy\."):
        open_slide(picture_npy, "image")


class Correct(BaseSlide):
    """A picture that passes all checks; each subclass breaks one."""

    reader = "correct"
    mpp_stated: tuple[float, float] | None = (0.25, 0.25)

    def __init__(self, path: str, *, mpp: Any = None, mpp_source: str = "option") -> None:
        with Image.open(path) as image:
            self.pixels = np.asarray(image.convert("RGB"))
        size = self.pixels.shape[1], self.pixels.shape[0]
        info = SlideInfo(path, self.reader, "none", "plain", size, (size,), ((1.0, 1.0),), self.mpp_stated, "file")
        super().__init__(info, mpp=mpp, mpp_source=mpp_source)

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> npt.NDArray[np.uint8]:
        return self.pixels[y : y + height, x : x + width].copy()

    def close(self) -> None:
        return None


class Floats(Correct):
    def _read_level(self, *box: int) -> Any:
        return super()._read_level(*box).astype(np.float32)


class Shared(Correct):
    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> npt.NDArray[np.uint8]:
        if not self.pixels.flags.writeable:
            self.pixels = self.pixels.copy()
        return self.pixels[y : y + height, x : x + width]


class Shifted(Correct):
    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> npt.NDArray[np.uint8]:
        return super()._read_level(level, x // 2 * 2, y, width, height)


class Black(Correct):
    def read_box(self, level: int, box: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
        pixels = super().read_box(level, box)
        if box[1] + box[3] > self.dimensions[1]:
            pixels[self.dimensions[1] - box[1] :] = 0
        return pixels


class Guessing(Correct):
    def __init__(self, path: str, *, mpp: Any = None, mpp_source: str = "option") -> None:
        super().__init__(path, mpp=0.25, mpp_source="guessed")


class Full(Correct):
    def __reduce__(self) -> Any:
        return type(self), (self.path,), {"pixels": self.pixels, **self.__dict__}


class ClosesOnce(Correct):
    def close(self) -> None:
        if self.pixels is None:
            raise RequestError("closed already")
        self.pixels = None  # type: ignore[assignment]


class WrongError(Correct):
    def read_region(self, *arguments: Any, **options: Any) -> npt.NDArray[np.uint8]:
        if options.get("level") == 1:
            raise IndexError(1)
        return super().read_region(*arguments, **options)


class Deaf(Correct):
    @staticmethod
    def reads(path: str, head: bytes) -> bool:
        return False


class Revealing(Correct):
    def __init__(self, path: str, *, mpp: Any = None, mpp_source: str = "option") -> None:
        super().__init__(path, mpp=mpp, mpp_source=mpp_source)
        self._info = replace(self._info, associated=("label",))

    def _read_associated(self, name: str) -> npt.NDArray[np.uint8]:
        return self.pixels[:20, :20].copy()

    def _repr_html_(self) -> str:
        return super()._repr_html_() + str(self.associated("label").shape)


class Accepting(Correct):
    @staticmethod
    def reads(path: str, head: bytes) -> bool:
        return True


@pytest.mark.parametrize("unscaled", [False, True])
def test_a_correct_reader_passes(picture: Path, unscaled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if unscaled:
        monkeypatch.setattr(Correct, "mpp_stated", None)
    check_reader(Correct, picture)


@pytest.mark.parametrize(
    ("reader", "words"),
    [
        (Floats, "is float32"),
        (Shared, "writing to pixels that were read changes the slide"),
        (Shifted, "other pixels alone than within a larger box"),
        (Black, "a box outside the level is not white"),
        (Guessing, r"mpp=\(0.4, 0.41\) from the manifest was given"),
        (Full, "it must reopen by its path|given mpp is lost"),
        (ClosesOnce, "closed already"),
        (WrongError, "raises IndexError, not RequestError"),
        (Deaf, "reads.* is not True"),
        (Revealing, "card or repr reads the associated image label"),
        (Accepting, "accepts a text file"),
    ],
)
def test_each_fault_of_a_reader_is_found(picture: Path, reader: type[Correct], words: str) -> None:
    with pytest.raises((AssertionError, RequestError), match=words):
        check_reader(reader, picture)


def test_a_store_passes_the_checks(tmp_path: Path, pyramid: Path) -> None:
    for pixels in ("keep", "none"):
        tile(pyramid, tmp_path / f"{pixels}.zarr", image=ImageParameters(pixels=pixels)).close()
        check_reader(SlideStore, tmp_path / f"{pixels}.zarr")
