"""What is seen on a patch, as facts and as words. `load_captioner()` gives the default, which measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikit._lazy import lazy_names

_HOME = {
    "Caption": "wsikit.captions.base",
    "Captioner": "wsikit.captions.base",
    "CaptionerOptions": "wsikit.captions.registry",
    "FACTS": "wsikit.captions.lexicon",
    "FactScore": "wsikit.captions.parse",
    "Morphometry": "wsikit.captions.morphometry",
    "fact_f1": "wsikit.captions.parse",
    "load_captioner": "wsikit.captions.registry",
    "packaged_captioners": "wsikit.captions.vlm.files",
    "parse": "wsikit.captions.parse",
    "phrase": "wsikit.captions.lexicon",
    "scrub": "wsikit.captions.parse",
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
    from wsikit.captions.lexicon import FACTS, phrase
    from wsikit.captions.morphometry import Morphometry
    from wsikit.captions.parse import FactScore, fact_f1, parse, scrub
    from wsikit.captions.registry import CaptionerOptions, load_captioner
    from wsikit.captions.vlm.files import packaged_captioners


__getattr__ = lazy_names(__name__, _HOME)
