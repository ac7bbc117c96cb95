"""The tile-native TIFF reader: codecs, kinds of pixels, missing and damaged tiles, raw tiles."""

from __future__ import annotations

import io
import logging
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

import wsikit.slides.formats.openslide
from wsikit.errors import BrokenSlideError, ReadError, RequestError, UnsupportedSlideError, WsikitError
from wsikit.slides import open_slide
from wsikit.slides.formats.tiff.reader import TiffSlide

APERIO = "Aperio Image Library v12.0.0\r\n640x480 (64x64) |AppMag = 40|MPP = 0.2500|User = dr.who|Filename = S12-3456"


def whole(slide, level: int = 0) -> np.ndarray:
    return slide.read_region(0, 0, *slide.level_dimensions[level], level=level)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd", "jpeg", "jpeg2000", "webp"])
def test_every_codec_gives_the_pixels_that_tifffile_gives(tmp_path, levels, write_pyramid, compression):
    path = write_pyramid(tmp_path / "slide.tiff", levels, compression=compression)
    with TiffSlide(str(path)) as slide, tifffile.TiffFile(path) as tiff:
        for level, entry in enumerate(tiff.series[0].levels):
            np.testing.assert_array_equal(whole(slide, level), entry.asarray())


@pytest.mark.parametrize("options", [{"byteorder": ">"}, {"bigtiff": True}])
def test_big_endian_and_bigtiff(tmp_path, levels, options):
    path = tmp_path / "slide.tiff"
    tifffile.imwrite(path, levels[0], tile=(64, 64), photometric="rgb", compression="lzw", predictor=True, **options)
    with open_slide(path) as slide:
        assert slide.info.reader == "tiff"
        np.testing.assert_array_equal(whole(slide), levels[0])


def test_planes_stored_separately_are_combined(tmp_path, levels):
    path = tmp_path / "planar.tiff"
    planes = levels[0].transpose(2, 0, 1)
    tifffile.imwrite(path, planes, tile=(64, 64), photometric="rgb", planarconfig="separate", compression="deflate")
    with open_slide(path, "tiff") as slide:
        np.testing.assert_array_equal(whole(slide), levels[0])
        with pytest.raises(RequestError, match="each channel separately"):
            slide.encoded_tile(0, 0, 0)


