"""Where on a slide is what a text says? Maps of concepts from an encoder of images and texts, without annotations."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.encoders.concepts import COLUMN_PREFIX, CONCEPTS, TEMPLATES, Concept
from wsikit.encoders.prompts import Query, plan_queries, read_concepts
from wsikit.errors import ModelError, RequestError
from wsikit.inference.caption_columns import read_captions
from wsikit.inference.ood_columns import unlike_training
from wsikit.inference.shared_features import shared_features
from wsikit.inference.text_columns import (
    MapParameters,
    Scale,
    column_of,
    shown_words,
    write_text_columns,
)
from wsikit.models.text_encoders import LazyTextEncoder, TextEncoderLike
from wsikit.progress import SILENT, Progress
from wsikit.slides.composite import channel_words
from wsikit.slides.store import SlideStore, StoreLike, open_store
from wsikit.store.table import PatchTable
from wsikit.voting.text_map import MAP_SIGMA

THRESHOLD = 0.5
"""More probable than all competitors together."""
TOP = 8
"""Patches that are listed per concept."""

_APART_SIDES = 3.0


@dataclass(frozen=True)
class ConceptPatch:
    """A patch that shows a concept."""

    row: int
    """Row in the patch table."""
    x: int
    y: int
    """Top-left corner, level-0 px."""
    value: float
    """Of the map."""
    caption: str
    """Empty if the store has no captions."""


@dataclass(frozen=True)
class ConceptMap:
    """What was found of one concept on a slide. The map itself is the column of the patch table."""

    concept: str
    """Key, such as "schwannian-stroma"."""
    title: str
    """For display: the words that were asked for."""
    column: str
    """Column of the patch table, float32 (N,), NaN where a patch could not be read."""
    grid: str
    """Name of the patch grid."""
    unit: str
    """"probability" with softmax."""
    presence: float | None
    """Mean of the highest 1 % of the probabilities: how surely the concept is anywhere on the slide, 0 to 1. None
    without softmax, and where most of the tissue is unlike that of the encoder's training (`ood_share`): not stated."""
    threshold: float
    n_above: int
    """Number of patches at or above the threshold."""
    area_mm2: float
    """Their area, overlaps counted once."""
    patches: tuple[ConceptPatch, ...]
    """The patches with the highest values at different places, highest first."""
    ood_share: float | None = None
    """Share of the patches looked at that are unlike the tissue of the encoder's training; None: it has no detector."""
    notice: str = ""
    """From the encoder, on tissue unlike that of its training, and on the scale of the patches; for every output."""
    against: tuple[str, ...] = ()
    """The words that it was compared with."""


