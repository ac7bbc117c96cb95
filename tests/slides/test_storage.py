"""Every level that a store cannot keep as it is states why: in `info`, on the card, and in the store."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from wsikit.cli.info import command
from wsikit.slides import open_slide
from wsikit.slides.formats import openslide_tiles
from wsikit.slides.formats.dicom import pass_through
from wsikit.slides.formats.ndpi import layout as ndpi_layout
from wsikit.slides.storage import LevelStorage, storage_words

NO_TRANSFORM = {"codecformat": "j2k", "level": 0, "mct": False}


def reasons(path, reader: str = "auto") -> list[str | None]:
    with open_slide(path, reader) as slide:
        return [level.reason for level in slide.storage()]


@pytest.mark.parametrize(
    ("options", "tags", "expected"),
    [
        ({"compression": "deflate"}, {}, "its tiles are deflate, not JPEG"),
        ({"compression": "webp"}, {}, "its tiles are WebP, not JPEG"),
        ({"compression": None}, {}, "its pixels are not compressed"),
        ({"compression": "jpeg2000", "compressionargs": NO_TRANSFORM}, {259: 33003}, "do not state its colours"),
        ({"compression": "jpeg2000", "dtype": "uint16"}, {}, "have 16 bits per sample, not 8"),
        ({"compression": "jpeg2000", "planarconfig": "separate"}, {}, "channels are stored in separate tiles"),
        ({"compression": "jpeg", "photometric": "miniswhite"}, {}, "grey tiles have 0 as white"),
    ],
)
def test_a_tiff_states_why_its_tiles_are_encoded_again(tmp_path, levels, patch_tag, options, tags, expected):
    pixels = levels[1]
    if options.get("dtype"):
        pixels = pixels.astype(np.uint16) * 257
    if options.get("photometric"):
        pixels = pixels[..., 0]
    if options.get("planarconfig"):
        pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    options = {"photometric": "rgb", "tile": (64, 64), "metadata": None, **options}
    options.pop("dtype", None)
    path = tmp_path / "slide.tiff"
    tifffile.imwrite(path, pixels, **options)
    for code, value in tags.items():
        patch_tag(path, code, value)
    (reason,) = reasons(path, "tiff")
    assert expected in reason


def test_tiles_that_are_kept_have_no_reason(tmp_path, levels, write_pyramid):
    path = write_pyramid(tmp_path / "slide.tiff", levels, compression="jpeg")
    with open_slide(path) as slide:
        assert slide.storage() == tuple(LevelStorage(level, "bytes") for level in range(3))
        assert "levels 0–2: tiles kept byte for byte" in slide._repr_html_()


def test_ndpi_keeps_coefficients(tmp_path, texture, ndpi_image, write_ndpi):
    path = write_ndpi(tmp_path / "slide.ndpi", [ndpi_image(texture(640, 480, 0), blocks=80)])
    with open_slide(path) as slide:
        assert slide.storage() == (LevelStorage(0, "coefficients"),)


def test_a_picture_and_pixels_of_other_libraries_state_why(picture, tmp_path, levels, write_pyramid):
    assert reasons(picture) == ["it is one picture, not stored in tiles"]
    path = write_pyramid(tmp_path / "slide.tiff", levels, compression="jpeg")
    assert "TiffSlide returns pixels" in reasons(path, "tiffslide")[0]
    assert "OpenSlide was requested" in reasons(path, "openslide")[0]
    assert "reader tiff" in reasons(path, "openslide")[0]


def test_an_ndpi_that_falls_back_to_openslide_states_what_was_found(
    tmp_path, texture, ndpi_image, write_ndpi, monkeypatch
):
    monkeypatch.setattr(ndpi_layout, "_WHOLE_PX", 1000)
    path = write_ndpi(tmp_path / "slide.ndpi", [ndpi_image(texture(640, 480, 0), blocks=0)])
    with open_slide(path) as slide:
        assert slide.info.reader == "openslide"
        level = slide.storage()[0]
    assert level.kept is None
    assert "has no restart markers" in level.reason
    assert str(path) not in level.reason


def test_an_aperio_jpeg_2000_in_ycbcr_states_its_code(tmp_path, levels, patch_tag):
    path = tmp_path / "slide.svs"
    description = "Aperio Image Library v10\n320x240 (64x64) J2K/KDU Q=70|AppMag = 20|MPP = 0.5"
    options = {"compression": "jpeg2000", "compressionargs": NO_TRANSFORM, "photometric": "rgb"}
    tifffile.imwrite(path, levels[1], tile=(64, 64), description=description, metadata=None, **options)
    patch_tag(path, 259, 33003)
    assert "code 33003" in openslide_tiles.pass_through_fault(str(path), "aperio")


@pytest.mark.parametrize("vendor", sorted(openslide_tiles.VENDORS))
def test_formats_that_only_openslide_reads_have_a_reason(vendor):
    reason = openslide_tiles.pass_through_fault("no such file is opened", vendor)
    assert reason.startswith("it")
    assert "OpenSlide was requested" not in reason


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"codec": "native"}, "not compressed"),
        ({"codec": "jpeg-ls"}, "JPEG-LS"),
        ({"meaning": "palette"}, "palette"),
        ({"meaning": "ycc"}, "YCbCr"),
        ({"white_level": 4095}, "12 bits per sample, not 8"),
        ({"by_content": True}, "only their samples"),
        ({"places": 1}, "no grid"),
        ({}, "do not state their colours"),
        ({"source": 1}, None),
    ],
)
def test_a_dicom_level_states_why_its_frames_are_encoded_again(changes, expected):
    coding = {"codec": "jpeg2k", "meaning": "rgb", "white_level": 255, "by_content": False, "jpeg_as": None}
    words = {"native": "none", "jpeg-ls": "JPEG-LS", "jpeg2k": "JPEG 2000"}
    coding |= {name: value for name, value in changes.items() if name in coding}
    level = {"source": None, "places": None} | {name: value for name, value in changes.items() if name not in coding}
    found = pass_through.fault(
        SimpleNamespace(coding=SimpleNamespace(**coding, compression=words[coding["codec"]]), **level)
    )
    assert (found is None) if expected is None else (expected in found)


def test_dicom_frames_that_overlap_state_so(tmp_path, levels, tiles_of, write_dicom):
    frames = []
    for tile in tiles_of(levels[2], 64):
        stream = io.BytesIO()
        Image.fromarray(tile).save(stream, "jpeg")
        frames.append(stream.getvalue())
    places = [(column * 48, row * 56) for row in range(2) for column in range(3)]
    path = write_dicom(tmp_path / "slide.dcm", frames, (160, 120), positions=places)
    assert reasons(path) == ["its frames lie on no grid"]


def test_real_uncompressed_dicom_states_why(slides_dir):
    assert reasons(slides_dir / "dicom" / "gcp_wsi2dcm_raw.dcm") == ["its frames are not compressed"]


def test_info_prints_the_reason_and_scripts_get_it_per_level(tmp_path, levels, write_pyramid):
    path = write_pyramid(tmp_path / "slide.tiff", levels, compression="webp")
    result = CliRunner().invoke(command, [str(path)], standalone_mode=False)
    assert "levels 0–2: encoded again, with loss, because its tiles are WebP" in " ".join(result.stdout.split())
    result = CliRunner().invoke(command, [str(path), "--json"], standalone_mode=False)
    assert json.loads(result.stdout)["storage"][1] == {
        "level": 1,
        "kept": None,
        "reason": "its tiles are WebP, not JPEG",
    }


def test_levels_with_different_reasons_have_a_line_each():
    words = storage_words([LevelStorage(0, "bytes"), LevelStorage(1, None, "a"), LevelStorage(2, None, "b")])
    assert [line.partition(":")[0] for line in words.splitlines()] == ["level 0", "level 1", "level 2"]
