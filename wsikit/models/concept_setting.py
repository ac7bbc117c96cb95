"""Concepts that are set by hand: which options a model has, and how its description states them. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from wsikit.errors import RequestError
from wsikit.models.protocol import ConceptAxis, ModelInfo

CONCEPT_COLUMN, CONTRIBUTION_COLUMN = "concept_", "contribution_"
"""Prefixes of the columns of an axis: probabilities of its options (N, O), and what it adds to the logits (N, C)."""


def check_settings(axes: Sequence[ConceptAxis], wanted: Mapping[str, str], model: str) -> tuple[tuple[str, str], ...]:
    """The options that are to be set, as (axis, option), in the order of the axes.

    Raises
    ------
    RequestError
        For an axis or option that the model does not have, with the list of those that it has.
    """
    if wanted and not axes:
        raise RequestError(f"model {model}: has no concepts that could be set; train one with architecture: concepts.")
    known = {axis.name: axis for axis in axes}
    for name, option in wanted.items():
        if name not in known:
            raise RequestError(f"model {model}: no axis {name!r}; it has {', '.join(known)}.")
        if option not in known[name].options:
            raise RequestError(
                f"model {model}: {name} has no option {option!r}; it has {', '.join(known[name].options)}."
            )
    return tuple((name, wanted[name]) for name in known if name in wanted)


def info_with_concepts(info: ModelInfo, options: Mapping[str, str]) -> ModelInfo:
    """The description of a model with these concepts set, by axis: also its notice, which every output shows, says so.

    RequestError as by `check_settings`.
    """
    chosen = check_settings(info.axes, options, info.name)
    words = ", ".join(f"{name} = {option}" for name, option in chosen)
    notice = f"{info.notice} Concepts set by hand in every patch: {words}." if chosen else info.notice
    return replace(info, notice=notice, concepts_set=chosen)


def parse_settings(texts: Iterable[str]) -> dict[str, str]:
    """`--set AXIS=OPTION` as a mapping.

    Raises
    ------
    RequestError
        For a text of another form, or an axis that is set twice.

    >>> parse_settings(["neuropil=absent"])
    {'neuropil': 'absent'}
    """
    found: dict[str, str] = {}
    for text in texts:
        name, sign, option = (part.strip() for part in text.partition("="))
        if not (name and sign and option):
            raise RequestError(f"--set {text!r}: expected AXIS=OPTION, such as neuropil=absent.")
        if name in found:
            raise RequestError(f"--set {text!r}: {name} is set twice.")
        found[name] = option
    return found
