"""Which images of a DICOM series are the slide: concatenations, planes, optical paths, copies, pyramids; scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset

from wsikit.batch.manifest import collect
from wsikit.errors import BrokenSlideError, ReadError, ScaleError, SlideError, UnsupportedSlideError
from wsikit.slides import open_slide

RAW, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


def item(**values: Any) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def cut(tiles_of) -> Callable[[np.ndarray], list[bytes]]:
    return lambda pixels: [tile.tobytes() for tile in tiles_of(pixels, 64)]


@pytest.fixture
def write(tmp_path, write_dicom) -> Callable[..., Path]:
    """write(name, frames, size=(320, 240), **options): an uncompressed file of a series, in one folder."""

    def made(name: str, frames: list[bytes], size=(320, 240), **options) -> Path:
        return write_dicom(
            tmp_path / name, frames, size, **{"native": True, "photometric": "RGB", "syntax": RAW, **options}
        )

    return made


def pixels_of(path: Path, level: int = 0) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read_region(0, 0, *slide.level_dimensions[level], level=level)


def notes_of(path: Path) -> str:
    with open_slide(path) as slide:
        return " ".join(slide.info.notes)


@pytest.mark.parametrize(
    ("planes", "paths", "words"),
    [
        (3, 1, "3 focal planes: the first is used."),
        (1, 2, r"2 optical paths \(1 \(red\), 2 \(530 nm\)\): the first is used."),
        (2, 2, "2 focal planes: the first is used. 2 optical paths"),
    ],
)
def test_planes_and_paths_beyond_the_first_are_counted_and_named(write, cut, levels, planes, paths, words):
    """TILED_FULL orders frames by column, row, plane, path."""
    others = [np.roll(levels[1], 7 * n, axis=1) for n in range(1, planes * paths)]
    frames = [frame for pixels in (levels[1], *others) for frame in cut(pixels)]
    optics = [item(OpticalPathIdentifier="1", OpticalPathDescription="red")]
    optics += [item(OpticalPathIdentifier="2", IlluminationWaveLength=530.0)] * (paths - 1)
    attributes = {"TotalPixelMatrixFocalPlanes": planes, "NumberOfOpticalPaths": paths, "OpticalPathSequence": optics}
    path = write("x.dcm", frames, attributes=attributes)
    np.testing.assert_array_equal(pixels_of(path), levels[1])
    with open_slide(path) as slide:
        assert words.replace("\\", "") in " ".join(slide.info.notes)


def test_planes_in_files_of_their_own_are_counted(write, cut, levels):
    for number, depth in enumerate((0.0, 2.5, 5.0), start=1):
        shared = item(
            PixelMeasuresSequence=[item(PixelSpacing=[0.00025, 0.00025])],
            PlanePositionSlideSequence=[item(ZOffsetInSlideCoordinateSystem=depth)],
        )
        attributes = {"SharedFunctionalGroupsSequence": [shared], "InstanceNumber": number}
        write(f"{4 - number}.dcm", cut(np.roll(levels[1], number - 1, axis=0)), attributes=attributes)
    path = write("label.dcm", cut(levels[1])[:1], (64, 64), kind="LABEL")
    np.testing.assert_array_equal(pixels_of(path), levels[1])
    assert "3 focal planes in files of their own (at 0, 2.5, 5 µm): the first is used, in 3.dcm." in notes_of(path)


def test_colours_in_files_of_their_own_are_named(write, cut, levels):
    for number, name in enumerate(("DAPI", "FITC"), start=1):
        optics = [item(OpticalPathIdentifier=str(number), OpticalPathDescription=name)]
        attributes = {"OpticalPathSequence": optics, "InstanceNumber": number}
        path = write(f"{name}.dcm", cut(np.roll(levels[1], number - 1, axis=0)), attributes=attributes)
    np.testing.assert_array_equal(pixels_of(path), levels[1])
    assert "2 optical paths in files of their own (1 (DAPI), 2 (FITC)): the first is used, in DAPI.dcm." in notes_of(
        path
    )


def test_sparse_frames_of_several_planes_are_those_of_the_first(write, cut, levels):
    """Each place has a frame of two planes, of other depths at other places."""
    frames = cut(levels[1])
    places = [(column * 64, row * 64) for row in range(4) for column in range(5)]
    groups = []
    for depth in (0.0, 4.0):
        for number, (x, y) in enumerate(places):
            place = item(
                ColumnPositionInTotalImagePixelMatrix=x + 1,
                RowPositionInTotalImagePixelMatrix=y + 1,
                ZOffsetInSlideCoordinateSystem=depth + number,
            )
            groups.append(item(PlanePositionSlideSequence=[place]))
    attributes = {"PerFrameFunctionalGroupsSequence": groups, "DimensionOrganizationType": "TILED_SPARSE"}
    path = write("x.dcm", frames + frames[::-1], attributes=attributes)
    np.testing.assert_array_equal(pixels_of(path), levels[1])
    assert "2 focal planes: the first is used." in notes_of(path)


@pytest.mark.parametrize("syntax", [RAW, IMPLICIT])
def test_sparse_frames_are_found_in_every_encoding_and_those_outside_are_named(write, cut, levels, syntax):
    places = [(column * 64, row * 64) for row in range(4) for column in range(5)]
    path = write("x.dcm", [*cut(levels[1]), bytes(64 * 64 * 3)], positions=[*places, (640, 0)], syntax=syntax)
    np.testing.assert_array_equal(pixels_of(path), levels[1])
    assert "1 of 21 frames lie outside of the image and are not used." in notes_of(path)


def test_the_parts_of_a_concatenation_are_one_level(write, cut, levels):
    frames = cut(levels[1])
    for part, (first, last) in enumerate(((0, 7), (7, 12), (12, 20)), start=1):
        attributes = {"ConcatenationUID": "1.2.9", "InConcatenationNumber": part}
        path = write(f"{9 - part}.dcm", frames[first:last], attributes=attributes)
    np.testing.assert_array_equal(pixels_of(path), levels[1])
    assert [Path(entry.path).name for entry in collect([path.parent])] in (["6.dcm"], ["7.dcm"], ["8.dcm"])
    (path.parent / "7.dcm").unlink()
    with pytest.raises(BrokenSlideError, match="split into several files; the others are missing"):
        open_slide(path)


def test_a_copy_of_a_file_is_passed_over_and_named(write, cut, levels):
    path = write("x.dcm", cut(levels[1]))
    (path.parent / "x (1).dcm").write_bytes(path.read_bytes())
    np.testing.assert_array_equal(pixels_of(path), levels[1])
    assert "copy of" in notes_of(path)


def test_images_of_other_pyramids_containers_and_shapes_are_slides_of_their_own(write, cut, levels):
    """One series, as some converters write for all slides of a case."""
    write("a0.dcm", cut(levels[1]), attributes={"ContainerIdentifier": "A"})
    write("a1.dcm", cut(levels[2]), (160, 120), mpp=0.5, attributes={"ContainerIdentifier": "A"})
    write("b0.dcm", cut(levels[2]), (160, 120), attributes={"ContainerIdentifier": "B"})
    path = write("c0.dcm", cut(levels[1][:128]), (320, 128), attributes={"ContainerIdentifier": "A"})
    for name, sizes in (("a1", ((320, 240), (160, 120))), ("b0", ((160, 120),)), ("c0", ((320, 128),))):
        with open_slide(path.with_name(f"{name}.dcm")) as slide:
            assert slide.level_dimensions == sizes, name
            assert "holds 2 more images of another shape or pyramid" in " ".join(slide.info.notes)
    assert sorted(Path(entry.path).name for entry in collect([path.parent])) == ["a0.dcm", "b0.dcm", "c0.dcm"]


def test_label_and_overview_never_become_pixels(write, cut, levels):
    """They are larger than the slide, and of its shape."""
    write("label.dcm", cut(levels[0]), (640, 480), kind="LABEL")
    write("overview.dcm", cut(levels[0]), (640, 480), kind="OVERVIEW")
    path = write("x.dcm", cut(levels[1]))
    for name in ("x.dcm", "label.dcm", "overview.dcm"):
        with open_slide(path.with_name(name)) as slide:
            assert slide.level_dimensions == ((320, 240),)
            assert slide.info.associated == ("label", "macro")
            np.testing.assert_array_equal(slide.associated("macro"), levels[0])


@pytest.mark.parametrize("stated", [1, 18, 25])
def test_a_wrong_number_of_frames_is_corrected_by_the_data(write, cut, levels, stated):
    path = write("x.dcm", cut(levels[1]), attributes={"NumberOfFrames": stated})
    np.testing.assert_array_equal(pixels_of(path), levels[1])
    assert f"The file says {stated} frames, its data are 20, which cover the image." in notes_of(path)


@pytest.mark.parametrize("stated", [1, 18])
def test_a_wrong_number_of_compressed_frames_is_corrected_by_their_number(write, tiles_of, levels, stated):
    frames = [imagecodecs.jpeg2k_encode(tile, level=0, codecformat="j2k") for tile in tiles_of(levels[1], 64)]
    options = {"native": False, "syntax": "1.2.840.10008.1.2.4.90", "basic_table": False}
    path = write("x.dcm", frames, attributes={"NumberOfFrames": stated}, **options)
    np.testing.assert_array_equal(pixels_of(path), levels[1])
    assert f"The file says {stated} frames, its data are 20" in notes_of(path)


def test_too_few_frames_are_refused(write, cut, levels):
    with pytest.raises(BrokenSlideError, match="of 18 frames, where 20 cover its 320 × 240 px"):
        open_slide(write("x.dcm", cut(levels[1])[:18]))


def test_what_follows_the_pixel_data_is_no_frame(write, cut, levels):
    """Pixel data of 19 frames, and other elements behind them."""
    path = write("x.dcm", cut(levels[1])[:19], attributes={"NumberOfFrames": 20})
    with open(path, "ab") as file:
        file.write(b"\xfc\xff\xfc\xffOB\0\0" + (64 * 64 * 3).to_bytes(4, "little") + bytes(64 * 64 * 3))
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 64, 64), levels[1][:64, :64])
        with pytest.raises(ReadError):
            slide.read_region(256, 192, 8, 8)


def test_pixel_data_that_are_no_number_of_frames_are_refused(write, cut, levels):
    """One damaged byte in the size of a frame would shift all frames by a few px each."""
    path = write("x.dcm", cut(levels[1]))
    data = path.read_bytes()
    rows = b"\x28\0\x10\0US\2\0"
    path.write_bytes(data.replace(rows + b"\x40\0", rows + b"\x3f\0"))
    with pytest.raises(SlideError, match="which is no number of frames of 12096 bytes"):
        open_slide(path)


def test_levels_whose_pixel_sizes_do_not_fit_their_sizes_are_named(write, cut, levels):
    write("0.dcm", cut(levels[1]))
    path = write("1.dcm", cut(levels[2]), (160, 120), mpp=0.25)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx((0.25, 0.25))
        assert "160 × 120 px says 0.25 µm/px, its size below the finest level is that of 0.5" in slide.info.notes[0]


def _measures(spacing: Any) -> dict[str, Any]:
    measured = item(PixelMeasuresSequence=[item(PixelSpacing=spacing)] if spacing else [])
    return {"SharedFunctionalGroupsSequence": [measured]}


@pytest.mark.parametrize("mpp", [0.05, 0.25, 16.783, 28.97, 250.0])
def test_the_pixel_size_of_any_level_is_believed_whatever_the_lens(write, cut, levels, mpp):
    """The lens is that of the scan, also in a file that holds a coarse level of it."""
    path = write("x.dcm", cut(levels[1]), attributes=_measures([mpp / 1000] * 2))
    with open_slide(path) as slide:
        assert slide.info.magnification == 40
        if mpp == 0.05:
            assert "contradicts the stated 40x" in slide.info.mpp_fault
        else:
            assert slide.mpp == pytest.approx((mpp, mpp))
            assert slide.mpp_source == "DICOM PixelSpacing"


def test_row_spacing_is_along_y(write, cut, levels):
    with open_slide(write("x.dcm", cut(levels[1]), attributes=_measures([0.0003, 0.00025]))) as slide:
        assert slide.mpp == pytest.approx((0.25, 0.3))


def test_a_decimal_comma_in_the_spacing(write, cut, levels):
    path = write("x.dcm", cut(levels[1]), attributes=_measures(["0.000250", "0.000250"]))
    data = path.read_bytes()
    assert data.count(b"0.000250\\0.000250") == 1
    path.write_bytes(data.replace(b"0.000250\\0.000250", b"0,000250\\0,000250"))
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx((0.25, 0.25))


def test_spacing_stated_by_each_frame(write, cut, levels):
    groups = [item(PixelMeasuresSequence=[item(PixelSpacing=[0.0005, 0.0005])]) for _ in range(20)]
    attributes = {**_measures(None), "PerFrameFunctionalGroupsSequence": groups}
    with open_slide(write("x.dcm", cut(levels[1]), attributes=attributes)) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.5))


def test_without_spacing_the_volume_is_used_if_its_axes_agree(write, cut, levels):
    volume = {"ImagedVolumeWidth": 0.16, "ImagedVolumeHeight": 0.12}
    with open_slide(write("x.dcm", cut(levels[1]), attributes={**_measures(None), **volume})) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.5))
        assert slide.mpp_source == "DICOM ImagedVolumeWidth"
    volume = {"ImagedVolumeWidth": 15.0, "ImagedVolumeHeight": 15.0}
    with open_slide(write("x.dcm", cut(levels[1]), attributes={**_measures(None), **volume})) as slide:
        assert slide.info.mpp is None
        with pytest.raises(ScaleError, match="PixelSpacing is missing, and an imaged volume of 15 × 15 mm for"):
            _ = slide.mpp
    optics = {"OpticalPathSequence": [item(OpticalPathIdentifier="1")]}
    path = write("x.dcm", cut(levels[1]), attributes={**_measures(None), **optics})
    with (
        open_slide(path) as slide,
        pytest.raises(ScaleError, match=r"no pixel size \(PixelSpacing is missing\)"),
    ):
        _ = slide.mpp


@pytest.mark.parametrize("spacing", [[0, 0], [-0.00025, 0.00025]])
def test_an_impossible_spacing_is_quoted(write, cut, levels, spacing):
    path = write("x.dcm", cut(levels[1]), attributes=_measures(spacing))
    with (
        open_slide(path) as slide,
        pytest.raises(ScaleError, match=r"says “PixelSpacing = .* mm”, which is not"),
    ):
        _ = slide.mpp


def test_a_spacing_in_the_wrong_unit_contradicts_the_volume(write, cut, levels):
    """µm where mm are due: 320 px of 0.25 µm are 0.08 mm."""
    attributes = {**_measures([0.25, 0.25]), "ImagedVolumeWidth": 0.08, "ImagedVolumeHeight": 0.06}
    path = write("x.dcm", cut(levels[1]), attributes=attributes)
    with open_slide(path) as slide, pytest.raises(ScaleError, match="contradicts itself: it says PixelSpacing = 0.25"):
        _ = slide.mpp


def test_a_file_of_no_size_or_of_no_stated_kind_is_refused(write, cut, levels):
    with pytest.raises(UnsupportedSlideError, match="without the size of its image, not a DICOM slide"):
        open_slide(write("x.dcm", cut(levels[1]), attributes={"TotalPixelMatrixColumns": None}))
    with pytest.raises(SlideError, match="ImageType is empty or wrong"):
        open_slide(write("x.dcm", cut(levels[1]), kind=""))
