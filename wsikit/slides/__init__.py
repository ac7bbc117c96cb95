"""Pixels from slide files: `open_slide` chooses the reader. Positions are level-0 px, sizes are px of the output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikit._lazy import lazy_names

_HOME = {
    "BaseSlide": "wsikit.slides.base",
    "RegionPlan": "wsikit.slides.region",
    "Slide": "wsikit.slides.types",
    "SlideInfo": "wsikit.slides.types",
    "open_slide": "wsikit.slides.registry",
    "plan_region": "wsikit.slides.region",
    "resample": "wsikit.slides.region",
}

__all__ = ["BaseSlide", "RegionPlan", "Slide", "SlideInfo", "open_slide", "plan_region", "resample"]

if TYPE_CHECKING:
    from wsikit.slides.base import BaseSlide
    from wsikit.slides.region import RegionPlan, plan_region, resample
    from wsikit.slides.registry import open_slide
    from wsikit.slides.types import Slide, SlideInfo


__getattr__ = lazy_names(__name__, _HOME)