def localize(
    store: StoreLike,
    concepts: str | Sequence[str],
    *,
    against: Sequence[str] = (),
    negation: bool | None = None,
    encoder: TextEncoderLike | None = None,
    synonyms: str | os.PathLike[str] | None = None,
    templates: Sequence[str] = TEMPLATES,
    sigma: float = MAP_SIGMA,
    threshold: float | Mapping[str, float] = THRESHOLD,
    grid: str | None = None,
    coarse: str | None = None,
    coarse_weight: float = 0.5,
    similarity: str = "cosine",
    normalise: str = "softmax",
    logit_scale: float | None = None,
    reference: str | os.PathLike[str] | None = None,
    top: int = TOP,
    device: str = "auto",
    download: bool = False,
    progress: Progress = SILENT,
) -> tuple[ConceptMap, ...]:
    """Map where on a slide each concept is: one column `localize_<concept>` of the patch table per concept.

    A patch's value is the softmax over the concept and its competitors of the cosines between the patch and the texts,
    smoothed over the neighbours of the grid. Columns that are up to date are kept; the encoder is then not loaded.

    Parameters
    ----------
    store
        A slide store, or its path.
    concepts
        What to look for: concepts of the lexicon (`wsikit.encoders.concepts`), or any text. Negated texts ("no
        necrosis") compete with all others.
    against
        Competing concepts, instead of the usual ones. Background always competes.
    negation
        True: "no …" of each synonym competes, with `against` or the lexicon's. False: it does not. None: as the encoder
        was trained for (`EncoderInfo.competitors`), which may be "no …" alone.
    encoder
        An encoder of images and texts, or what `wsikit.encoders.registry.load_encoder` takes; None: the packaged one.
        Its features of the patches are computed if they are not stored yet.
    synonyms
        A file of concepts with their synonyms, which extends the lexicon: JSON, YAML or CSV.
    templates
        Texts with one {} for the synonym.
    sigma
        Standard deviation of the smoothing, cells of the grid; 0: none.
    threshold
        For the area and for regions; it does not change the column. One number, or one per key of the concepts, such as
        `wsikit.inference.cohort.cohort_thresholds` returns.
    grid
        Name of the patch grid; not needed if the store has only one.
    coarse, coarse_weight
        Name of a second, coarser grid, whose map is joined with this weight, 0 to 1.
    similarity, normalise, logit_scale
        See `wsikit.inference.text_columns.MapParameters`.
    reference
        For normalise="quantile": JSON file of a cohort's quantiles per concept
        (`wsikit.inference.cohort.cohort_quantiles`).
    top
        Number of patches listed per concept.
    device, download
        As for `load_encoder`.

    Returns
    -------
    One `ConceptMap` per concept, in the order of `concepts`.

    Raises
    ------
    RequestError
        An empty text, only negated ones, an unknown setting, or a grid that is not there.
    ModelError
        There is no such encoder, it has no texts, or the slide has several fluorescence channels.

    Examples
    --------
    >>> import tempfile, wsikit
    >>> folder = tempfile.mkdtemp()
    >>> _ = wsikit.make_phantom(f"{folder}/slide.tiff", size_px=(448, 448))
    >>> store = wsikit.tile(f"{folder}/slide.tiff", f"{folder}/slide.zarr")
    >>> wsikit.localize(store, [""])
    Traceback (most recent call last):
    ...
    wsikit.errors.RequestError: prompt '': empty. A text without words has no meaning that could be found.
    """
    parameters = MapParameters(sigma, similarity, normalise, logit_scale, coarse_weight)
    for value in threshold.values() if isinstance(threshold, Mapping) else (threshold,):
        if not 0 <= value <= 1 and normalise == "softmax":
            raise RequestError(f"threshold {value}: expected a probability, 0 to 1")
    lexicon = read_concepts(synonyms) if synonyms is not None else CONCEPTS
    asked = [concepts] if isinstance(concepts, str) else list(concepts)
    plan_queries(asked, against, concepts=lexicon, templates=templates)  # refuses before an encoder is looked for
    lazy = LazyTextEncoder.of(encoder, device=device, download=download)
    queries = queries_for(lazy, asked, against, negation=negation, lexicon=lexicon, templates=templates)
    if isinstance(threshold, Mapping) and (missing := {one.concept.key for one in queries} - set(threshold)):
        raise RequestError(f"threshold: none for {', '.join(sorted(missing))}; give one per concept, or one number")
    references = _references(reference, queries, normalise)
    opened = open_store(store)
    check_stain(opened)
    scales = scales_of(opened, lazy, grid, coarse, progress)
    unlike = unlike_training(opened, scales[0].table, lazy, scales[0].features, progress)
    scales[0] = replace(scales[0], unlike=unlike)
    write_text_columns(queries, lazy, scales, parameters, references, progress)
    table = scales[0].table
    limits = [threshold[one.concept.key] if isinstance(threshold, Mapping) else threshold for one in queries]
    return tuple(
        read_concept_map(table, column_of(query), threshold=limit, top=top)
        for query, limit in zip(queries, limits, strict=True)
    )


