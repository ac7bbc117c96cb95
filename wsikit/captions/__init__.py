"""Captions: measured facts of a patch, and words for them. `load_captioner()` returns the default, which measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikit._lazy import lazy_names

_HOME = {
    "Caption": "wsikit.captions.base",
    "Captioner": "wsikit.captions.base",
    "CaptionerOptions": "wsikit.captions.registry",
    "FACTS": "wsikit.facts",
    "FactScore": "wsikit.captions.parser",
    "Morphometry": "wsikit.captions.morphometry",
    "fact_f1": "wsikit.captions.parser",
    "load_captioner": "wsikit.captions.registry",
    "packaged_captioners": "wsikit.captions.vlm.files",
    "parse": "wsikit.captions.parser",
    "phrase": "wsikit.captions.lexicon",
    "scrub": "wsikit.scrub",
}

__all__ = [
    "FACTS",
    "Caption",
    "Captioner",
    "CaptionerOptions",
    "FactScore",
    "Morphometry",
    "fact_f1",
    "load_captioner",
    "packaged_captioners",
    "parse",
    "phrase",
    "scrub",
]

if TYPE_CHECKING:
    from wsikit.captions.base import Caption, Captioner
    from wsikit.captions.lexicon import phrase
    from wsikit.captions.morphometry import Morphometry
    from wsikit.captions.parser import FactScore, fact_f1, parse
    from wsikit.captions.registry import CaptionerOptions, load_captioner
    from wsikit.captions.vlm.files import packaged_captioners
    from wsikit.facts import FACTS
    from wsikit.scrub import scrub


__getattr__ = lazy_names(__name__, _HOME)
