"""Features of patches by any encoder: the column, its receipt, what is kept, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import wsikit
from wsikit.encoders.protocol import EncoderInfo
from wsikit.errors import ModelError, RequestError, StoreError
from wsikit.geometry import PatchGrid
from wsikit.inference.feature_grid import scale_warning
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec

INFO = EncoderInfo("colours", 4, 64, 0.5, "weights 1", source="made here", shared_width=2)


@dataclass
class Colours:
    """Mean colours of a patch and of its left half's red; a stand-in for a model."""

    info: EncoderInfo = INFO
    scale: float = 1.0
    seen: list[int] = field(default_factory=list)

    def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.seen.append(len(images))
        half = images[:, :, : images.shape[2] // 2, :1].mean(axis=(1, 2))
        return (self.scale * np.concatenate([images.mean(axis=(1, 2)), half], axis=1)).astype(np.float32)


class WithTexts(Colours):
    logit_scale = 1.0

    def encode_shared(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.seen.append(-len(images))
        places = images[..., :2].mean(axis=(1, 2)).astype(np.float32)
        return np.asarray(places / np.linalg.norm(places, axis=1, keepdims=True), np.float32)

    def encode_texts(self, texts: Any) -> npt.NDArray[np.float32]:
        raise NotImplementedError


class Unusable(Colours):
    """Fails if it is asked for anything."""

    def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        raise AssertionError("the encoder was used")


@pytest.fixture
def store(slide_path: Path, tmp_path: Path) -> SlideStore:
    return wsikit.tile(slide_path, tmp_path / "slide.zarr", patch_px=64)


def by_hand(store: SlideStore, encoder: Colours, grid: str | None = None) -> npt.NDArray[np.float32]:
    """The plain loop: one patch after the other."""
    table = store.patches(grid)
    side = table.grid.patch_px
    patches = [store.read_region(x, y, side, side, mpp=table.grid.target_mpp) for x, y in table.coords.tolist()]
    return encoder.encode(np.stack([np.asarray(patch)[..., :3] for patch in patches]))


def test_features_are_those_of_a_plain_loop_over_the_patches(store: SlideStore) -> None:
    table = wsikit.features(store, encoder=Colours(), dtype="float32")
    np.testing.assert_array_equal(table.read("features_colours"), by_hand(store, Colours()))
    assert table.attributes("features_colours")["encoder"] == INFO.record()
    assert table.receipt("features_colours").inputs["encoder"] == "weights 1"


def test_features_are_stored_as_float16_unless_asked_otherwise(store: SlideStore) -> None:
    stored = wsikit.features(store, encoder=Colours()).read("features_colours")
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, by_hand(store, Colours()).astype(np.float16))


def test_features_that_are_there_need_no_encoder_and_changed_weights_give_new_ones(store: SlideStore) -> None:
    wsikit.features(store, encoder=Colours())
    table = wsikit.features(store, encoder=Unusable())
    other = Colours(replace(INFO, fingerprint="weights 2"), scale=2.0)
    wsikit.features(store, encoder=other)
    np.testing.assert_allclose(table.read("features_colours"), by_hand(store, other), rtol=1e-3)


def test_an_unreadable_patch_has_no_features_and_the_others_have(
    slide_path: Path, tmp_path: Path, damage_tile: Callable[..., None]
) -> None:
    whole = wsikit.features(wsikit.tile(slide_path, tmp_path / "a.zarr", patch_px=64), encoder=Colours())
    damage_tile(slide_path, 5, 4)
    store = wsikit.tile(slide_path, tmp_path / "b.zarr", patch_px=64)
    encoder = Colours()
    table = wsikit.features(store, encoder=encoder)
    found, lost = table.read("features_colours"), table.read("readable") == 0
    assert 0 < lost.sum() < len(lost)
    assert sum(encoder.seen) == (~lost).sum()
    assert np.isnan(found[lost]).all()
    places = {tuple(place): row for place, row in zip(whole.coords.tolist(), whole.read("features_colours"))}
    for place, row in zip(table.coords[~lost].tolist(), found[~lost]):
        np.testing.assert_array_equal(row, places[tuple(place)])


def test_places_in_the_shared_space_are_a_column_of_their_own_and_the_features_are_kept(store: SlideStore) -> None:
    encoder = WithTexts()
    wsikit.features(store, encoder=encoder)
    table = wsikit.features(store, encoder=encoder, shared=True)
    n = len(table)
    assert [count for count in encoder.seen if count > 0] == encoder.seen[: len(encoder.seen) // 2]
    assert sum(encoder.seen) == n - n
    lengths = np.linalg.norm(table.read("features_colours-shared").astype(float), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-3)
    wsikit.features(store, encoder=Unusable(), shared=True)


def test_both_columns_are_made_in_one_pass(slide_path: Path, tmp_path: Path) -> None:
    store = wsikit.tile(slide_path, tmp_path / "slide.zarr", patch_px=64)
    encoder = WithTexts()
    table = wsikit.features(store, encoder=encoder, shared=True, dtype="float32")
    assert {"features_colours", "features_colours-shared"} <= set(table.columns())
    np.testing.assert_array_equal(table.read("features_colours"), by_hand(store, Colours()))
    assert encoder.seen[::2] == [-count for count in encoder.seen[1::2]]


def test_an_encoder_without_texts_has_no_shared_space(store: SlideStore) -> None:
    with pytest.raises(RequestError, match="no texts"):
        wsikit.features(store, encoder=Colours(replace(INFO, shared_width=None)), shared=True)


def test_features_too_large_for_float16_are_refused_and_fit_float32(store: SlideStore) -> None:
    with pytest.raises(ModelError, match="--dtype float32"):
        wsikit.features(store, encoder=Colours(scale=1e4))
    assert "features_colours" not in store.patches().columns()
    stored = wsikit.features(store, encoder=Colours(scale=1e4), dtype="float32").read("features_colours")
    np.testing.assert_allclose(stored, by_hand(store, Colours(scale=1e4)))


def test_features_that_are_not_finite_are_refused(store: SlideStore) -> None:
    with pytest.raises(ModelError, match="not finite"):
        wsikit.features(store, encoder=Colours(scale=np.inf))


def test_features_of_another_width_than_described_are_refused(store: SlideStore) -> None:
    with pytest.raises(ModelError, match="expected"):
        wsikit.features(store, encoder=Colours(replace(INFO, width=5)))


def test_imported_features_are_not_replaced(store: SlideStore) -> None:
    table = store.patches()
    for rows in table.prepare([ColumnSpec("features_colours", "float16", 2)], Receipt("import", 1)):
        table.write("features_colours", rows, np.ones((rows.stop - rows.start, 2)))
    with pytest.raises(ModelError, match="not replaced"):
        wsikit.features(store, encoder=Colours())
    assert (table.read("features_colours") == 1).all()


def test_a_store_without_patches_of_the_encoders_size_and_scale_gets_them(store: SlideStore) -> None:
    info = replace(INFO, patch_px=32, mpp=1.0)
    table = wsikit.features(store, encoder=Colours(info), dtype="float32")
    assert table.name == "1um_32px"
    assert store.grids() == ["0.5um_64px", "1um_32px"]
    np.testing.assert_array_equal(table.read("features_colours"), by_hand(store, Colours(info), "1um_32px"))
    assert "features_colours" not in store.patches("0.5um_64px").columns()


def test_a_new_grid_keeps_the_tissue_and_what_was_made_from_it(slide_path: Path, tmp_path: Path) -> None:
    tissue = wsikit.TissueParameters(min_area_mm2=0.01)
    store = wsikit.tile(slide_path, tmp_path / "slide.zarr", patch_px=64, tissue=tissue)
    before = store.tissue_record()["receipt"]
    wsikit.features(store, encoder=Colours(), patch_px=32)
    assert store.tissue_record()["receipt"] == before


def test_an_encoder_without_a_scale_takes_the_only_grid_and_of_several_one_is_named(store: SlideStore) -> None:
    anything = Colours(replace(INFO, mpp=None, patch_px=224))
    assert wsikit.features(store, encoder=anything).name == "0.5um_64px"
    wsikit.features(store, encoder=Colours(), patch_px=32)
    with pytest.raises(StoreError, match="Name one"):
        wsikit.features(store, encoder=anything)
    assert wsikit.features(store, encoder=anything, grid="0.5um_32px").name == "0.5um_32px"


def test_patches_of_another_scale_than_the_encoders_give_a_warning_with_both_numbers(
    store: SlideStore, caplog: pytest.LogCaptureFixture
) -> None:
    wsikit.features(store, encoder=Colours(replace(INFO, mpp=1.0)), grid="0.5um_64px")
    assert "64 px at 1 µm/px" in caplog.text
    assert "64 px at 0.5 µm/px" in caplog.text


def test_a_larger_field_at_the_same_scale_is_another_scale_once_it_is_resized() -> None:
    grid = PatchGrid((1000, 1000), (0.5, 0.5), 512, 0.5)
    assert "which it gets at 1 µm/px" in str(scale_warning(EncoderInfo("e", 1, 256, 0.5, ""), grid))
    assert scale_warning(EncoderInfo("e", 1, 512, 0.5, ""), grid) is None
    assert scale_warning(EncoderInfo("e", 1, 256, None, ""), grid) is None


CHILD = """
import sys, time
sys.path.insert(0, sys.argv[2])
import numpy as np, wsikit
from test_features import Colours
class Slow(Colours):
    def encode(self, images):
        time.sleep(0.05)
        return super().encode(images)
wsikit.features(sys.argv[1], encoder=Slow(), patch_px=20)
"""


def test_a_killed_process_leaves_whole_chunks_and_the_next_computes_the_others_only(
    store: SlideStore, tmp_path: Path
) -> None:
    wsikit.features(store, encoder=Colours(replace(INFO, name="other")), patch_px=20, dtype="float32")
    table = store.patches("0.5um_20px")
    assert len(table.chunks()) >= 3
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(store.folder), str(Path(__file__).parent)])
    place, until = table.folder / "features_colours" / "c", time.monotonic() + 60
    while not list(place.glob("0/0")) and time.monotonic() < until and child.poll() is None:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert "features_colours" not in table.columns()
    there = len(list(place.glob("*/0")))
    assert 1 <= there < len(table.chunks())
    encoder = Colours()
    wsikit.features(store, encoder=encoder, grid=table.name)
    assert sum(encoder.seen) == sum(c.stop - c.start for c in table.chunks()[there:])
    np.testing.assert_array_equal(table.read("features_colours"), table.read("features_other").astype(np.float16))
