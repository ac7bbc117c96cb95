"""Labelled patches of a concept head: class, inputs of the scores, and the option of each axis."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import Captioner
from wsikit.captions.parsed_facts import facts_of_texts
from wsikit.encoders.protocol import EncoderInfo, PatchEncoder, TextImageEncoder
from wsikit.encoders.tokens import TokenVectors
from wsikit.errors import ModelError, RequestError
from wsikit.inference.fact_columns import FACTS_COLUMN, FactSource, map_encoder
from wsikit.models.concept_criteria import UNKNOWN, Criteria, options_of_values
from wsikit.models.model_folder import EncoderRecord
from wsikit.models.protocol import MAP_FACT
from wsikit.tables import read_table
from wsikit.training.baselines import colour_histogram
from wsikit.training.concepts.config import ConceptLabels, ConceptTrainConfig
from wsikit.training.data import PatchSet, plan_images
from wsikit.training.datasets.configured import configured_table, words_of_dropped
from wsikit.training.datasets.stores import StorePixels
from wsikit.training.datasets.table import ImageTable
from wsikit.training.heads.data import Load, OnDone, encoder_loader, features_of_table, patches_of_table

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

SHARED = "-shared"
"""Ending of the name of features in the space that an encoder's images and texts share, as of their column."""


@dataclass(frozen=True)
class ConceptData:
    """N labelled patches; row i of each field is one patch."""

    patches: PatchSet
    """Classes, groups, slides and ids; its images have no pixels."""
    inputs: Floats
    """Facts (N, F), NaN where not measured; features (N, D); or tokens side by side (N, T · D)."""
    uncertainty: Floats | None
    """(N, F), half-widths of the facts' intervals; None: not facts."""
    concepts: Labels
    """(N, K), index of the option of each axis, `UNKNOWN` where it is not known."""
    colours: Floats | None
    """(N, 48), colour histograms; None: not computed."""
    encoder: EncoderRecord | None
    mpp: float
    words: str
    maps: Mapping[str, str] = field(default_factory=dict)
    """Fact to fingerprint of the encoder, of facts that are maps of concepts."""

    def __len__(self) -> int:
        return len(self.patches)

    def select(self, rows: npt.NDArray[np.integer]) -> ConceptData:
        """Only these rows, in this order."""

        def some(values: Floats | None) -> Floats | None:
            return None if values is None else values[rows]

        return replace(
            self,
            patches=self.patches.select(rows),
            inputs=self.inputs[rows],
            uncertainty=some(self.uncertainty),
            concepts=self.concepts[rows],
            colours=some(self.colours),
        )


def load_concept_data(
    config: ConceptTrainConfig,
    criteria: Criteria,
    *,
    device: str = "auto",
    load: Load | None = None,
    on_done: OnDone = lambda done, total: None,
) -> ConceptData:
    """Load classes, inputs and concept labels of a configuration.

    Parameters
    ----------
    load
        Gives the encoder of a name; default: `wsikit.encoders.registry.load_encoder`.

    Raises
    ------
    RequestError
        If a part of the data is missing or inconsistent.
    """
    mapped, mpp = configured_table(config)
    table, settings = mapped.table, config.concepts
    uncertainty: Floats | None = None
    maps: Mapping[str, str] = {}
    if config.image is None:
        stated = settings.facts == "captions"
        found = _facts(table, config, criteria.facts, mpp, captions=stated)
        patches, inputs, uncertainty, mpp = found.patches, found.values, found.uncertainty, found.mpp
        colours, encoder, maps = found.colours, None, found.maps
        words = f"{len(patches)} patches with {'stated' if stated else 'measured'} facts at {mpp:.4g} µm/px."
    else:
        loader = load or encoder_loader(device)
        wanted = config.image
        if settings.scores == "text" and isinstance(table.pixels, StorePixels) and not wanted.features.endswith(SHARED):
            wanted = wanted.model_copy(update={"features": wanted.features + SHARED})
        features = features_of_table(
            table, mpp, config.name, config.data, config.codes, wanted,
            colours=config.colour_floor, device=device, on_done=on_done,
            load=lambda name: _wrapped(loader(name), config),
        )  # fmt: skip
        patches, inputs, colours, encoder = features.patches, features.features, features.colours, features.encoder
        mpp, words = features.mpp, features.words
    concepts = _labels(settings.labels, config, criteria, table, patches, mpp)
    known = (concepts != UNKNOWN).mean(axis=0)
    words += f" Concept labels: {words_of_labels(settings.labels)}."
    if missing := [key for key, share in zip(criteria.axes, known, strict=True) if share == 0]:
        words += f" No label of {', '.join(missing)}."
    return ConceptData(
        patches, inputs, uncertainty, concepts, colours, encoder, mpp, words + words_of_dropped(mapped.dropped), maps
    )


