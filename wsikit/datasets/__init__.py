"""Labelled patches as people keep them: a CSV with images, file names, or slide stores with drawn regions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Columns": "wsikit.datasets.table",
    "ImageTable": "wsikit.datasets.table",
    "map_classes": "wsikit.datasets.classes",
    "read_names": "wsikit.datasets.names",
    "read_stores": "wsikit.datasets.stores",
    "read_table": "wsikit.datasets.table",
}

__all__ = ["Columns", "ImageTable", "map_classes", "read_names", "read_stores", "read_table"]

if TYPE_CHECKING:
    from wsikit.datasets.classes import map_classes
    from wsikit.datasets.names import read_names
    from wsikit.datasets.stores import read_stores
    from wsikit.datasets.table import Columns, ImageTable, read_table


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wsikit.datasets' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
