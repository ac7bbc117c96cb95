"""Slide files → pixels: `open_slide` picks the reader. Places are level-0 px, sizes are px of what is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "BaseSlide": "wsikit.slides.base",
    "RegionPlan": "wsikit.slides.region",
    "Slide": "wsikit.slides.base",
    "SlideInfo": "wsikit.slides.base",
    "open_slide": "wsikit.slides.registry",
    "plan_region": "wsikit.slides.region",
    "resample": "wsikit.slides.region",
}

__all__ = ["BaseSlide", "RegionPlan", "Slide", "SlideInfo", "open_slide", "plan_region", "resample"]

if TYPE_CHECKING:
    from wsikit.slides.base import BaseSlide, Slide, SlideInfo
    from wsikit.slides.region import RegionPlan, plan_region, resample
    from wsikit.slides.registry import open_slide


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wsikit.slides' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
