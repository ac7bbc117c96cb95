"""Every good slide there is: tiled, verified against its source, and read back equal, by us and by zarr."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import zarr

from wsikit.executor import Executor
from wsikit.slides.registry import open_slide
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile, tile_slide
from wsikit.tiling.verify import verify

PASSED = {
    "CMU-1-Small-Region.svs": "bytes",
    "CMU-1-Small-Region.jpeg.tiff": "bytes",
    "CMU-1-Small-Region.jp2.tiff": "bytes",
    "her2st_C2_pyramid.tif": "bytes",
    "oral_scc_gallery-06.tif": "bytes",
    "serrated_adenoma_gallery-01_half.tif": "bytes",
    "xyc_jpeg_pyramid.ome.tiff": "bytes",
    "test3-DAPI-2-387.ndpi": "coefficients",
    "small.svs": "bytes",
    "dicom/gcp_wsi2dcm_jpeg.dcm": "bytes",
    "dicom/gcp_wsi2dcm_jpeg2000.dcm": "bytes",
}
DECODED = ["boxes.tiff", "CMU-1-Small-Region.webp.tiff", "XYC-half-mpp.tiff", "dicom/gcp_wsi2dcm_raw.dcm"]

LARGE_PX = 4096
"""Compared in squares of so many pixels, to hold little in memory."""


@pytest.mark.parametrize("name", [*PASSED, *DECODED])
def test_a_slide_is_stored_verified_and_read_back_equal(slides_dir: Path, tmp_path: Path, name: str) -> None:
    path = slides_dir / name
    with open_slide(path) as probe:
        mpp = probe.info.mpp or (0.5, 0.5)
    with open_slide(path, mpp=mpp) as slide:
        image = ImageParameters(codec="zstd", regions="all")  # exact, whether bytes pass or not
        patches = PatchParameters(mpp=max(mpp), patch_px=224)
        store = tile_slide(slide, tmp_path / "s.zarr", image=image, patches=patches, executor=Executor(workers=2))
        assert store.record["lossless"] is True
        assert store.level_record(0)["fidelity"] == PASSED.get(name, "pixels")
        assert verify(store, source=path).problems == ()
        for level, (width, height) in enumerate(slide.level_dimensions):
            array = zarr.open_array(store.folder / str(level), mode="r")
            for y in range(0, height, LARGE_PX):
                for x in range(0, width, LARGE_PX):
                    box = (x, y, min(LARGE_PX, width - x), min(LARGE_PX, height - y))
                    truth = slide.read_box(level, box)
                    assert np.array_equal(store.read_box(level, box), truth)
                    if level == 0 or width * height < LARGE_PX**2 // 4:
                        part = np.asarray(array[:, y : y + box[3], x : x + box[2]]).transpose(1, 2, 0)
                        assert np.array_equal(np.broadcast_to(part, truth.shape), truth)
    store.close()


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "her2st_C2_pyramid.tif", "test3-DAPI-2-387.ndpi"])
def test_level_0_of_a_store_is_what_openslide_shows(slides_dir: Path, tmp_path: Path, name: str) -> None:
    store = tile(slides_dir / name, tmp_path / "s.zarr", executor=Executor(workers=2))
    width, height = store.dimensions
    side = 1500
    with openslide.OpenSlide(slides_dir / name) as slide:
        for x, y in ((0, 0), (width - side, height - side), (width // 3, height // 2)):
            truth = np.asarray(slide.read_region((x, y), 0, (side, side)).convert("RGB"))
            inside = truth[: min(side, height - y), : min(side, width - x)]
            ours = store.read_box(0, (x, y, side, side))[: inside.shape[0], : inside.shape[1]]
            assert np.array_equal(ours, inside)
