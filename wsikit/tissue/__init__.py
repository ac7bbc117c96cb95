"""Where the tissue is on a slide, in µm and mm², and how good a patch is to look at."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "TissueMask": "wsikit.tissue.mask",
    "TissueParameters": "wsikit.tissue.parameters",
    "mask_from_image": "wsikit.tissue.mask",
    "patch_quality": "wsikit.tissue.quality",
    "tissue_mask": "wsikit.tissue.mask",
}

__all__ = ["TissueMask", "TissueParameters", "mask_from_image", "patch_quality", "tissue_mask"]

if TYPE_CHECKING:
    from wsikit.tissue.mask import TissueMask, mask_from_image, tissue_mask
    from wsikit.tissue.parameters import TissueParameters
    from wsikit.tissue.quality import patch_quality


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wsikit.tissue' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
