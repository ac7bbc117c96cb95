"""raw2features reads a portable store pixel by pixel, and what it writes comes back into the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsikit.results.import_ import import_patches
from wsikit.slides.store import SlideStore
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.stream import iterate_patches
from wsikit.tiling.tile import tile_slide

pytest.importorskip("raw2features")
PATCH_PX = 64


@pytest.fixture
def store(slide_path, tmp_path) -> SlideStore:
    return tile_slide(
        slide_path,
        tmp_path / "a.zarr",
        patches=PatchParameters(1.0, PATCH_PX),
        image=ImageParameters(profile="portable"),
    )


def embedded(store: SlideStore, folder: Path) -> str:
    """The features of raw2features, without a mask of its own: here the mean colour of each patch, as 0 to 1."""
    import torch
    from raw2features.embedders.base import Embedder, ModelSpec
    from raw2features.pipeline.runner import RunConfig, embed_slide

    class Mean(Embedder):
        def load(self, device="cpu", dtype=None, compile=False):
            self._device, self._dtype = "cpu", torch.float32
            return self

        def embed_batch(self, batch):
            return batch.float().mean(dim=(2, 3))

    spec = ModelSpec(
        name="mean", family="none", source="none", embedding_dim=3, input_size=PATCH_PX, pooling="pooled",
        mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), transform_source_url="none", license="none", gated=False,
    )  # fmt: skip
    settings = RunConfig(
        models=["mean"], no_seg=True, target_mpp=1.0, patch_px=PATCH_PX, device="cpu", features_dtype="float32"
    )
    embed_slide(
        str(store.folder), str(folder), settings, requested_mpp=1.0, requested_patch_px=PATCH_PX,
        embedders=[Mean(spec).load()],
    )  # fmt: skip
    return str(next(folder.glob("*.embeddings.zarr")))


@pytest.mark.parametrize("layout", ["stamp", "trident"])
def test_it_reads_the_pixels_and_its_features_come_back(store, tmp_path, layout):
    from raw2features.export.h5 import export_h5

    (path,) = export_h5(embedded(store, tmp_path / "r2f"), str(tmp_path / "h5"), layout=layout)
    # its files for TRIDENT state the side in level-0 px as patch_size
    done = import_patches(path, store.folder, patch_px=PATCH_PX if layout == "trident" else None)
    assert done.layout == layout
    table = store.patches()
    assert done.table.name == table.name
    back = table.read("features_mean")
    whole = (table.coords + table.grid.side <= store.dimensions).all(axis=1)
    assert np.isfinite(back[whole]).all()
    assert np.isnan(back[~whole]).all()
    for rows, batch in iterate_patches(store, table.grid, table.coords, table.chunks()):
        truth = batch.images.mean(axis=(1, 2)) / 255
        np.testing.assert_allclose(back[rows][whole[rows]], truth[whole[rows]], atol=0.5 / 255)
