"""Representatives of a slide's patches: few, different, spread out, and the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsikit.captions.descriptor import describe_patches
from wsikit.errors import RequestError
from wsikit.inference.budget import NO_ROW, Budget, choose
from wsikit.phantom import make_phantom
from wsikit.slides import open_slide
from wsikit.tiling.stream import read_patches


def clusters(n_each: int = 40, n_clusters: int = 5, noise: float = 0.05) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of well separated clusters, positions, and the cluster of each row."""
    rng = np.random.default_rng(1)
    cluster = rng.permutation(np.repeat(np.arange(n_clusters), n_each))
    centres = rng.normal(size=(n_clusters, 12))
    features = (centres[cluster] + noise * rng.normal(size=(len(cluster), 12))).astype(np.float32)
    coords = rng.integers(0, 50_000, size=(len(cluster), 2))
    return features, coords, cluster


def test_one_caption_per_cluster_is_shared_by_the_whole_cluster() -> None:
    features, coords, cluster = clusters()
    source = choose(features, coords, Budget(5, 0.5))
    assert len(set(source.tolist())) == 5
    assert (cluster[source] == cluster).all()


def test_representatives_describe_themselves_and_never_exceed_the_budget() -> None:
    features, coords, _ = clusters(noise=0.8)
    for captions in (0, 1, 7, 60, 199, 200, 500):
        source = choose(features, coords, Budget(captions, 0.7))
        chosen = np.unique(source[source != NO_ROW])
        assert len(chosen) <= captions
        assert (source[chosen] == chosen).all()
    assert (source == np.arange(len(features))).all()


def test_the_choice_is_the_same_every_time() -> None:
    features, coords, _ = clusters(noise=0.8)
    first = choose(features, coords, Budget(20, 0.5))
    assert (choose(features.copy(), coords.copy(), Budget(20, 0.5)) == first).all()


def test_a_higher_minimum_similarity_lets_fewer_patches_share() -> None:
    features, coords, _ = clusters(noise=0.8)
    shares = [(choose(features, coords, Budget(20, s)) != NO_ROW).mean() for s in (0.0, 0.3, 0.6, 0.9, 1.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1] == pytest.approx(20 / len(features))


def test_equal_patches_share_at_similarity_1() -> None:
    features, coords, _ = clusters()
    doubled = np.concatenate([features, features])
    source = choose(doubled, np.concatenate([coords, coords]), Budget(len(features), 1.0))
    assert (source != NO_ROW).mean() > 0.6
    with_text = np.flatnonzero(source != NO_ROW)
    assert np.allclose(doubled[with_text], doubled[source[with_text]])


def test_among_equal_patches_representatives_are_spread_over_the_slide() -> None:
    rng = np.random.default_rng(0)
    coords = rng.integers(0, 40_000, size=(400, 2))
    source = choose(np.ones((400, 6), np.float32), coords, Budget(16, 0.5))
    chosen = np.unique(source)
    quarters = {(x > 20_000, y > 20_000) for x, y in coords[chosen].tolist()}
    assert len(quarters) == 4
    assert (source != NO_ROW).all()


def test_an_unreadable_patch_is_neither_representative_nor_gets_a_caption() -> None:
    features, coords, _ = clusters()
    features[::3] = np.nan
    source = choose(features, coords, Budget(10, 0.0))
    assert (source[::3] == NO_ROW).all()
    assert np.isfinite(features[np.unique(source[source != NO_ROW])]).all()


def test_no_patches_and_one_patch_are_no_special_case() -> None:
    assert len(choose(np.zeros((0, 0), np.float32), np.zeros((0, 2), np.int64), Budget(3))) == 0
    assert choose(np.ones((1, 4), np.float32), np.zeros((1, 2), np.int64), Budget(1)).tolist() == [0]


@pytest.mark.parametrize(("captions", "similarity"), [(-1, 0.5), (5, 1.2), (5, -0.1)])
def test_impossible_budgets_are_refused(captions: int, similarity: float) -> None:
    with pytest.raises(RequestError):
        Budget(captions, similarity)


def test_the_descriptor_depends_on_its_patch_alone_and_separates_tissues(tmp_path: Path) -> None:
    truth = make_phantom(tmp_path / "p.tiff", size_px=(1792, 1792), subtype="D", seed=500_300)
    with open_slide(tmp_path / "p.tiff") as slide:
        images = read_patches(slide, truth.grid, truth.coords).images
    values = describe_patches(images)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert np.array_equal(describe_patches(images[3:4])[0], values[3])
    scaled = (values - values.mean(0)) / values.std(0)
    distance = np.linalg.norm(scaled[:, None] - scaled[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    fractions = truth.facts.fractions
    apart = np.abs(fractions[:, None] - fractions[None]).sum(2)
    nearest = apart[np.arange(len(apart)), distance.argmin(1)]
    assert nearest.mean() < 0.4 * apart.mean()
