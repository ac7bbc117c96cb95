"""Synthetic slides as a cohort with one label per slide: files, stores, features, and the manifest that names them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wsikit.encoders.lazy import LazyEncoder
from wsikit.errors import RequestError
from wsikit.inference.features import features
from wsikit.phantom.recipe import SUBTYPES
from wsikit.phantom.slide import make_phantom
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import write_bytes
from wsikit.tiling.tile import tile

MANIFEST = "cohort.csv"
MPP = 0.5


@dataclass(frozen=True)
class PhantomCohort:
    """Which slides are made."""

    seeds: tuple[int, int]
    """First seed, and one past the last; a seed is a slide and a patient, with the subtypes in turn."""
    slide_px: int
    min_tissue: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.seeds[0] < self.seeds[1]:
            raise RequestError(f"phantoms: seeds {self.seeds}; expected the first, and one past the last.")


def make_cohort(
    cohort: PhantomCohort,
    folder: Path,
    *,
    encoder: str | None,
    device: str = "auto",
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Make slides, stores and features that are missing in `folder`; return the manifest.

    Parameters
    ----------
    encoder
        Whose features are stored, see `wsikit.encoders.registry.load_encoder`; None: none are.
    on_done
        Called with the number of slides that are done, and the total.

    Notes
    -----
    The same settings give the same files. The label of a slide is its subtype; what is planted in each patch stays in
    `<slide>.truth.npz` and is not in the manifest.
    """
    loaded = None if encoder is None else LazyEncoder.of(encoder, device=device)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["store", "label", "patient"])
    for done, seed in enumerate(range(*cohort.seeds)):
        subtype, name = SUBTYPES[seed % len(SUBTYPES)], f"phantom-{seed}"
        slide, store = folder / "slides" / f"{name}.tiff", folder / "stores" / f"{name}.zarr"
        if not slide.is_file():
            side = (cohort.slide_px, cohort.slide_px)
            make_phantom(slide, size_px=side, mpp=MPP, subtype=subtype, seed=seed)
        tile(slide, store, min_tissue=cohort.min_tissue)
        if loaded is not None:
            features(SlideStore(store), encoder=loaded.load())
        table.writerow([f"stores/{name}.zarr", subtype, name])
        on_done(done + 1, cohort.seeds[1] - cohort.seeds[0])
    write_bytes(folder / MANIFEST, text.getvalue().encode())
    return folder / MANIFEST


def slide_of(store: SlideStore | Path) -> Path:
    """The file of a store of the cohort, next to which its truth is."""
    folder = Path(str(store.folder if isinstance(store, SlideStore) else store))
    return folder.parent.parent / "slides" / f"{folder.stem}.tiff"
