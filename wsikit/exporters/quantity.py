"""One number per patch, by name, with unit and natural range: the input of heat maps.

`probability:PD`, `gate`, `caption_facts:nuclei_per_mm2`: column, and entry where a column holds several. `entropy` and
`margin` are computed from the probabilities. `localize:neuropil` is the map of a concept, column `localize_neuropil`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.encoders.concepts import COLUMN_PREFIX, CONCEPTS, lookup
from wsikit.encoders.prompts import slug, slug_without_signs
from wsikit.errors import RequestError, StoreError
from wsikit.inference.text_columns import shown_words
from wsikit.models.concept_setting import CONCEPT_COLUMN, CONTRIBUTION_COLUMN
from wsikit.store.table import PatchTable

DERIVED = ("entropy", "margin")
"""Computed, not stored: entropy of the class probabilities in bit; difference of the two highest probabilities."""

SATURATED_AT, SATURATED_SHARE = 0.99, 0.5
"""A map of probabilities is saturated where this share of the patches has this value or more."""

_CONCEPT = COLUMN_PREFIX.rstrip("_")
_CONCEPT_TITLES = {"probability": "probability by text", "similarity": "similarity to the text"}
_PROBABILITIES = ("probability", "probability_image", "probability_text")
_SHARE_UNITS = ("0 … 1", "share of the patch's area", "share")
_TITLES = {
    "gate": "Gate: weight of the caption",
    "entropy": "Entropy of the class probabilities",
    "margin": "Margin of the two leading classes",
    "ood_score": "Out-of-distribution score",
    "attention": "Attention: weight of the patch in the slide's result",
    "attention_score": "Attention score, before it is normalised",
    "tissue": "Tissue",
    "roi": "Region of interest",
    "probability_image": "Probability, image alone",
    "probability_text": "Probability, caption alone",
}
_FACT_ENDING = re.compile(r"_(share|um|per_mm2)$")
_UNITS = {
    "gate": "0 image … 1 caption",
    "entropy": "bit",
    "margin": "",
    "ood_score": "× the 99 % limit of held-out patches",
    "attention": "× the slide's mean",
}


@dataclass(frozen=True, eq=False)
class Quantity:
    """A number for each patch of a table."""

    name: str
    """As requested, such as probability:PD."""
    title: str
    """For display."""
    unit: str
    """Empty for pure numbers."""
    values: npt.NDArray[np.float64]
    """(N,); NaN where there is no value."""
    limits: tuple[float, float] | None
    """Natural range of the quantity, such as 0 to 1; None: the range of the values."""
    of_model: bool = False
    """Whether a classifier predicted it, whose notice is then shown; otherwise it was measured."""
    notice: str = ""
    """A notice of its own, shown with it."""
    summary: str = ""
    """Shown instead of the distribution of the values."""
    remark: str = ""
    """Shown next to the scale."""
    with_slide: bool = False
    """Whether the slide in its own colours is shown next to the map: what was found by words is checked by eye."""


def read_quantity(table: PatchTable, name: str) -> Quantity:
    """Read one quantity of a table.

    Parameters
    ----------
    name
        `column`, or `column:entry` for a column of several entries (by its name: class, fact), or one of `DERIVED`.

    Raises
    ------
    StoreError
        There is no such column yet.
    RequestError
        The column has several entries and none is named, or it holds text.
    """
    column, _, entry = name.partition(":")
    if column == _CONCEPT and entry and column not in table.columns():
        column, entry = _concept_column(table, entry), ""
    if column in DERIVED and column not in table.columns():
        return _derived(table, column)
    if column not in table.columns() or column == "coords":
        raise StoreError(
            f"{table.folder}: no column {column!r} to show; there are {', '.join(known_quantities(table))}."
        )
    attributes = table.attributes(column)
    values = _entry(table, table.read(column), column, entry)
    if values.dtype == object:
        raise RequestError(f"column {column} holds text, which cannot be drawn on a scale. Name a column of numbers.")
    unit = str(attributes.get("unit", "")) or _UNITS.get(column, "")
    title = _TITLES.get(column, column.replace("_", " "))
    limits: tuple[float, float] | None = None
    if column in _PROBABILITIES:
        title = f"{'Probability' if column == 'probability' else title}: {entry}"
        unit, limits = "", (0.0, 1.0)
    elif column == "caption_facts":
        unit, title = _fact_unit(entry), _FACT_ENDING.sub("", entry).replace("_", " ").capitalize()
        title = f"{title} {unit}" if unit.startswith("per ") else title
    elif column in ("gate", "roi", "readable") or unit in _SHARE_UNITS:
        unit, limits = _UNITS.get(column, unit), (0.0, 1.0)
    elif column in _UNITS:
        unit = _UNITS[column]
    of_concepts = column.startswith((CONCEPT_COLUMN, CONTRIBUTION_COLUMN)) and bool(entry)
    if of_concepts:
        title = f"{title.capitalize()}: {entry}"
        limits = (0.0, 1.0) if column.startswith(CONCEPT_COLUMN) else None
    if column == "attention":  # its sum over the slide is 1: shares of thousands of patches are too small to read
        total = float(np.nansum(values))
        values = values * np.isfinite(values).sum() / total if total > 0 else values
    notice = summary = remark = ""
    by_words = False
    if column.startswith(COLUMN_PREFIX) and "concept" in attributes:
        title = f"{shown_words(attributes)[0]}: {_CONCEPT_TITLES.get(unit, unit)}"
        stated = attributes.get("limits")
        limits = (float(stated[0]), float(stated[1])) if stated else None
        notice = str(attributes.get("notice", ""))
        summary, remark = _concept_summary(table, values, attributes), _concept_remark(table, column, values)
        by_words = True
    of_model = of_concepts or column in (
        *_PROBABILITIES,
        "gate",
        "ood_score",
        "attention",
        "attention_score",
        "value",
    )
    return Quantity(name, title, unit, values.astype(np.float64), limits, of_model, notice, summary, remark, by_words)


def concept_quantities(table: PatchTable) -> tuple[Quantity, ...]:
    """The maps of all concepts that were localised in a table."""
    return tuple(read_quantity(table, name) for name in table.columns() if name.startswith(COLUMN_PREFIX))


def known_quantities(table: PatchTable) -> list[str]:
    """Names that `read_quantity` accepts for a table; columns of unnamed entries (features) are left out."""
    found: list[str] = []
    columns = table.columns()
    for column in columns:
        if column == "coords" or table.is_text(column):
            continue
        if table.width(column) is None:
            found.append(column)
        else:
            found += [f"{column}:{name}" for name in table.attributes(column).get("names", ())]
    return found + (list(DERIVED) if "probability" in columns else [])


def _entry(table: PatchTable, values: npt.NDArray[Any], column: str, entry: str) -> npt.NDArray[Any]:
    """(N,) of a column, which may hold several entries per row."""
    names = [str(name) for name in table.attributes(column).get("names", ())]
    if values.ndim == 1:
        if entry:
            raise RequestError(f"column {column} has one value per patch: name {column!r} without {entry!r}")
        return values
    labels = names or [str(index) for index in range(values.shape[1])]
    if entry not in labels:
        shown = ", ".join(f"{column}:{label}" for label in labels[:12]) + (", …" if len(labels) > 12 else "")
        raise RequestError(f"column {column} has {values.shape[1]} values per patch: name one of {shown}")
    return values[:, labels.index(entry)]


def _concept_column(table: PatchTable, text: str) -> str:
    """The column of a concept, from its key, a text that it was asked by, or a word for it."""
    own, known, columns = COLUMN_PREFIX + slug(text), lookup(text), table.columns()
    if own in columns:
        return own
    if known is not None and COLUMN_PREFIX + known.key in columns:
        return COLUMN_PREFIX + known.key
    before = COLUMN_PREFIX + slug_without_signs(text)
    receipt = table.receipt(before) if before in columns else None
    asked = [] if receipt is None else [str(prompt) for prompt in receipt.parameters.get("prompts", ())]
    return before if any(text in prompt for prompt in asked) else own


def _concept_summary(table: PatchTable, values: npt.NDArray[Any], attributes: dict[str, Any]) -> str:
    """Presence score and area of a concept; empty where its values are no probabilities."""
    known = int(np.isfinite(values).sum())
    if attributes.get("unit") != "probability" or not known or attributes.get("presence") is None:
        return ""
    above = int((values >= 0.5).sum())
    area = f"{above * table.grid.cell_area_mm2:.3g} mm²"
    share = f"{above:,} of {known:,} patches"
    return f"Presence on the slide {attributes['presence']:.2f} · p ≥ 0.5 on {area}, {share}"


def _concept_remark(table: PatchTable, column: str, values: npt.NDArray[Any]) -> str:
    """What a concept was compared with, and whether the map is saturated."""
    receipt, attributes = table.receipt(column), table.attributes(column)
    keys = [] if receipt is None else [str(key) for key in receipt.parameters.get("against", {})]
    words = shown_words(attributes)[1]
    rivals = [words.get(key) or _rival(key) for key in keys]
    remarks = [f"Compared with: {'; '.join(rivals)}."] if rivals else []
    known = values[np.isfinite(values)]
    flat = float((known >= SATURATED_AT).mean()) if len(known) else 0.0
    if attributes.get("unit") == "probability" and flat >= SATURATED_SHARE:
        remarks.append(
            f"Saturated: p ≥ {SATURATED_AT:g} on {100 * flat:.0f} % of the patches, which it does not rank. "
            "For an order, map the similarity (--normalise none)."
        )
    return " ".join(remarks)


def _rival(key: str) -> str:
    """A competitor as it is written: names in their own capitals.

    >>> _rival("no-schwannian-stroma"), _rival("no-fat"), _rival("haemorrhage")
    ('no Schwannian stroma', 'no fat', 'Haemorrhage')
    """
    denied = CONCEPTS.get(key.removeprefix("no-"))
    if key not in CONCEPTS and key.startswith("no-") and denied is not None:
        return f"no {denied.synonyms[0]}"
    return CONCEPTS[key].title if key in CONCEPTS else key.replace("-", " ")


def _derived(table: PatchTable, name: str) -> Quantity:
    if "probability" not in table.columns():
        raise StoreError(f"{table.folder}: {name} is computed from probabilities. Run wsikit predict first.")
    probs = table.read("probability").astype(np.float64)
    n_classes = probs.shape[1]
    missing: npt.NDArray[np.bool_] = np.asarray(np.isnan(probs).any(axis=1))
    if name == "entropy":
        with np.errstate(divide="ignore", invalid="ignore"):
            values = -np.where(probs > 0, probs * np.log2(probs), 0.0).sum(axis=1)
        limits = (0.0, float(np.log2(n_classes)))
    else:
        ranked = np.sort(np.where(missing[:, None], 0.0, probs), axis=1)
        values, limits = ranked[:, -1] - ranked[:, -2], (0.0, 1.0)
    return Quantity(name, _TITLES[name], _UNITS[name], np.where(missing, np.nan, values), limits, True)


def _fact_unit(fact: str) -> str:
    from wsikit.facts import FACTS

    unit = FACTS[fact].unit if fact in FACTS else ""
    return {"density": "optical density", "count": "per patch", "ratio": ""}.get(unit, unit)
