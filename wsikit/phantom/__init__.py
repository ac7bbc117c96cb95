"""Synthetic neuroblastoma slides with ground truth: for tests, demonstrations and the packaged demonstration model.

Nothing here is tissue, and nothing learned from it is valid for tissue. Importing this package loads nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikit._lazy import lazy_names

_HOME = {
    "CLASSES": "wsikit.phantom.facts",
    "SUBTYPES": "wsikit.phantom.recipe",
    "PhantomPatch": "wsikit.phantom.patches",
    "PhantomTruth": "wsikit.phantom.truth",
    "load_truth": "wsikit.phantom.truth",
    "make_phantom": "wsikit.phantom.slide",
    "phantom_patches": "wsikit.phantom.patches",
}

__all__ = ["CLASSES", "SUBTYPES", "PhantomPatch", "PhantomTruth", "load_truth", "make_phantom", "phantom_patches"]

if TYPE_CHECKING:
    from wsikit.phantom.facts import CLASSES
    from wsikit.phantom.patches import PhantomPatch, phantom_patches
    from wsikit.phantom.recipe import SUBTYPES
    from wsikit.phantom.slide import make_phantom
    from wsikit.phantom.truth import PhantomTruth, load_truth

__getattr__ = lazy_names(__name__, _HOME)