def queries_for(
    encoder: LazyTextEncoder,
    concepts: Sequence[str],
    against: Sequence[str],
    *,
    negation: bool | None,
    lexicon: Mapping[str, Concept],
    templates: Sequence[str],
) -> tuple[Query, ...]:
    """The concepts with what competes with them; `negation` None: as the encoder was trained for."""
    own = encoder.info.competitors
    return plan_queries(
        concepts,
        against,
        negation=own in ("negation", "both") if negation is None else negation,
        usual=negation is not None or own != "negation",
        concepts=lexicon,
        templates=templates,
    )


def read_concept_map(table: PatchTable, column: str, *, threshold: float = THRESHOLD, top: int = TOP) -> ConceptMap:
    """What is stored of a concept: see `ConceptMap`. StoreError if there is no such column."""
    values = table.read(column).astype(np.float64)
    attributes = table.attributes(column)
    above = int((values >= threshold).sum())
    shown, rivals = shown_words(attributes)
    captions = read_captions(table)
    coords = table.coords
    rows = _highest(values, coords, np.asarray(table.grid.side), top)
    patches = tuple(
        ConceptPatch(
            row,
            int(coords[row, 0]),
            int(coords[row, 1]),
            float(values[row]),
            "" if captions is None else str(captions.texts[row] or ""),
        )
        for row in rows
    )
    stored = attributes.get("presence")
    return ConceptMap(
        concept=str(attributes["concept"]),
        title=shown,
        column=column,
        grid=table.name,
        unit=str(attributes["unit"]),
        presence=None if stored is None else float(stored),
        threshold=threshold,
        n_above=above,
        area_mm2=above * table.grid.cell_area_mm2,
        patches=patches,
        ood_share=None if attributes.get("ood_share") is None else float(attributes["ood_share"]),
        notice=str(attributes.get("notice", "")),
        against=tuple(rivals.values()),
    )


def concept_columns(table: PatchTable) -> list[str]:
    """Complete columns of concepts in a table."""
    return [name for name in table.columns() if name.startswith(COLUMN_PREFIX)]


def _references(
    path: str | os.PathLike[str] | None, queries: Sequence[Query], normalise: str
) -> Mapping[str, npt.NDArray[np.float64]]:
    """The cohort's quantiles of each concept."""
    if normalise != "quantile":
        if path is not None:
            raise RequestError(f"{os.fspath(path)}: a cohort's quantiles are used by normalise quantile only")
        return {}
    if path is None:
        raise RequestError("normalise quantile: give the quantiles of a cohort (--reference, reference=)")
    try:
        record: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        return {query.concept.key: np.asarray(record[query.concept.key], dtype=np.float64) for query in queries}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RequestError(
            f"{os.fspath(path)}: expected JSON with a list of quantiles per concept ({type(error).__name__}: {error})"
        ) from error


def scales_of(
    store: SlideStore, encoder: LazyTextEncoder, grid: str | None, coarse: str | None, progress: Progress
) -> list[Scale]:
    tables = [store.patches(grid)]
    if coarse is not None:
        tables.append(store.patches(coarse))
        if tables[1].name == tables[0].name:
            raise RequestError(f"{store.folder}: grid {coarse} cannot be its own coarse grid; name two grids")
        tables[1].grid.index_of(tables[1].coords)  # RequestError if it has no columns and rows
    return [Scale(table, shared_features(store, table, encoder, progress=progress)) for table in tables]


def check_stain(store: SlideStore) -> None:
    if store.info.channels:
        raise ModelError(
            f"{store.folder}: texts describe brightfield stains such as H&E, this slide has "
            f"{channel_words(store.info.channels)}."
        )


def _highest(
    values: npt.NDArray[np.float64], coords: npt.NDArray[np.int64], side: npt.NDArray[np.float64], count: int
) -> list[int]:
    """Rows of up to `count` of the highest values, each some sides away from the others."""
    free = np.isfinite(values)
    chosen: list[int] = []
    while len(chosen) < count and free.any():
        row = int(np.where(free, values, -np.inf).argmax())
        chosen.append(row)
        free &= (np.abs(coords - coords[row]) / side >= _APART_SIDES - 1e-3).any(axis=1)
    return chosen
