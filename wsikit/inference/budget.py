"""Which patches of a slide are described within a caption budget: representatives, and which patches share theirs.

Features in, row numbers out; coordinates are level-0 px.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.captions.descriptor import DESCRIPTOR_REVISION, describe_patches
from wsikit.errors import RequestError
from wsikit.inference.caption_columns import NO_ROW
from wsikit.models.protocol import ImageFeatureExtractor, PatchModel
from wsikit.progress import SILENT, Progress
from wsikit.slides.store import SlideStore
from wsikit.store.table import PatchTable
from wsikit.tiling.stream import iterate_patches

CHOICE_REVISION = 1
"""Increased when the same features lead to other representatives."""

SIMILARITY = 0.5
"""Default: least similarity at which a caption is shared; `benchmarks/caption_budget.py` measures its cost."""

_POSITION_WEIGHT = 0.25  # of x and y, relative to a feature: it separates equal patches, but no tissue types
_COMPONENTS = 24  # principal components kept: the rest is noise that makes all patches equally distant
_PAIRS = 20_000  # random pairs that set the scale of distances on this slide
_BATCH = 64  # patches read at a time
_LARGE = 20_000_000  # patches × representatives; above, k-means works on mini-batches

Floats = npt.NDArray[np.float32]
Features = Callable[[npt.NDArray[np.uint8]], Floats]


@dataclass(frozen=True)
class Budget:
    """How many patches of a slide are described, and how similar patches must be to share a caption."""

    captions: int
    """Maximum number of patches described per slide."""
    similarity: float = SIMILARITY
    """Minimum similarity to share a caption: 1, equal features; 0, also patches as distant as random pairs."""

    def __post_init__(self) -> None:
        if self.captions < 0:
            raise RequestError(f"caption budget {self.captions}: expected 0 or more patches per slide")
        if not 0 <= self.similarity <= 1:
            raise RequestError(f"caption similarity {self.similarity}: expected 0 … 1")


@dataclass(frozen=True)
class SimilarityFeatures:
    """Features by which patches are compared, and their identity for receipts."""

    features: Features
    record: dict[str, Any]


def similarity_features(model: ImageFeatureExtractor | None) -> SimilarityFeatures:
    """Features of a model's image encoder; without a model, of stain and texture.

    Examples
    --------
    >>> similarity_features(None).features(np.zeros((2, 64, 64, 3), np.uint8)).shape[0]
    2
    """
    if model is None:
        return SimilarityFeatures(describe_patches, {"descriptor": DESCRIPTOR_REVISION})
    fingerprint = model.info.fingerprint if isinstance(model, PatchModel) else ""
    return SimilarityFeatures(model.image_features, {"model": fingerprint})


def choose(features: Floats, coords: npt.NDArray[np.int64], budget: Budget) -> npt.NDArray[np.int64]:
    """Choose the patches to describe, and the patch whose caption each patch gets.

    k-means on standardised features and, with a small weight, on the position; the patch nearest to a centre is its
    representative. The others share the caption of the most similar representative, if it is similar enough. Equal
    input gives an equal result.

    Parameters
    ----------
    features
        float32 (N, D); rows with NaN are patches that could not be read: they get no caption.
    coords
        int64 (N, 2), level-0 px.

    Returns
    -------
    int64 (N,)
        The row that is described: its own for representatives; `NO_ROW` for patches that stay without text.

    Examples
    --------
    >>> features = np.array([[0], [1], [2], [20], [21], [22]], np.float32)
    >>> choose(features, np.arange(12).reshape(6, 2), Budget(2, similarity=0.9)).tolist()
    [1, 1, 1, 4, 4, 4]
    """
    source = np.full(len(features), NO_ROW, dtype=np.int64)
    usable = np.flatnonzero(np.isfinite(features).all(axis=1)) if features.size else np.empty(0, np.int64)
    if len(usable) <= budget.captions:
        source[usable] = usable
        return source
    if budget.captions == 0:
        return source
    points = _standardised(features[usable])
    position = _POSITION_WEIGHT * _scaled(coords[usable].astype(np.float64))
    chosen = _representatives(np.hstack([points, position]), budget.captions)
    nearest, distance = _nearest(points, points[chosen])
    typical = _typical_distance(points)
    similarity = 1 - distance / typical if typical > 0 else np.ones(len(usable))
    shared = similarity >= budget.similarity
    source[usable[shared]] = usable[chosen[nearest[shared]]]
    source[usable[chosen]] = usable[chosen]
    return source


def read_features(store: SlideStore, table: PatchTable, features: Features, progress: Progress = SILENT) -> Floats:
    """Features of all patches of a table, float32 (N, D); NaN where a patch could not be read."""
    ranges = [slice(first, min(first + _BATCH, len(table))) for first in range(0, len(table), _BATCH)]
    rows: list[Floats] = []
    progress.start("choosing patches", len(table), "patches")
    for part, batch in iterate_patches(store, table.grid, table.coords, ranges):
        found = features(batch.images)
        found[~batch.readable] = np.nan
        rows.append(found)
        progress.advance(part.stop - part.start)
    progress.finish()
    return np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)


def _standardised(features: Floats) -> npt.NDArray[np.float64]:
    """Each feature at unit standard deviation, then the leading principal components, not whitened."""
    from sklearn.decomposition import PCA

    scaled = _scaled(features.astype(np.float64))
    if not scaled.any():
        return scaled  # all equal
    return np.asarray(PCA(min(_COMPONENTS, *scaled.shape), svd_solver="full").fit_transform(scaled))


def _scaled(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    spread = values.std(axis=0)
    scaled: npt.NDArray[np.float64] = (values - values.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    return scaled


def _representatives(points: npt.NDArray[np.float64], number: int) -> npt.NDArray[np.int64]:
    """Rows nearest to the k-means centres, int64 (≤ number,), ascending."""
    import warnings

    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    large = len(points) * number > _LARGE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different patches than captions: fine
        means = (MiniBatchKMeans if large else KMeans)(number, n_init=1, random_state=0).fit(points)
    rows, _ = _nearest(means.cluster_centers_, points)
    return np.unique(rows)


def _nearest(
    points: npt.NDArray[np.float64], candidates: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """For each point, the nearest candidate (the first of equals) and its distance."""
    from sklearn.metrics import pairwise_distances_argmin_min

    rows, distance = pairwise_distances_argmin_min(points, candidates)
    return rows.astype(np.int64), distance


def _typical_distance(points: npt.NDArray[np.float64]) -> float:
    """Median distance between patches drawn at random: similarity 0 on this slide."""
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, len(points), size=(2, _PAIRS))
    different = one != two
    return float(np.median(np.linalg.norm(points[one[different]] - points[two[different]], axis=1)))
