"""A fixed sample of a slide's patches, to which captioners and stain normalisation are fitted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import sample_rows
from wsikit.slides.store import SlideStore
from wsikit.store.table import PatchTable
from wsikit.tiling.stream import iterate_patches

_BATCH = 64


def sample_of_slide(store: SlideStore, table: PatchTable) -> npt.NDArray[np.uint8]:
    """Readable patches of a table, evenly spread over its rows, always the same: uint8 (n, P, P, 3), n ≤ 512."""
    coords = table.coords[sample_rows(len(table))]
    ranges = [slice(first, min(first + _BATCH, len(coords))) for first in range(0, len(coords), _BATCH)]
    side = table.grid.patch_px
    seen = [np.empty((0, side, side, 3), np.uint8)]
    seen += [batch.images[batch.readable] for _, batch in iterate_patches(store, table.grid, coords, ranges)]
    return np.concatenate(seen)
