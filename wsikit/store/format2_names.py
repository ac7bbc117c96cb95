"""The names that stores of format 2 use on disk, and their translation from and to the names in memory.

Format 3 stores the names that the code uses. A store of format 2 keeps its old names for as long as it exists: what is
read from it is renamed, and what is written into it is renamed back, so that no store holds two names for one thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wsikit.store.receipts import Receipt

FORMAT = 2

COLUMNS = {"novelty": "ood_score", "caption_row": "caption_source"}
"""Columns of a patch table: name in format 2, name today."""

FACTS = {
    "hue": "red_green_od_ratio",
    "warmth": "blue_green_od_ratio",
    "hue_variety": "red_green_od_ratio_sd",
    "ground": "od_p10",
    "body": "od_p50",
    "darkest": "od_p90",
    "grain": "fine_texture_sd",
    "patchiness": "coarse_texture_sd",
    "nuclear_grain": "nuclear_texture_sd",
}
"""Measured facts: entries of the column caption_facts, named in its attribute `names`."""

VOTE_KEYS = {"novel_share": "ood_fraction", "n_weightless": "n_background", "weightless_mm2": "background_mm2"}
"""Keys of the record of a vote."""

PARAMETERS = {"max_novel": "max_ood"}
"""Parameters in receipts."""

FACT_COLUMN, FACT_PARAMETER = "caption_facts", "slide"
"""Where fact names occur: the entries of this column, and the keys of this parameter of a captioner's receipt."""


class Names:
    """Translation between the names on disk and those in memory, for a store of one format.

    Parameters
    ----------
    store_format
        `format` of the store's root; from 3 on, names are equal on disk and in memory.

    >>> Names(2).stored_column("caption_source"), Names(3).stored_column("caption_source")
    ('caption_row', 'caption_source')
    """

    def __init__(self, store_format: int) -> None:
        self.store_format = store_format
        self.translated = store_format == FORMAT
        """Whether any name differs on disk."""

    def column(self, stored: str) -> str:
        """Name in memory of a column that is called `stored` on disk."""
        return COLUMNS.get(stored, stored) if self.translated else stored

    def stored_column(self, name: str) -> str:
        """Name on disk of the column `name`."""
        return _inverse(COLUMNS).get(name, name) if self.translated else name

    def attributes(self, column: str, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes of a column as read from disk; `column` is its name in memory."""
        return self._renamed_facts(column, stored, FACTS)

    def stored_attributes(self, column: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes of a column as they are written to disk."""
        return self._renamed_facts(column, attributes, _inverse(FACTS))

    def vote(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Record of a vote as read from disk."""
        return _renamed_keys(stored, VOTE_KEYS) if self.translated else dict(stored)

    def stored_vote(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Record of a vote as it is written to disk."""
        return _renamed_keys(record, _inverse(VOTE_KEYS)) if self.translated else dict(record)

    def facts(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Facts by name, as read from a journal."""
        return _renamed_keys(stored, FACTS) if self.translated else dict(stored)

    def stored_facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Facts by name, as they are written to a journal."""
        return _renamed_keys(facts, _inverse(FACTS)) if self.translated else dict(facts)

    def receipt(self, stored: Receipt, of_column: Callable[[str], Receipt | None]) -> Receipt:
        """A receipt as read from disk: parameters and inputs renamed.

        A receipt lists the digests of the columns that were read, and a digest changes with the names. So where an
        input is the digest of a column as it is on disk, the digest of its renamed receipt takes its place. Whatever
        was up to date before the renaming is up to date after it.

        Parameters
        ----------
        of_column
            The receipt on disk of the column with this name in memory, or None.
        """
        if not self.translated:
            return stored
        inputs = {}
        for key, digest in stored.inputs.items():
            column = COLUMNS.get(key, key)
            found = of_column(column)
            known = found is not None and found.digest == digest
            inputs[column] = self.receipt(found, of_column).digest if found is not None and known else digest
        return Receipt(stored.stage, stored.revision, _renamed_parameters(stored.parameters, PARAMETERS, FACTS), inputs)

    def stored_receipt(self, receipt: Receipt, of_column: Callable[[str], Receipt | None]) -> Receipt:
        """A receipt as it is written to disk: the inverse of `receipt`."""
        if not self.translated:
            return receipt
        inputs = {}
        for key, digest in receipt.inputs.items():
            found = of_column(key)
            known = found is not None and self.receipt(found, of_column).digest == digest
            inputs[self.stored_column(key)] = found.digest if found is not None and known else digest
        parameters = _renamed_parameters(receipt.parameters, _inverse(PARAMETERS), _inverse(FACTS))
        return Receipt(receipt.stage, receipt.revision, parameters, inputs)

    def _renamed_facts(self, column: str, attributes: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
        found = dict(attributes)
        if self.translated and column == FACT_COLUMN and "names" in found:
            found["names"] = [table.get(name, name) for name in found["names"]]
        return found


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in table.items()}


def _renamed_keys(record: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """`record` with its keys renamed, those of nested records too."""
    return {
        table.get(key, key): _renamed_keys(value, table) if isinstance(value, Mapping) else value
        for key, value in record.items()
    }


def _renamed_parameters(
    record: Mapping[str, Any], parameters: Mapping[str, str], facts: Mapping[str, str]
) -> dict[str, Any]:
    """Parameters with their keys renamed; fact names are renamed below the key `FACT_PARAMETER` only."""
    renamed: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            value = (
                _renamed_keys(value, facts) if key == FACT_PARAMETER else _renamed_parameters(value, parameters, facts)
            )
        renamed[parameters.get(key, key)] = value
    return renamed
