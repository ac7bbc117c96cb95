"""Maps of tissue unlike that of the encoder's training: written, said to be so, and without a presence score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import wsikit
from wsikit.cli.main import main
from wsikit.errors import StoreError
from wsikit.inference.ood_columns import MOST
from wsikit.slides.store import SlideStore


def detecting(encoder: Any, known: str) -> Any:
    """The encoder with a detector for which patches of other colours than `known` are unlike the training."""
    encoder.info = replace(encoder.info, detector=f"detector of {known}")
    axis = list(encoder.COLOURS).index(known)
    encoder.looked_at = 0

    def ood_scores(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        encoder.looked_at += len(images)
        return np.where(encoder.encode_shared(images).argmax(axis=1) == axis, 0.5, 2.0).astype(np.float32)

    encoder.ood_scores = ood_scores
    return encoder


def test_a_map_of_unlike_tissue_is_written_and_states_no_presence(
    square_store: SlideStore, colour_encoder: Any
) -> None:
    (plain,) = wsikit.localize(square_store, ["neuropil"], encoder=colour_encoder)
    table = square_store.patches()
    before = table.read(plain.column)
    blue = float((before < 0.5).mean())
    (found,) = wsikit.localize(square_store, ["neuropil"], encoder=detecting(colour_encoder, "blue"))
    assert (plain.presence is not None, found.presence, plain.ood_share) == (True, None, None)
    assert found.ood_share == pytest.approx(1 - blue, abs=0.05)  # pink is unlike: most of the slide
    assert "Out of distribution: " in found.notice
    assert "presence is not stated" in found.notice
    np.testing.assert_array_equal(table.read(found.column), before)
    scores = table.read("ood_colours")
    assert np.isfinite(scores).sum() == min(MOST, len(table)) == colour_encoder.looked_at


def test_a_map_of_tissue_like_the_training_states_its_presence(square_store: SlideStore, colour_encoder: Any) -> None:
    (plain,) = wsikit.localize(square_store, ["neuropil"], encoder=colour_encoder)
    (found,) = wsikit.localize(square_store, ["neuropil"], encoder=detecting(colour_encoder, "pink"))
    assert found.presence == plain.presence
    assert found.ood_share is not None
    assert 0.1 < found.ood_share < 0.5
    assert "Out of distribution" in found.notice
    assert "not stated" not in found.notice


def test_a_second_concept_needs_no_pixels_and_another_detector_looks_again(
    square_store: SlideStore, colour_encoder: Any
) -> None:
    encoder = detecting(colour_encoder, "blue")
    wsikit.localize(square_store, ["neuropil"], encoder=encoder)
    seen = encoder.n_images
    (second,) = wsikit.localize(square_store, ["blood"], encoder=encoder)
    assert encoder.n_images == seen
    assert second.presence is None
    (again,) = wsikit.localize(square_store, ["blood"], encoder=detecting(encoder, "pink"))
    assert again.presence is not None


def test_the_verb_says_that_presence_is_not_stated(
    square_store: SlideStore, named_encoder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    detecting(named_encoder, "red")
    with pytest.raises(SystemExit) as ended:
        main(["localize", str(square_store.folder), "neuropil", "--encoder", "colours"])
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert "not stated" in shown.out
    assert "Out of distribution: 100 % of patches" in shown.err


def _tile_files(store: SlideStore) -> list[Path]:
    """Files of the pixels of level 0."""
    return sorted(path for path in (Path(store.folder) / "0" / "c").rglob("*") if path.is_file())


def test_a_store_that_lost_a_file_of_level_0_is_refused_unless_its_features_are_there(
    square_store: SlideStore, colour_encoder: Any
) -> None:
    encoder = detecting(colour_encoder, "pink")
    files = _tile_files(square_store)
    assert files
    kept = files[0].read_bytes()
    files[0].unlink()
    opened = SlideStore(square_store.folder)
    with pytest.raises(StoreError, match=files[0].name):
        wsikit.localize(opened, ["neuropil"], encoder=encoder)
    assert not [name for name in opened.patches().columns() if name.startswith(("localize_", "ood_"))]
    files[0].write_bytes(kept)
    (whole,) = wsikit.localize(SlideStore(square_store.folder), ["neuropil"], encoder=encoder)
    files[0].unlink()
    (second,) = wsikit.localize(SlideStore(square_store.folder), ["blood"], encoder=encoder)  # needs no pixels
    assert whole.presence is not None
    assert second.presence is not None


def test_patches_of_a_damaged_tile_of_level_0_have_no_value(square_store: SlideStore, colour_encoder: Any) -> None:
    (whole,) = wsikit.localize(square_store, ["neuropil"], encoder=colour_encoder)
    table = square_store.patches()
    before = table.read(whole.column)
    for name in (whole.column, "features_colours-shared"):
        table.drop(name)
    file = _tile_files(square_store)[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    file.write_bytes(content)
    (found,) = wsikit.localize(SlideStore(square_store.folder), ["neuropil"], encoder=detecting(colour_encoder, "pink"))
    values = SlideStore(square_store.folder).patches().read(found.column)
    lost = np.isnan(values)
    assert 0 < lost.sum() < len(values)
    np.testing.assert_array_equal(values[~lost], before[~lost])
    assert not np.isfinite(SlideStore(square_store.folder).patches().read("ood_colours")[lost]).any()
