"""OME-Zarr images of other programs: axes, versions, units, pyramids, layouts as they are written; the rest by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt
import pytest
import zarr

import wsikit
from wsikit.batch.manifest import collect
from wsikit.errors import BrokenSlideError, ReadError, RequestError, ScaleError, UnsupportedSlideError
from wsikit.slides.fingerprint import fingerprint
from wsikit.slides.formats.ome_zarr.reader import OmeZarrSlide
from wsikit.slides.registry import choose_reader, open_slide
from wsikit.testing import check_reader

Pixels = npt.NDArray[np.uint8]
SIZE = (300, 220)
CHUNK = 128


@pytest.fixture(scope="module")
def pyramid(texture: Callable[[int, int, int], Pixels]) -> list[Pixels]:
    return [texture(*SIZE, 1), texture(150, 110, 2)]


def axis(name: str, unit: str | None) -> dict[str, str]:
    kind = {"t": "time", "c": "channel"}.get(name, "space")
    return {"name": name, "type": kind, **({"unit": unit} if unit and kind == "space" else {})}


def write(
    folder: Path,
    levels: Sequence[npt.NDArray[Any]],
    axes: str = "cyx",
    *,
    version: str = "0.5",
    unit: str | None = "micrometer",
    scale: float = 0.5,
    omero: dict[str, Any] | None = None,
    paths: Sequence[str] = ("0", "1", "2"),
    sharded: bool = False,
) -> Path:
    """An OME-Zarr image whose arrays are `levels`, (y, x, channel) each, in the order of `axes`."""
    old = version in ("0.1", "0.3", "0.4")
    datasets = []
    for path, pixels in zip(paths, levels, strict=False):
        array = np.expand_dims(pixels, tuple(range(pixels.ndim, pixels.ndim + len(axes) - len("yxc"[: pixels.ndim]))))
        held = "yxc"[: pixels.ndim] + "".join(name for name in axes if name not in "yxc"[: pixels.ndim])
        array = array.transpose([held.index(name) for name in axes])
        chunks = tuple(min(CHUNK, side) for side in array.shape)
        kept = zarr.create_array(
            folder / path,
            shape=array.shape,
            dtype=array.dtype,
            chunks=chunks,
            shards=tuple(2 * side for side in chunks) if sharded else None,
            fill_value=0,
            zarr_format=2 if old else 3,
            **({"chunk_key_encoding": {"name": "v2", "separator": "/"}} if old else {"dimension_names": tuple(axes)}),
        )
        kept[...] = array
        ratio = levels[0].shape[1] / pixels.shape[1]
        steps: list[dict[str, Any]] = [{"type": "scale", "scale": [scale * ratio if a in "yx" else 1.0 for a in axes]}]
        if version == "0.6":
            shift = {"type": "translation", "translation": [0.0 for _ in axes]}
            ends = {"input": {"path": path}, "output": {"name": "physical"}}
            steps = [{"type": "sequence", "transformations": [*steps, shift], **ends}]
        datasets.append({"path": path} | ({} if version in ("0.1", "0.3") else {"coordinateTransformations": steps}))
    entry: dict[str, Any] = {"name": "slide", "datasets": datasets}
    named = [axis(name, unit) for name in axes]
    if version == "0.6":
        entry["coordinateSystems"] = [{"name": "other", "axes": []}, {"name": "physical", "axes": named}]
    elif version != "0.1":
        entry["axes"] = list(axes) if version == "0.3" else named
    ome = {"multiscales": [entry], **({"omero": omero} if omero else {})}
    if old:
        entry["version"] = version
        set_attributes(folder, ome, 2)
    else:
        set_attributes(folder, {"ome": {"version": version, **ome}})
    return folder


def set_attributes(folder: Path, attributes: dict[str, Any], zarr_format: int = 3) -> Path:
    """A Zarr group with these attributes."""
    folder.mkdir(parents=True, exist_ok=True)
    if zarr_format == 2:
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
        (folder / ".zattrs").write_text(json.dumps(attributes))
    else:
        (folder / "zarr.json").write_text(
            json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes})
        )
    return folder


def channels(*labels: str | None, colors: Sequence[str] = ("FF0000", "00FF00", "0000FF"), top: int = 255) -> Any:
    window = {"min": 0, "max": top, "start": 0, "end": top}
    return {"channels": [{"label": n, "color": c, "window": window} for n, c in zip(labels, colors, strict=False)]}


def whole(path: Path, level: int = 0, **options: Any) -> Pixels:
    with open_slide(path, **options) as slide:
        return slide.read_box(level, (0, 0, *slide.level_dimensions[level]))


# ---- what is read


@pytest.mark.parametrize("version", ["0.3", "0.4", "0.5", "0.6"])
@pytest.mark.parametrize("axes", ["tczyx", "czyx", "cyx", "yxc", "ycx"])
def test_every_order_of_axes_in_every_version(tmp_path: Path, pyramid: list[Pixels], axes: str, version: str) -> None:
    path = write(tmp_path / "a.zarr", pyramid, axes, version=version)
    with open_slide(path) as slide:
        assert (slide.info.reader, slide.level_dimensions) == ("ome-zarr", (SIZE, (150, 110)))
        assert slide.info.mpp == (None if version == "0.3" else (0.5, 0.5))
        for level, truth in enumerate(pyramid):
            assert np.array_equal(slide.read_box(level, (0, 0, *slide.level_dimensions[level])), truth)


def test_the_first_versions_have_five_unnamed_axes(tmp_path: Path, pyramid: list[Pixels]) -> None:
    assert np.array_equal(whole(write(tmp_path / "a.zarr", pyramid, "tczyx", version="0.1")), pyramid[0])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_it_keeps_the_contract_of_readers(tmp_path: Path, pyramid: list[Pixels], version: str) -> None:
    check_reader(OmeZarrSlide, write(tmp_path / "a.zarr", pyramid, version=version))


def test_sharded_arrays_and_deeper_paths(tmp_path: Path, pyramid: list[Pixels]) -> None:
    path = write(tmp_path / "a.zarr", pyramid, sharded=True, paths=("scale0/image", "scale1/image"))
    assert np.array_equal(whole(path), pyramid[0])
    assert np.array_equal(whole(path, 1), pyramid[1])


def test_grey_of_8_and_of_16_bits(tmp_path: Path, pyramid: list[Pixels]) -> None:
    grey = pyramid[0][..., 0]
    assert np.array_equal(whole(write(tmp_path / "a.zarr", [grey], "yx")), np.repeat(grey[..., None], 3, 2))
    deep = grey.astype(np.uint16) * 257
    assert np.array_equal(whole(write(tmp_path / "b.zarr", [deep], "yx"))[..., 0], grey)
    twelve = ((grey.astype(np.uint32) * 4095 + 127) // 255).astype(np.uint16)
    path = write(tmp_path / "c.zarr", [twelve[..., None]], "cyx", omero=channels("DAPI", top=4095))
    assert np.array_equal(whole(path)[..., 0], grey)
    big_endian = zarr.create_array(tmp_path / "d.zarr" / "0", shape=grey.shape, dtype=">u2", zarr_format=2)
    big_endian[...] = deep
    shutil.copytree(
        write(tmp_path / "e.zarr", [deep], "yx", version="0.4"),
        tmp_path / "d.zarr",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("0"),
    )
    assert np.array_equal(whole(tmp_path / "d.zarr")[..., 0], grey)


def test_red_green_and_blue_of_16_bits_by_their_names(tmp_path: Path, pyramid: list[Pixels]) -> None:
    deep = pyramid[0].astype(np.uint16) * 257
    path = write(tmp_path / "a.zarr", [deep], omero=channels("Red", "Green", "Blue", top=65535))
    assert np.array_equal(whole(path), pyramid[0])


def test_three_channels_without_names_are_colours_and_the_info_says_so(tmp_path: Path, pyramid: list[Pixels]) -> None:
    for number, omero in enumerate((None, channels("Channel 0", "Channel 1", "Channel 2"), channels(None, "", "2"))):
        path = write(tmp_path / f"{number}.zarr", pyramid, omero=omero)
        with open_slide(path) as slide:
            assert any("red, green and blue" in note for note in slide.info.notes)
    with open_slide(write(tmp_path / "named.zarr", pyramid, omero=channels("R", "G", "B"))) as slide:
        assert not any("red, green and blue" in note for note in slide.info.notes)


@pytest.mark.parametrize(
    ("unit", "scale"), [("nanometer", 500.0), ("millimeter", 5e-4), ("µm", 0.5), ("micron", 0.5), ("centimeter", 5e-5)]
)
def test_the_unit_of_the_scale_is_applied(tmp_path: Path, pyramid: list[Pixels], unit: str, scale: float) -> None:
    with open_slide(write(tmp_path / "a.zarr", pyramid, unit=unit, scale=scale)) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.5))
        assert slide.mpp_source == "OME-Zarr scale"


@pytest.mark.parametrize(("unit", "words"), [(None, "without a unit"), ("parsec", "'parsec'")])
def test_a_scale_without_a_usable_unit_is_no_pixel_size(
    tmp_path: Path, pyramid: list[Pixels], unit: str | None, words: str
) -> None:
    path = write(tmp_path / "a.zarr", pyramid, unit=unit)
    with open_slide(path) as slide, pytest.raises(ScaleError, match=words):
        _ = slide.mpp
    with open_slide(path, mpp=0.25) as slide:
        assert slide.mpp == (0.25, 0.25)


def test_scales_of_the_image_and_of_the_level_multiply(tmp_path: Path, pyramid: list[Pixels]) -> None:
    path = write(tmp_path / "a.zarr", pyramid)
    record = json.loads((path / "zarr.json").read_text())
    entry = record["attributes"]["ome"]["multiscales"][0]
    entry["coordinateTransformations"] = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    (path / "zarr.json").write_text(json.dumps(record))
    with open_slide(path) as slide:
        assert slide.mpp == (0.25, 0.25)


def test_a_rotated_image_has_no_pixel_size(tmp_path: Path, pyramid: list[Pixels]) -> None:
    path = write(tmp_path / "a.zarr", pyramid, version="0.6")
    text = (path / "zarr.json").read_text().replace('"type": "translation"', '"type": "rotation"')
    (path / "zarr.json").write_text(text)
    with open_slide(path) as slide:
        assert slide.info.mpp is None


def test_pyramids_of_other_ratios(tmp_path: Path, texture: Callable[[int, int, int], Pixels]) -> None:
    path = write(tmp_path / "a.zarr", [texture(300, 200, 1), texture(100, 66, 2), texture(37, 25, 3)])
    with open_slide(path) as slide:
        assert slide.level_downsamples[1] == pytest.approx((3.0, 3.0), abs=0.04)
        assert slide.level_downsamples[2] == pytest.approx((300 / 37, 8.0), rel=0.03)


def test_chunks_that_are_not_stored_have_the_fill_value_and_are_counted(tmp_path: Path, pyramid: list[Pixels]) -> None:
    path = write(tmp_path / "a.zarr", pyramid)
    (path / "0" / "c" / "0" / "0" / "0").unlink()
    with open_slide(path) as slide:
        assert (slide.read_box(0, (0, 0, CHUNK, CHUNK))[..., 0] == 0).all()
        assert any("1 of 6 files" in note for note in slide.info.notes)


def test_focal_planes_are_counted_and_the_middle_one_is_read(tmp_path: Path, pyramid: list[Pixels]) -> None:
    path = write(tmp_path / "a.zarr", pyramid, "zcyx")
    for level, pixels in enumerate(pyramid):
        planes = np.stack([np.zeros_like(pixels), pixels, np.full_like(pixels, 9)]).transpose(0, 3, 1, 2)
        shutil.rmtree(path / str(level))
        zarr.create_array(path / str(level), data=planes, chunks=(1, 3, CHUNK, CHUNK))
    assert np.array_equal(whole(path), pyramid[0])
    with open_slide(path) as slide:
        assert any("z has 3 entries" in note for note in slide.info.notes)


# ---- the layout of bioformats2raw


def bioformats2raw(
    folder: Path, images: Sequence[tuple[str, list[Pixels]]], *, version: str = "0.4", xml: bool = True
) -> Path:
    set_attributes(folder, {"bioformats2raw.layout": 3}, 2)
    set_attributes(folder / "OME", {"series": [str(number) for number in range(len(images))]}, 2)
    for number, (_, levels) in enumerate(images):
        write(folder / str(number), levels, "tczyx", version=version)
    if xml:
        inner = "".join(
            f'<Image ID="Image:{n}" Name="{name}"><Pixels><Channel SamplesPerPixel="3"/></Pixels></Image>'
            for n, (name, _) in enumerate(images)
        )
        (folder / "OME" / "METADATA.ome.xml").write_text(
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{inner}</OME>'
        )
    return folder


def test_the_slide_among_label_and_macro_is_read(
    tmp_path: Path, pyramid: list[Pixels], texture: Callable[[int, int, int], Pixels]
) -> None:
    label = texture(400, 300, 5)
    path = bioformats2raw(tmp_path / "a.zarr", [("label image", [label]), ("a.svs", pyramid), ("macro", [label])])
    with open_slide(path) as slide:
        assert np.array_equal(slide.read_box(0, (0, 0, *SIZE)), pyramid[0])
        assert set(slide.info.associated) == {"label", "macro"}
        assert np.array_equal(slide.associated("label"), label)
        assert slide.info.scenes == ()
    check_reader(OmeZarrSlide, path)


def test_of_several_scenes_the_largest_is_read_and_all_are_listed(
    tmp_path: Path, pyramid: list[Pixels], texture: Callable[[int, int, int], Pixels]
) -> None:
    second = texture(200, 200, 8)
    path = bioformats2raw(tmp_path / "a.zarr", [("left", [second]), ("right", pyramid)])
    with open_slide(path) as slide:
        assert [scene.name for scene in slide.info.scenes] == ["left", "right"]
        assert slide.info.scene == 1
    assert np.array_equal(whole(path), pyramid[0])
    assert np.array_equal(whole(path, scene="left"), second)
    assert np.array_equal(whole(path, scene=0), second)
    with pytest.raises(RequestError, match="no scene"):
        open_slide(path, scene="middle")
    assert np.array_equal(whole(path / "0"), second), "the image itself can be given"


def test_numbered_images_without_their_list(tmp_path: Path, pyramid: list[Pixels]) -> None:
    path = bioformats2raw(tmp_path / "a.zarr", [("a", pyramid)], xml=False)
    shutil.rmtree(path / "OME")
    assert np.array_equal(whole(path), pyramid[0])
    (path / ".zattrs").unlink()
    assert np.array_equal(whole(path), pyramid[0])


# ---- what is refused, by name


def test_stains_are_refused_with_their_names(tmp_path: Path, pyramid: list[Pixels]) -> None:
    five = np.repeat(pyramid[0], 2, axis=2)[..., :5]
    with pytest.raises(UnsupportedSlideError, match="5 channels.*DAPI, CD3, CD8, CK, channel 4"):
        open_slide(write(tmp_path / "a.zarr", [five], omero=channels("DAPI", "CD3", "CD8", "CK", colors="abcd")))
    with pytest.raises(UnsupportedSlideError, match="DAPI, FITC, TRITC"):
        open_slide(write(tmp_path / "b.zarr", pyramid, omero=channels("DAPI", "FITC", "TRITC")))
    with pytest.raises(UnsupportedSlideError, match="3 channels"):
        open_slide(write(tmp_path / "c.zarr", [pyramid[0].astype(np.uint16)]))
    swapped = channels("", "", "", colors=("0000FF", "00FF00", "FF0000"))
    with pytest.raises(UnsupportedSlideError, match="3 channels"):
        open_slide(write(tmp_path / "d.zarr", pyramid, omero=swapped))


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint32"])
def test_other_types_of_pixels(tmp_path: Path, pyramid: list[Pixels], dtype: str) -> None:
    with pytest.raises(UnsupportedSlideError, match=f"pixels of type {dtype}"):
        open_slide(write(tmp_path / "a.zarr", [pyramid[0].astype(dtype)]))


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"ome": {"plate": {"wells": [{"path": "A/1"}]}}}, "multi-well plate of 1 wells.*A/1/0"),
        ({"plate": {"wells": []}}, "multi-well plate"),
        ({"ome": {"well": {"images": [{"path": "0"}]}}}, "a well of a multi-well plate"),
        ({"ome": {"labels": ["nuclei"]}}, "label images .* without an image"),
        ({"encoding-type": "anndata"}, "a table of anndata"),
        ({"anything": 1}, "a Zarr group without OME-Zarr metadata .attributes: anything"),
    ],
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_other_kinds_of_zarr(tmp_path: Path, attributes: dict[str, Any], words: str, zarr_format: int) -> None:
    with pytest.raises(UnsupportedSlideError, match=words):
        open_slide(set_attributes(tmp_path / "a.zarr", attributes, zarr_format))


def test_spatialdata_and_groups_name_the_images_in_them(tmp_path: Path, pyramid: list[Pixels]) -> None:
    path = set_attributes(tmp_path / "a.zarr", {"spatialdata_attrs": {"version": "0.2"}})
    write(path / "images" / "he", pyramid)
    with pytest.raises(UnsupportedSlideError, match="SpatialData.*images/he"):
        open_slide(path)
    assert np.array_equal(whole(path / "images" / "he"), pyramid[0])
    other = set_attributes(tmp_path / "b.zarr", {})
    write(other / "overview", pyramid)
    with pytest.raises(UnsupportedSlideError, match=r"group of images.*b\.zarr/overview"):
        open_slide(other)


def test_arrays_labels_and_time_series(tmp_path: Path, pyramid: list[Pixels]) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=pyramid[0])
    with pytest.raises(UnsupportedSlideError, match="a Zarr array without"):
        open_slide(tmp_path / "a.zarr")
    label = write(tmp_path / "b.zarr", [pyramid[0][..., 0]], "yx")
    record = json.loads((label / "zarr.json").read_text())
    record["attributes"]["ome"]["image-label"] = {}
    (label / "zarr.json").write_text(json.dumps(record))
    with pytest.raises(UnsupportedSlideError, match="a label image"):
        open_slide(label)
    movie = write(tmp_path / "c.zarr", [pyramid[0]], "tcyx")
    shutil.rmtree(movie / "0")
    zarr.create_array(movie / "0", data=np.stack([pyramid[0].transpose(2, 0, 1)] * 4))
    with pytest.raises(UnsupportedSlideError, match="4 points in time"):
        open_slide(movie)


# ---- damage


def test_damage_is_an_error_and_never_pixels(
    tmp_path: Path, pyramid: list[Pixels], texture: Callable[[int, int, int], Pixels]
) -> None:
    large = write(tmp_path / "large.zarr", [texture(600, 300, 1)])
    chunk = large / "0" / "c" / "0" / "1" / "1"
    chunk.write_bytes(chunk.read_bytes()[:-20])
    with open_slide(large) as slide, pytest.raises(ReadError, match="level 0, x=0 y=0"):
        slide.read_box(0, (200, 200, 10, 10))
    path = write(tmp_path / "a.zarr", pyramid)
    shutil.rmtree(path / "1")
    with pytest.raises(BrokenSlideError, match="level, but it is not there"):
        open_slide(path)
    empty = write(tmp_path / "b.zarr", pyramid)
    shutil.rmtree(empty / "0" / "c")
    with pytest.raises(BrokenSlideError, match="without a single chunk"):
        open_slide(empty)
    for text in ("{", "[" * 5000):
        (path / "zarr.json").write_text(text)
        with pytest.raises(BrokenSlideError, match="damaged Zarr metadata"):
            open_slide(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_chunk_of_blosc_that_was_cut_short_or_is_too_long_is_unreadable(
    tmp_path: Path, pyramid: list[Pixels], zarr_format: int
) -> None:
    """Blosc returns what is in memory after the chunk."""
    path = write(tmp_path / "a.zarr", pyramid, version="0.4" if zarr_format == 2 else "0.5")
    shutil.rmtree(path / "0")
    zarr.create_array(
        path / "0",
        data=pyramid[0].transpose(2, 0, 1),
        chunks=(3, 256, 256),
        compressors=numcodecs.Blosc() if zarr_format == 2 else zarr.codecs.BloscCodec(),
        zarr_format=zarr_format,
    )
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_box(0, (0, 0, *SIZE)), pyramid[0])
    chunk = path / "0" / ("0.0.1" if zarr_format == 2 else "c/0/0/1")
    whole = chunk.read_bytes()
    for damaged in (whole[:-50], whole[:20], whole[:7], whole + b"x"):
        chunk.write_bytes(damaged)
        with open_slide(path) as slide, pytest.raises(ReadError, match="level 0, x=256 y=0"):
            slide.read_box(0, (280, 10, 10, 10))


def test_metadata_that_do_not_fit_the_arrays(tmp_path: Path, pyramid: list[Pixels]) -> None:
    with pytest.raises(BrokenSlideError, match="not the same picture"):
        open_slide(write(tmp_path / "a.zarr", [pyramid[0], pyramid[1][:40]]))
    with pytest.raises(BrokenSlideError, match="not the same picture"):
        open_slide(write(tmp_path / "b.zarr", pyramid[::-1]))
    path = write(tmp_path / "c.zarr", pyramid)
    text = (path / "zarr.json").read_text()
    for old, new in (('"name": "y"', '"name": "x"'), ('"datasets"', '"data"'), ('"path"', '"place"')):
        (path / "zarr.json").write_text(text.replace(old, new))
        with pytest.raises(BrokenSlideError, match="metadata cannot be used"):
            open_slide(path)


def test_an_unknown_codec_is_named(tmp_path: Path, pyramid: list[Pixels]) -> None:
    path = write(tmp_path / "a.zarr", pyramid)
    metadata = path / "0" / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"zstd"', '"wavelet9"'))
    with pytest.raises(UnsupportedSlideError, match="wavelet9"):
        open_slide(path)


# ---- in the rest of wsikit


def test_it_is_tiled_and_found_in_a_folder_of_slides(tmp_path: Path, pyramid: list[Pixels]) -> None:
    path = write(tmp_path / "slides" / "a.ome.zarr", pyramid, version="0.4")
    assert [entry.slide_id for entry in collect([tmp_path / "slides"])] == ["a.ome"]
    assert [entry.path for entry in collect([path])] == [str(path)]
    store = wsikit.tile(path, tmp_path / "store.zarr", mpp=1.0, patch_px=64)
    assert store.record["source"]["reader"] == "ome-zarr"
    assert choose_reader(str(store.folder)) == "store"


def test_a_changed_chunk_is_another_slide(tmp_path: Path, pyramid: list[Pixels]) -> None:
    path = write(tmp_path / "a.zarr", pyramid)
    before = fingerprint(path)
    chunk = path / "0" / "c" / "0" / "1" / "1"
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(data)
    assert fingerprint(path) != before