def words_of_labels(labels: ConceptLabels) -> str:
    """Where concept labels come from, for the model card."""
    return {
        "facts": "facts measured on the patch, by the limits of the criteria",
        "captions": "facts that the captions state, by the limits of the criteria",
        "table": "a table with one column per axis, independent of the class",
        "class": "COPIED FROM THE CLASS: the concepts repeat the class and explain nothing beyond it",
    }[labels.source]


@dataclass(frozen=True)
class _Measured:
    patches: PatchSet
    values: Floats
    uncertainty: Floats
    colours: Floats | None
    mpp: float
    maps: Mapping[str, str]


def _facts(
    table: ImageTable, config: ConceptTrainConfig, names: Sequence[str], mpp: float, *, captions: bool
) -> _Measured:
    """Facts (N, F) of a table's patches: of stores, their columns; of images, measured, or parsed from captions."""
    maps: dict[str, str] = {}
    if isinstance(table.pixels, StorePixels):
        values, spread, maps = _stored_facts(table.pixels, np.asarray(table.rows), names, captions=captions)
        colours = None
        if config.colour_floor and not captions:
            colours = np.concatenate([colour_histogram(np.stack(table.images([row]))) for row in range(len(table))])
    else:
        if of_maps := [name for name in names if name.startswith(MAP_FACT)]:
            raise RequestError(f"{of_maps[0]}: the map of a concept by words is of stores; these data are images.")
        plan = plan_images(table, patch_px=config.data.patch_px, odd_sizes=config.data.odd_sizes)
        table, mpp = plan.table, mpp * plan.side / plan.patch_px
        colours = None
        if captions:
            values, spread = facts_of_texts([text or "" for text in table.captions], names)
        else:
            from wsikit.captions import load_captioner

            captioner = load_captioner(config.concepts.captioner)
            parts, seen = [], []
            for _, images in plan.batches(256):
                parts.append(_measured(captioner, images, mpp, names))
                seen += [colour_histogram(images)] if config.colour_floor else []
            values = np.concatenate(parts)
            spread, colours = np.zeros_like(values), np.concatenate(seen) if seen else None
    return _Measured(patches_of_table(table, config.data, config.codes), values, spread, colours, mpp, maps)


def _measured(captioner: Captioner, images: npt.NDArray[np.uint8], mpp: float, names: Sequence[str]) -> Floats:
    described = captioner.caption(images, mpp=mpp)
    return np.array([[one.facts.get(name, np.nan) for name in names] for one in described], np.float32).reshape(
        -1, len(names)
    )


def _stored_facts(
    pixels: StorePixels, rows: npt.NDArray[np.int64], names: Sequence[str], *, captions: bool
) -> tuple[Floats, Floats, dict[str, str]]:
    maps: dict[str, str] = {}
    values = np.full((len(rows), len(names)), np.nan, np.float32)
    spread = np.zeros_like(values)
    for table, there, wanted in pixels.tables(rows):
        for name in (name for name in names if name.startswith(MAP_FACT)):
            encoder = map_encoder(table, name)
            if maps.setdefault(name, encoder) != encoder:
                raise RequestError(f"{table.folder}: {name} is by another encoder than in the other stores.")
        column: str | None = "caption" if captions or FACTS_COLUMN not in table.columns() else FACTS_COLUMN
        if len(maps) == len(names):
            column = None
        elif column not in table.columns():
            raise RequestError(
                f"{table.folder}: no captions, so no facts. Describe the patches first: wsikit caption "
                f"{table.folder.parent.parent}"
            )
        found, widths = FactSource(column, tuple(names)).read(table)
        values[there], spread[there] = found[wanted], widths[wanted]
    return values, spread, maps


def _labels(
    labels: ConceptLabels,
    config: ConceptTrainConfig,
    criteria: Criteria,
    table: ImageTable,
    patches: PatchSet,
    mpp: float,
) -> Labels:
    """Option of each axis, (N, K), for the patches that were loaded."""
    axes = criteria.axes
    found = np.full((len(patches), len(axes)), UNKNOWN, np.int64)
    if labels.source == "class":
        for axis, (key, one) in enumerate(axes.items()):
            places = {option: index for index, option in enumerate(one.options)}
            for label, code in enumerate(config.codes):
                option = labels.of_class.get(code, {}).get(key)
                if option is not None and option not in places:
                    raise RequestError(f"of_class: {code}: {key} has no option {option!r} ({', '.join(places)}).")
                if option is not None:
                    found[patches.labels == label, axis] = places[option]
        return found
    if labels.source == "table":
        return _from_table(labels, config, criteria, patches)
    names = [name for name in criteria.facts if not name.startswith(MAP_FACT)]  # a map is no truth of its concept
    if not names:
        return found
    measured = _facts(table, config, names, mpp, captions=labels.source == "captions")
    of_id = {one: row for row, one in enumerate(measured.patches.ids)}
    rows = [of_id[one] for one in patches.ids]
    columns = {name: column for column, name in enumerate(names)}
    for axis, one in enumerate(axes.values()):
        if one.fact in columns:
            found[:, axis] = options_of_values(measured.values[rows, columns[one.fact]], one)
    return found


