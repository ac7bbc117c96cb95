"""What the stages share: stores by path or open, and the identity of a table's rows."""

from __future__ import annotations

import os

from wsikit.slides.store import SlideStore
from wsikit.store.table import PatchTable

StoreLike = SlideStore | str | os.PathLike[str]


def open_store(store: StoreLike) -> SlideStore:
    """The store itself, or the one at a path."""
    return store if isinstance(store, SlideStore) else SlideStore(store)


def coords_digest(table: PatchTable) -> str:
    """Identity of a table's patches: of what was kept of which grid of which pixels."""
    receipt = table.receipt("coords")
    assert receipt is not None
    return receipt.digest
