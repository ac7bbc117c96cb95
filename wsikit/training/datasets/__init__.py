"""Labelled patches as people keep them: a CSV with images, file names, or slide stores with drawn regions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Columns": "wsikit.training.datasets.table",
    "ImageTable": "wsikit.training.datasets.table",
    "map_classes": "wsikit.training.datasets.classes",
    "read_names": "wsikit.training.datasets.names",
    "read_stores": "wsikit.training.datasets.stores",
    "read_table": "wsikit.training.datasets.table",
}

__all__ = ["Columns", "ImageTable", "map_classes", "read_names", "read_stores", "read_table"]

if TYPE_CHECKING:
    from wsikit.training.datasets.classes import map_classes
    from wsikit.training.datasets.names import read_names
    from wsikit.training.datasets.stores import read_stores
    from wsikit.training.datasets.table import Columns, ImageTable, read_table


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wsikit.training.datasets' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
