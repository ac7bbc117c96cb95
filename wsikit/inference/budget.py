"""Which patches of a slide are worth a caption: representatives, and who may share theirs.

Features in, row numbers out; coordinates are level-0 px. The reading of patches is at the end of the file.
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
from wsikit.models.protocol import GivesImageFeatures, PatchModel
from wsikit.progress import SILENT, Progress
from wsikit.slides.store import SlideStore
from wsikit.store.table import PatchTable
from wsikit.tiling.stream import iterate_patches

CHOICE_REVISION = 1
"""Raised when the same features lead to another choice."""

SIMILARITY = 0.5
"""From here on a caption is shared, unless told otherwise; see `benchmarks/caption_budget.py` for what it costs."""

_PLACE = 0.25  # weight of x and y beside a feature of the same spread: it parts equals, but no kinds
_AXES = 24  # principal axes kept: the rest is noise that makes all patches equally far apart
_PAIRS = 20_000  # random pairs that say what "unlike" means on this slide
_AT_ONCE = 64  # patches read and described at a time
_LARGE = 20_000_000  # patches × representatives from which on k-means looks at samples only

Floats = npt.NDArray[np.float32]
Features = Callable[[npt.NDArray[np.uint8]], Floats]


@dataclass(frozen=True)
class Budget:
    """How many captions are asked for, and who may share one."""

    captions: int
    """At most so many patches of a slide are described."""
    similarity: float = SIMILARITY
    """1: only equal patches share a caption; 0: also two as unlike as patches drawn at random."""

    def __post_init__(self) -> None:
        if self.captions < 0:
            raise RequestError(f"caption budget {self.captions}: expected 0 or more patches per slide")
        if not 0 <= self.similarity <= 1:
            raise RequestError(f"caption similarity {self.similarity}: expected 0 … 1")


@dataclass(frozen=True)
class SimilarityFeatures:
    """How patches are compared, and by what record it is known again."""

    features: Features
    record: dict[str, Any]


def similarity_features(model: GivesImageFeatures | None) -> SimilarityFeatures:
    """Those of a model's image encoder, where there is a model; else of stain and texture."""
    if model is None:
        return SimilarityFeatures(describe_patches, {"descriptor": DESCRIPTOR_REVISION})
    fingerprint = model.info.fingerprint if isinstance(model, PatchModel) else ""
    return SimilarityFeatures(model.image_features, {"model": fingerprint})


def choose(features: Floats, coords: npt.NDArray[np.int64], budget: Budget) -> npt.NDArray[np.int64]:
    """Whose caption each patch gets.

    k-means on standardised features with a little of the place; the patch nearest to a centre stands for it. Others
    share the caption of the representative most like them, if it is like enough. Equal input gives an equal choice.

    Parameters
    ----------
    features
        float32 (N, D); rows with NaN are patches that could not be read: nobody describes or borrows there.
    coords
        int64 (N, 2), level-0 px.

    Returns
    -------
    int64 (N,)
        A row number: its own for representatives; `NO_ROW` for patches that stay without text.
    """
    source = np.full(len(features), NO_ROW, dtype=np.int64)
    usable = np.flatnonzero(np.isfinite(features).all(axis=1)) if features.size else np.empty(0, np.int64)
    if len(usable) <= budget.captions:
        source[usable] = usable
        return source
    if budget.captions == 0:
        return source
    look = _standardised(features[usable])
    place = _PLACE * _scaled(coords[usable].astype(np.float64))
    stand = _representatives(np.hstack([look, place]), budget.captions)
    nearest, distance = _nearest(look, look[stand])
    unlike = _typical_distance(look)
    alike = 1 - distance / unlike if unlike > 0 else np.ones(len(usable))
    shared = alike >= budget.similarity
    source[usable[shared]] = usable[stand[nearest[shared]]]
    source[usable[stand]] = usable[stand]
    return source


def read_features(store: SlideStore, table: PatchTable, features: Features, progress: Progress = SILENT) -> Floats:
    """Features of all patches of a table, float32 (N, D); NaN where a patch could not be read."""
    ranges = [slice(first, min(first + _AT_ONCE, len(table))) for first in range(0, len(table), _AT_ONCE)]
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
    """Each feature with spread 1, then the leading principal axes with the spread that they have."""
    from sklearn.decomposition import PCA

    scaled = _scaled(features.astype(np.float64))
    if not scaled.any():
        return scaled  # all alike
    return np.asarray(PCA(min(_AXES, *scaled.shape), svd_solver="full").fit_transform(scaled))


def _scaled(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    spread = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)


def _representatives(points: npt.NDArray[np.float64], number: int) -> npt.NDArray[np.int64]:
    """Rows that stand for the others, int64 (≤ number,), ascending."""
    import warnings

    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    large = len(points) * number > _LARGE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different patches than captions: that is welcome
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


def _typical_distance(look: npt.NDArray[np.float64]) -> float:
    """Median distance of patches drawn at random: what "unlike" means on this slide."""
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, len(look), size=(2, _PAIRS))
    different = one != two
    return float(np.median(np.linalg.norm(look[one[different]] - look[two[different]], axis=1)))