def test_an_ome_tiff_with_its_pyramid_in_sub_directories(tmp_path, levels):
    path = tmp_path / "slide.ome.tiff"
    metadata = {"axes": "YXS", "PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.26}
    options = {"tile": (64, 64), "photometric": "rgb", "compression": "jpeg"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(levels[0], subifds=2, metadata=metadata, **options)
        writer.write(levels[1], subfiletype=1, **options)
        writer.write(levels[2], subfiletype=1, **options)
    with open_slide(path) as slide, tifffile.TiffFile(path) as tiff:
        assert (slide.info.reader, slide.info.vendor) == ("tiff", "ome")
        assert slide.mpp == pytest.approx((0.25, 0.26))
        assert slide.mpp_source == "OME-XML PhysicalSize"
        assert len(slide.level_dimensions) == 3
        for level, entry in enumerate(tiff.series[0].levels):
            np.testing.assert_array_equal(whole(slide, level), entry.asarray())


def test_grey_becomes_rgb(tmp_path, levels):
    grey = levels[0][..., 0]
    for name, photometric, expected in (("black", "minisblack", grey), ("white", "miniswhite", 255 - grey)):
        path = tmp_path / f"{name}.tiff"
        tifffile.imwrite(path, grey, tile=(64, 64), photometric=photometric, compression="deflate")
        with open_slide(path) as slide:
            np.testing.assert_array_equal(whole(slide), np.repeat(expected[..., None], 3, axis=2))


def test_16_bit_is_scaled_by_one_white_level_for_the_whole_slide(tmp_path, levels):
    signal = levels[0][..., 0].astype(np.uint16) * 16  # 12 bits, as many cameras give
    full, stated = tmp_path / "full.tiff", tmp_path / "stated.tiff"
    tifffile.imwrite(full, signal, tile=(64, 64), photometric="minisblack")
    tifffile.imwrite(stated, signal, tile=(64, 64), photometric="minisblack", extratags=[(281, 3, 1, 4080, True)])
    with open_slide(full) as slide:
        assert slide.info.properties["wsikit.white-level"] == "65535"
        np.testing.assert_array_equal(whole(slide)[..., 1], np.rint(signal / 65535 * 255))
    with open_slide(stated) as slide:
        assert slide.info.properties["wsikit.white-level"] == "4080"
        np.testing.assert_array_equal(whole(slide)[..., 1], levels[0][..., 0])


def test_transparent_pixels_are_blended_with_white(tmp_path, levels):
    alpha = np.full(levels[0].shape[:2], 255, np.uint8)
    alpha[100:200], alpha[200:300] = 0, 128
    path = tmp_path / "alpha.tiff"
    pixels = np.dstack([levels[0], alpha])
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", extrasamples=["unassalpha"], compression="deflate")
    with open_slide(path) as slide:
        region = whole(slide)
    np.testing.assert_array_equal(region[:100], levels[0][:100])
    assert (region[100:200] == 255).all()
    half = levels[0][200:300] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(region[200:300] - half).max() <= 0.51


@pytest.mark.parametrize(
    ("pixels", "options", "words"),
    [
        (np.zeros((128, 128, 3), np.float32), {"photometric": "rgb"}, "float32"),
        (
            np.zeros((3, 128, 128), np.uint8),
            {"photometric": "minisblack", "ome": True, "metadata": {"axes": "ZYX"}},
            "3 channels or planes",
        ),
        (np.zeros((128, 128, 4), np.uint8), {"photometric": "separated"}, "CMYK"),
    ],
)
def test_pixels_of_other_kinds_are_refused_with_the_next_step(tmp_path, pixels, options, words):
    path = tmp_path / ("odd.ome.tiff" if options.get("ome") else "odd.tiff")
    tifffile.imwrite(path, pixels, tile=(64, 64), **options)
    with pytest.raises(UnsupportedSlideError, match=f"{words}.*Convert it first"):
        open_slide(path)


def write_aperio_jpeg(path, pixels) -> None:
    """An SVS as Aperio writes it: RGB in JPEG without colour transform, separate tables, no marker for it."""
    streams = []
    for y in range(0, pixels.shape[0], 64):
        for x in range(0, pixels.shape[1], 64):
            tile = np.zeros((64, 64, 3), np.uint8)
            part = pixels[y : y + 64, x : x + 64]
            tile[: part.shape[0], : part.shape[1]] = part
            streams.append(imagecodecs.jpeg8_encode(tile, level=90, colorspace="RGB", outcolorspace="RGB"))
    tables, tiles = split_tables(streams)
    options = {"photometric": "rgb", "compression": "jpeg", "description": APERIO, "metadata": None}
    shape = {"shape": pixels.shape, "dtype": np.uint8, "tile": (64, 64)}
    tifffile.imwrite(path, iter(tiles), **shape, **options, extratags=[(347, 7, len(tables), tables, True)])


def split_tables(streams: list[bytes]) -> tuple[bytes, list[bytes]]:
    """Move the tables, equal in all streams, into one stream of tables; drop the markers of the colour space."""
    shared, tiles = [], []
    for number, stream in enumerate(streams):
        position, kept, marker = 2, [b"\xff\xd8"], 0
        while marker != 0xDA:
            marker = stream[position + 1]
            length = 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
            segment = bytearray(stream[position : position + length])
            if marker == 0xC0:
                segment[10], segment[13], segment[16] = 0, 1, 2  # component ids: libjpeg writes R, G, B here
            if marker == 0xDA:
                segment[5], segment[7], segment[9] = 0, 1, 2
            if marker in (0xDB, 0xC4):
                shared += [segment] if number == 0 else []
            elif marker != 0xEE:
                kept.append(segment)
            position += length
        tiles.append(b"".join(kept) + stream[position:])
    return b"\xff\xd8" + b"".join(shared) + b"\xff\xd9", tiles


def test_aperio_rgb_jpeg_with_shared_tables_has_the_colours_that_openslide_shows(tmp_path, levels, patch_tag):
    path = tmp_path / "slide.svs"
    write_aperio_jpeg(path, levels[0])
    patch_tag(path, 262, 2)  # tifffile writes YCbCr with JPEG
    with TiffSlide(str(path)) as slide, openslide.OpenSlide(path) as truth:
        assert slide.tile_source(0).tables is not None
        expected = np.asarray(truth.read_region((0, 0), 0, slide.dimensions))[..., :3]
        np.testing.assert_array_equal(whole(slide), expected)
        assert np.abs(whole(slide).astype(int) - levels[0]).mean() < 10


@pytest.mark.parametrize("code", [33003, 33005])
def test_aperio_jpeg_2000_has_the_colours_that_openslide_shows(tmp_path, levels, write_pyramid, patch_tag, code):
    path = write_pyramid(
        tmp_path / "slide.svs",
        levels[:1],
        compression="jpeg2000",
        compressionargs={"codecformat": "j2k", "mct": False},
        description=APERIO,
    )
    patch_tag(path, 259, code)
    with openslide.OpenSlide(path) as truth, TiffSlide(str(path)) as slide:
        expected = np.asarray(truth.read_region((0, 0), 0, slide.dimensions))[..., :3].astype(int)
        # 33003 is YCbCr: the two libraries round the conversion differently
        assert np.abs(whole(slide) - expected).max() <= (1 if code == 33003 else 0)


def test_raw_tiles_are_the_files_bytes_and_decode_alone(tmp_path, levels, write_pyramid):
    path = write_pyramid(tmp_path / "slide.tiff", levels, compression="jpeg")
    with TiffSlide(str(path)) as slide:
        assert slide.tile_px(1) == (64, 64)
        encoded = slide.encoded_tile(1, 2, 1)
        assert slide.tile_source(1) is None or slide.tile_source(1).tables is None
        alone = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
        np.testing.assert_array_equal(alone, slide.read_box(1, (128, 64, 64, 64)))


def leave_out_tile(path, number: int, page: int = 0, *, offset: int = 0, count: int = 0) -> None:
    """Mark a tile as not stored: no bytes, and no place in the file unless `offset` names one."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name, value in (("TileByteCounts", count), ("TileOffsets", offset)):
            tag = tiff.pages[page].tags[name]
            values = list(tag.value)
            values[number] = value
            tag.overwrite(values)


@pytest.mark.parametrize("compression", ["jpeg", "lzw"])
def test_tiffslide_shows_a_tile_that_was_never_stored_as_white_and_a_lost_one_not_at_all(
    tmp_path, levels, write_pyramid, compression
):
    path = write_pyramid(tmp_path / "sparse.tiff", levels, compression=compression)
    leave_out_tile(path, 11)
    leave_out_tile(path, 14, offset=500)
    with open_slide(path, "tiffslide") as slide, TiffSlide(str(path)) as truth:
        np.testing.assert_array_equal(slide.read_region(30, 30, 100, 100), truth.read_region(30, 30, 100, 100))
        assert (slide.read_region(70, 70, 50, 50) == 255).all()
        with pytest.raises(ReadError, match="no bytes for the tile"):
            slide.read_region(260, 70, 10, 10)


def test_a_tile_that_was_never_stored_is_white(tmp_path, levels, write_pyramid):
    path = write_pyramid(tmp_path / "sparse.tiff", levels, compression="jpeg")
    leave_out_tile(path, 11)
    with TiffSlide(str(path)) as slide:
        assert slide.encoded_tile(0, 1, 1) is None
        region = whole(slide)
        assert (region[64:128, 64:128] == 255).all()
        assert not (region[64:128, :64] == 255).all()
        assert "1 of the 80 tiles of level 0 are not stored in the file; they are shown as white." in slide.info.notes


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("stated", [{"offset": 500}, {"count": 500}])
def test_a_tile_with_a_place_but_no_bytes_or_bytes_but_no_place_is_unreadable(
    tmp_path, levels, write_pyramid, level, stated
):
    path = write_pyramid(tmp_path / "lost.tiff", levels, compression="jpeg")
    leave_out_tile(path, 6, page=level, **stated)
    column, row = (6, 0) if level == 0 else (1, 1)
    with TiffSlide(str(path)) as slide:
        for read in (slide.tile, slide.encoded_tile):
            with pytest.raises(ReadError, match="a place for the tile but no bytes"):
                read(level, column, row)
        with pytest.raises(ReadError):
            slide.encoded_row(level, [0, 1, 2, 6] if level == 0 else [0, 1], row)
        assert slide.tile(level, 0, 0).shape == (64, 64, 3)
        assert any("have no bytes" in note for note in slide.info.notes) == (level == 0)


def test_lzw_that_holds_more_than_a_tile_is_unreadable(tmp_path, levels, write_pyramid, overwrite_tile):
    path = write_pyramid(tmp_path / "long.tiff", levels[:1], compression="lzw")
    longer = imagecodecs.lzw_encode(bytes(64 * 64 * 3 + 5))
    overwrite_tile(path, 6, lambda stored: longer.ljust(len(stored), b"\0"))
    with TiffSlide(str(path)) as slide:
        with pytest.raises(ReadError, match="hold more than a tile"):
            slide.tile(0, 6, 0)
        np.testing.assert_array_equal(slide.tile(0, 5, 0), levels[0][:64, 320:384])


def test_a_tile_of_4_gb_in_a_small_file_is_unreadable_without_taking_that_memory(tmp_path, levels, write_pyramid):
    path = write_pyramid(tmp_path / "huge.tiff", levels, compression="jpeg")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages[0].tags["TileByteCounts"]
        tag.overwrite([*tag.value[:6], 2**32 - 1, *tag.value[7:]], dtype="I")
    with TiffSlide(str(path)) as slide:
        tracemalloc.start()
        for read in (slide.tile, slide.encoded_tile):
            with pytest.raises(ReadError, match="the file ends at byte"):
                read(0, 6, 0)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
        tracemalloc.stop()


@pytest.mark.parametrize("offset", [0, 500])
def test_a_tile_that_aperio_omits_from_a_coarse_level_shows_the_finer_one(tmp_path, levels, write_pyramid, offset):
    path = write_pyramid(tmp_path / "sparse.svs", levels[:2], description=APERIO)
    leave_out_tile(path, 6, page=1, offset=offset)
    with TiffSlide(str(path)) as slide:
        tile = slide.read_box(1, (64, 64, 64, 64))
        finer = slide.read_box(0, (128, 128, 128, 128)).reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        assert np.abs(tile - finer).max() < 0.6


DAMAGE = {
    "cut short": lambda tile: tile[: len(tile) // 2] + bytes(len(tile) - len(tile) // 2),
    "a hole": lambda tile: tile[: len(tile) // 2] + bytes(100) + tile[len(tile) // 2 + 100 :],
    "zeros only": lambda tile: bytes(len(tile)),
    "random bytes": lambda tile: tile[:400] + np.random.default_rng(5).bytes(300) + tile[700:],
}


# OpenSlide notices a stream that ends early only if nothing decodable takes its place
NOTICED = [(reader, damage) for reader in ("tiff", "tiffslide") for damage in DAMAGE]
NOTICED += [("openslide", "zeros only"), ("openslide", "random bytes")]


@pytest.mark.parametrize(("reader", "damage"), NOTICED)
def test_a_damaged_jpeg_tile_is_an_error_and_its_neighbours_still_read(
    tmp_path, levels, write_pyramid, overwrite_tile, reader, damage
):
    path = write_pyramid(tmp_path / "damaged.tiff", levels, compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        truth = tiff.pages[0].asarray()
    overwrite_tile(path, 23, DAMAGE[damage])  # column 3, row 2 of ten columns
    with open_slide(path, reader) as slide:
        for _ in range(2):
            with pytest.raises(ReadError) as caught:
                slide.read_region(200, 140, 20, 20)
            error = caught.value
            assert (error.path, error.level) == (str(path), 0)
            x, y, width, height = error.box
            assert x < 220
            assert y < 160
            assert x + width > 200
            assert y + height > 140
            assert "\n" not in str(error)
            np.testing.assert_array_equal(slide.read_region(256, 128, 64, 64), truth[128:192, 256:320])
            np.testing.assert_array_equal(slide.read_region(100, 100, 90, 90), truth[100:190, 100:190])
        with pytest.raises(ReadError):
            slide.read_region(0, 0, 200, 200, mpp=0.3)
        assert slide.thumbnail(50).shape == (38, 50, 3)  # from another level


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_threads_continue_to_read_next_to_a_damaged_tile(tmp_path, levels, write_pyramid, overwrite_tile, reader):
    """After one failed read, OpenSlide refuses all reads with the same handle, also those of other threads."""
    path = write_pyramid(tmp_path / "damaged.tiff", levels[:1], compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        truth = tiff.pages[0].asarray()
    overwrite_tile(path, 0, DAMAGE["zeros only"])
    places = [(64 * (i % 10), 64 * (i // 10)) for i in range(60)] * 3

    with open_slide(path, reader) as slide:

        def read(place):
            try:
                return slide.read_region(*place, 64, 64)
            except ReadError:
                return None

        with ThreadPoolExecutor(4) as pool:
            regions = list(pool.map(read, places))
    for (x, y), region in zip(places, regions):
        if (x, y) == (0, 0):
            assert region is None
        else:
            np.testing.assert_array_equal(region, truth[y : y + 64, x : x + 64])


def test_openslide_is_opened_again_once_after_a_damaged_tile(
    tmp_path, levels, write_pyramid, overwrite_tile, monkeypatch
):
    path = write_pyramid(tmp_path / "damaged.tiff", levels[:1], compression="jpeg")
    overwrite_tile(path, 23, DAMAGE["zeros only"])
    with open_slide(path, "openslide") as slide:
        with pytest.raises(ReadError):
            slide.read_region(200, 140, 20, 20)
        opened = []
        real_open = wsikit.slides.formats.openslide._open
        monkeypatch.setattr(
            wsikit.slides.formats.openslide, "_open", lambda path: opened.append(path) or real_open(path)
        )
        for x in range(0, 100, 20):
            slide.read_region(x, 0, 20, 20)
        assert len(opened) <= 1


@pytest.mark.parametrize("compression", ["deflate", "lzw", "zstd", "jpeg2000", "webp"])
def test_a_tile_of_zeros_is_an_error_in_every_codec(tmp_path, levels, write_pyramid, overwrite_tile, compression):
    path = write_pyramid(tmp_path / "damaged.tiff", levels, compression=compression)
    overwrite_tile(path, 23, DAMAGE["zeros only"])
    with TiffSlide(str(path)) as slide:
        with pytest.raises(ReadError):
            slide.read_region(200, 140, 20, 20)
        assert slide.read_region(256, 128, 64, 64).shape == (64, 64, 3)


@pytest.mark.parametrize("compression", ["deflate", "jpeg2000"])
def test_a_truncated_tile_is_an_error(tmp_path, levels, write_pyramid, overwrite_tile, compression):
    """OpenJPEG decodes a truncated stream to a blurred picture without an error."""
    path = write_pyramid(tmp_path / "damaged.tiff", levels, compression=compression)
    overwrite_tile(path, 23, DAMAGE["cut short"])
    with TiffSlide(str(path)) as slide, pytest.raises(ReadError):
        slide.read_region(200, 140, 20, 20)


def test_a_truncated_file_opens_and_names_the_missing_region(tmp_path, levels, write_pyramid):
    path = write_pyramid(tmp_path / "short.tiff", levels[:1], compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].offset < 100  # the directory is at the start, so the file opens
        end = tiff.pages[0].dataoffsets[75]
    with open(path, "r+b") as file:
        file.truncate(end + 10)
    with open_slide(path) as slide:
        assert slide.read_region(0, 0, 64, 64).shape == (64, 64, 3)
        with pytest.raises(ReadError, match=f"the file ends at byte {end + 10}"):
            slide.read_region(330, 460, 10, 10)


def test_a_file_with_a_truncated_directory_is_refused(tmp_path, levels):
    path = tmp_path / "short.tiff"
    tifffile.imwrite(path, levels[0], tile=(64, 64), photometric="rgb")
    with open(path, "r+b") as file:
        file.truncate(6)
        file.seek(0)
        file.write(b"II*\0" + (90_000).to_bytes(4, "little") + bytes(20))
    with pytest.raises(BrokenSlideError, match="cut off: it has 28 bytes.*byte 90000.*Copy it again"):
        open_slide(path)


def test_a_slide_with_only_damaged_tiles_is_refused(tmp_path, levels, write_pyramid, overwrite_tile):
    path = write_pyramid(tmp_path / "dead.tiff", levels[2:], compression="jpeg")
    for number in range(6):
        overwrite_tile(path, number, DAMAGE["zeros only"])
    with pytest.raises(BrokenSlideError, match="none of its pixels.*only zero bytes.*copy it again"):
        open_slide(path)


def test_a_directory_of_another_picture_is_not_a_level(tmp_path, levels, caplog):
    path = tmp_path / "extra.tiff"
    with tifffile.TiffWriter(path) as writer:
        writer.write(levels[0], tile=(64, 64), photometric="rgb", metadata=None)
        half = np.asarray(Image.fromarray(levels[0]).resize((320, 240), Image.Resampling.BOX))
        writer.write(half, tile=(64, 64), photometric="rgb", subfiletype=1, metadata=None)
        writer.write(levels[1][:50, :100].copy(), tile=(64, 64), photometric="rgb", subfiletype=1, metadata=None)
    with caplog.at_level(logging.INFO), open_slide(path) as slide:
        assert slide.level_dimensions == ((640, 480), (320, 240))


def test_identity_in_the_file_stays_in_the_file(tmp_path, levels, write_pyramid):
    path = write_pyramid(tmp_path / "slide.svs", levels, description=APERIO)
    for reader in ("tiff", "openslide", "tiffslide"):
        with open_slide(path, reader) as slide:
            record = str(slide.info.to_json())
            assert "aperio.MPP" in slide.info.properties or reader == "tiffslide"
            assert "dr.who" not in record
            assert "S12-3456" not in record


@pytest.mark.parametrize("seed", range(3))
def test_damage_anywhere_in_a_file_raises_a_wsikit_error(tmp_path, levels, write_pyramid, seed):
    """Directory, tags or tiles: what libraries raise for it must not reach the user, nor more than one line."""
    whole_file = write_pyramid(tmp_path / "slide.svs", levels[1:], compression="jpeg", description=APERIO).read_bytes()
    rng = np.random.default_rng(seed)
    path = tmp_path / "damaged.svs"
    refused = []
    for _ in range(30):
        damaged = bytearray(whole_file)
        for place in rng.integers(0, 900, 6):  # the first directory and its tags
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged[: int(rng.integers(len(damaged) // 2, len(damaged)))])
        try:
            with open_slide(path) as slide:
                slide.read_region(0, 0, 50, 50)
                slide.thumbnail(20)
        except WsikitError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert not any("\n" in words for words in refused)


@pytest.mark.parametrize("layout", [{"tile": (64, 64)}, {"rowsperstrip": 16}])
def test_a_file_that_stores_no_pixels_is_not_white(tmp_path, levels, layout):
    """A writer that failed leaves a directory with places and sizes of 0."""
    path = tmp_path / "empty.tif"
    tifffile.imwrite(path, levels[0], photometric="rgb", metadata=None, **layout)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for code in (273, 279, 324, 325):
            tag = tiff.pages[0].tags.get(code)
            if tag is not None:
                tag.overwrite([0] * tag.count)
    with pytest.raises(BrokenSlideError, match=r"none of its (tiles is|strips are) stored in the file"):
        open_slide(path)
