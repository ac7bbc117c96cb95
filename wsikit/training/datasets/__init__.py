"""Labelled patches from a CSV with images, from file names, or from slide stores with annotated regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikit._lazy import lazy_names

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


__getattr__ = lazy_names(__name__, _HOME)
