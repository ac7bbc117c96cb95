"""Columns localize_CONCEPT: for each patch, how probably it shows a concept that was asked for in words.

Features are read in chunks of rows; a slide is never held as a whole but for one number per patch and concept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.encoders.concepts import COLUMN_PREFIX
from wsikit.encoders.prompts import PromptSet, Query
from wsikit.encoders.protocol import EncoderInfo
from wsikit.errors import RequestError, StoreError
from wsikit.geometry import PatchGrid
from wsikit.inference.ood_columns import Unlike
from wsikit.models.text_encoders import LazyTextEncoder, places_of
from wsikit.models.text_scores import SIMILARITIES, probabilities, similarities
from wsikit.progress import Progress
from wsikit.store.receipts import Receipt, digest_of
from wsikit.store.table import ColumnSpec, PatchTable, coords_digest
from wsikit.voting.text_map import MAP_SIGMA, NORMALISATIONS, combine, presence, rescale, smooth_patches, upsample

LOCALIZE_REVISION = 1

FIELD_TOLERANCE = 0.1
"""Relative difference of the side of a patch, µm, from that of the encoder's patches, from which on it is stated."""

_ROWS_AT_ONCE = 8192
_UNITS = {
    "softmax": "probability",
    "none": "similarity",
    "quantile": "quantile of the cohort",
    "minmax": "of the slide",
}
_LIMITS = {"softmax": (0.0, 1.0), "quantile": (0.0, 1.0), "minmax": (-1.0, 1.0)}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MapParameters:
    """From scores of patches to a map."""

    sigma: float = MAP_SIGMA
    """Smoothing, cells; 0: none."""
    similarity: str = "cosine"
    """"cosine", or "dot" for comparisons with the published code of AFLoc."""
    normalise: str = "softmax"
    """"softmax" over the concept and its competitors; "none", "quantile", "minmax": see `wsikit.voting.text_map`."""
    logit_scale: float | None = None
    """Factor of the similarities before the softmax; None: the encoder's own."""
    coarse_weight: float = 0.5
    """Weight of the coarse grid, if there is one."""

    def __post_init__(self) -> None:
        if self.similarity not in SIMILARITIES:
            raise RequestError(f"similarity {self.similarity!r}: choose one of {', '.join(SIMILARITIES)}")
        if self.normalise not in NORMALISATIONS:
            raise RequestError(f"normalise {self.normalise!r}: choose one of {', '.join(NORMALISATIONS)}")
        if not (np.isfinite(self.sigma) and self.sigma >= 0):
            raise RequestError(f"sigma {self.sigma}: expected 0 or more cells")
        if not 0 <= self.coarse_weight <= 1:
            raise RequestError(f"weight {self.coarse_weight} of the coarse grid: expected 0 to 1")
        if self.logit_scale is not None and not (np.isfinite(self.logit_scale) and self.logit_scale > 0):
            raise RequestError(f"scale of the logits {self.logit_scale}: expected a positive number")

    def record(self, *, two_scales: bool) -> dict[str, Any]:
        """For receipts."""
        found: dict[str, Any] = {"sigma": self.sigma, "similarity": self.similarity, "normalise": self.normalise}
        if self.logit_scale is not None and self.normalise == "softmax":
            found["logit_scale"] = self.logit_scale
        return {**found, "coarse_weight": self.coarse_weight} if two_scales else found


@dataclass(frozen=True)
class Scale:
    """A grid with its features."""

    table: PatchTable
    features: Receipt
    unlike: Unlike | None = None
    """How much of its tissue is unlike that of the encoder's training; None: not known."""


def scale_notice(encoder: EncoderInfo, grid: PatchGrid) -> str:
    """A sentence if the patches show another field of the tissue than the encoder was made for; else empty."""
    if encoder.mpp is None:
        return ""
    made_for, shown = encoder.patch_px * encoder.mpp, grid.patch_px * grid.target_mpp
    if abs(shown / made_for - 1) <= FIELD_TOLERANCE:
        return ""
    return f"Patches show {shown:.3g} µm of tissue, the encoder {encoder.name} was made for {made_for:.3g} µm."


def column_of(query: Query) -> str:
    """Name of the column of a concept."""
    return COLUMN_PREFIX + query.concept.key


def text_receipt(
    query: Query,
    encoder: LazyTextEncoder,
    scales: Sequence[Scale],
    parameters: MapParameters,
    reference: npt.NDArray[np.floating] | None,
) -> Receipt:
    """Receipt of a concept's column: every text, the encoder, the features of each grid, all parameters."""
    inputs = {"patches": coords_digest(scales[0].table), "encoder": encoder.info.fingerprint}
    for name, scale in zip(("features", "coarse"), scales, strict=False):
        inputs[name] = scale.features.digest
    if scales[0].unlike is not None:
        inputs["ood"] = scales[0].unlike.receipt.digest
    if reference is not None:
        inputs["reference"] = digest_of(np.asarray(reference, dtype=np.float64).tolist())
    record = {**query.record(), **parameters.record(two_scales=len(scales) > 1)}
    return Receipt("localize", LOCALIZE_REVISION, record, inputs)


