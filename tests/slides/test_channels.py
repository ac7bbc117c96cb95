"""Fluorescence and multiplex slides: channels are read as tifffile reads them, and shown as a composite."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from click.testing import CliRunner

from wsikit.cli.main import cli
from wsikit.errors import BrokenSlideError, ReadError, RequestError, UnsupportedSlideError
from wsikit.slides import open_slide
from wsikit.slides.composite import composite, default_shown, measured_window
from wsikit.slides.formats.tiff.channels import MultichannelTiffSlide
from wsikit.slides.types import Channel
from wsikit.testing import check_reader

NAMES = ["DAPI", "CD3", "PD-L1"]
COLORS = [(0, 0, 255), (255, 0, 0), (0, 255, 0)]
OME_COLORS = [0x0000FFFF, -16776961, 0x00FF00FF]


def _samples(dtype: str = "uint16", shape: tuple[int, ...] = (3, 300, 410), seed: int = 0) -> npt.NDArray[Any]:
    """A dark field with bright spots: a median of 6 % of the range."""
    noise = np.random.default_rng(seed).random(shape) ** 4
    return (noise * (60000 if dtype != "uint8" else 250)).astype(dtype)


def _write_ome(path: Path, levels: list[npt.NDArray[Any]], **options: Any) -> Path:
    described = {"axes": "CYX", "Channel": {"Name": NAMES, "Color": OME_COLORS}, **options.pop("metadata", {})}
    options = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack", **options}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(levels[0], subifds=len(levels) - 1, metadata=described, **options)
        for pixels in levels[1:]:
            writer.write(pixels, subfiletype=1, **options)
    return path


def _qpi_page(kind: str, name: str = "", color: str = "") -> str:
    inner = f"<ImageType>{kind}</ImageType>" + (f"<Name>{name}</Name><Color>{color}</Color>" if name else "")
    return f"<PerkinElmer-QPI-ImageDescription>{inner}</PerkinElmer-QPI-ImageDescription>"


def _write_qptiff(path: Path, levels: list[npt.NDArray[Any]]) -> Path:
    options: dict[str, Any] = {"metadata": None, "software": "PerkinElmer-QPI", "compression": "lzw"}
    tiles: dict[str, Any] = {"tile": (64, 64), "photometric": "minisblack"}
    scale: dict[str, Any] = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        for number, level in enumerate(levels):
            kind = "ReducedResolution" if number else "FullResolution"
            for plane, name, color in zip(level, NAMES, COLORS):
                words = _qpi_page(kind, name, ",".join(map(str, color)))
                writer.write(plane, description=words, subfiletype=int(number > 0), **tiles, **scale, **options)
            if number == 0:
                small = np.full((40, 50, 3), 7, np.uint8)
                writer.write(small, description=_qpi_page("Thumbnail"), photometric="rgb", **options)
        for kind in ("Overview", "Label"):
            writer.write(np.full((30, 90, 3), 9, np.uint8), description=_qpi_page(kind), photometric="rgb", **options)
    return path


def _pyramid(dtype: str = "uint16") -> list[npt.NDArray[Any]]:
    return [_samples(dtype, (3, 300, 410)), _samples(dtype, (3, 150, 205), 1), _samples(dtype, (3, 75, 102), 2)]


def _expect(path: Path, levels: list[npt.NDArray[Any]], **options: Any) -> None:
    """Every sample of every level is equal, for the whole level and for a part across tile borders."""
    with open_slide(path, **options) as slide:
        assert slide.info.reader == "multichannel"
        assert slide.level_dimensions == tuple((level.shape[2], level.shape[1]) for level in levels)
        for number, level in enumerate(levels):
            height, width = level.shape[1:]
            read = slide.read_channels(0, 0, width, height, level=number)
            assert read.dtype == level.dtype.newbyteorder("=")
            assert (read == level).all()
        part = slide.read_channels(50, 60, 100, 90)
        assert (part == levels[0][:, 60:150, 50:150]).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
def test_ome_pyramid_is_read_as_tifffile_reads_it(tmp_path: Path, dtype: str, compression: str | None) -> None:
    levels = _pyramid(dtype)
    path = _write_ome(tmp_path / "s.ome.tif", levels, compression=compression)
    assert (tifffile.imread(path) == levels[0]).all()
    _expect(path, levels)


@pytest.mark.parametrize(
    "options",
    [
        {"tile": None, "rowsperstrip": 1},
        {"tile": None, "rowsperstrip": 7},
        {"tile": None, "rowsperstrip": 300},
        {"tile": None, "compression": None},
        {"predictor": True},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"planarconfig": "separate", "metadata": {"axes": "SYX"}},
        {"planarconfig": "contig", "metadata": {"axes": "YXS"}},
    ],
    ids=lambda options: "-".join(f"{key}={value}" for key, value in options.items()),
)
def test_layouts_of_one_level(tmp_path: Path, options: dict[str, Any]) -> None:
    samples = _samples()
    written = samples
    described = options.get("metadata", {}).get("axes", "CYX")
    if described == "YXS":
        written = np.ascontiguousarray(samples.transpose(1, 2, 0))
    given = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack", **options}
    writer = {key: given.pop(key) for key in ("byteorder", "bigtiff") if key in given}
    given["metadata"] = {"axes": described, "Channel": {"Name": NAMES}}
    path = tmp_path / "s.ome.tif"
    with tifffile.TiffWriter(path, ome=True, **writer) as file:
        file.write(written, **given)
    if described != "CYX":
        _state_three_channels(path)
    _expect(path, [samples])


def _state_three_channels(path: Path) -> None:
    """Describe the samples as channels of one sample each, as other writers do."""
    with tifffile.TiffFile(path) as tiff:
        xml = tiff.ome_metadata
    assert xml is not None
    first, last = xml.index("<Channel"), xml.rindex("</Channel>") + len("</Channel>")
    one = "".join(f'<Channel ID="Channel:0:{n}" SamplesPerPixel="1" Name="{name}"/>' for n, name in enumerate(NAMES))
    tifffile.tiffcomment(path, (xml[:first] + one + xml[last:]).encode())


def test_qptiff_has_names_colours_scale_and_no_label_among_its_levels(tmp_path: Path) -> None:
    levels = _pyramid()
    path = _write_qptiff(tmp_path / "s.qptiff", levels)
    _expect(path, levels)
    with open_slide(path) as slide:
        assert [channel.name for channel in slide.info.channels] == NAMES
        assert [channel.color for channel in slide.info.channels] == COLORS
        assert slide.mpp == (0.5, 0.5)
        assert slide.info.associated == ("label", "macro", "thumbnail")
        assert (slide.associated("thumbnail") == 7).all()


def test_imagej_states_labels_colours_and_windows(tmp_path: Path) -> None:
    samples = _samples()
    tables = [np.stack([np.arange(256) * part // 255 for part in color]).astype(np.uint8) for color in COLORS]
    path = tmp_path / "s.tif"
    described = {
        "axes": "CYX",
        "mode": "composite",
        "Labels": ["DAPI", "patient 17.tif", "c:3/3 - PD-L1"],
        "LUTs": tables,
        "Ranges": (10.0, 900.0, 20.0, 800.0, 5.0, 1.0),
    }
    tifffile.imwrite(path, samples, imagej=True, metadata=described)
    _expect(path, [samples])
    with open_slide(path) as slide:
        found = slide.info.channels
    assert [channel.name for channel in found] == ["DAPI", "channel 2", "PD-L1"]
    assert [channel.color for channel in found] == COLORS
    assert [channel.window_source for channel in found] == ["stated", "stated", "measured"]
    assert found[0].window == (10.0, 900.0)


def test_large_imagej_files_have_one_directory_for_all_planes(tmp_path: Path) -> None:
    samples = _samples(shape=(2, 3, 100, 120))  # z, c
    path = tmp_path / "s.tif"
    with tifffile.TiffWriter(path, imagej=True, byteorder=">") as writer:
        writer.write(samples, contiguous=True, truncate=True, metadata={"axes": "ZCYX", "mode": "composite"})
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 1
    with open_slide(path) as slide:
        assert (slide.read_channels(0, 0, 120, 100) == samples[0]).all()


@pytest.mark.parametrize("axes", ["ZCYX", "CZYX", "TCYX", "TZCYX"])
def test_planes_beyond_the_first_are_stated_and_not_taken_for_channels(tmp_path: Path, axes: str) -> None:
    shape = tuple({"Z": 2, "T": 4, "C": 3, "Y": 90, "X": 80}[axis] for axis in axes)
    samples = _samples(shape=shape)
    path = _write_ome(tmp_path / "s.ome.tif", [samples], metadata={"axes": axes})
    at = tuple(slice(None) if axis in "CYX" else 0 for axis in axes)
    with open_slide(path) as slide:
        assert (slide.read_channels(0, 0, 80, 90) == samples[at]).all()
        said = " ".join(slide.info.notes)
    assert ("2 focal planes" in said) == ("Z" in axes)
    assert ("4 time points" in said) == ("T" in axes)


def test_pages_are_channels_only_where_the_file_states_it(tmp_path: Path) -> None:
    samples = _samples()
    stated, silent = tmp_path / "stated.tif", tmp_path / "silent.tif"
    options: dict[str, Any] = {"photometric": "minisblack", "tile": (64, 64)}
    tifffile.imwrite(stated, samples, metadata={"axes": "CYX", "Channel": {"Name": NAMES}}, **options)
    tifffile.imwrite(silent, samples, metadata=None, **options)
    _expect(stated, [samples])
    with open_slide(stated) as slide:
        assert [channel.name for channel in slide.info.channels] == NAMES
    with open_slide(silent) as slide:
        assert slide.info.channels == ()
        assert slide.info.reader != "multichannel"


def test_scenes_of_several_channels_are_chosen_by_number_and_name(tmp_path: Path) -> None:
    small, large = _samples(shape=(2, 200, 250), seed=1), _samples(shape=(3, 300, 410))
    path = tmp_path / "s.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for name, samples in (("left", small), ("right", large)):
            described = {"axes": "CYX", "Name": name}
            writer.write(samples, metadata=described, tile=(64, 64), photometric="minisblack")
    for scene, samples in ((None, large), (0, small), ("right", large), ("left", small)):
        with open_slide(path, scene=scene) as slide:
            copy = pickle.loads(pickle.dumps(slide))
            assert [known.name for known in slide.info.scenes] == ["left", "right"]
            assert len(slide.info.channels) == len(samples)
            for opened in (slide, copy):
                read = opened.read_channels(0, 0, samples.shape[2], samples.shape[1])
                assert (read == samples).all()
            copy.close()


def test_composite_adds_the_colours_within_the_windows(tmp_path: Path) -> None:
    samples = _samples()
    path = _write_ome(tmp_path / "s.ome.tif", [samples])
    with open_slide(path) as slide:
        shown = slide.read_region(30, 40, 200, 100)
        found = slide.info.channels
    share = [
        np.clip((plane[40:140, 30:230].astype(float) - low) / (high - low), 0, 1)
        for plane, (low, high) in zip(samples, [channel.window for channel in found])
    ]
    expected = np.clip(np.einsum("chw,cp->hwp", np.array(share), np.array(COLORS, float)), 0, 255)
    assert np.abs(shown - expected).max() <= 0.51


def test_tiles_and_regions_of_any_size_show_the_same_composite(tmp_path: Path) -> None:
    path = _write_ome(tmp_path / "s.ome.tif", _pyramid())
    with open_slide(path) as slide:
        whole = slide.read_region(0, 0, 410, 300)
        copy = pickle.loads(pickle.dumps(slide))
        assert (copy.read_region(100, 70, 33, 44) == whole[70:114, 100:133]).all()
        assert copy.info.channels == slide.info.channels
        copy.close()


def test_a_window_keeps_an_empty_channel_dark() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(200, 5, (200, 200)).astype(np.uint16)
    signal = noise.copy()
    signal[50:60, 50:60] = 5000
    low, high = measured_window([noise])
    assert high - low > 80
    assert measured_window([signal])[1] == 5000
    shown = composite([noise], [Channel("empty", (255, 255, 255), "uint16", (low, high), "measured")])
    assert shown.max() < 100


def test_a_composite_of_many_channels_shows_seven_and_states_the_others() -> None:
    names = ["DAPI", "Autofluorescence", *(f"marker {n}" for n in range(10)), "Hoechst cycle 2"]
    shown = default_shown(names)
    assert sum(shown) == 7
    assert shown[0]
    assert not shown[1]
    assert not shown[-1]


def test_samples_that_are_not_numbers_are_dark_in_the_composite() -> None:
    plane = np.array([[np.nan, 0.5, np.inf]], np.float32)
    channel = Channel("a", (255, 0, 0), "float32", (0.0, 1.0), "stated")
    assert composite([plane], [channel])[0, :, 0].tolist() == [0, 128, 255]


def test_channels_are_chosen_by_name_and_number(tmp_path: Path) -> None:
    samples = _samples()
    path = _write_ome(tmp_path / "s.ome.tif", [samples])
    with open_slide(path) as slide:
        assert (slide.read_channels(0, 0, 50, 60, channels=["PD-L1", 0]) == samples[[2, 0], :60, :50]).all()
        beyond = slide.read_channels(400, 290, 20, 20, channels=["CD3"])
        assert (beyond[0, :10, :10] == samples[1, 290:, 400:]).all()
        assert not beyond[0, 10:].any()
        with pytest.raises(RequestError, match="no channel 'CD4'; it has DAPI, CD3, PD-L1"):
            slide.read_channels(0, 0, 5, 5, channels=["CD4"])


def test_an_rgb_slide_has_no_channels(pyramid: Path) -> None:
    with open_slide(pyramid) as slide:
        assert slide.info.channels == ()
        assert slide.info.reader == "tiff"
        with pytest.raises(RequestError, match="RGB or grey"):
            slide.read_channels(0, 0, 5, 5)


@pytest.mark.parametrize("names", [["Red", "Green", "Blue"], ["B", "G", "R"]])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_channels_named_red_green_blue_on_a_bright_field_are_an_rgb_image(
    tmp_path: Path, names: list[str], dtype: str
) -> None:
    top = 255 if dtype == "uint8" else 65535
    samples = top - _samples(dtype)
    path = _write_ome(tmp_path / "s.ome.tif", [samples], metadata={"Channel": {"Name": names}})
    with open_slide(path) as slide:
        assert slide.info.channels == ()
        order = [next(k for k, name in enumerate(names) if name[0] == part) for part in "RGB"]
        expected = samples[order].transpose(1, 2, 0) * (255 / top)
        assert np.abs(slide.read_region(0, 0, 410, 300) - expected).max() <= 0.51
        assert "one RGB image" in " ".join(slide.info.notes)


def test_an_imagej_composite_of_a_colour_image_is_rgb(tmp_path: Path) -> None:
    samples = 255 - _samples("uint8")
    tables = [np.stack([np.arange(256) * (part == k) for part in range(3)]).astype(np.uint8) for k in range(3)]
    path = tmp_path / "s.tif"
    described = {"axes": "CYX", "mode": "composite", "LUTs": tables, "Labels": ["sheet 1"] * 3}
    tifffile.imwrite(path, samples, imagej=True, metadata=described)
    with open_slide(path) as slide:
        assert slide.info.channels == ()
        assert (slide.read_region(0, 0, 410, 300) == samples.transpose(1, 2, 0)).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_three_channels_without_names_on_a_bright_field_are_refused(tmp_path: Path, dtype: str) -> None:
    samples = (255 if dtype == "uint8" else 4095) - (_samples("uint8").astype(dtype))
    path = tmp_path / "s.ome.tif"
    tifffile.imwrite(path, samples, photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(UnsupportedSlideError, match="3 channels without names on a bright field"):
        open_slide(path)


def test_dark_channels_named_red_green_blue_are_fluorescence(tmp_path: Path) -> None:
    samples = _samples()
    path = _write_ome(tmp_path / "s.ome.tif", [samples], metadata={"Channel": {"Name": ["Red", "Green", "Blue"]}})
    with open_slide(path) as slide:
        assert [channel.color for channel in slide.info.channels] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_rgb_files_stay_with_their_reader(tmp_path: Path, texture: Callable[[int, int, int], Any]) -> None:
    pixels = texture(200, 150, 5)
    plain, ome = tmp_path / "rgb.tif", tmp_path / "rgb.ome.tif"
    tifffile.imwrite(plain, pixels, tile=(64, 64), photometric="rgb")
    tifffile.imwrite(ome, pixels, tile=(64, 64), photometric="rgb", metadata={"axes": "YXS"})
    planes = tmp_path / "planes.ome.tif"
    separate = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(planes, separate, tile=(64, 64), photometric="rgb", planarconfig="separate")
    for path in (plain, ome, planes):
        with open_slide(path) as slide:
            assert slide.info.reader == "tiff"
            assert (slide.read_region(0, 0, 200, 150) == pixels).all()


def test_a_damaged_tile_is_an_error_and_not_dark(tmp_path: Path, overwrite_tile: Callable[..., None]) -> None:
    samples = _samples()
    path = _write_ome(tmp_path / "s.ome.tif", [samples])
    overwrite_tile(path, 0, lambda encoded: b"\xff" * len(encoded), page=1)
    with open_slide(path) as slide:
        assert (slide.read_channels(0, 0, 64, 64, channels=["DAPI"]) == samples[0, :64, :64]).all()
        with pytest.raises(ReadError):
            slide.read_channels(0, 0, 64, 64)
        with pytest.raises(ReadError):
            slide.read_region(0, 0, 64, 64)


@pytest.mark.parametrize(
    ("dtype", "words"), [("int16", "int16"), ("uint32", "uint32"), ("float64", "float64"), ("complex64", "complex64")]
)
def test_other_types_of_samples_are_refused_by_name(tmp_path: Path, dtype: str, words: str) -> None:
    path = _write_ome(tmp_path / "s.ome.tif", [np.zeros((3, 100, 100), dtype)])
    with pytest.raises(UnsupportedSlideError, match=words):
        open_slide(path)


def test_channels_in_other_files_are_refused_by_name(tmp_path: Path) -> None:
    samples = _samples()
    path, other = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    _write_ome(path, [samples])
    _write_ome(other, [samples])
    with tifffile.TiffFile(other) as tiff, tifffile.TiffFile(path) as own:
        xml, here = tiff.ome_metadata, own.ome_metadata
    assert xml is not None
    assert here is not None
    identity = xml.split('UUID="')[1].split('"')[0]
    elsewhere = '<TiffData IFD="2" FirstC="2" FirstZ="0" FirstT="0" PlaneCount="1">'
    one = (
        "".join(f'<TiffData IFD="{n}" FirstC="{n}" FirstZ="0" FirstT="0" PlaneCount="1"/>' for n in range(2))
        + elsewhere
        + f'<UUID FileName="b.ome.tif">{identity}</UUID></TiffData>'
    )
    first, last = here.index("<TiffData"), here.rindex("<TiffData")
    end = here.index(">", last) + 1
    tifffile.tiffcomment(path, (here[:first] + one + here[end:]).encode())
    with pytest.raises(UnsupportedSlideError, match=r"channel 3 is in another file \(b.ome.tif\)"):
        open_slide(path)
    other.unlink()
    with pytest.raises(BrokenSlideError, match="channel 3 is not in the file"):
        open_slide(path)


def test_info_lists_channels_with_names_and_colours(tmp_path: Path) -> None:
    path = _write_ome(tmp_path / "s.ome.tif", [_samples()])
    shown = CliRunner().invoke(cli, ["info", str(path)]).output
    assert "DAPI: #0000FF, uint16" in shown
    assert "PD-L1: #00FF00, uint16" in shown


def test_a_qptiff_of_a_colour_image_stays_with_its_reader(
    tmp_path: Path, texture: Callable[[int, int, int], Any]
) -> None:
    pixels = texture(410, 300, 5)
    path = tmp_path / "he.qptiff"
    options: dict[str, Any] = {"metadata": None, "software": "PerkinElmer-QPI", "photometric": "rgb"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, description=_qpi_page("FullResolution"), tile=(64, 64), **options)
        writer.write(pixels[::8, ::8], description=_qpi_page("Thumbnail"), **options)
        writer.write(pixels[::2, ::2], description=_qpi_page("ReducedResolution"), tile=(64, 64), **options)
    with open_slide(path) as slide:
        assert slide.info.reader == "tiff"
        assert (slide.read_region(0, 0, 410, 300) == pixels).all()


def test_ome_text_of_another_file_does_not_make_channels(tmp_path: Path) -> None:
    """Programs that convert a file copy its text, although the new file has one image."""
    source, copy = tmp_path / "s.ome.tif", tmp_path / "copy.tif"
    _write_ome(source, [_samples("uint8")])
    with tifffile.TiffFile(source) as tiff:
        text = tiff.ome_metadata
    assert text is not None
    grey = 255 - _samples("uint8")[0]
    tifffile.imwrite(copy, grey, tile=(64, 64), photometric="minisblack", metadata=None, description=text.encode())
    with open_slide(copy) as slide:
        assert slide.info.channels == ()
        assert (slide.read_region(0, 0, 410, 300)[..., 0] == grey).all()


def test_the_reader_passes_the_checks_for_readers(tmp_path: Path) -> None:
    check_reader(MultichannelTiffSlide, _write_ome(tmp_path / "s.ome.tif", _pyramid()))


@pytest.mark.parametrize("count", [3, 4])
def test_an_ome_xml_that_names_no_directories_means_the_first_ones(tmp_path: Path, count: int) -> None:
    """The shortest OME-XML in use, as in recipes for libvips: sizes, and no TiffData. Levels are sub-directories."""
    rng = np.random.default_rng(5)
    planes = (rng.integers(100, 160, (count, 96, 128)) + 2000 * (rng.random((count, 96, 128)) > 0.95)).astype(np.uint16)
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels DimensionOrder="XYCZT" ID="Pixels:0" SizeC="{count}" SizeT="1" SizeX="128" '
        'SizeY="96" SizeZ="1" Type="uint16" PhysicalSizeX="0.5" PhysicalSizeY="0.5"/></Image></OME>'
    ).encode()
    options = {"tile": (32, 32), "photometric": "minisblack", "metadata": None, "compression": "deflate"}
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path) as writer:
        for number, plane in enumerate(planes):
            writer.write(plane, subifds=1, description=xml if number == 0 else None, **options)
            writer.write(plane[::2, ::2], subfiletype=1, **options)
    with open_slide(path) as slide:
        assert slide.info.reader == "multichannel"
        assert slide.level_dimensions == ((128, 96), (64, 48))
        assert slide.mpp == (0.5, 0.5)
        found = slide.read_channels(0, 0, 128, 96, level=0)
        np.testing.assert_array_equal(found.reshape(planes.shape), planes)


@pytest.mark.parametrize("lost", ["TileOffsets", "TileByteCounts"])
def test_a_tile_of_a_channel_that_was_lost_is_unreadable_and_one_never_stored_is_0(tmp_path: Path, lost: str) -> None:
    path = _write_ome(tmp_path / "a.ome.tif", [_samples()], compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tags = tiff.pages[1].tags
        for name, numbers in (("TileOffsets", [0]), ("TileByteCounts", [0]), (lost, [0, 1])):
            values = [0 if number in numbers else value for number, value in enumerate(tags[name].value)]
            tags[name].overwrite(values)
    with open_slide(path) as slide:
        assert not slide.read_channels(0, 0, 30, 30, channels=[1]).any()
        side = slide.info.tile_px[0]
        slide.read_channels(side, 0, 30, 30, channels=[0, 2])
        with pytest.raises(ReadError, match="without bytes, or bytes without a place"):
            slide.read_channels(side, 0, 30, 30, channels=[1])
