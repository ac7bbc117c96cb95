"""The numbers of a table's captions as inputs of a model: measured, or parsed from words, with their uncertainty."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import StoreError
from wsikit.models.field_context import field_means
from wsikit.models.protocol import MAP_FACT, ModelInfo
from wsikit.store.table import PatchTable

logger = logging.getLogger(__name__)

FACTS_COLUMN, TEXT_COLUMN = "caption_facts", "caption"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FactSource:
    """The column of a table that holds the facts that a model reads."""

    column: str | None
    """`caption_facts`: measured, exact. `caption`: generated words, parsed to intervals. None: only maps are known."""
    names: tuple[str, ...]
    """Facts, in the model's order; maps of concepts (`localize:KEY`) are columns of their own."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table that are read."""
        maps = tuple(map_column(name) for name in self.names if name.startswith(MAP_FACT))
        return maps if self.column is None else (self.column, *maps)

    def record(self) -> dict[str, Any]:
        """For the receipt of the predictions."""
        found: dict[str, Any] = {"column": self.column, "names": list(self.names)}
        if self.column == TEXT_COLUMN:
            from wsikit.captions.parsed_facts import PARSED_REVISION

            found["parsed"] = PARSED_REVISION
        return found

    def read(self, table: PatchTable, rows: slice = slice(None)) -> tuple[Floats, Floats]:
        """Values and half-widths (B, F) of some rows; NaN, and 0, where a fact is not known."""
        values, widths = self._of_captions(table, rows)
        for column, name in enumerate(self.names):
            if name.startswith(MAP_FACT):
                values[:, column] = table.read(map_column(name), rows)
        return values, widths

    def _of_captions(self, table: PatchTable, rows: slice) -> tuple[Floats, Floats]:
        if self.column is None:
            values = np.full((len(table.coords[rows]), len(self.names)), np.nan, dtype=np.float32)
            return values, np.zeros_like(values)
        if self.column == TEXT_COLUMN:
            from wsikit.captions.parsed_facts import facts_of_texts

            texts = [str(text or "") for text in table.read(TEXT_COLUMN, rows)]
            return facts_of_texts(texts, self.names)
        stored = table.read(FACTS_COLUMN, rows)
        places = {name: column for column, name in enumerate(table.attributes(FACTS_COLUMN)["names"])}
        values = np.full((len(stored), len(self.names)), np.nan, dtype=np.float32)
        for column, name in enumerate(self.names):
            if name in places:
                values[:, column] = stored[:, places[name]]
        return values, np.zeros_like(values)

    def around(self, table: PatchTable, sd_um: float) -> Floats:
        """Means of the facts in the field around each patch of a table, (N, F); see `field_means`."""
        centres = (table.coords + np.asarray(table.grid.side) / 2) * np.asarray(table.grid.slide_mpp)
        return field_means(self.read(table)[0], centres, sd_um)


def map_column(fact: str) -> str:
    """The column of a fact that is the map of a concept.

    >>> map_column("localize:neuropil")
    'localize_neuropil'
    """
    return fact.replace(":", "_", 1)


def map_encoder(table: PatchTable, fact: str) -> str:
    """Fingerprint of the encoder that made the map of a concept.

    Raises
    ------
    StoreError
        If the table has no such map, or one that is no probability.
    """
    column, key = map_column(fact), fact.removeprefix(MAP_FACT)
    store = table.folder.parent.parent
    if column not in table.columns():
        raise StoreError(
            f"{table.folder}: no column {column}, the map of {key} by words. Make it:  wsikit localize {store} {key}"
        )
    unit = table.attributes(column).get("unit")
    receipt = table.receipt(column)
    if receipt is None or unit != "probability":
        raise StoreError(
            f"{table.folder}: {column} is {unit or 'of unknown unit'}; expected a probability. Make it again:  wsikit "
            f"localize {store} {key} --normalise softmax"
        )
    return str(receipt.inputs.get("encoder", ""))


def source_of_captions(table: PatchTable, names: Sequence[str], *, stated: bool = False) -> str | None:
    """The column of a table that holds facts of its captions, measured if they are; None if it has no captions.

    Facts that were measured for other captions than the table now has are not used: words and numbers belong together.
    `stated`: what the words state, also where facts were measured.
    """
    there = set(table.columns())
    texts = table.receipt(TEXT_COLUMN) if TEXT_COLUMN in there else None
    if FACTS_COLUMN in there and texts is not None and not stated:
        measured = table.receipt(FACTS_COLUMN)
        named = set(table.attributes(FACTS_COLUMN)["names"])
        if measured is not None and measured.digest == texts.digest and named & set(names):
            return FACTS_COLUMN
    return TEXT_COLUMN if texts is not None else None


def fact_source(table: PatchTable, model: ModelInfo) -> FactSource | None:
    """Where the facts that a model reads are in a table; None, with a warning, if it has none.

    Raises
    ------
    StoreError
        If a map that it reads is not there, or is by another encoder than in the training.
    """
    for fact, known in model.maps:
        found = map_encoder(table, fact)
        if found != known:
            raise StoreError(
                f"{table.folder}: {map_column(fact)} was made by an encoder with the fingerprint {found[:12]}, model "
                f"{model.name} was trained on maps by {known[:12]}. Run wsikit localize with that encoder."
            )
    if model.maps and len(model.maps) == len(model.facts):
        return FactSource(None, model.facts)
    column = source_of_captions(table, model.facts, stated=model.stated)
    if column is not None:
        return FactSource(column, model.facts)
    logger.warning(
        "%s: model %s reads the numbers of captions, and there are none: it predicts from the %s alone. Describe the "
        "patches first (wsikit caption --captioner %s).",
        table.folder,
        model.name,
        "features" if model.feature_columns else "image",
        model.captioner,
    )
    return FactSource(None, model.facts) if model.maps else None
