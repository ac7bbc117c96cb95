"""Synthetic neuroblastoma slides with truth: for tests, demonstrations and the packaged demonstration model.

Nothing here is tissue, and nothing learned from it holds for tissue.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "CLASSES": "facts",
    "SUBTYPES": "recipe",
    "PhantomPatch": "patches",
    "PhantomTruth": "truth",
    "load_truth": "truth",
    "make_phantom": "slide",
    "phantom_patches": "patches",
}

__all__ = ["CLASSES", "SUBTYPES", "PhantomPatch", "PhantomTruth", "load_truth", "make_phantom", "phantom_patches"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wsikit.phantom.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
