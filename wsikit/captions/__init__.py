"""What is seen on a patch, as facts and as words. `load_captioner()` gives the default, which measures."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from wsikit.errors import RequestError

_HOME = {
    "Caption": "wsikit.captions.base",
    "Captioner": "wsikit.captions.base",
    "FACTS": "wsikit.captions.lexicon",
    "FactScore": "wsikit.captions.reading",
    "Morphometry": "wsikit.captions.morphometry",
    "fact_f1": "wsikit.captions.reading",
    "parse": "wsikit.captions.reading",
    "phrase": "wsikit.captions.lexicon",
    "scrub": "wsikit.captions.reading",
}

__all__ = [
    "FACTS",
    "Caption",
    "Captioner",
    "FactScore",
    "Morphometry",
    "fact_f1",
    "load_captioner",
    "parse",
    "phrase",
    "scrub",
]

if TYPE_CHECKING:
    from wsikit.captions.base import Caption, Captioner
    from wsikit.captions.lexicon import FACTS, phrase
    from wsikit.captions.morphometry import Morphometry
    from wsikit.captions.reading import FactScore, fact_f1, parse, scrub


def load_captioner(name: str = "morphometry") -> Captioner:
    """The captioner called `name`.

    Raises
    ------
    RequestError
        If there is none of that name.
    """
    if name != "morphometry":
        raise RequestError(f"unknown captioner {name!r}: there is 'morphometry'")
    from wsikit.captions.morphometry import Morphometry

    return Morphometry()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wsikit.captions' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
