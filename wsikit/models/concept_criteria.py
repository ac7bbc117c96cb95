"""Criteria of a concept head, as data: axes such as neuropil, each with options from little to much.

An option has texts, which an encoder of texts turns into anchors; an axis may name the fact (`wsikit.facts`) that
scores it, and each option the upper limit of that fact. `inpc` comes with the package; any YAML or JSON file of this
form can be given instead. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wsikit.errors import RequestError
from wsikit.facts import FACTS
from wsikit.models.protocol import MAP_FACT, ConceptAxis
from wsikit.setting_faults import faults_in_words

UNKNOWN = -1
"""Label of a patch whose option is not known."""

_FOLDER = Path(__file__).parent / "criteria"
_KEY = r"^[a-z0-9][a-z0-9-]*$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Option(_Strict):
    """One option of an axis."""

    texts: tuple[str, ...] = Field(min_length=1)
    """Texts that describe it: their mean is its anchor."""
    below: float | None = None
    """Upper limit of the axis' fact, exclusive; None for the last option."""


class Axis(_Strict):
    """One criterion."""

    title: str
    fact: str | None = None
    """Name of the fact that scores it, or `localize:KEY`, the map of a concept; None: no fact does."""
    options: dict[str, Option] = Field(min_length=2)
    """By key, from little to much."""

    @model_validator(mode="after")
    def _limits(self) -> Axis:
        below = [option.below for option in self.options.values()]
        if self.fact is None:
            if any(limit is not None for limit in below):
                raise ValueError(f"{self.title}: options have limits (below), but the axis names no fact")
            return self
        if self.fact not in FACTS and not self.fact.startswith(MAP_FACT):
            raise ValueError(f"{self.title}: no fact {self.fact!r}; known: {', '.join(FACTS)}, or {MAP_FACT}KEY")
        inner = [limit for limit in below[:-1] if limit is not None]
        if len(inner) != len(below) - 1 or below[-1] is not None or inner != sorted(set(inner)):
            raise ValueError(
                f"{self.title}: every option but the last needs a limit (below), each above the one before"
            )
        return self

    @property
    def limits(self) -> tuple[float, ...]:
        """Inner limits of the fact, ascending, one fewer than options; empty without a fact."""
        return tuple(option.below for option in self.options.values() if option.below is not None)


class Criteria(_Strict):
    """Axes by key, in order."""

    name: str
    title: str = ""
    axes: dict[str, Axis] = Field(min_length=1)

    @model_validator(mode="after")
    def _keys(self) -> Criteria:
        import re

        for key in (*self.axes, *(option for axis in self.axes.values() for option in axis.options)):
            if not re.match(_KEY, key):
                raise ValueError(f"{key!r}: keys of axes and options are lower case letters, digits and hyphens")
        return self

    def public(self) -> tuple[ConceptAxis, ...]:
        """The axes for `ModelInfo.axes`."""
        return tuple(ConceptAxis(key, axis.title, tuple(axis.options)) for key, axis in self.axes.items())

    def only(self, keys: Sequence[str]) -> Criteria:
        """The criteria with these axes only, in their order."""
        return self.model_copy(update={"axes": {key: axis for key, axis in self.axes.items() if key in set(keys)}})

    @property
    def facts(self) -> tuple[str, ...]:
        """Facts that the axes name, each once, in order."""
        return tuple(dict.fromkeys(axis.fact for axis in self.axes.values() if axis.fact is not None))

    @property
    def columns(self) -> tuple[slice, ...]:
        """Per axis the columns of its options, of S in all."""
        ends = np.cumsum([len(axis.options) for axis in self.axes.values()]).tolist()
        return tuple(slice(first, last) for first, last in zip([0, *ends[:-1]], ends, strict=True))

    @property
    def n_options(self) -> int:
        """S, options of all axes."""
        return sum(len(axis.options) for axis in self.axes.values())


def read_criteria(spec: str) -> Criteria:
    """The packaged criteria of this name, or those of a YAML or JSON file.

    Raises
    ------
    RequestError
        There is no such file, or it is not of the form that docs/concepts.md describes.

    >>> criteria = read_criteria("inpc")
    >>> tuple(criteria.axes["neuropil"].options)
    ('absent', 'scant', 'moderate', 'abundant')
    """
    packaged = {path.stem: path for path in _FOLDER.glob("*.yaml")}
    path = packaged.get(spec, Path(spec))
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        known = ", ".join(sorted(packaged))
        raise RequestError(f"criteria {spec!r}: no such file, and not one of the package ({known}).") from error
    try:
        if path.suffix.lower() == ".json":
            record: Any = json.loads(text)
        else:
            import yaml

            record = yaml.safe_load(text)
        return Criteria.model_validate(record)
    except ValidationError as error:
        raise RequestError(f"{path}: {faults_in_words(error, Criteria)}. See docs/concepts.md for the form.") from error
    except Exception as error:  # errors of two parsers
        raise RequestError(
            f"{path}: neither YAML nor JSON that can be read ({' '.join(str(error).split())})."
        ) from error


def options_of_values(values: npt.NDArray[np.floating], axis: Axis) -> npt.NDArray[np.int64]:
    """The option of each value (N,) of the axis' fact; `UNKNOWN` where the value is not finite.

    >>> options_of_values(np.array([0.0, 0.11, 0.9, np.nan]), read_criteria("inpc").axes["neuropil"]).tolist()
    [0, 1, 3, -1]
    """
    options = np.searchsorted(np.asarray(axis.limits), np.nan_to_num(values), side="right")
    return np.where(np.isfinite(values), options, UNKNOWN).astype(np.int64)
