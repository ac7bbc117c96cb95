"""Every codec of TIFF that is read, in tiles and in strips; a missing decoder is named."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile

from wsikit.errors import ReadError, SlideError, UnsupportedSlideError
from wsikit.slides import open_slide

LOSSLESS_XR = {"compressionargs": {"level": 1.0}}
CODECS = [
    (1, "none", {}),
    (5, "LZW", {}),
    (5, "LZW", {"predictor": True}),
    (8, "deflate", {}),
    (8, "deflate", {"predictor": True}),
    (32946, "deflate", {}),
    (32773, "PackBits", {}),
    (34887, "LERC", {}),
    (34887, "LERC", {"compressionargs": {"compression": "deflate"}}),
    (34887, "LERC", {"compressionargs": {"compression": "zstd"}}),
    (34925, "LZMA", {}),
    (34926, "Zstandard", {}),
    (50000, "Zstandard", {"predictor": True}),
    (34933, "PNG", {}),
    (22610, "JPEG XR", LOSSLESS_XR),
    (34934, "JPEG XR", LOSSLESS_XR),
    (50001, "WebP", {"compressionargs": {"level": -1}}),
    (34927, "WebP", {"compressionargs": {"level": -1}}),
    (50002, "JPEG XL", {}),
    (52546, "JPEG XL", {}),
    (33004, "JPEG 2000", {}),
    (34712, "JPEG 2000", {}),
]


@pytest.mark.parametrize(("code", "name", "options"), CODECS)
@pytest.mark.parametrize("layout", [{"tile": (64, 64)}, {"rowsperstrip": 50}], ids=["tiles", "strips"])
@pytest.mark.parametrize("kind", ["rgb", "grey", "rgb of 16 bits"])
def test_every_codec_gives_the_samples_that_were_written(tmp_path, texture, code, name, options, layout, kind):
    if name == "WebP" and kind != "rgb":
        pytest.skip("WebP has 8-bit RGB only")
    path = tmp_path / "slide.tif"
    pixels = texture(150, 130, 1)
    stored = pixels[..., 0] if kind == "grey" else pixels
    stored = stored.astype(np.uint16) * 257 if "16" in kind else stored
    photometric = "minisblack" if kind == "grey" else "rgb"
    tifffile.imwrite(path, stored, compression=code, photometric=photometric, metadata=None, **options, **layout)
    expected = np.repeat(pixels[..., :1], 3, axis=2) if kind == "grey" else pixels
    with open_slide(path) as slide:
        assert slide.info.reader == ("tiff" if "tile" in layout else "image")
        assert slide.info.compression == name
        np.testing.assert_array_equal(slide.read_region(0, 0, 150, 130), expected)


def test_a_decoder_that_is_not_installed_is_named(tmp_path, texture, monkeypatch):
    path = tmp_path / "slide.tif"
    pixels = texture(150, 130, 1)
    tifffile.imwrite(path, pixels, compression=50002, photometric="rgb", tile=(64, 64))

    class Missing:
        available = False

    monkeypatch.setattr(imagecodecs, "JPEGXL", Missing)
    with pytest.raises(UnsupportedSlideError, match="JPEG XL, and the installed imagecodecs .* no decoder jpegxl"):
        open_slide(path)


@pytest.mark.parametrize("code", [2, 3, 4, 6, 32771, 33007, 34661, 34892, 12345])
def test_a_codec_that_is_not_read_is_refused_by_name(tmp_path, texture, patch_tag, code):
    path = tmp_path / "slide.tif"
    for layout in ({"tile": (64, 64)}, {"rowsperstrip": 50}):
        tifffile.imwrite(path, texture(150, 130, 1), photometric="rgb", metadata=None, **layout)
        patch_tag(path, 259, code)
        with pytest.raises(SlideError, match=f"method {code}.*no decoder here.*export the slide again"):
            open_slide(path)


@pytest.mark.parametrize("code", [34887, 34925, 34933, 34934, 50002])
def test_a_tile_of_zeros_is_unreadable_in_these_codecs_too(tmp_path, texture, overwrite_tile, code):
    path = tmp_path / "slide.tif"
    options = LOSSLESS_XR if code == 34934 else {}
    pixels = texture(256, 256, 1)
    tifffile.imwrite(path, pixels, compression=code, photometric="rgb", metadata=None, tile=(64, 64), **options)
    overwrite_tile(path, 0, lambda tile: bytes(len(tile)))
    with open_slide(path) as slide:
        with pytest.raises(ReadError):
            slide.read_region(0, 0, 10, 10)
        np.testing.assert_array_equal(slide.read_region(64, 64, 64, 64), pixels[64:128, 64:128])