def write_text_columns(
    queries: Sequence[Query],
    encoder: LazyTextEncoder,
    scales: Sequence[Scale],
    parameters: MapParameters,
    references: Mapping[str, npt.NDArray[np.floating]],
    progress: Progress,
) -> None:
    """Write the columns that are missing or out of date. The encoder is loaded only if there are any."""
    table = scales[0].table
    wanted = []
    for query in queries:
        receipt = text_receipt(query, encoder, scales, parameters, references.get(query.concept.key))
        if not table.is_current(column_of(query), receipt):
            wanted.append((query, receipt))
        elif shown_words(table.attributes(column_of(query)))[0] != query.concept.shown:
            with contextlib.suppress(OSError, StoreError):  # of a store that may only be read: the map is the same
                table.annotate(column_of(query), _words(query))
    if not wanted:
        return
    maps, texts = text_maps([query for query, _ in wanted], encoder, scales, parameters, progress)
    for (query, receipt), values in zip(wanted, maps, strict=True):
        if parameters.normalise != "softmax":
            values = rescale(values, parameters.normalise, references.get(query.concept.key))
        unlike = scales[0].unlike
        stated = parameters.normalise == "softmax" and not (unlike is not None and unlike.abstains)
        score = presence(values) if stated else float("nan")
        notices = (
            encoder.info.notice,
            "" if unlike is None else unlike.notice(encoder.info.name),
            scale_notice(encoder.info, table.grid),
        )
        attributes = {
            "concept": query.concept.key,
            "title": query.concept.title,
            **_words(query),
            "unit": _UNITS[parameters.normalise],
            "limits": list(_LIMITS[parameters.normalise]) if parameters.normalise in _LIMITS else None,
            "presence": score if np.isfinite(score) else None,
            "encoder": encoder.info.record(),
            "ood_share": None if unlike is None else unlike.share,
            "notice": " ".join(part for part in notices if part),
            "logit_scale": parameters.logit_scale or float(encoder.load().logit_scale),
            "texts": texts[query.concept.key],
        }
        spec = ColumnSpec(column_of(query), "float32", attributes=attributes)
        for rows in table.prepare((spec,), receipt):
            table.write(spec.name, rows, values[rows].astype(np.float32))


def _words(query: Query) -> dict[str, Any]:
    """Attributes: the words that were asked for, and those of the competitors by key."""
    return {"shown": query.concept.shown, "against": {one.key: one.shown for one in query.competitors}}


def shown_words(attributes: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The words of a column's concept for display, and those of its competitors by key (empty in older stores)."""
    against = attributes.get("against")
    rivals = {str(key): str(words) for key, words in against.items()} if isinstance(against, Mapping) else {}
    return str(attributes.get("shown") or attributes["title"]), rivals


def text_maps(
    queries: Sequence[Query],
    encoder: LazyTextEncoder,
    scales: Sequence[Scale],
    parameters: MapParameters,
    progress: Progress,
) -> tuple[list[Floats], dict[str, str]]:
    """Smoothed values (N,) of each concept on the first grid, and a digest of the places of each query's texts.

    Without softmax these are the similarities.
    """
    sets: dict[str, PromptSet] = {}
    for query in queries:
        sets |= {one.key: one for one in (query.concept, *query.competitors)}
    loaded = encoder.load()
    places = places_of(loaded, list(sets.values()))
    index = {key: row for row, key in enumerate(sets)}
    chosen = [[index[one.key] for one in (query.concept, *query.competitors)] for query in queries]
    factor = parameters.logit_scale or float(loaded.logit_scale)
    progress.start("localize", sum(len(scale.table) for scale in scales), "patches")
    by_scale = []
    for scale in scales:
        table, coords = scale.table, scale.table.coords
        raw = np.empty((len(queries), len(table)))
        for first in range(0, len(table), _ROWS_AT_ONCE):
            rows = slice(first, min(first + _ROWS_AT_ONCE, len(table)))
            features = table.read(encoder.info.shared_column, rows)
            scores = similarities(features, places, similarity=parameters.similarity)
            for number, own in enumerate(chosen):
                if parameters.normalise == "softmax":
                    raw[number, rows] = probabilities(scores[:, own], factor)[:, 0]
                else:
                    raw[number, rows] = scores[:, own[0]]
            progress.advance(rows.stop - rows.start)
        by_scale.append([smooth_patches(values, table.grid, coords, parameters.sigma) for values in raw])
    progress.finish()
    maps = by_scale[0]
    for coarse, values in zip(scales[1:], by_scale[1:], strict=True):
        fine, grid = scales[0].table, coarse.table.grid
        centres = fine.coords + np.asarray(fine.grid.side) / 2
        maps = [
            combine(own, upsample(other, grid, coarse.table.coords, centres), parameters.coarse_weight)
            for own, other in zip(maps, values, strict=True)
        ]
    digests = {
        query.concept.key: digest_of(np.round(places[own], 6).tolist())
        for query, own in zip(queries, chosen, strict=True)
    }
    return maps, digests
