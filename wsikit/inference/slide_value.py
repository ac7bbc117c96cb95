"""The value of a slide, by models on labels of slides that give one: `slide_features/value` of the patch table.

It is the sum of the column `value`, the parts of the patches, weighted by `attention`, whose sum is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wsikit.models.mil_config import ATTENTION, VALUE
from wsikit.models.protocol import ModelColumn
from wsikit.store.receipts import Receipt
from wsikit.store.slide_vectors import SlideVector, write_slide_vector
from wsikit.store.table import PatchTable

REVISION = 1


def write_slide_value(table: PatchTable, model: Mapping[str, Any], column: ModelColumn) -> float | None:
    """Store the value of a slide from its complete columns; None, and nothing is stored, where no patch has one.

    Parameters
    ----------
    model
        What is recorded about it, with the vector.
    column
        Its unit, and what it is: a value, or a risk.
    """
    parts, attention = (np.asarray(table.read(name), np.float64) for name in (VALUE, ATTENTION))
    known = np.isfinite(parts) & np.isfinite(attention)
    if not known.any():
        return None
    value = float(attention[known] @ parts[known])
    receipts = {name: table.receipt(name) for name in (VALUE, ATTENTION)}
    inputs = {name: receipt.digest for name, receipt in receipts.items() if receipt is not None}
    record = {"name": model["name"], "fingerprint": model["fingerprint"]}
    attributes = {"features": VALUE, "pooling": record, "patches": int(known.sum())}
    attributes |= {"unit": column.unit, "kind": column.kind or VALUE}
    vector = SlideVector(VALUE, np.array([value], np.float32), Receipt("slide value", REVISION, {}, inputs), attributes)
    write_slide_vector(table, vector)
    return value
