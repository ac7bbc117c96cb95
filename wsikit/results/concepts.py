"""What concepts contributed to a slide's result, and to that of each patch, from the columns of a concept head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.models.concept_setting import CONCEPT_COLUMN, CONTRIBUTION_COLUMN
from wsikit.results.load import StoredResults

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ConceptShare:
    """One axis on one slide."""

    title: str
    options: tuple[str, ...]
    shares: tuple[float, ...]
    """Mean probability of each option over the patches that vote."""
    contribution: float
    """Mean over these patches of what the axis adds to the logit of the class, compared with the training patches."""

    @property
    def option(self) -> str:
        """The option with the greatest share."""
        return self.options[int(np.argmax(self.shares))]


def concept_axes(results: StoredResults) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """(key, title, options) of each axis of the slide's model whose columns are there; empty for other models."""
    if not len(results.table) or results.class_map.probs is None:
        return ()
    there = set(results.table.columns())
    axes = [(str(key), str(title), tuple(options)) for key, title, options in results.model.get("axes", ())]
    return tuple(axis for axis in axes if {CONCEPT_COLUMN + axis[0], CONTRIBUTION_COLUMN + axis[0]} <= there)


def concept_shares(results: StoredResults, class_index: int) -> tuple[ConceptShare, ...]:
    """Each axis of a slide, with its contribution to a class (index into the classes of the model), greatest first.

    The patches are those of voting classes.
    """
    voting = np.isin(results.class_map.labels, results.class_map.voting)
    if not voting.any():
        return ()
    found = []
    for key, title, options in concept_axes(results):
        shares = np.asarray(results.table.read(CONCEPT_COLUMN + key), np.float64)[voting]
        adds = np.asarray(results.table.read(CONTRIBUTION_COLUMN + key), np.float64)[voting, class_index]
        means = tuple(float(value) for value in np.nanmean(shares, axis=0))
        found.append(ConceptShare(title, options, means, float(np.nanmean(adds))))
    return tuple(sorted(found, key=lambda one: -abs(one.contribution)))


def concept_rows(results: StoredResults) -> tuple[tuple[str, str], ...]:
    """The section of the report: per axis its most probable option and its contribution to the leading class; means
    over the patches that vote."""
    if not concept_axes(results):
        return ()
    class_map, result = results.class_map, results.result
    if result is not None and result.leading is not None:
        index = class_map.voting[result.leading]
    else:
        counts = np.bincount(class_map.labels[class_map.labels >= 0], minlength=len(class_map.classes))
        index = max(class_map.voting, key=lambda one: int(counts[one]))
    code = class_map.classes[index]
    rows = [
        (one.title, f"{one.option} (mean probability {max(one.shares):.2f}), adds {one.contribution:+.2f} for {code}")
        for one in concept_shares(results, index)
    ]
    by_hand = ", ".join(f"{key} = {option}" for key, option in results.model.get("concepts_set", {}).items())
    return (*(([("Set by hand", by_hand)]) if by_hand else []), *rows)


def concept_facts(results: StoredResults) -> tuple[tuple[str, ...], tuple[str, ...], Floats | None]:
    """Per-patch numbers for the viewer: names, units and (N, F). Per axis what it adds to the logit of the patch's
    class, and the probability of its most probable option; NaN for the other options."""
    axes = concept_axes(results)
    if not axes:
        return (), (), None
    labels = results.class_map.labels
    known = np.flatnonzero(labels >= 0)
    blocks: list[tuple[float, list[str], list[str], Floats]] = []
    for key, title, options in axes:
        adds = np.full(len(labels), np.nan)
        adds[known] = np.asarray(results.table.read(CONTRIBUTION_COLUMN + key), np.float64)[known, labels[known]]
        shares = 100 * np.asarray(results.table.read(CONCEPT_COLUMN + key), np.float64)
        best = np.nan_to_num(shares).argmax(axis=1)[:, None] == np.arange(len(options))
        values = np.column_stack([np.where(best, shares, np.nan), adds.round(2)])
        own = [*(f"{title}: {option}" for option in options), f"{title}, adds to the class"]
        weight = float(np.nanmean(np.abs(adds))) if np.isfinite(adds).any() else 0.0
        blocks.append((weight, own, ["%"] * len(options) + ["logit"], values))
    blocks.sort(key=lambda block: -block[0])
    names = tuple(name for block in blocks for name in block[1])
    units = tuple(unit for block in blocks for unit in block[2])
    return names, units, np.concatenate([values for _, _, _, values in blocks], axis=1)