def _from_table(labels: ConceptLabels, config: ConceptTrainConfig, criteria: Criteria, patches: PatchSet) -> Labels:
    path = _label_table(labels, config)
    file_column = "file_name" if config.data.table is None else config.data.table.columns.file
    table = read_table(path, (file_column, *criteria.axes))
    if file_column not in table.used or not set(criteria.axes) & set(table.used):
        raise RequestError(
            f"{path}: columns {', '.join(table.columns)}; expected {file_column} and a column for each of "
            f"{', '.join(criteria.axes)}."
        )
    found = np.full((len(patches), len(criteria.axes)), UNKNOWN, np.int64)
    rows = {row.get(file_column, ""): (line, row) for line, row in table.rows}
    if missing := [one for one in patches.ids if one not in rows]:
        raise RequestError(f"{path}: no row for {missing[0]} ({len(missing)} of {len(patches)} patches).")
    for at, one in enumerate(patches.ids):
        line, row = rows[one]
        for axis, (key, options) in enumerate((key, tuple(one.options)) for key, one in criteria.axes.items()):
            value = row.get(key) or ""
            if value and value not in options:
                raise RequestError(f"{path}, line {line}: {value!r} in column {key!r}; expected {', '.join(options)}.")
            found[at, axis] = options.index(value) if value else UNKNOWN
    return found


def _label_table(labels: ConceptLabels, config: ConceptTrainConfig) -> Path:
    source = config.data.table
    if labels.csv is not None:
        path = Path(labels.csv)
    elif source is None:
        raise RequestError("labels: source table needs csv where the data are not a table.")
    elif source.csv is not None:
        path = Path(source.csv) if Path(source.csv).is_file() else Path(source.images) / source.csv
    else:
        tables = sorted(Path(source.images).glob("*.csv")) if Path(source.images).is_dir() else []
        if len(tables) != 1:
            raise RequestError(f"{source.images}: {len(tables)} CSV files; name the table of the labels (labels: csv).")
        path = tables[0]
    if not path.is_file():
        raise RequestError(
            f"{path}: no such file. Give the table of concept labels (labels: csv); in a zip it is not read."
        )
    return path


class _Shared:
    """An encoder whose features are its places in the space that images and texts share."""

    def __init__(self, encoder: TextImageEncoder) -> None:
        self._encoder = encoder

    @property
    def info(self) -> EncoderInfo:
        info = self._encoder.info
        return replace(info, name=info.name + SHARED, width=info.shared_width or 0)

    def encode(self, images: npt.NDArray[np.uint8]) -> Floats:
        return self._encoder.encode_shared(images)


def _wrapped(encoder: PatchEncoder, config: ConceptTrainConfig) -> PatchEncoder:
    """The encoder as the scores read it: its features, its tokens, or its places in the space shared with texts."""
    if config.concepts.attend.token_side is not None and config.concepts.mode == "attend":
        return TokenVectors(encoder, config.concepts.attend.token_side)
    if config.concepts.scores == "text":
        if not isinstance(encoder, TextImageEncoder):
            raise ModelError(f"encoder {encoder.info.name}: has no texts, so scores: text is not possible with it.")
        return _Shared(encoder)
    return encoder


def chosen_axes(criteria: Criteria, config: ConceptTrainConfig, message: Callable[[str], None]) -> Criteria:
    """The axes that a configuration uses: those that it names, and of scores by facts those that a fact scores.

    RequestError if it names an unknown one, or none is left.
    """
    wanted = config.concepts.axes
    if unknown := [key for key in wanted if key not in criteria.axes]:
        raise RequestError(f"axes: no {', '.join(unknown)} in criteria {criteria.name} ({', '.join(criteria.axes)}).")
    criteria = criteria.only(wanted) if wanted else criteria
    unscored = [key for key, axis in criteria.axes.items() if axis.fact is None]
    if config.concepts.scores == "facts" and unscored:
        message(f"no fact scores {', '.join(unscored)}: left out")
        criteria = criteria.only([key for key in criteria.axes if key not in unscored])
    if not criteria.axes:
        raise RequestError(
            f"criteria {criteria.name}: no axis is left. Name the facts that score them, or other scores."
        )
    return criteria


def labels_by_name(concepts: Labels, criteria: Criteria) -> Mapping[str, list[str | None]]:
    """Labels (N, K) as options by axis, one per patch, as `ConceptHead.predict(set=…)` takes them."""
    return {
        key: [tuple(axis.options)[index] if index >= 0 else None for index in column.tolist()]
        for (key, axis), column in zip(criteria.axes.items(), concepts.T, strict=True)
    }
