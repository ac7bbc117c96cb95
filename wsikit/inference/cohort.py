"""What the maps of a concept are like over a cohort of slides: its quantiles, and a threshold that needs no label."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from wsikit.encoders.concepts import CONCEPTS, TEMPLATES
from wsikit.encoders.prompts import Query, plan_queries, read_concepts
from wsikit.errors import StoreError
from wsikit.inference.localize import check_stain, queries_for, scales_of
from wsikit.inference.text_columns import MapParameters, Scale, text_maps
from wsikit.models.text_encoders import LazyTextEncoder, TextEncoderLike, places_of
from wsikit.models.text_scores import log_odds, similarities
from wsikit.progress import SILENT, Progress
from wsikit.slides.store import StoreLike, open_store
from wsikit.voting.text_map import MAP_SIGMA, mixture_threshold

COHORT_STEPS = 100
"""A cohort's distribution is kept as this number of steps between quantiles."""
ROWS_AT_ONCE = 8192

Floats = npt.NDArray[np.float64]


def cohort_thresholds(
    stores: Sequence[StoreLike],
    concepts: str | Sequence[str],
    *,
    against: Sequence[str] = (),
    negation: bool | None = None,
    encoder: TextEncoderLike | None = None,
    synonyms: str | os.PathLike[str] | None = None,
    templates: Sequence[str] = TEMPLATES,
    similarity: str = "cosine",
    logit_scale: float | None = None,
    grid: str | None = None,
    device: str = "auto",
    download: bool = False,
    progress: Progress = SILENT,
) -> dict[str, float]:
    """Threshold of each concept's map, a probability, for `wsikit.localize(…, threshold=…)`; no label is needed.

    Two normal distributions are fitted to the log odds of all patches of all slides together
    (`wsikit.voting.text_map.mixture_threshold`): from the threshold on a patch belongs more probably to the higher one.
    A probability says that the texts fit better than those they compete with; trained on texts that name a finding
    from a certain amount on, an encoder puts 0.5 there, which may be far above or below what a reader would mark.

    Parameters
    ----------
    stores
        A cohort of slides, with and without the concept: where no patch or every patch shows it, the two distributions
        are of something else, and so is the threshold.
    concepts, against, negation, encoder, synonyms, templates, similarity, logit_scale, grid, device, download
        As for `wsikit.localize`, and the same as there. Features that are not stored yet are computed and stored.

    Returns
    -------
    Key of each concept to its threshold, 0 to 1. It is for maps by softmax without smoothing and of one grid.

    Raises
    ------
    RequestError, ModelError
        As `wsikit.localize`.
    StoreError
        No patch of the cohort could be read.
    """
    lexicon = read_concepts(synonyms) if synonyms is not None else CONCEPTS
    asked = [concepts] if isinstance(concepts, str) else list(concepts)
    lazy = LazyTextEncoder.of(encoder, device=device, download=download)
    queries = queries_for(lazy, asked, against, negation=negation, lexicon=lexicon, templates=templates)
    pooled: dict[str, list[Floats]] = {query.concept.key: [] for query in queries}
    for store in stores:
        opened = open_store(store)
        check_stain(opened)
        (scale,) = scales_of(opened, lazy, grid, None, progress)
        for query in queries:
            pooled[query.concept.key] += _log_odds(query, lazy, scale, similarity, logit_scale)
    return {key: float(expit(mixture_threshold(values))) for key, values in _joined(pooled).items()}


def cohort_quantiles(
    stores: Sequence[StoreLike],
    concepts: Sequence[str],
    *,
    encoder: TextEncoderLike | None = None,
    synonyms: str | os.PathLike[str] | None = None,
    templates: Sequence[str] = TEMPLATES,
    sigma: float = MAP_SIGMA,
    similarity: str = "cosine",
    grid: str | None = None,
    device: str = "auto",
) -> dict[str, list[float]]:
    """Quantiles of a cohort's similarities per concept, for normalise="quantile"; write them to a JSON file.

    The cohort should have slides without the concept, too. Nothing but features is written to the stores.
    """
    lexicon = read_concepts(synonyms) if synonyms is not None else CONCEPTS
    queries = plan_queries(concepts, concepts=lexicon, templates=templates)
    lazy = LazyTextEncoder.of(encoder, device=device)
    parameters = MapParameters(sigma, similarity, "none")
    pooled: dict[str, list[Floats]] = {query.concept.key: [] for query in queries}
    for store in stores:
        opened = open_store(store)
        check_stain(opened)
        maps, _ = text_maps(queries, lazy, scales_of(opened, lazy, grid, None, SILENT), parameters, SILENT)
        for query, values in zip(queries, maps, strict=True):
            pooled[query.concept.key].append(values[np.isfinite(values)])
    steps = np.linspace(0, 1, COHORT_STEPS + 1)
    return {key: np.quantile(values, steps).tolist() for key, values in _joined(pooled).items()}


def _joined(pooled: Mapping[str, Sequence[Floats]]) -> dict[str, Floats]:
    """The values of all slides together, without those of patches that could not be read."""
    found = {}
    for key, parts in pooled.items():
        values = np.concatenate(parts) if parts else np.empty(0)
        found[key] = values[np.isfinite(values)]
        if not len(found[key]):
            raise StoreError(f"{key}: no patch of the cohort has a value; give stores with readable patches.")
    return found


def _log_odds(
    query: Query, encoder: LazyTextEncoder, scale: Scale, similarity: str, logit_scale: float | None
) -> list[Floats]:
    """Of the concept against its competitors, for the patches of a slide, in parts."""
    loaded, table = encoder.load(), scale.table
    places = places_of(loaded, [query.concept, *query.competitors])
    found = []
    for first in range(0, len(table), ROWS_AT_ONCE):
        features = table.read(encoder.info.shared_column, slice(first, min(first + ROWS_AT_ONCE, len(table))))
        scores = similarities(features, places, similarity=similarity)
        found.append(log_odds(scores, logit_scale or float(loaded.logit_scale))[:, 0])
    return found
