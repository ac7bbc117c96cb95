"""ome-zarr-py, the reference reader of OME-Zarr, takes a store for an image and its tissue label for a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsikit.slides.store import SlideStore
from wsikit.store.paths import place
from wsikit.tiling.tile import tile

io = pytest.importorskip("ome_zarr.io", reason="ome-zarr is not installed: pip install 'wsikit[test]'")
reader = pytest.importorskip("ome_zarr.reader", reason="ome-zarr is not installed: pip install 'wsikit[test]'")


@pytest.fixture
def store(slide_path: Path, tmp_path: Path) -> SlideStore:
    return tile(slide_path, tmp_path / "x.zarr", patch_px=224)


def read(store: SlideStore) -> dict[str, reader.Node]:
    """What ome-zarr-py finds, by place below the store."""
    location = io.parse_url(store.folder)
    assert location is not None, "not taken for OME-Zarr"
    root = str(location.path)
    return {str(node.zarr.path).removeprefix(root).strip("/"): node for node in reader.Reader(location)()}


def test_the_levels_have_the_right_shapes_scales_and_pixels(store: SlideStore) -> None:
    found = read(store)[""]
    assert [axis["name"] for axis in found.metadata["axes"]] == ["c", "y", "x"]
    assert len(found.data) == len(store.level_dimensions)
    for level, (width, height) in enumerate(store.level_dimensions):
        assert found.data[level].shape == (3, height, width)
        pixels = np.moveaxis(np.asarray(found.data[level]), 0, -1)
        assert np.array_equal(pixels, store.read_box(level, (0, 0, width, height)))
        (scale, *_) = found.metadata["coordinateTransformations"][level]
        mpp = [store.mpp[axis] * store.level_downsamples[level][axis] for axis in (1, 0)]
        assert scale["scale"] == pytest.approx([1.0, *mpp])


def test_the_tissue_label_is_aligned_with_the_image(store: SlideStore) -> None:
    found = read(store)["labels/tissue"]
    mask, downsample = store.tissue()
    assert np.array_equal(np.asarray(found.data[0]) == 1, mask)
    assert found.data[0].shape == mask.shape
    (scale, *_) = found.metadata["coordinateTransformations"][0]
    assert scale["scale"] == pytest.approx([store.mpp[1] * downsample[1], store.mpp[0] * downsample[0]])
    assert len(found.data) == len(store.level_dimensions)


def test_a_store_at_a_url_is_read(slide_path: Path, s3: str) -> None:
    tile(slide_path, f"{s3}/x.zarr", patch_px=224)
    location = io.parse_url(f"{s3}/x.zarr")
    assert location is not None
    (image, *_) = reader.Reader(location)()
    truth = SlideStore(place(f"{s3}/x.zarr"))
    assert np.array_equal(
        np.moveaxis(np.asarray(image.data[1]), 0, -1), truth.read_box(1, (0, 0, *truth.level_dimensions[1]))
    )
