"""Captions by vision-language models: load one from this disk, with a LoRA adapter, or build a tiny one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikit._lazy import lazy_names

_HOME = {
    "Sampling": "wsikit.captions.vlm.decoding",
    "VisionLanguage": "wsikit.captions.vlm.model",
    "load_vlm": "wsikit.captions.vlm.model",
    "packaged_captioners": "wsikit.captions.vlm.files",
}

__all__ = [
    "Sampling",
    "VisionLanguage",
    "load_vlm",
    "packaged_captioners",
]

if TYPE_CHECKING:
    from wsikit.captions.vlm.decoding import Sampling
    from wsikit.captions.vlm.files import packaged_captioners
    from wsikit.captions.vlm.model import VisionLanguage, load_vlm


__getattr__ = lazy_names(__name__, _HOME)
