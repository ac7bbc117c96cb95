"""The tissue mask of a slide, with sizes in µm and mm², and the image quality of patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikit._lazy import lazy_names

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


__getattr__ = lazy_names(__name__, _HOME)
