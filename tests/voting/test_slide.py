"""A whole slide: weights, areas, a second subtype, out-of-distribution tissue, and the reasons of an abstention."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.geometry import PatchGrid
from wsikit.partition import shared_areas
from wsikit.store.format2_names import PARAMETERS, VOTE_KEYS
from wsikit.voting import (
    METHODS,
    Evidence,
    Places,
    SlidePatches,
    SlideResult,
    ThresholdRule,
    VoteParameters,
    VoteRule,
    vote,
    vote_slide,
    voting_inputs,
)
from wsikit.voting.parameters import OLD_NAMES as OLD_PARAMETERS
from wsikit.voting.result import OLD_NAMES as OLD_RESULT_NAMES
from wsikit.voting.weights import key_tissue, overlap_weight, quality_weight

CLASSES, BACKGROUND = ("UD", "PD", "D", "other"), ("other",)
SURE = 0.85


def slide(labels: np.ndarray, *, overlap_px: int = 0, edge_px: int = 0, keep: np.ndarray | None = None, **columns):
    """A slide whose patches of 100 px at 0.5 µm/px are sure of `labels` (rows, cols); -1: no prediction."""
    rows, cols = labels.shape
    stride = 100 - overlap_px
    grid = PatchGrid(
        (cols * stride + overlap_px - edge_px, rows * stride + overlap_px - edge_px), (0.5, 0.5), 100, 0.5, overlap_px
    )
    flat = labels.ravel()
    probs = np.where(np.eye(4, dtype=bool)[np.maximum(flat, 0)], SURE, (1 - SURE) / 3)
    probs[flat < 0] = np.nan
    chosen = np.ones(len(flat), bool) if keep is None else keep.ravel()
    return SlidePatches(probs[chosen], CLASSES, BACKGROUND, grid, grid.all_coords()[chosen], columns)


def covered_px(patches: SlidePatches, which: np.ndarray) -> int:
    """Pixels of the slide under any of the patches, counted one by one."""
    width, height = patches.grid.slide_px
    canvas = np.zeros((height, width), bool)
    for x, y in patches.coords[which]:
        canvas[y : y + 100, x : x + 100] = True
    return int(canvas.sum())


MM2 = 0.25e-6  # of a level-0 px


def test_areas_are_the_pixels_of_each_class_counted_one_by_one():
    labels = np.random.default_rng(0).integers(-1, 4, (8, 9))
    patches = slide(labels, edge_px=30)
    areas = vote_slide(patches).areas
    for index in range(3):
        assert areas.mm2[index] == pytest.approx(covered_px(patches, labels.ravel() == index) * MM2)
    assert areas.background_mm2 == pytest.approx(covered_px(patches, labels.ravel() == 3) * MM2)
    assert areas.unpredicted_mm2 == pytest.approx(covered_px(patches, labels.ravel() == -1) * MM2)
    assert areas.percent == pytest.approx(100 * areas.mm2 / areas.mm2.sum())


def test_overlapping_patches_cover_their_area_once():
    patches = slide(np.ones((6, 7), int), overlap_px=40)
    areas = vote_slide(patches).areas
    assert areas.mm2[1] == pytest.approx(np.prod(patches.grid.slide_px) * MM2)


@pytest.mark.parametrize("overlap_px", [0, 25, 50, 70])
def test_overlap_weights_add_up_to_the_covered_area(overlap_px):
    rng = np.random.default_rng(1)
    keep = rng.random((7, 8)) < 0.6
    patches = slide(np.ones((7, 8), int), overlap_px=overlap_px, edge_px=20, keep=keep)
    counted = rng.random(int(keep.sum())) < 0.7
    weight = overlap_weight(patches.grid, patches.coords, counted)
    assert weight.sum() * 100 * 100 == pytest.approx(covered_px(patches, counted))
    assert (weight[~counted] == 0).all()


def test_a_place_under_n_patches_counts_one_nth_to_each():
    grid = PatchGrid((1000, 1000), (0.5, 0.5), 100, 0.5, 50)
    coords = grid.coords([0, 1, 8], [0, 0, 8])  # two that share a half, one alone
    assert shared_areas(grid, coords).tolist() == [7500, 7500, 10000]


def test_a_stride_finer_than_the_patch_does_not_count_a_region_more_often():
    """Left half D, right half PD; the left was cut twice as finely in each direction."""
    grid = PatchGrid((800, 400), (0.5, 0.5), 100, 0.5, 50)
    cols, rows = np.meshgrid(np.arange(15), np.arange(7))
    cols, rows = cols.ravel(), rows.ravel()
    keep = (cols <= 6) | ((cols >= 8) & (cols % 2 == 0) & (rows % 2 == 0))
    cols, rows = cols[keep], rows[keep]
    probs = np.where(np.eye(4, dtype=bool)[np.where(cols <= 6, 2, 1)], SURE, 0.05)
    patches = SlidePatches(probs, CLASSES, BACKGROUND, grid, grid.coords(cols, rows))
    free = {"min_patches": 0, "min_margin": 0}
    fair = vote_slide(patches, VoteParameters("hard", **free))
    assert fair.probs[1:] == pytest.approx([0.5, 0.5])
    assert fair.weighted_by == ("overlap",)
    assert vote_slide(patches, VoteParameters("hard", weights=(), **free)).probs[2] > 0.7


def test_weights_multiply():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 4, (6, 6))
    columns = {
        "tissue": rng.random(36).astype(np.float32),
        "readable": (rng.random(36) < 0.9).astype(np.float32),
        "blur": rng.random(36).astype(np.float32),
        "pen": rng.random(36).astype(np.float32),
    }
    inputs = voting_inputs(slide(labels, **columns), VoteParameters())
    for row in range(36):
        foreground = 0.0 if labels.ravel()[row] == 3 else SURE + 2 * 0.05
        ramp = min(1.0, max(0.0, (1 - columns["blur"][row]) / 0.75))
        expected = (
            foreground * columns["tissue"][row] * (columns["readable"][row] == 1) * ramp * (1 - columns["pen"][row])
        )
        assert inputs.weights[row] == pytest.approx(expected)


def test_only_weights_that_are_known_and_asked_for_are_taken_and_named():
    patches = slide(np.ones((5, 5), int), tissue=np.full(25, 0.5, np.float32))
    assert vote_slide(patches).weighted_by == ("tissue",)
    assert vote_slide(patches, VoteParameters(weights=("readable",))).weighted_by == ()


def test_unreadable_and_unusable_patches_have_weight_0():
    """Sure D patches under ink, or out of focus, against as many PD patches."""
    labels = np.ones((6, 10), int)
    labels[:, :7] = 2
    spoilt = (labels == 2).ravel()
    for column in ("pen", "blur"):
        patches = slide(labels, **{column: spoilt.astype(np.float32)})
        result = vote_slide(patches, VoteParameters(min_patches=1))
        assert (result.label, result.n_background) == (1, 42)
        assert vote_slide(patches, VoteParameters(weights=(), min_patches=1)).label == 2


def test_unmeasured_quality_does_not_reduce_the_weight():
    assert quality_weight([np.nan, 0.25, 1.0], [0.0, np.nan, 0.0]).tolist() == [1.0, 1.0, 0.0]


def test_key_tissue_is_as_sure_as_the_words_for_it():
    q = key_tissue(
        [0.0, 0.18, 0.4, np.nan, 0.3],
        [0.0, 0.0, 0.0, np.nan, 0.5],
        neuropil_grades=(0.11, 0.18, 0.3),
        stroma_grades=(0.1, 0.25, 0.5),
    )
    assert q[0].tolist() == [1, 0, 0]
    assert q[1] == pytest.approx([0.5, 0.5, 0])
    assert q[2].tolist() == [0, 1, 0]
    assert np.isnan(q[3]).all()
    assert q[4] == pytest.approx([0, 0.5, 0.5])


def blobs() -> np.ndarray:
    """PD with a large D focus, a larger D area in two pieces that touch at a corner only, and a UD speck."""
    labels = np.ones((30, 40), int)
    labels[2:8, 3:13] = 2  # 60 patches
    labels[10:16, 20:28] = 2  # 48 …
    labels[16:22, 28:36] = 2  # … and 48, corner to corner
    labels[28, 38] = 0
    return labels


def test_the_second_subtype_is_the_largest_piece_of_another_class():
    patches = slide(blobs())
    second = vote_slide(patches, VoteParameters(second_mm2=0.1)).second
    assert second.index == 2
    assert second.area_mm2 == pytest.approx(60 * 0.0025)
    assert second.box_px == (300, 200, 1000, 600)
    assert second.share == pytest.approx(60 / 1200)
    assert second.mean_probability == pytest.approx(SURE / (SURE + 2 * 0.05))


def test_a_second_subtype_below_the_least_area_is_none():
    assert vote_slide(slide(blobs()), VoteParameters(second_mm2=0.16)).second is None


def test_the_leading_class_is_no_second_subtype():
    labels = np.zeros((30, 40), int)
    labels[:, :15] = 1
    second = vote_slide(slide(labels)).second
    assert second.index == 1
    assert second.area_mm2 == pytest.approx(450 * 0.0025)


def test_patches_without_weight_or_prediction_tear_a_region_apart():
    labels = np.ones((30, 40), int)
    labels[5:15, 5:25] = 2
    labels[:, 15] = -1
    second = vote_slide(slide(labels), VoteParameters(second_mm2=0.1)).second
    assert second.area_mm2 == pytest.approx(100 * 0.0025)


def test_out_of_distribution_tissue_makes_the_vote_abstain_with_this_reason():
    ood_score = np.where(np.arange(100) < 62, 1.4, 0.7).astype(np.float32)
    patches = slide(np.ones((10, 10), int), ood_score=ood_score)
    result = vote_slide(patches)
    assert result.abstained
    assert result.leading == 1
    assert result.ood_fraction == pytest.approx(0.62)
    assert "62 % of the voting weight is out-of-distribution tissue, more than 50 %" in result.reason
    assert vote_slide(patches, VoteParameters(max_ood=0.7)).label == 1


def test_the_out_of_distribution_fraction_is_weighted_over_voting_patches():
    labels = np.ones((10, 10), int)
    labels[:5] = 3  # background, however strange
    ood_score = np.where(np.arange(100) < 50, 9.0, np.nan)
    ood_score[50:60] = 2.0
    ood_score[60:90] = 0.5
    tissue = np.where(np.arange(100) < 60, 0.5, 1.0)
    result = vote_slide(slide(labels, ood_score=ood_score, tissue=tissue))
    assert result.ood_fraction == pytest.approx(10 * 0.5 / (10 * 0.5 + 30))


def test_without_scores_there_is_no_out_of_distribution_fraction():
    assert vote_slide(slide(np.ones((5, 5), int))).ood_fraction is None
    assert vote_slide(slide(np.ones((5, 5), int), ood_score=np.full(25, np.nan))).ood_fraction is None


def test_smoothing_comes_before_the_vote_and_is_reported():
    labels = np.ones((8, 8), int)
    labels[3, 3] = 2
    patches = slide(labels)
    plain, even = (vote_slide(patches, VoteParameters("hard", smooth=name)) for name in ("none", "median"))
    assert plain.probs[2] == pytest.approx(1 / 64)
    assert even.probs[2] == 0
    assert (even.smoothing, even.n_smoothed, plain.n_smoothed) == ("median", 1, 0)
    assert even.areas.mm2[2] == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("labels", "leading", "words"),
    [
        (np.empty((0, 0), int), None, "the slide has no patches"),
        (np.full((3, 3), -1), None, "all 9 are without prediction"),
        (np.full((3, 3), 3), None, "all 9 have weight 0"),
        (np.array([[2]]), 2, "1 effective patches, fewer than 20"),
        (np.array([[2, -1], [3, 3]]), 2, "1 effective patches"),
    ],
)
def test_a_slide_with_next_to_nothing_says_so_and_gives_no_nan_as_an_answer(method, labels, leading, words):
    grid = PatchGrid((500, 500), (0.5, 0.5), 100, 0.5)
    flat = labels.ravel()
    n = len(flat)
    probs = np.where(np.eye(4, dtype=bool)[np.maximum(flat, 0)], SURE, 0.05).reshape(n, 4)
    probs[flat < 0] = np.nan
    columns = {"gate": np.full(n, 0.5), "attention": np.full(n, 0.2), "key_tissue": np.tile([0.2, 0.5, 0.3], (n, 1))}
    patches = SlidePatches(probs, CLASSES, BACKGROUND, grid, grid.all_coords()[:n], columns)
    result = vote_slide(patches, VoteParameters(method, rule=ThresholdRule("D")))
    assert result.abstained
    assert result.label is None
    assert result.leading == leading
    assert words in result.reason
    assert result.interval is None
    assert result.no_interval
    assert result.areas is not None
    assert result.second is None
    json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("gate", "attention")])
def test_a_model_with_one_voting_class_calls_it(method):
    probs = np.tile([0.9, 0.1], (40, 1))
    grid = PatchGrid((4000, 100), (0.5, 0.5), 100, 0.5)
    columns = {"key_tissue": np.tile([0.2, 0.5, 0.3], (40, 1))}
    patches = SlidePatches(probs, ("tumour", "other"), ("other",), grid, grid.all_coords(), columns)
    result = vote_slide(patches, VoteParameters(method, rule=ThresholdRule("tumour")))
    assert (result.label, result.margin, result.probs.tolist()) == (0, 1.0, [1.0])


def test_everything_is_reported_though_the_vote_abstains():
    patches = slide(blobs(), ood_score=np.full(1200, 0.5))
    result = vote_slide(patches, VoteParameters(min_margin=1.0, second_mm2=0.1))
    assert result.abstained
    assert result.second is not None
    assert result.areas is not None
    assert result.interval is not None
    assert result.ood_fraction == 0
    assert result.leading == 1


@pytest.mark.parametrize("method", ["mean", "threshold"])
def test_a_full_result_survives_strict_json(method):
    patches = slide(blobs(), ood_score=np.full(1200, 0.5), tissue=np.full(1200, 0.9))
    result = vote_slide(patches, VoteParameters(method, rule=ThresholdRule("D"), smooth="median", second_mm2=0.1))
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    back = SlideResult.from_json(record)
    assert back.to_json() == result.to_json()
    assert back.second == result.second
    assert back.rule == result.rule
    assert back.interval.margin == result.interval.margin
    assert back.weighted_by == ("tissue",)
    assert record["areas"]["percent"] == pytest.approx((100 * result.areas.mm2 / result.areas.mm2.sum()).tolist())


def test_a_record_of_an_older_version_opens_with_what_it_knew():
    result = vote(np.tile([0.8, 0.2], (30, 1)))
    old = ("method", "label", "probs", "fractions", "n_patches", "n_unpredicted", "n_background", "n_effective")
    record = {key: result.to_json()[key] for key in (*old, "margin", "leading", "abstained", "reason")}
    back = SlideResult.from_json(record)
    assert (back.label, back.areas, back.interval, back.ood_fraction) == (0, None, None, None)


def test_a_record_with_the_names_of_version_2_opens():
    result = vote_slide(slide(np.ones((12, 12), int), ood_score=np.full(144, 2.0)))
    record = result.to_json()
    record["version"], record["novel_share"] = 2, record.pop("ood_fraction")
    record["n_weightless"] = record.pop("n_background")
    record["areas"]["weightless_mm2"] = record["areas"].pop("background_mm2")
    back = SlideResult.from_json(record)
    assert back.ood_fraction == 1
    assert back.to_json() == result.to_json()


def test_old_names_are_those_of_store_format_2():
    assert OLD_RESULT_NAMES == VOTE_KEYS
    assert OLD_PARAMETERS == PARAMETERS


def test_voting_imports_numpy_only():
    code = (
        "import sys, wsikit.voting, wsikit.voting.inpc, wsikit.voting.patients, wsikit.voting.fitted_parameters\n"
        "heavy = {'torch', 'zarr', 'scipy', 'pandas', 'PIL', 'dask', 'matplotlib'} & set(sys.modules)\n"
        "rooms = {name.split('.')[1] for name in sys.modules if name.startswith('wsikit.')}\n"
        "print(sorted(heavy), sorted(rooms & {'store', 'slides', 'captions', 'models', 'tiling', 'tissue'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


def test_parameters_survive_json_and_older_ones_open():
    assert VoteParameters.from_json({"max_novel": 0.3}).max_ood == 0.3
    parameters = VoteParameters("threshold", rule=ThresholdRule("D", 0.4, 0.1), smooth="mrf", weights=("overlap",))
    assert VoteParameters.from_json(json.loads(json.dumps(parameters.to_json()))) == parameters
    assert VoteParameters.from_json({"min_patches": 7, "min_margin": 0.2}) == VoteParameters("mean", 7, 0.2)


def test_contradictions_are_refused():
    patches = slide(np.ones((3, 3), int))
    with pytest.raises(RequestError, match="same coordinates"):
        vote_slide(replace(patches, coords=np.zeros_like(patches.coords)))
    with pytest.raises(RequestError, match="not on the grid"):
        vote_slide(replace(patches, coords=patches.coords + 7))
    with pytest.raises(RequestError, match="column tissue of 4 rows for 9 patches"):
        vote_slide(replace(patches, columns={"tissue": np.ones(4)}))
    with pytest.raises(RequestError, match="tisue"):
        vote_slide(replace(patches, columns={"tisue": np.ones(9)}))
    with pytest.raises(RequestError, match="3 coordinates for 1 patches"):
        vote([[0.5, 0.5]], places=Places(patches.grid, patches.coords[:3]))
    with pytest.raises(RequestError, match="leave key_tissue out"):
        VoteParameters("soft_clinical", weights=("key_tissue",))
    with pytest.raises(RequestError, match="tisue"):
        VoteParameters(weights=("tisue",))
    with pytest.raises(RequestError, match="blurry"):
        VoteParameters(smooth="blurry")
    with pytest.raises(RequestError, match="ood_score of shape"):
        vote([[0.5, 0.5]], VoteRule(), evidence=Evidence(ood_score=np.ones((3,))))


def test_an_undefined_margin_is_none_in_json():
    record = vote(np.full((2, 2), np.nan)).to_json()
    assert record["margin"] is None
    assert math.isnan(SlideResult.from_json(record).margin)
