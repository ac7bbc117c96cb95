"""Removal of label words from captions, so that a text branch cannot read the diagnosis. Text in, text out.

Captions by people or language models may name the class that a model is to predict. `wsikit.captions`, the text branch
of a model and the training of captioners all use this one function.
"""

from __future__ import annotations

import re

_LABEL_WORDS = re.compile(
    r"(?:\b(?:poorly|well|moderately)[-\s]+)?\b\w*differentiat\w*\b(?:\s+subtype\b)?"
    r"|\bganglioneuro\w*\b|\b(?:un)?favou?rabl[ey]\b(?:\s+histology\b)?|\bINPC\b|\bShimada\b(?:'s)?",
    re.IGNORECASE,
)
# Codes count in capitals only, and not within names such as D2-40 or PD-L1
_CODES = re.compile(r"(?<![\w-])(?:UD|PD|D|GN|(?:GNB|NB)(?:-(?:UD|PD|D|I|N))?|[UF]H)(?!\w|-?\d|-L\d)")


def scrub(text: str) -> str:
    """Take out the words that name the diagnosis, so that a text branch cannot read the label.

    Removed are: (un)differentiated, differentiating and related words, with "poorly" and similar qualifiers;
    ganglioneuro…, (un)favourable, INPC, Shimada; and the codes UD, PD, D, NB, GNB, GN, FH, UH. D2-40, PD-L1 and 3D
    stay.

    Examples
    --------
    >>> scrub("Poorly differentiated neuroblastoma (PD) with moderate neuropil; D2-40 negative.")
    'neuroblastoma with moderate neuropil; D2-40 negative.'
    """
    bare = _CODES.sub("", _LABEL_WORDS.sub("", text))
    bare = re.sub(r"\([\s,;:/.]*\)", "", bare)
    bare = re.sub(r"\s+([,.;:)])", r"\1", re.sub(r"\s{2,}", " ", bare))
    bare = re.sub(r"([,;:])(?:\s*[,;:])+", r"\1", bare)
    return re.sub(r"^[\s,;:.]+", "", bare).strip()
