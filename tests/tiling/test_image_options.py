"""What a store may hold: tissue only, chosen levels, exact pixels, no pixels, label images, portable chunks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr

from wsikit.errors import RequestError, ScaleError, StoreError
from wsikit.executor import Executor
from wsikit.slides.registry import open_slide
from wsikit.slides.store import SlideStore
from wsikit.tiling import regions as regions_module
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.stream import read_patches
from wsikit.tiling.tile import tile, tile_slide
from wsikit.tiling.verify import verify

PATCHES = PatchParameters(mpp=0.5, patch_px=128)


def make(slide: Path, store: Path, image: dict[str, Any], patches: PatchParameters = PATCHES) -> SlideStore:
    parameters = ImageParameters(**{"tile_px": 64, "chunks_per_shard": 4, "regions": "all", **image})
    return tile_slide(slide, store, image=parameters, patches=patches, executor=Executor(workers=2))


def whole(slide: Any, level: int = 0) -> npt.NDArray[np.uint8]:
    width, height = slide.level_dimensions[level]
    found: npt.NDArray[np.uint8] = slide.read_box(level, (0, 0, width, height))
    return found


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_tiled(path: Path, pixels: npt.NDArray[np.uint8], compression: str | int, **options: Any) -> Path:
    """`pixels` in 128-px tiles of one compression, 0.5 µm/px."""
    grey = pixels.ndim == 2
    tifffile.imwrite(
        path,
        pixels,
        tile=(128, 128),
        photometric="minisblack" if grey else "rgb",
        compression=compression,
        resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER",
        metadata=None,
        **options,
    )
    return path


# ---- exact pixels


def test_zstd_keeps_the_pixels_of_a_slide_without_pass_through(slide_path: Path, tmp_path: Path) -> None:
    store = make(slide_path, tmp_path / "s.zarr", {"codec": "zstd"})
    with open_slide(slide_path) as slide:
        for level in range(2):
            assert np.array_equal(whole(store, level), whole(slide, level))
            through_zarr = np.asarray(zarr.open_array(store.folder / str(level), mode="r")[:])
            assert np.array_equal(through_zarr.transpose(1, 2, 0), whole(slide, level))
    assert store.record["lossless"] is True
    assert store.level_record(0)["fidelity"] == "pixels"
    assert verify(store, source=slide_path).problems == ()


@pytest.mark.parametrize("grey", [False, True])
def test_jpeg2000_tiles_pass_and_zarr_reads_them(pixels: npt.NDArray[np.uint8], tmp_path: Path, grey: bool) -> None:
    picture = np.ascontiguousarray(pixels[..., 1] if grey else pixels)
    path = write_tiled(tmp_path / "j2k.tiff", picture, 34712, compressionargs={"level": 0, "reversible": True})
    store = make(path, tmp_path / "s.zarr", {})
    assert store.record["lossless"] is True
    assert store.level_format(0).codec == "jpeg2k"
    truth = np.repeat(picture[..., None], 3, axis=2) if grey else picture
    assert np.array_equal(whole(store), truth), "lossless JPEG 2000: the pixels that were written"
    array = np.asarray(zarr.open_array(store.folder / "0", mode="r")[:])
    assert np.array_equal(array.transpose(1, 2, 0), picture[..., None] if grey else picture)
    assert verify(store, source=path).compared_bytes == 12 * 9


def test_grey_jpeg_tiles_pass_as_one_channel(pixels: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    path = write_tiled(tmp_path / "grey.tiff", np.ascontiguousarray(pixels[..., 1]), "jpeg")
    store = make(path, tmp_path / "s.zarr", {})
    assert store.record["lossless"] is True
    array = np.asarray(zarr.open_array(store.folder / "0", mode="r")[:])
    assert array.shape == (1, 1100, 1500)
    with open_slide(path) as slide:
        assert np.array_equal(whole(store), whole(slide))
        assert np.array_equal(array[0], whole(slide)[..., 0])


# ---- tissue only


def test_only_tiles_with_tissue_or_its_margin_are_stored(
    slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions_module, "SMALLEST_LEVEL_PX", 800)
    monkeypatch.setattr(regions_module, "MARGIN_UM", 16.0)
    everything = make(slide_path, tmp_path / "all.zarr", {})
    store = make(slide_path, tmp_path / "tissue.zarr", {"regions": "tissue"})
    record = store.level_record(0)
    absent = {(col, row) for row in range(18) for col in range(24) if store.chunk(0, col, row) is None}
    assert record["background"] == "dropped"
    assert record["dropped_tiles"] == len(absent) > 50
    # the disc lies at (700, 560) with a radius of 420 px; 16 µm are 32 px
    for col, row in absent:
        nearest = np.clip((700, 560), (col * 64, row * 64), (col * 64 + 64, row * 64 + 64))
        assert np.hypot(*(nearest - (700, 560))) > 420 + 16, "no tile that touches the disc or its margin is dropped"
    corner = store.read_box(0, (0, 0, 64, 64))
    assert (corner == 255).all()
    kept = np.asarray([[(x // 64, y // 64) not in absent for x in range(1500)] for y in range(1100)])
    assert np.array_equal(whole(store)[kept], whole(everything)[kept])
    assert store.level_record(1).get("dropped_tiles") is None, "small levels are kept whole"
    assert store.record["lossless"] is False
    assert np.array_equal(store.patches().coords, everything.patches().coords), "the mask is the slide's own"
    assert verify(store, source=slide_path).problems == ()
    assert size_of(store.folder / "0") < size_of(everything.folder / "0")


def test_a_missing_tile_is_found_among_dropped_ones(
    slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions_module, "SMALLEST_LEVEL_PX", 800)
    monkeypatch.setattr(regions_module, "MARGIN_UM", 16.0)
    store = make(slide_path, tmp_path / "s.zarr", {"regions": "tissue"})
    (store.folder / "0/c/0/2/2").unlink()
    assert any("are missing where" in problem for problem in verify(SlideStore(store.folder)).problems)


def test_background_is_stored_with_pass_through_and_dropped_without(
    pixels: npt.NDArray[np.uint8], slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions_module, "SMALLEST_LEVEL_PX", 800)
    jpeg = make(write_tiled(tmp_path / "j.tiff", pixels, "jpeg"), tmp_path / "j.zarr", {"regions": "auto"})
    assert "background" not in jpeg.level_record(0)
    other = make(slide_path, tmp_path / "d.zarr", {"regions": "auto"})
    assert other.level_record(0)["background"] == "dropped"


# ---- levels


def test_chosen_levels_keep_the_slides_own_coordinates(slide_path: Path, tmp_path: Path) -> None:
    coarse = PatchParameters(mpp=1.0, patch_px=64)
    store = make(slide_path, tmp_path / "s.zarr", {"levels": (1,), "codec": "zstd"}, coarse)
    full = make(slide_path, tmp_path / "full.zarr", {"codec": "zstd"}, coarse)
    assert store.level_dimensions == ((750, 550),)
    assert store.level_downsamples == ((2.0, 2.0),)
    assert store.dimensions == (1500, 1100)
    assert store.record["lossless"] is False, "the finest level is gone"
    coords = full.patches().coords
    assert np.array_equal(store.patches().coords, coords)
    grid = coarse.grid(full)
    ours, theirs = (read_patches(slide, grid, coords).images for slide in (store, full))
    assert np.array_equal(ours, theirs)
    image = zarr.open_group(store.folder, mode="r").attrs["ome"]["multiscales"][0]
    first = image["datasets"][0]["coordinateTransformations"]
    assert first[0]["scale"] == pytest.approx([1.0, 1.0, 1.0])
    assert first[1]["translation"] == pytest.approx([0.0, 0.25, 0.25]), "of the first pixel's centre, in µm"
    assert max(store.thumbnail(200).shape) == 200


def test_a_level_that_is_missing_or_too_coarse_for_the_patches_is_refused(slide_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ScaleError, match="1"):
        make(slide_path, tmp_path / "s.zarr", {"levels": (1,)}, PatchParameters(mpp=0.25, patch_px=64))
    with pytest.raises(RequestError, match="levels 0 to 1"):
        make(slide_path, tmp_path / "s.zarr", {"levels": (0, 2)})
    with pytest.raises(RequestError, match="ascending"):
        ImageParameters(levels=(1, 0))


# ---- no pixels


def test_a_store_without_pixels_works_as_one_with_them(slide_path: Path, tmp_path: Path) -> None:
    store = make(slide_path, tmp_path / "none.zarr", {"pixels": "none"})
    full = make(slide_path, tmp_path / "full.zarr", {"codec": "zstd"})
    assert not (store.folder / "0").exists()
    assert size_of(store.folder) < 200_000
    assert np.array_equal(whole(store), whole(full))
    assert np.array_equal(store.patches().coords, full.patches().coords)
    for column in full.patches().columns():
        assert np.array_equal(store.patches().read(column), full.patches().read(column)), column
    assert verify(store).problems == ()
    with pytest.raises(StoreError, match="holds no pixels"):
        store.chunk(0, 0, 0)


def test_a_store_without_pixels_finds_its_slide_next_to_it_or_reports_it_missing(
    slide_path: Path, tmp_path: Path
) -> None:
    make(slide_path, tmp_path / "none.zarr", {"pixels": "none"})
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(slide_path, moved / slide_path.name)
    with pytest.raises(StoreError, match=r"disc\.tiff is not there.*wsikit tile NEW_PLACE"):
        SlideStore(tmp_path / "none.zarr")
    shutil.move(tmp_path / "none.zarr", moved / "none.zarr")
    assert SlideStore(moved / "none.zarr").dimensions == (1500, 1100)


def test_a_store_without_pixels_takes_the_new_path_of_its_slide_and_keeps_its_columns(
    slide_path: Path, tmp_path: Path
) -> None:
    store = make(slide_path, tmp_path / "stores" / "none.zarr", {"pixels": "none"})
    before = (store.patches().folder / "coords" / "zarr.json").stat().st_mtime_ns
    new = tmp_path / "archive" / "disc.tiff"
    new.parent.mkdir()
    shutil.move(slide_path, new)
    again = make(new, tmp_path / "stores" / "none.zarr", {"pixels": "none"})
    assert again.record["source"]["path"] == str(new)
    assert (again.patches().folder / "coords" / "zarr.json").stat().st_mtime_ns == before


def test_a_changed_slide_is_not_read_for_a_store_without_pixels(
    slide_path: Path, tmp_path: Path, pixels: npt.NDArray[np.uint8], write_slide: Callable[..., Path]
) -> None:
    make(slide_path, tmp_path / "none.zarr", {"pixels": "none"})
    write_slide(slide_path, np.ascontiguousarray(pixels[::-1]))
    with pytest.raises(StoreError, match="has changed"):
        SlideStore(tmp_path / "none.zarr")


# ---- label and macro


def test_label_and_macro_are_stored_only_on_request(slides_dir: Path, tmp_path: Path) -> None:
    from openslide import OpenSlide

    path = slides_dir / "CMU-1-Small-Region.svs"
    plain = tile(path, tmp_path / "plain.zarr", executor=Executor(workers=2))
    assert plain.info.associated == ("thumbnail",)
    assert not any("label" in name.name or "macro" in name.name for name in (plain.folder / "associated").iterdir())
    asked = tile(path, tmp_path / "asked.zarr", image=ImageParameters(keep_label=True), executor=Executor(workers=2))
    assert asked.info.associated == ("label", "macro", "thumbnail")
    with OpenSlide(path) as slide:
        truth = np.asarray(slide.associated_images["macro"].convert("RGB")).astype(int)
    assert np.abs(asked.associated("macro") - truth).mean() < 2
    image = zarr.open_array(asked.folder / "associated" / "label" / "0", mode="r")
    assert image.shape[0] == 3


def test_a_damaged_thumbnail_is_left_out_and_the_slide_is_tiled(
    tmp_path: Path, pixels: npt.NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    path, (height, width) = tmp_path / "a.svs", pixels.shape[:2]
    about = f"Aperio Image Library v11.2.1\n{width}x{height} [0,0 {width}x{height}] (64x64) JPEG/RGB Q=70|MPP = 0.5"
    common = {"photometric": "rgb", "metadata": None, "compression": "jpeg"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, description=about, tile=(64, 64), **common)
        small = np.ascontiguousarray(pixels[::8, ::8])
        writer.write(small, description=f"{about} -> {small.shape[1]}x{small.shape[0]} - |", rowsperstrip=16, **common)
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[1].aspage().dataoffsets[0]
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(bytes(40))
    with open_slide(path) as slide:
        assert slide.info.associated == ("thumbnail",)
    store = tile(path, tmp_path / "a.zarr", executor=Executor(workers=1))
    assert store.info.associated == ()
    assert "its thumbnail is left out of the store" in caplog.text
    assert verify(store, source=path).problems == ()


# ---- portable


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_portable_store_opens_with_built_in_codecs(slide_path: Path, tmp_path: Path, version: str) -> None:
    from ome_zarr_models.v04.image import Image as Image04
    from ome_zarr_models.v05.image import Image as Image05

    store = make(slide_path, tmp_path / "p.zarr", {"profile": "portable", "ngff": version})
    with open_slide(slide_path) as slide:
        truth = [whole(slide, level) for level in range(2)]
    for zarr_format, model in ((3, Image05), (2, Image04))[: 2 if version == "0.4" else 1]:
        group = zarr.open_group(store.folder, mode="r", zarr_format=zarr_format)
        model.from_zarr(group)
        for level in range(2):
            array = group[str(level)]
            assert np.array_equal(np.asarray(array[:]).transpose(1, 2, 0), truth[level])
    found = {path.name for path in store.folder.rglob(".z*")}
    assert found == ({".zarray", ".zattrs", ".zgroup"} if version == "0.4" else set()), "one format unless requested"
    metadata = [*store.folder.glob("[0-9]/zarr.json"), *store.folder.glob("associated/*/0/zarr.json")]
    names = {codec["name"] for path in metadata for codec in json.loads(path.read_text())["codecs"]}
    assert names == {"bytes", "zstd"}, "what every reader has"
    keys = {json.loads(path.read_text())["chunk_key_encoding"]["name"] for path in metadata}
    assert keys == {"v2" if version == "0.4" else "default"}, "fastslide reads white where Zarr v3 has keys of v2"
    assert np.array_equal(whole(store), truth[0])
    assert verify(store, source=slide_path).problems == ()


def test_a_portable_store_in_blosc_is_read_as_before(slide_path: Path, tmp_path: Path) -> None:
    """The portable profile was Blosc-Zstandard with both metadata formats."""
    store = make(slide_path, tmp_path / "p.zarr", {"profile": "portable", "ngff": "0.4"})
    truth = whole(store)
    for path in store.folder.glob("[0-9]/zarr.json"):
        record = json.loads(path.read_text())
        assert record["chunk_key_encoding"]["name"] == "v2"
        settings = {"typesize": 1, "cname": "zstd", "clevel": 5, "shuffle": "noshuffle", "blocksize": 0}
        record["codecs"][1] = {"name": "blosc", "configuration": settings}
        path.write_text(json.dumps(record))
    for path in store.folder.glob("[0-9]/0/*/*"):
        planes = imagecodecs.zstd_decode(path.read_bytes())
        path.write_bytes(imagecodecs.blosc_encode(planes, level=5, compressor="zstd", shuffle=0, typesize=1))
    with SlideStore(store.folder) as old:
        assert np.array_equal(whole(old), truth)


def test_a_flipped_bit_in_a_portable_chunk_is_found(slide_path: Path, tmp_path: Path) -> None:
    store = make(slide_path, tmp_path / "p.zarr", {"profile": "portable"})
    chunk = store.folder / "0" / store.level_format(0).object_key(1, 1)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(data)
    assert any("damaged" in problem for problem in verify(SlideStore(store.folder)).problems)


def test_options_that_came_later_leave_the_receipts_of_older_stores_equal() -> None:
    record = ImageParameters().to_json()
    assert not {"ngff", "jpeg_name", "portable_codec"} & set(record)
    changed = ImageParameters(profile="portable", ngff="0.6").to_json()
    assert (changed["ngff"], changed["portable_codec"]) == ("0.6", "zstd_frame")


def test_metadata_of_ngff_0_4_are_for_portable_stores_only() -> None:
    with pytest.raises(RequestError, match="--profile portable"):
        ImageParameters(ngff="0.4")


# ---- NGFF 0.6, codec names


def test_on_request_the_metadata_are_ngff_0_6(slide_path: Path, tmp_path: Path) -> None:
    store = make(slide_path, tmp_path / "s.zarr", {"ngff": "0.6"})
    ome = zarr.open_group(store.folder, mode="r").attrs["ome"]
    assert ome["version"] == "0.6"
    (system,) = ome["multiscales"][0]["coordinateSystems"]
    assert [axis["name"] for axis in system["axes"]] == ["c", "y", "x"]
    for level, dataset in enumerate(ome["multiscales"][0]["datasets"]):
        (transformation,) = dataset["coordinateTransformations"]
        assert transformation["input"] == {"path": str(level)}
        assert transformation["output"] == {"name": system["name"]}
        scale = transformation if level == 0 else transformation["transformations"][0]
        mpp = [store.mpp[axis] * store.level_downsamples[level][axis] for axis in (1, 0)]
        assert scale["scale"] == pytest.approx([1.0, *mpp])
    label = zarr.open_group(store.folder / "labels" / "tissue", mode="r").attrs["ome"]
    assert (label["version"], "coordinateSystems" in label["multiscales"][0]) == ("0.6", True)


def test_on_request_the_jpeg_codec_has_its_registered_name(slide_path: Path, tmp_path: Path) -> None:
    from zarr.registry import register_codec

    from wsikit.store.codecs import RegisteredJpeg

    store = make(slide_path, tmp_path / "s.zarr", {"jpeg_name": "jpeg"})
    record = json.loads((store.folder / "0" / "zarr.json").read_text())
    inner = record["codecs"][0]["configuration"]["codecs"]
    assert inner[1]["name"] == "jpeg"
    assert inner[1]["configuration"]["encoded_color_space"] in ("ycbcr", "rgb")
    usual = make(slide_path, tmp_path / "usual.zarr", {})
    assert np.array_equal(whole(store), whole(usual))
    register_codec("jpeg", RegisteredJpeg)
    array = np.asarray(zarr.open_array(store.folder / "0", mode="r")[:])
    assert np.array_equal(array.transpose(1, 2, 0), whole(usual))


def test_a_damaged_portable_chunk_is_found(slide_path: Path, tmp_path: Path) -> None:
    store = make(slide_path, tmp_path / "p.zarr", {"profile": "portable"})
    chunk = store.folder / "0" / store.level_format(0).object_key(1, 1)
    chunk.write_bytes(chunk.read_bytes()[:-100])
    assert any("damaged" in problem for problem in verify(SlideStore(store.folder)).problems)


# ---- tiles among others


def test_a_re_encoded_tile_has_the_colour_coding_of_its_neighbours(
    pixels: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    """A TIFF written from the store says the colour coding once for all tiles."""
    path = tmp_path / "aperio-like.tiff"

    def tiles() -> Any:
        for row in range(9):
            for col in range(12):
                part = pixels[row * 128 : (row + 1) * 128, col * 128 : (col + 1) * 128]
                full = np.pad(part, ((0, 128 - part.shape[0]), (0, 128 - part.shape[1]), (0, 0)), mode="edge")
                if (col, row) == (4, 4):  # too small a tile: it cannot be a chunk
                    full = full[:, :127]
                yield imagecodecs.jpeg8_encode(
                    np.ascontiguousarray(full), level=95, colorspace="RGB", outcolorspace="RGB"
                )

    tifffile.imwrite(
        path,
        tiles(),
        shape=pixels.shape,
        dtype="uint8",
        tile=(128, 128),
        photometric="rgb",
        compression="jpeg",
        compressionargs={"outcolorspace": "RGB"},
        resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    from wsikit.tiling.jpeg_headers import read_header

    store = make(path, tmp_path / "s.zarr", {})
    record = store.level_record(0)
    assert record["recoded_tiles"] + len(record["unreadable_tiles"]) == 1
    heads = {read_header(chunk).rgb for row in range(9) for col in range(12) if (chunk := _chunk(store, col, row))}
    assert heads == {True}


def _chunk(store: SlideStore, col: int, row: int) -> bytes | None:
    from wsikit.errors import ReadError

    try:
        return store.chunk(0, col, row)
    except ReadError:
        return None
