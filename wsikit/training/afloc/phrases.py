"""Phrases of the user's own for what captions state by grades: a pathologist's words for what was measured.

Captions of coarse pixels name stains and tones, not cells. A phrase gives words such as "crowded dark nuclei" to the
patches whose captions have certain grades. Rules read captions only: no label is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsikit.captions.parser import parse
from wsikit.encoders.prompts import is_negated

Rule = dict[str, tuple[str, ...]]
"""Term, as `wsikit.captions.parse` names it, to the grades of which the caption has one; all terms must fit."""


class Phrase(BaseModel):
    """Words, and of which captions they are true."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    say: tuple[str, ...] = Field(min_length=1)
    """Wordings of the phrase."""
    where: Rule = Field(min_length=1)
    """Captions of which it is true."""
    deny: tuple[str, ...] = ()
    """Wordings of its opposite. The level `presence` compares the two."""
    deny_where: Rule = {}
    """Captions of which the opposite is true. Captions that fit neither rule decide nothing."""

    @model_validator(mode="after")
    def _opposites(self) -> Phrase:
        if bool(self.deny) != bool(self.deny_where):
            raise ValueError("deny and deny_where: give both, or neither")
        if empty := [text for text in (*self.say, *self.deny) if not any(sign.isalnum() for sign in text)]:
            raise ValueError(f"say, deny: {empty[0]!r} has no word")
        if negated := [text for text in self.say if is_negated(text)]:
            raise ValueError(f"say: {negated[0]!r} is negated; write it under deny")
        if set(self.say) & set(self.deny):
            raise ValueError(f"{sorted(set(self.say) & set(self.deny))[0]!r} is said and denied")
        return self


def fits(rule: Mapping[str, Sequence[str]], read: Mapping[str, str]) -> bool:
    """Whether a caption, as parsed, has one of the wanted grades of every term.

    >>> fits({"eosin": ("scant", "absent")}, {"eosin": "scant", "haematoxylin": "abundant"})
    True
    """
    return all(read.get(term) in grades for term, grades in rule.items())


def answers(phrases: Sequence[Phrase], captions: Sequence[str]) -> npt.NDArray[np.float32]:
    """Whether each phrase is true of each caption, float32 (N, P): 1, 0 where its opposite is, else NaN.

    >>> dark = Phrase(say=("dark",), where={"eosin": ("absent",)}, deny=("pale",), deny_where={"eosin": ("abundant",)})
    >>> answers([dark], ["Eosin absent.", "Eosin abundant.", "Eosin scant."])[:, 0].tolist()
    [1.0, 0.0, nan]
    """
    found = np.full((len(captions), len(phrases)), np.nan, dtype=np.float32)
    for row, caption in enumerate(captions):
        read = parse(caption)
        for column, phrase in enumerate(phrases):
            if fits(phrase.where, read):
                found[row, column] = 1
            elif phrase.deny_where and fits(phrase.deny_where, read):
                found[row, column] = 0
    return found
