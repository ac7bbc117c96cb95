"""Stores are read by zarr's fused codec pipeline as by its usual one."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr

import wsikit
from wsikit.slides.store import SlideStore
from wsikit.tiling.plan import ImageParameters

FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"
ZIP = Path(__file__).parents[1] / "data" / "store_format2.zip"

pytestmark = pytest.mark.skipif(
    not hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline"),
    reason=f"zarr {zarr.__version__} has no fused pipeline; it comes with 3.4, on Python 3.12 and later",
)


def check(store: SlideStore) -> None:
    """All levels and all columns are the same through zarr's fused pipeline."""
    with zarr.config.set({"codec_pipeline.path": FUSED}):
        group = zarr.open_group(store.folder, mode="r")
        for level, (width, height) in enumerate(store.level_dimensions):
            pixels = np.asarray(group[str(level)][:]).transpose(1, 2, 0)
            expected = store.read_box(level, (0, 0, width, height))
            assert np.array_equal(np.broadcast_to(pixels, expected.shape), expected)
        columns = {
            (grid, name): np.asarray(group[f"patches/{grid}/{store.patches(grid).stored_names.stored_column(name)}"][:])
            for grid in store.grids()
            for name in store.patches(grid).columns()
        }
    assert columns
    for (grid, name), values in columns.items():
        expected = store.patches(grid).read(name)
        assert np.array_equal(values.astype(expected.dtype), expected, equal_nan=expected.dtype.kind == "f")


@pytest.mark.parametrize(
    "options", [{}, {"profile": "portable"}, {"codec": "zstd"}], ids=["native", "portable", "zstd"]
)
def test_a_store_of_today(slide_path: Path, tmp_path: Path, options: dict[str, str]) -> None:
    image = ImageParameters(regions="all", **options)  # type: ignore[arg-type]
    store = wsikit.tile(slide_path, tmp_path / "s.zarr", patch_px=224, image=image)
    wsikit.caption(store)
    check(store)


def test_a_store_of_format_2(tmp_path: Path) -> None:
    with zipfile.ZipFile(ZIP) as packed:
        packed.extractall(tmp_path)
    check(SlideStore(tmp_path / "format2.zarr"))
