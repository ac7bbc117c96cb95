"""wsikit: from a whole-slide image to a subtype, a map, and the words and pixels behind it.

Importing this package loads nothing heavy; each name is fetched when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikit._lazy import lazy_names
from wsikit._version import __version__

_HOME = {
    "PatchGrid": "wsikit.geometry",
    "PatchTable": "wsikit.store.table",
    "SlideStore": "wsikit.slides.store",
    "WsikitError": "wsikit.errors",
    "caption": "wsikit.inference.stages",
    "export": "wsikit.results.export",
    "load_model": "wsikit.models.io",
    "make_phantom": "wsikit.phantom",
    "open_slide": "wsikit.slides.registry",
    "predict": "wsikit.inference.stages",
    "run": "wsikit.batch.runner",
    "search": "wsikit.inference.search",
    "tile": "wsikit.tiling.tile",
    "tissue_mask": "wsikit.tissue.mask",
    "vote": "wsikit.inference.stages",
}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from wsikit.batch.runner import run
    from wsikit.errors import WsikitError
    from wsikit.geometry import PatchGrid
    from wsikit.inference.search import search
    from wsikit.inference.stages import caption, predict, vote
    from wsikit.models.io import load_model
    from wsikit.phantom import make_phantom
    from wsikit.results.export import export
    from wsikit.slides.registry import open_slide
    from wsikit.slides.store import SlideStore
    from wsikit.store.table import PatchTable
    from wsikit.tiling.tile import tile
    from wsikit.tissue.mask import tissue_mask


__getattr__ = lazy_names(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
