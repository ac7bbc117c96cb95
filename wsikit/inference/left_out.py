"""Patches that are left without a prediction for what they show, such as necrosis: facts of captions, maps of words.

A model of subtypes gives each patch one of its classes. Tissue that none of them means then takes the colour of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError, StoreError
from wsikit.facts import FACTS
from wsikit.models.protocol import MAP_FACT

if TYPE_CHECKING:
    from wsikit.inference.fact_columns import FactSource
    from wsikit.store.table import PatchTable

SHARE = 0.5
"""Limit where none is given: more than half of a patch, or more probable than all that competes."""


@dataclass(frozen=True)
class LeftOut:
    """Facts of a table with the limits above which a patch is left out."""

    source: FactSource
    limits: tuple[float, ...]
    """Of each name of `source`."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table that are read."""
        return self.source.columns

    def record(self) -> dict[str, Any]:
        """For the receipt of the predictions."""
        return {**self.source.record(), "limits": list(self.limits)}

    def rows(self, table: PatchTable, rows: slice = slice(None)) -> npt.NDArray[np.bool_]:
        """Of some rows, bool (B,): True where a fact is above its limit. An unknown fact leaves nothing out."""
        values, _ = self.source.read(table, rows)
        return np.asarray((values > np.asarray(self.limits)).any(axis=1), dtype=np.bool_)  # NaN is not above


def left_out(table: PatchTable, without: Mapping[str, float]) -> LeftOut | None:
    """Where a table has the facts of `without`, fact to limit; None if it is empty.

    Raises
    ------
    RequestError
        As `check_without`.
    StoreError
        The table has no captions, or no map of a concept: what is to be run first.
    """
    if not without:
        return None
    from wsikit.inference.fact_columns import FactSource, map_encoder, source_of_captions  # zarr; options need none

    check_without(without)
    names = tuple(without)
    maps = [name for name in names if name.startswith(MAP_FACT)]
    for name in maps:
        map_encoder(table, name)
    column = source_of_captions(table, names) if len(maps) < len(names) else None
    if column is None and len(maps) < len(names):
        stated = ", ".join(name for name in names if name not in maps)
        raise StoreError(
            f"{table.folder}: no captions, so {stated} is not known. Describe the patches first:  wsikit caption "
            f"{table.folder.parent.parent}"
        )
    return LeftOut(FactSource(column, names), tuple(float(limit) for limit in without.values()))


def check_without(without: Mapping[str, float]) -> None:
    """Refuse what can be no share of a patch.

    Raises
    ------
    RequestError
        Neither a share that captions state nor `localize:CONCEPT`, or a limit outside 0 to 1.
    """
    shares = [name for name, fact in FACTS.items() if fact.unit == "share"]
    for name, limit in without.items():
        if name not in shares and not (name.startswith(MAP_FACT) and name != MAP_FACT):
            raise RequestError(
                f"without {name!r}: neither localize:CONCEPT, a map of wsikit localize, nor a measured share; these "
                f"are {', '.join(shares)}."
            )
        if not 0 <= limit <= 1:
            raise RequestError(f"without {name}: limit {limit:g}; expected a share, 0 to 1.")


def parse_without(texts: Iterable[str]) -> dict[str, float]:
    """`--without FACT` or `--without FACT=SHARE` as a mapping.

    Raises
    ------
    RequestError
        For a text of another form, a fact that is named twice, or as `check_without`.

    >>> parse_without(["necrosis_share", "localize:schwannian-stroma=0.7"])
    {'necrosis_share': 0.5, 'localize:schwannian-stroma': 0.7}
    """
    found: dict[str, float] = {}
    for text in texts:
        name, sign, limit = (part.strip() for part in text.partition("="))
        if name in found:
            raise RequestError(f"--without {text!r}: {name} is named twice.")
        try:
            found[name] = float(limit) if sign else SHARE
        except ValueError as error:
            raise RequestError(f"--without {text!r}: expected FACT=SHARE, such as necrosis_share=0.5.") from error
    check_without(found)
    return found
