"""Does a model apply to the patches of a table? One check, used wherever a model meets a store."""

from __future__ import annotations

from wsikit.errors import ModelError
from wsikit.models.protocol import ModelInfo
from wsikit.slides.composite import channel_words
from wsikit.slides.store import SlideStore
from wsikit.store.table import PatchTable

MPP_TOLERANCE = 0.01
"""Relative tolerance of the scale. A larger difference is another scale, not rounding."""

FLUORESCENCE = "fluorescence"


def why_not_applicable(model: ModelInfo, store: SlideStore, table: PatchTable) -> str | None:
    """Why a model must not classify the patches of a table, with what to do, or None if it applies.

    Compared are the patch size (px and µm/px) of the grid and the type of stain; no pixels are read.

    Examples
    --------
    >>> import tempfile, wsikit
    >>> folder = tempfile.mkdtemp()
    >>> _ = wsikit.make_phantom(f"{folder}/slide.tiff", size_px=(448, 448))
    >>> store = wsikit.tile(f"{folder}/slide.tiff", f"{folder}/slide.zarr")
    >>> why_not_applicable(wsikit.describe_model(), store, store.patches()) is None
    True
    """
    if store.info.channels and model.stain != FLUORESCENCE:
        return f"it reads {model.stain}, this slide has {channel_words(store.info.channels)}"
    grid = table.grid
    if grid.patch_px != model.patch_px or abs(grid.target_mpp / model.mpp - 1) > MPP_TOLERANCE:
        return (
            f"it reads patches of {model.patch_px} px at {model.mpp:g} µm/px, these are {grid.patch_px} px at "
            f"{grid.target_mpp:.4g} µm/px. Tile the slide again with --patch-size {model.patch_px} --mpp {model.mpp:g}"
        )
    stain = store.tissue_record()["stain"]
    if stain != "brightfield" and model.stain != stain:
        return f"it was trained on {model.stain}, this slide is {stain}"
    return None


def why_not_captioned(store: SlideStore) -> str | None:
    """Why the patches of a store must not be described, or None. Captioners describe brightfield stains.

    A slide of one fluorescence channel that its file does not state as such is described as before.
    """
    if not store.info.channels:
        return None
    return f"captions describe brightfield stains such as H&E, this slide has {channel_words(store.info.channels)}"


def check_captioned(store: SlideStore) -> None:
    """ModelError if the patches of `store` must not be described."""
    fault = why_not_captioned(store)
    if fault is not None:
        raise ModelError(f"{store.folder}: {fault}.")
