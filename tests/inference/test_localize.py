"""Where on a slide is what a text says: planted truth, blank slides, texts, receipts, two scales."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import wsikit
from wsikit.encoders.prompts import plan_queries
from wsikit.errors import ModelError, RequestError
from wsikit.inference.cohort import cohort_quantiles, cohort_thresholds
from wsikit.inference.localize import concept_columns
from wsikit.models.text_encoders import places_of
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import PatchTable
from wsikit.tiling.tile import tile

X, Y, SIDE = 288, 352, 384  # the planted square, level-0 px


def in_square(table: Any, patch_px: int = 32) -> np.ndarray:
    centres = table.coords + patch_px / 2
    return ((centres > (X, Y)) & (centres < (X + SIDE, Y + SIDE))).all(axis=1)


def test_a_planted_square_is_found_and_nothing_else(square_store: SlideStore, colour_encoder: Any) -> None:
    (found,) = wsikit.localize(square_store, "undifferentiated cells", encoder=colour_encoder)
    table = square_store.patches()
    values, truth = table.read(found.column), in_square(table)
    above = values >= 0.5
    assert (above & truth).sum() / (above | truth).sum() > 0.6
    assert truth[values.argmax()]
    assert truth[[patch.row for patch in found.patches[:2]]].all()
    assert found.column == "localize_undifferentiated-cells"
    assert (values.dtype, values.min() >= 0, values.max() <= 1) == (np.float32, True, True)
    assert found.presence is not None
    assert found.presence > 0.9
    np.testing.assert_allclose(found.area_mm2, above.sum() * (32 * 0.5 / 1000) ** 2)
    assert (found.patches[0].x, found.patches[0].y) == tuple(table.coords[found.patches[0].row])


def blank_store(folder: Path) -> SlideStore:
    """The store of a slide of bare glass: no tissue, so no patches."""
    options: dict[str, Any] = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER", "tile": (128, 128)}
    tifffile.imwrite(folder / "b.tiff", np.full((512, 512, 3), 243, np.uint8), photometric="rgb", **options)
    return tile(folder / "b.tiff", folder / "b.zarr", patch_px=32, min_tissue=0)


@pytest.mark.parametrize("against", [[], ["collagen"]])
def test_bare_glass_shows_no_concept(tmp_path: Path, colour_encoder: Any, against: list[str]) -> None:
    store = blank_store(tmp_path)
    table = store.patches()
    PatchTable.create(table.folder, table.grid, table.grid.all_coords(), Receipt("patches", 1))
    maps = wsikit.localize(store, ["neuropil", "blood", "cartilage"], against=against, encoder=colour_encoder)
    for found in maps:
        assert store.patches().read(found.column).max() < 0.5
        assert found.presence is not None
        assert found.presence < 0.5
        assert (found.n_above, found.area_mm2) == (0, 0)


def test_a_slide_without_patches_has_an_empty_map(tmp_path: Path, colour_encoder: Any) -> None:
    (found,) = wsikit.localize(blank_store(tmp_path), ["neuropil"], encoder=colour_encoder)
    assert (found.presence, found.n_above, found.patches) == (None, 0, ())


def test_a_slide_without_the_concept_has_a_low_presence(square_store: SlideStore, colour_encoder: Any) -> None:
    there, absent = wsikit.localize(square_store, ["neuropil", "blood"], encoder=colour_encoder)
    assert there.presence is not None
    assert absent.presence is not None
    assert there.presence > 0.9 > 0.1 > absent.presence


def test_minmax_finds_the_concept_on_any_slide_which_is_why_it_is_not_the_default(
    square_store: SlideStore, colour_encoder: Any
) -> None:
    (found,) = wsikit.localize(square_store, ["blood"], encoder=colour_encoder, normalise="minmax", threshold=0)
    values = square_store.patches().read(found.column)
    assert (values.min(), values.max()) == (-1, 1)
    assert found.presence is None


def test_a_single_word_is_not_an_empty_text(colour_encoder: Any) -> None:
    words = [plan_queries([text], templates=["{}"])[0].concept for text in ("necrosis", "blood")]
    necrosis, blood = places_of(colour_encoder, words)
    assert "necrosis" in colour_encoder.texts
    assert not np.allclose(necrosis, blood)


def test_the_order_of_synonyms_changes_neither_values_nor_receipt(
    square_store: SlideStore, colour_encoder: Any, tmp_path: Path
) -> None:
    words = ["round blue cells", "neuroblasts", "pink matter"]
    seen = []
    for order in (words, words[::-1]):
        path = tmp_path / "words.json"
        path.write_text(json.dumps({"cells": order}))
        (found,) = wsikit.localize(square_store, ["cells"], encoder=colour_encoder, synonyms=path)
        table = square_store.patches()
        seen.append((table.receipt(found.column), table.read(found.column)))
    assert seen[0][0] == seen[1][0]
    np.testing.assert_array_equal(seen[0][1], seen[1][1])


def test_a_negation_competes_and_is_never_asked_for(square_store: SlideStore, colour_encoder: Any) -> None:
    (alone,) = wsikit.localize(square_store, ["neuropil"], encoder=colour_encoder)
    table = square_store.patches()
    before = table.read(alone.column)
    maps = wsikit.localize(square_store, ["neuropil", "no neuropil"], encoder=colour_encoder)
    assert [found.concept for found in maps] == ["neuropil"]
    assert "no neuropil" in table.receipt(alone.column).parameters["against"]["no-neuropil"]  # type: ignore[union-attr]
    assert (table.read(alone.column) <= before + 1e-6).all()


def test_what_is_up_to_date_is_kept_and_loads_no_encoder(square_store: SlideStore, colour_encoder: Any) -> None:
    first = wsikit.localize(square_store, ["neuropil", "blood"], encoder=colour_encoder)
    n_images, n_texts = colour_encoder.n_images, len(colour_encoder.texts)
    assert n_images == len(square_store.patches())
    assert wsikit.localize(square_store, ["blood", "neuropil"], encoder=colour_encoder) == first[::-1]
    assert (colour_encoder.n_images, len(colour_encoder.texts)) == (n_images, n_texts)
    assert concept_columns(square_store.patches()) == ["localize_haemorrhage", "localize_neuropil"]


@pytest.mark.parametrize(
    "change",
    [{"sigma": 3.0}, {"against": ["blood"]}, {"logit_scale": 2.0}, {"templates": ["{}"]}, {"similarity": "dot"}],
)
def test_every_parameter_of_the_map_is_in_its_receipt(
    square_store: SlideStore, colour_encoder: Any, change: dict[str, Any]
) -> None:
    (found,) = wsikit.localize(square_store, ["neuropil"], encoder=colour_encoder)
    table = square_store.patches()
    before = table.receipt(found.column)
    wsikit.localize(square_store, ["neuropil"], encoder=colour_encoder, **change)
    after = table.receipt(found.column)
    assert before is not None
    assert after is not None
    assert before.digest != after.digest
    assert colour_encoder.n_images == len(table)


def test_another_encoder_makes_the_column_again(square_store: SlideStore, colour_encoder: Any) -> None:
    wsikit.localize(square_store, ["neuropil"], encoder=colour_encoder)
    other = type(colour_encoder)("other-colours")
    wsikit.localize(square_store, ["neuropil"], encoder=other)
    assert other.n_images == len(square_store.patches())
    attributes = square_store.patches().attributes("localize_neuropil")
    assert attributes["encoder"]["name"] == "other-colours"
    assert (attributes["unit"], attributes["limits"], attributes["title"]) == ("probability", [0.0, 1.0], "Neuropil")


def test_patches_of_another_field_than_the_encoder_was_made_for_are_stated(
    square_store: SlideStore, square_slide: Path, tmp_path: Path, colour_encoder: Any
) -> None:
    (same,) = wsikit.localize(square_store, ["neuropil"], encoder=colour_encoder)
    assert same.notice == ""
    coarser = tile(square_slide, tmp_path / "c.zarr", patch_px=32, mpp=2.0, min_tissue=0)
    (found,) = wsikit.localize(coarser, ["neuropil"], encoder=colour_encoder)
    assert found.notice == "Patches show 64 µm of tissue, the encoder colours was made for 16 µm."


def test_a_coarse_grid_is_joined_by_its_weight(square_slide: Path, tmp_path: Path, colour_encoder: Any) -> None:
    store = tile(square_slide, tmp_path / "s.zarr", patch_px=32, min_tissue=0)
    store = tile(square_slide, tmp_path / "s.zarr", patch_px=32, mpp=2.0, min_tissue=0)
    fine, coarse = "0.5um_32px", "2um_32px"
    table = store.patches(fine)

    def values(**options: Any) -> np.ndarray:
        (found,) = wsikit.localize(store, ["undifferentiated cells"], encoder=colour_encoder, grid=fine, **options)
        return table.read(found.column)

    alone, joined, only = values(), values(coarse=coarse), values(coarse=coarse, coarse_weight=1.0)
    np.testing.assert_allclose(joined, (alone + only) / 2, atol=1e-6)
    assert not np.allclose(only, alone, atol=0.1)
    truth = in_square(table)
    assert ((joined >= 0.5) & truth).sum() / ((joined >= 0.5) | truth).sum() > 0.6
    with pytest.raises(RequestError, match="its own coarse grid"):
        values(coarse=fine)


def test_unreadable_patches_have_no_value(
    square_slide: Path, tmp_path: Path, colour_encoder: Any, damage_tile: Any
) -> None:
    slide = tmp_path / "damaged.tiff"
    slide.write_bytes(square_slide.read_bytes())
    damage_tile(slide, 7, 7)
    store = tile(slide, tmp_path / "d.zarr", patch_px=32, min_tissue=0)
    (found,) = wsikit.localize(store, ["neuropil"], encoder=colour_encoder)
    table = store.patches()
    lost = table.read("readable") == 0
    assert 0 < lost.sum() < len(table)
    assert np.array_equal(np.isnan(table.read(found.column)), lost)


def test_quantiles_of_a_cohort_calibrate_similarities(
    square_store: SlideStore, colour_encoder: Any, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="reference"):
        wsikit.localize(square_store, ["neuropil"], encoder=colour_encoder, normalise="quantile")
    path = tmp_path / "cohort.json"
    path.write_text(json.dumps(cohort_quantiles([square_store], ["neuropil"], encoder=colour_encoder)))
    (found,) = wsikit.localize(square_store, ["neuropil"], encoder=colour_encoder, normalise="quantile", reference=path)
    values = square_store.patches().read(found.column)
    np.testing.assert_allclose(np.quantile(values, [0, 0.25, 0.5, 1]), [0, 0.25, 0.5, 1], atol=0.01)


def test_the_threshold_of_a_cohort_divides_the_planted_square_from_the_rest(
    square_store: SlideStore, colour_encoder: Any
) -> None:
    """At a low scale with many competitors no probability reaches 0.5, though the map ranks patches rightly."""
    asked: dict[str, Any] = {"encoder": colour_encoder, "logit_scale": 1.0}
    limits = cohort_thresholds([square_store, square_store], ["undifferentiated cells"], **asked)
    (plain,) = wsikit.localize(square_store, "undifferentiated cells", **asked)
    (found,) = wsikit.localize(square_store, "undifferentiated cells", threshold=limits, **asked)
    table = square_store.patches()
    above, truth = table.read(found.column) >= found.threshold, in_square(table)
    assert found.threshold == limits["undifferentiated-cells"]
    assert (above & truth).sum() / (above | truth).sum() > 0.6
    assert plain.n_above == 0
    assert found.n_above == above.sum()


def test_thresholds_of_a_cohort_are_needed_for_every_concept(square_store: SlideStore, colour_encoder: Any) -> None:
    with pytest.raises(RequestError, match="threshold: none for neuropil"):
        wsikit.localize(square_store, ["neuropil"], encoder=colour_encoder, threshold={"blood": 0.2})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concepts": []}, "no concept"),
        ({"concepts": ["no fat"]}, "without a negation"),
        ({"normalise": "maximum"}, "softmax"),
        ({"similarity": "euclid"}, "cosine"),
        ({"sigma": -1}, "sigma"),
        ({"threshold": 2}, "probability"),
        ({"logit_scale": 0}, "positive"),
        ({"coarse_weight": 2}, "weight"),
        ({"templates": ["nothing"]}, "template"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_computed(
    square_store: SlideStore, colour_encoder: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        wsikit.localize(square_store, **{"concepts": ["fat"], "encoder": colour_encoder, **options})
    assert colour_encoder.n_images == 0


def test_an_encoder_without_texts_is_refused_with_what_to_do(square_store: SlideStore, colour_encoder: Any) -> None:
    colour_encoder.info = replace(colour_encoder.info, shared_width=None)
    with pytest.raises(ModelError, match="images only"):
        wsikit.localize(square_store, ["fat"], encoder=colour_encoder)


def test_a_concept_competes_as_its_encoder_was_trained(square_store: SlideStore, colour_encoder: Any) -> None:
    usual = type(colour_encoder)()
    colour_encoder.info = replace(colour_encoder.info, competitors="negation")

    def rivals(**options: Any) -> set[str]:
        (found,) = wsikit.localize(square_store, "necrosis", **options)
        receipt = square_store.patches().receipt(found.column)
        assert receipt is not None
        return set(receipt.parameters["against"])

    assert rivals(encoder=colour_encoder) == {"no-necrosis", "background"}
    assert rivals(encoder=colour_encoder, against=["fat"]) == {"no-necrosis", "background", "fat"}
    assert "neuropil" in rivals(encoder=colour_encoder, negation=False)
    assert "no-necrosis" not in rivals(encoder=usual)
