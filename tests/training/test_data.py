"""From a table to a patch set: size, scale, groups, and the check of a split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsikit.captions import load_captioner
from wsikit.errors import RequestError
from wsikit.training.config import CaptionsConfig
from wsikit.training.data import PatchSet, patch_set, refuse_shared_groups
from wsikit.training.datasets.table import ImageTable
from wsikit.training.texts import with_captions


class Pictures:
    """Images in memory."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self.images = images

    def read(self, rows: list[int]) -> list[np.ndarray]:
        return [self.images[row] for row in rows]


def table(images: list[np.ndarray], patients: tuple[str | None, ...] = ("p", "q", "p")) -> ImageTable:
    return ImageTable(
        files=("a", "b", "c"),
        captions=("one", None, "three"),
        classes=("D", "UD", "D"),
        patients=patients,
        slides=("s", "t", "s"),
        coords=np.array([[0.0, 1], [2, 3], [4, 5]]),
        source="table",
        pixels=Pictures(images),
        rows=(0, 1, 2),
    )


def ramp(height: int, width: int) -> np.ndarray:
    return np.repeat(np.arange(height * width, dtype=np.uint8).reshape(height, width, 1) * 2, 3, axis=2)


def test_a_table_becomes_a_patch_set_row_by_row():
    found = patch_set(table([ramp(8, 8)] * 3), ("UD", "D"), patch_px=8, mpp=4.0)
    patches = found.patches
    assert (patches.images == ramp(8, 8)).all()
    assert patches.labels.tolist() == [1, 0, 1]
    assert patches.groups.tolist() == ["p", "q", "p"]
    assert patches.captions == ("one", "", "three")
    assert patches.ids == ("a", "b", "c")
    assert patches.classes == ("UD", "D")
    assert found.words() == "3 patches of 8 px at 4 µm/px."


def test_resampled_patches_have_another_scale():
    found = patch_set(table([np.full((10, 10, 3), 90, np.uint8)] * 3), ("UD", "D"), patch_px=8, mpp=4.0)
    assert found.mpp == 5.0
    assert (found.patches.images == 90).all()
    assert "resampled from 10 px" in found.words()


def test_patches_cut_off_at_an_edge_are_refused_dropped_or_mirrored():
    images = [ramp(8, 8), ramp(3, 8), ramp(8, 8)]
    with pytest.raises(RequestError, match=r"b is 8×3 px, most are 8×8 \(1 are not\). Set odd_sizes"):
        patch_set(table(images), ("UD", "D"), patch_px=8, mpp=4.0)
    dropped = patch_set(table(images), ("UD", "D"), patch_px=8, mpp=4.0, odd_sizes="drop")
    assert dropped.patches.ids == ("a", "c")
    assert dropped.patches.captions == ("one", "three")
    assert "1 of another size left out" in dropped.words()
    mirrored = patch_set(table(images), ("UD", "D"), patch_px=8, mpp=4.0, odd_sizes="mirror").patches.images[1]
    wanted = ramp(3, 8)[[0, 1, 2, 2, 1, 0, 0, 1]]
    assert (mirrored == wanted).all()


def test_a_patch_without_patient_is_refused_unless_another_group_is_named():
    unnamed = table([ramp(8, 8)] * 3, patients=("p", None, "p"))
    with pytest.raises(RequestError, match="b has no patient. Name the patient's column"):
        patch_set(unnamed, ("UD", "D"), patch_px=8, mpp=4.0)
    assert patch_set(unnamed, ("UD", "D"), patch_px=8, mpp=4.0, group="slide").patches.groups.tolist() == list("sts")


def test_pixels_may_lie_in_a_file(tmp_path: Path):
    found = patch_set(table([ramp(8, 8)] * 3), ("UD", "D"), patch_px=8, mpp=4.0, into=tmp_path / "pixels.npy")
    assert isinstance(found.patches.images, np.memmap)
    assert (np.load(tmp_path / "pixels.npy") == ramp(8, 8)).all()


def test_a_patch_set_comes_back_from_disk_without_pickles(tmp_path: Path):
    data = patch_set(table([ramp(8, 8)] * 3), ("UD", "D"), patch_px=8, mpp=4.0).patches
    data.save(tmp_path / "set.npz")
    loaded = PatchSet.load(tmp_path / "set.npz")
    assert (loaded.images == data.images).all()
    assert (loaded.captions, loaded.ids, loaded.classes) == (data.captions, data.ids, data.classes)
    assert loaded.groups.tolist() == data.groups.tolist()
    assert loaded.coords is not None
    assert loaded.coords.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_rows_of_different_number_and_names_given_twice_are_refused():
    data = patch_set(table([ramp(8, 8)] * 3), ("UD", "D"), patch_px=8, mpp=4.0).patches
    with pytest.raises(RequestError, match="3 images"):
        data.with_captions(data.captions[:-1])
    with pytest.raises(RequestError, match="two patches have the same id"):
        PatchSet(data.images, data.labels, data.groups, data.captions, ids=("a", "a", "b"))


def test_a_slide_in_both_parts_of_a_split_is_refused():
    data = patch_set(table([ramp(8, 8)] * 3), ("UD", "D"), patch_px=8, mpp=4.0).patches
    with pytest.raises(RequestError, match="'p'"):
        refuse_shared_groups(data.select([0, 1]), data.select([2]))
    refuse_shared_groups(data.select([0, 2]), data.select([1]))


def test_a_captioner_that_needs_the_slide_is_fitted_to_each_slide():
    rng = np.random.default_rng(0)
    images = rng.integers(60, 200, (40, 16, 16, 3)).astype(np.uint8)
    images[20:] //= 2  # the second slide is darker throughout
    data = PatchSet(images, np.zeros(40, np.int64), np.repeat("one patient", 40), ("",) * 40)
    slides = np.repeat(["a", "b"], 20)
    mixed = rng.permutation(40)
    spec = CaptionsConfig(source="captioner", captioner="morphometry-in-slide")
    texts = with_captions(replace(data, slides=slides).select(mixed), spec, mpp=4.0).captions
    for slide in "ab":
        own = images[slides == slide]
        expected = load_captioner("morphometry-in-slide").fit(own, mpp=4.0).caption(own, mpp=4.0)
        assert sorted(text for text, row in zip(texts, mixed) if slides[row] == slide) == sorted(
            c.text for c in expected
        )
