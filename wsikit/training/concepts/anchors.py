"""Anchors of options: the places of their texts, by an encoder of texts or as bags of words."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import numpy.typing as npt

from wsikit.encoders.prompts import PromptSet
from wsikit.errors import RequestError
from wsikit.models.concept_criteria import Criteria
from wsikit.models.text_encoders import LazyTextEncoder, places_of

LEXICON = "lexicon"
"""Name of the bags of words."""

Floats = npt.NDArray[np.float64]


def anchors_of(criteria: Criteria, encoder: str, *, device: str = "auto") -> tuple[Floats, float, str]:
    """Places (S, E) of the options' texts, each of length 1; the scale of cosines of their encoder; its fingerprint.

    Parameters
    ----------
    encoder
        As `wsikit localize --encoder` takes it: packaged, a preset with its weights (PLIP, KEEP, CONCH …), a folder; or
        "lexicon".

    Raises
    ------
    ModelError
        There is no such encoder, or it has no texts.
    RequestError
        Two options of an axis have the same anchor, so they cannot be distinguished.
    """
    groups = [option.texts for axis in criteria.axes.values() for option in axis.options.values()]
    if encoder == LEXICON:
        places, scale, fingerprint = bags_of_words(groups), 1 / 0.07, ""
    else:
        loaded = LazyTextEncoder.of(encoder, device=device)
        sets = [PromptSet(str(index), str(index), texts) for index, texts in enumerate(groups)]
        text_encoder = loaded.load()
        places, scale = places_of(text_encoder, sets), float(text_encoder.logit_scale)
        fingerprint = loaded.info.fingerprint
    for (key, axis), columns in zip(criteria.axes.items(), criteria.columns, strict=True):
        cosines = places[columns] @ places[columns].T - np.eye(len(axis.options))
        if cosines.max() > 1 - 1e-9:
            raise RequestError(f"{key}: two options have the same anchor ({encoder}); give them other texts.")
    return places, scale, fingerprint


def bags_of_words(groups: list[tuple[str, ...]]) -> Floats:
    """Places (S, V) of groups of texts: which words they have, weighted by their rarity over the groups; length 1.

    >>> bags_of_words([("neuropil absent",), ("neuropil abundant",)]).round(3).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    bags = [Counter(word for text in texts for word in re.findall(r"[a-z0-9<>]+", text.lower())) for texts in groups]
    words = sorted({word for bag in bags for word in bag})
    there = np.array([[word in bag for word in words] for bag in bags], float)
    rarity = np.log(len(groups) / there.sum(axis=0))
    counts = np.array([[bag[word] for word in words] for bag in bags], float) * rarity
    length = np.linalg.norm(counts, axis=1, keepdims=True)
    if not (length > 0).all():
        raise RequestError(f"option {groups[int((length[:, 0] == 0).argmax())][0]!r}: no word of its own; give others.")
    found: Floats = counts / length
    return found
