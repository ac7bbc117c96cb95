"""The truth agrees with an independent recount, with the pixels, and with the rules it is named after."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from wsikit.errors import RequestError, WsikitError
from wsikit.phantom import CLASSES, PhantomTruth, load_truth, make_phantom
from wsikit.phantom.cells import OBJECT_KINDS
from wsikit.phantom.facts import OTHER, PD, TUMOUR_KINDS, UD, D, Facts, facts_of, survey
from wsikit.phantom.fields import GLASS, KINDS
from wsikit.phantom.recipe import SLIDE_SUBTYPES, draw_recipe
from wsikit.phantom.render import Scene

SIZE = (1500, 1300)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PhantomTruth:
    path = tmp_path_factory.mktemp("phantom") / "d.tiff"
    return make_phantom(path, size_px=SIZE, subtype="D", seed=11, tissue_fraction=0.6)


def _pixels(truth: PhantomTruth) -> np.ndarray:
    import tifffile

    return tifffile.imread(truth.path)


def test_counts_equal_a_recount_of_every_object(made: PhantomTruth) -> None:
    scene = Scene(draw_recipe(11, "D", (SIZE[0] * 0.5, SIZE[1] * 0.5), tissue_fraction=0.6), 0.5)
    objects = scene.plot((-50, -50, SIZE[0] + 100, SIZE[1] + 100)).objects
    recount = np.zeros((made.grid.n_rows * made.grid.n_cols, len(OBJECT_KINDS)), int)
    for x, y, kind in zip(objects.x.tolist(), objects.y.tolist(), objects.kind.tolist(), strict=True):
        if 0 <= x < SIZE[0] * 0.5 and 0 <= y < SIZE[1] * 0.5:
            recount[int(y // 112) * made.grid.n_cols + int(x // 112), kind] += 1
    assert recount.sum() > 1500
    assert np.array_equal(recount, made.facts.counts)


def test_fractions_agree_with_a_walk_over_single_pixels(made: PhantomTruth) -> None:
    """Ask the fields themselves, at places off the lattice, what lies there."""
    scene = Scene(draw_recipe(11, "D", (SIZE[0] * 0.5, SIZE[1] * 0.5), tissue_fraction=0.6), 0.5)
    others = [KINDS.index(kind) for kind in ("stroma", "necrosis", "blood", "fat", "lymphoid", "glass")]
    for row, column in ((1, 2), (2, 3), (3, 1), (4, 4)):
        x, y = np.meshgrid(np.arange(0.7, 112, 1.3) + column * 112, np.arange(0.4, 112, 1.3) + row * 112)
        kind = scene.fields.at(x, y).kind
        stated = made.facts.fractions[row * made.grid.n_cols + column]
        for n in others:
            assert stated[n] == pytest.approx((kind == n).mean(), abs=0.03)


def test_fractions_sum_to_one_and_beyond_the_edge_is_glass(made: PhantomTruth) -> None:
    assert np.allclose(made.facts.fractions.sum(axis=1), 1, atol=1e-5)
    assert (made.facts.fractions >= 0).all()
    last = made.facts.fraction("glass").reshape(made.class_map.shape)[:, -1]
    assert (last >= 1 - (SIZE[0] % 224) / 224 - 0.04).all()


def test_glass_patches_are_light_and_tissue_patches_are_not(made: PhantomTruth) -> None:
    pixels = _pixels(made)
    glass = made.facts.fraction("glass")
    hidden = made.facts.artefacts[:, 0] > 0
    means = [pixels[y : y + 224, x : x + 224].mean() for x, y in made.coords.tolist()]
    bare, full = (glass == 1) & ~hidden, (glass == 0) & (made.facts.fraction("fat") < 0.1)
    assert bare.sum() >= 3
    assert full.sum() >= 3
    assert np.min(np.array(means)[bare]) > np.max(np.array(means)[full]) + 20


def test_tissue_mask_agrees_with_the_darkness_of_the_pixels(made: PhantomTruth) -> None:
    gray = _pixels(made).mean(axis=2)
    height, width = made.tissue_mask.shape
    step = int(made.mask_downsample[0])
    padded = np.pad(gray, ((0, height * step - gray.shape[0]), (0, width * step - gray.shape[1])), mode="edge")
    dark = padded.reshape(height, step, width, step).mean(axis=(1, 3)) < np.percentile(gray, 99) - 12
    # fat is tissue but white, pen is dark but no tissue
    fair = (made.facts.fraction("fat") == 0) & (made.facts.artefacts[:, 0] == 0)
    fair = np.kron(fair.reshape(made.class_map.shape), np.ones((14, 14), bool))[:height, :width]
    tissue, dark = made.tissue_mask & fair, dark & fair
    assert fair.mean() > 0.3
    overlap = (dark & tissue).sum() / (dark | tissue).sum()
    assert overlap > 0.88
    assert made.tissue_mm2 == pytest.approx(0.6 * SIZE[0] * SIZE[1] * 0.25e-6, rel=0.1)


@pytest.mark.parametrize("seed", [0, 7, 21])
def test_the_slide_is_of_its_subtype(seed: int) -> None:
    box = (0, 0, 2000, 2000)
    facts = {}
    for subtype in ("UD", "PD", "D"):
        scene = Scene(draw_recipe(seed, subtype, (1000.0, 1000.0)), 0.5)
        facts[subtype] = facts_of(survey(scene, scene.plot(box), box, (2000, 2000)))
    assert facts["UD"].fraction("neuropil")[0] == 0
    assert facts["UD"].n_maturing[0] == 0
    for subtype in ("PD", "D"):
        assert facts[subtype].fraction("neuropil")[0] > 0.1 * facts[subtype].tumour[0]
    assert 0 <= facts["PD"].diff_fraction[0] < 0.03
    assert facts["D"].diff_fraction[0] > 0.05


def test_a_speck_of_tissue_on_a_large_slide_is_of_its_subtype_too() -> None:
    for subtype, low, high in (("PD", 0.0, 0.03), ("D", 0.05, 0.4)):
        scene = Scene(draw_recipe(1, subtype, (30_000.0, 30_000.0), tissue_fraction=0.001, artefacts=False), 0.5)
        x, y = np.meshgrid(np.arange(0, 30_000, 60.0), np.arange(0, 30_000, 60.0))
        tissue = scene.fields.at(x, y).tissue > 0.5
        left, top = (int(2 * v[tissue].min()) - 200 for v in (x, y))
        width, height = (int(2 * v[tissue].max()) + 200 - start for v, start in ((x, left), (y, top)))
        box = (left, top, min(width, 3000), min(height, 3000))
        facts = facts_of(survey(scene, scene.plot(box), box, None))
        assert facts.n_neuroblastic[0] > 1000
        assert low <= facts.diff_fraction[0] < high
        assert facts.fraction("neuropil")[0] > 0.1 * facts.tumour[0]


def _one(n_maturing: int, n_blasts: int, **fractions: float) -> Facts:
    shares = np.zeros((1, len(KINDS)), np.float32)
    for kind, share in fractions.items():
        shares[0, KINDS.index(kind)] = share
    shares[0, GLASS] += 1 - shares.sum()
    counts = np.zeros((1, len(OBJECT_KINDS)), np.int32)
    counts[0, OBJECT_KINDS.index("differentiating")] = n_maturing
    counts[0, OBJECT_KINDS.index("neuroblast")] = n_blasts
    return Facts(shares, counts, np.zeros((1, 3), np.float32))


@pytest.mark.parametrize(
    ("facts", "label", "borderline"),
    [
        (_one(0, 100, tumour_cells=0.7, matrix=0.3), UD, False),
        (_one(0, 100, tumour_cells=0.7, neuropil=0.3), PD, False),
        (_one(1, 99, tumour_cells=0.7, neuropil=0.3), PD, False),
        (_one(5, 95, tumour_cells=0.7, neuropil=0.3), PD, True),
        (_one(6, 94, tumour_cells=0.7, neuropil=0.3), D, True),
        (_one(20, 80, tumour_cells=0.7, neuropil=0.3), D, False),
        (_one(0, 100, tumour_cells=0.96, neuropil=0.04), PD, True),
        (_one(0, 40, tumour_cells=0.2, stroma=0.8), OTHER, False),
        (_one(0, 40, tumour_cells=0.45, stroma=0.55), OTHER, True),
    ],
)
def test_class_rule(facts: Facts, label: int, borderline: bool) -> None:
    assert facts.labels.tolist() == [label]
    assert facts.borderline.tolist() == [borderline]


def test_captions_say_what_the_facts_say(made: PhantomTruth) -> None:
    said = made.captions
    assert len(said) == len(made.labels)
    for row, (caption, label) in enumerate(zip(said, made.labels.tolist(), strict=True)):
        if label == D:
            assert "differentiating neuroblasts >5 %" in caption
        if label == PD:
            assert "neuropil absent" not in caption
        if label != OTHER:
            rosettes = made.facts.count("rosette")[row]
            assert ("no Homer Wright rosettes" in caption) == (rosettes == 0)
    assert "Bare glass; no tissue." in said


def test_an_intermixed_slide_is_stroma_rich_with_microscopic_nests() -> None:
    x, y = np.meshgrid(np.arange(5.0, 2600, 10), np.arange(5.0, 2600, 10))
    for seed in range(4):
        ground = Scene(draw_recipe(seed, "GNB-I", (2600.0, 2600.0)), 1.0).fields.at(x, y)
        kind = ground.kind
        stroma = (kind == KINDS.index("stroma")).sum()
        tumour = np.isin(kind, [KINDS.index(name) for name in TUMOUR_KINDS]).sum()
        assert 0.55 < stroma / (stroma + tumour) < 0.9
        nests, _ = ndimage.label((ground.tumour > 0.5) & (ground.tissue > 0.5))
        assert np.bincount(nests.ravel())[1:].max() * 1e-4 < 1.0  # mm²; a macroscopic nodule has 4


def test_the_truth_of_an_intermixed_slide_counts_stroma_and_ganglion_cells(tmp_path: Path, made: PhantomTruth) -> None:
    truth = make_phantom(tmp_path / "gnb.tiff", size_px=(1000, 1000), mpp=1.0, subtype="GNB-I", tissue_fraction=0.8)
    stroma, tumour = truth.facts.fraction("stroma").sum(), truth.facts.tumour.sum()
    assert truth.schwannian_fraction == pytest.approx(stroma / (stroma + tumour))
    assert truth.schwannian_fraction > 0.5 > made.schwannian_fraction
    assert truth.facts.count("ganglion").sum() > 5
    assert truth.summary()["subtype"] == "GNB-I"


def test_an_intermixed_slide_shares_its_layout_with_no_other_subtype() -> None:
    keys = {draw_recipe(seed, name, (900.0, 900.0)).seed for seed in range(5) for name in SLIDE_SUBTYPES}
    assert len(keys) == 5 * len(SLIDE_SUBTYPES)
    with pytest.raises(RequestError, match="GNB-I without stroma"):
        draw_recipe(0, "GNB-I", (900.0, 900.0), without=["stroma"])


def test_truth_comes_back_as_it_was_written(made: PhantomTruth) -> None:
    back = load_truth(made.path)
    assert back.summary() == made.summary()
    for name in ("fractions", "counts", "artefacts"):
        assert np.array_equal(getattr(back.facts, name), getattr(made.facts, name))
    assert np.array_equal(back.tissue_mask, made.tissue_mask)
    assert np.array_equal(back.coords, made.coords)
    assert back.rows_at(back.coords[5:9]).tolist() == [5, 6, 7, 8]
    table = Path(made.path).with_name("d.truth.csv").read_text(encoding="utf-8").splitlines()
    assert len(table) == 1 + len(made.labels)
    assert table[1].split(",")[2] in CLASSES
    assert "Not tissue" in json.loads(Path(made.path).with_name("d.truth.json").read_text(encoding="utf-8"))["notice"]


def test_a_missing_truth_or_one_of_another_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(WsikitError, match="Only slides of `wsikit phantom`"):
        load_truth(tmp_path / "slide.tiff")
    (tmp_path / "slide.truth.json").write_text('{"schema": "other/1"}', encoding="utf-8")
    with pytest.raises(WsikitError, match="schema 'other/1'"):
        load_truth(tmp_path / "slide.tiff")
