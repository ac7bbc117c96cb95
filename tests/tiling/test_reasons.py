"""A store states for each level, and for each tile that was re-encoded, why the source's bytes were not kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from wsikit.executor import Executor
from wsikit.slides.registry import open_slide
from wsikit.slides.store import SlideStore
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile_slide

PATCHES = PatchParameters(mpp=0.5, patch_px=128)


def make(slide: Path, store: Path, **image: Any) -> SlideStore:
    parameters = ImageParameters(**{"tile_px": 64, "chunks_per_shard": 4, "regions": "all", **image})
    return tile_slide(slide, store, image=parameters, patches=PATCHES, executor=Executor(workers=1))


def jpeg_slide(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    scale = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    options = {"tile": (128, 128), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    tifffile.imwrite(path, pixels[:512, :512], **options, **scale)
    return path


def test_a_reencoded_level_records_the_readers_reason(slide_path: Path, tmp_path: Path) -> None:
    store = make(slide_path, tmp_path / "s.zarr")
    for level in range(2):
        assert store.level_record(level)["reencoded_because"] == "its tiles are deflate, not JPEG"
    assert [level.reason for level in store.storage()] == ["its tiles are deflate, not JPEG"] * 2


def test_kept_tiles_have_no_reason_and_the_portable_profile_is_one(
    pixels: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    slide = jpeg_slide(tmp_path / "slide.tiff", pixels)
    kept = make(slide, tmp_path / "kept.zarr")
    assert "reencoded_because" not in kept.level_record(0)
    assert [(level.kept, level.reason) for level in kept.storage()] == [("bytes", None)]
    portable = make(slide, tmp_path / "portable.zarr", profile="portable")
    assert "portable profile was requested" in portable.level_record(0)["reencoded_because"]
    assert portable.storage()[0].kept == "pixels"


def test_a_level_that_the_source_does_not_have_is_averaged(tmp_path: Path) -> None:
    slide = tmp_path / "wide.tiff"
    tifffile.imwrite(
        slide,
        np.full((64, 4224), 200, np.uint8),
        tile=(64, 64),
        photometric="minisblack",
        compression="jpeg",
        metadata=None,
        resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER",
    )
    with open_slide(slide) as opened:
        store = tile_slide(opened, tmp_path / "s.zarr", patches=PATCHES, executor=Executor(workers=1))
    assert "averaged from the level before" in store.storage()[1].reason


def test_single_tiles_that_are_encoded_again_are_counted_by_reason(
    pixels: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    slide = jpeg_slide(tmp_path / "slide.tiff", pixels)
    small = io.BytesIO()
    Image.fromarray(pixels[:128, :64]).save(small, "jpeg")
    with tifffile.TiffFile(slide, mode="r+b") as tiff:
        page = tiff.pages[0]
        # the last tile of a row may be shorter than the others: some writers do so, and it cannot be kept
        counts, offsets = list(page.databytecounts), list(page.dataoffsets)
        end = tiff.filehandle.size
        offsets[-1], counts[-1] = end, len(small.getvalue())
        page.tags[324].overwrite(offsets)
        page.tags[325].overwrite(counts)
    with open(slide, "r+b") as file:
        file.seek(end)
        file.write(small.getvalue())
    # the level ends within the shorter tile
    with tifffile.TiffFile(slide, mode="r+b") as tiff:
        tiff.pages[0].tags[256].overwrite(448)
    store = make(slide, tmp_path / "s.zarr")
    record = store.level_record(0)
    assert record["recoded_tiles"] == 1
    assert record["recoded_because"] == {"it is 64×128 px where 128×128 px are expected": 1}
    again = make(slide, tmp_path / "s.zarr")
    assert again.level_record(0) == record
