"""Captions by vision-language models: load one that is on this disk, fine-tune it by LoRA, or build a tiny one."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "FinetuneSettings": "wsikit.captions.vlm.settings",
    "Sampling": "wsikit.captions.vlm.decoding",
    "VisionLanguage": "wsikit.captions.vlm.model",
    "finetune_captioner": "wsikit.captions.vlm.finetune",
    "load_vlm": "wsikit.captions.vlm.model",
    "merge_adapter": "wsikit.captions.vlm.adapters",
    "out_of_fold_captions": "wsikit.captions.vlm.folds",
    "packaged_captioners": "wsikit.captions.vlm.files",
    "refuse_seen_patients": "wsikit.captions.vlm.patients",
}

__all__ = [
    "FinetuneSettings",
    "Sampling",
    "VisionLanguage",
    "finetune_captioner",
    "load_vlm",
    "merge_adapter",
    "out_of_fold_captions",
    "packaged_captioners",
    "refuse_seen_patients",
]

if TYPE_CHECKING:
    from wsikit.captions.vlm.adapters import merge_adapter
    from wsikit.captions.vlm.decoding import Sampling
    from wsikit.captions.vlm.files import packaged_captioners
    from wsikit.captions.vlm.finetune import finetune_captioner
    from wsikit.captions.vlm.folds import out_of_fold_captions
    from wsikit.captions.vlm.model import VisionLanguage, load_vlm
    from wsikit.captions.vlm.patients import refuse_seen_patients
    from wsikit.captions.vlm.settings import FinetuneSettings


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wsikit.captions.vlm' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
