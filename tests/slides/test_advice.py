"""The next step in an error message leads to a file that can be read."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from wsikit.errors import UnsupportedSlideError
from wsikit.slides import open_slide

RGB = np.zeros((128, 128, 3), np.uint8)
TILED = {"tile": (64, 64), "metadata": None}


@pytest.mark.parametrize(
    ("pixels", "options", "words"),
    [
        (np.zeros((128, 128, 4), np.uint8), {"photometric": "separated"}, r"vips colourspace IN 'OUT\.tif\[.*\]' srgb"),
        (RGB.astype(np.float32), {"photometric": "rgb"}, "save it as RGB or grey .* in the program that wrote it"),
        (RGB, {"photometric": "cielab"}, "save it as RGB or grey .* in the program that wrote it"),
    ],
)
def test_each_kind_of_pixels_has_its_own_way_to_convert(tmp_path, pixels, options, words):
    tifffile.imwrite(tmp_path / "a.tif", pixels, **TILED, **options)
    with pytest.raises(UnsupportedSlideError, match=f"Convert it first.*{words}") as refused:
        open_slide(tmp_path / "a.tif")
    # libvips would scale numbers by a fixed range, or write colours that are refused again
    assert "tiffsave" not in str(refused.value)


def test_channels_are_not_sent_to_a_program_that_drops_them(tmp_path):
    bright = np.full((3, 128, 128), 240, np.uint8)
    tifffile.imwrite(tmp_path / "a.ome.tif", bright, photometric="minisblack", tile=(64, 64))
    with pytest.raises(UnsupportedSlideError, match="3 channels without names.*in the OME-XML") as refused:
        open_slide(tmp_path / "a.ome.tif")
    assert "vips" not in str(refused.value)


def test_a_file_as_libvips_writes_it_is_read_with_its_levels_and_the_pixel_size_of_the_text(tmp_path, texture):
    """Levels as further directories, flagged as reduced, and the OME-XML of the file that was converted."""
    right = texture(512, 384, 1)
    tifffile.imwrite(tmp_path / "in.ome.tif", right, photometric="rgb", metadata={"axes": "YXS", "PhysicalSizeX": 0.25})
    with tifffile.TiffFile(tmp_path / "in.ome.tif") as source:
        xml = source.ome_metadata.replace('PhysicalSizeX="0.25"', 'PhysicalSizeX="0.25" PhysicalSizeY="0.25"')
    options = {"tile": (128, 128), "photometric": "rgb", "compression": "jpeg", "metadata": None, "resolution": (1, 1)}
    with tifffile.TiffWriter(tmp_path / "out.tif", bigtiff=True) as writer:
        for by in (1, 2, 4):
            level = right[: 384 // by * by].reshape(384 // by, by, 512 // by, by, 3).mean((1, 3)).astype(np.uint8)
            # each directory has the same text and resolution
            writer.write(level, description=xml, subfiletype=int(by > 1), **options)
    with open_slide(tmp_path / "out.tif") as slide:
        assert slide.level_dimensions == ((512, 384), (256, 192), (128, 96))
        assert slide.mpp == (0.25, 0.25)
