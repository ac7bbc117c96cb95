"""One slide during a run: its store, its patches, and what it shares with the other slides."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikit._lazy import Once
from wsikit.batch.manifest import SlideEntry
from wsikit.batch.parameters import RunParameters
from wsikit.captions.base import Captioner, in_parallel, is_mostly_python
from wsikit.encoders.lazy import LazyEncoder
from wsikit.errors import WsikitError
from wsikit.executor import Executor
from wsikit.geometry import is_too_coarse
from wsikit.inference.applicability import why_not_applicable
from wsikit.inference.feature_grid import scale_warning
from wsikit.models.lazy import LazyModel
from wsikit.slides.base import Slide
from wsikit.slides.store import SlideStore
from wsikit.store.table import PatchTable
from wsikit.tiling.image import ImageSource
from wsikit.tiling.patches import (
    PatchParameters,
)
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.roi import read_roi
from wsikit.tissue.parameters import TissueParameters

if TYPE_CHECKING:
    from wsikit.batch.cluster_blocks import Spread
    from wsikit.results.outputs import SlideSummary


@dataclass(frozen=True)
class LazyCaptioner:
    """A captioner by its name, loaded when it is needed."""

    spec: str
    load: Once[Captioner]

    @property
    def parallel(self) -> bool:
        """Whether it runs on workers. Before it is loaded this is known of the captioners that measure only."""
        from wsikit.captions.registry import MEASURING

        captioner = self.load.made
        return self.spec in MEASURING if captioner is None else in_parallel(captioner)

    @property
    def mostly_python(self) -> bool:
        """Whether worker processes pay, as far as known before it is loaded."""
        from wsikit.captions.registry import MEASURING

        captioner = self.load.made
        return self.spec in MEASURING if captioner is None else is_mostly_python(captioner)

    @classmethod
    def of(cls, captioner: str | Captioner, options: Any = None, *, device: str = "auto") -> LazyCaptioner:
        """From a captioner or the arguments of `wsikit.captions.load_captioner`. Only the name is checked.

        Raises
        ------
        RequestError
            There is no captioner of that name.
        """
        from wsikit.captions.cache import cached
        from wsikit.captions.registry import check_captioner, load_captioner

        if not isinstance(captioner, str):
            given = cached(captioner)
            load = Once(lambda: given)
            load()
            return cls(given.name, load)
        check_captioner(captioner)
        # equal pixels are described once per run
        return cls(captioner, Once(lambda: cached(load_captioner(captioner, options, device=device))))


@dataclass(frozen=True)
class Shared:
    """What all slides of a run share."""

    out: Path
    parameters: RunParameters
    model: LazyModel
    captioner: LazyCaptioner
    executor: Executor = field(default_factory=Executor)
    encoders: tuple[LazyEncoder, ...] = ()
    """Encoders whose features are computed."""
    engine: str = "auto"
    """How they run."""
    spread: Spread | None = None
    """Other workers of a cluster, which take a part of a slide's work."""

    def is_fatal(self, error: BaseException) -> bool:
        """Whether `error` means that the model, captioner or an encoder cannot be loaded: no slide can be done."""
        if error is self.model.load.error or error is self.captioner.load.error:
            return True
        if self.spread is not None and error is self.spread.fatal:
            return True
        return any(error is encoder.load.error for encoder in self.encoders)


class SlideWork:
    """One slide during a run. Its store is opened at first use."""

    def __init__(self, entry: SlideEntry, slide: Slide, shared: Shared) -> None:
        self.entry, self.slide, self.shared = entry, slide, shared
        self.tissue = shared.parameters.tissue or TissueParameters()
        self.image = shared.parameters.image or ImageParameters()
        self.folder = shared.out / "slides" / f"{entry.slide_id}.zarr"
        self.results = shared.out / "results" / entry.slide_id
        self.patches, self.too_coarse = _patches_for(slide, shared)
        self.notes: tuple[str, ...] = ()
        if entry.roi is not None:
            wanted = shared.parameters
            roi = read_roi(
                entry.roi, classes=wanted.roi_classes, min_share=wanted.min_roi, slide=slide, frame=wanted.roi_frame
            )
            self.patches = replace(self.patches, roi=roi)
            of = f" of class {', '.join(wanted.roi_classes)}" if wanted.roi_classes else ""
            self.notes = (f"only the regions{of} in {Path(entry.roi).name} are analysed", *roi.notes)
        grid = self.patches.grid(slide)
        warnings = (scale_warning(encoder.info, grid) for encoder in shared.encoders)
        self.notes += tuple(warning for warning in warnings if warning)
        self._store: SlideStore | None = None
        self.summary: SlideSummary | None = None

    @cached_property
    def source(self) -> ImageSource:
        """The slide with the layout of its tiles."""
        return ImageSource.of(self.slide)

    @property
    def store(self) -> SlideStore:
        """The slide's store; StoreError if there is none yet."""
        if self._store is None:
            self._store = SlideStore(self.folder)
        return self._store

    @store.setter
    def store(self, store: SlideStore) -> None:
        if self._store is not None and self._store is not store:
            self._store.close()
        self._store = store

    @property
    def executor(self) -> Executor:
        """Where its shards and rows are computed."""
        shared = self.shared
        return shared.executor if shared.spread is None else shared.spread.executor(self)

    @property
    def table(self) -> PatchTable:
        """The patch table of the model's patch size and scale; StoreError if there is none yet."""
        return self.store.patches(self.patches.grid(self.store).name)

    def why_not_predicted(self) -> str | None:
        """Why the model is not run on this slide, or None. Needs the tissue label."""
        return self.too_coarse or why_not_applicable(self.shared.model.info, self.store, self.table)

    def is_new_to_the_model(self) -> bool:
        """Whether the model will surely be needed: nothing is predicted yet, and nothing known speaks against it."""
        return self.too_coarse is None and self.lacks("probability")

    def lacks(self, column: str) -> bool:
        """Whether a column of a slide with bright field will surely be computed: there is none of any inputs yet."""
        if self.slide.info.channels:
            return False
        try:
            with SlideStore(self.folder) as store:
                return column not in store.patches(self.patches.grid(store).name).columns()
        except WsikitError:
            return True  # there is no store, or no table, yet

    def close(self) -> None:
        """Close the slide and its store."""
        self.slide.close()
        if self._store is not None:
            self._store.close()


def _patches_for(slide: Slide, shared: Shared) -> tuple[PatchParameters, str | None]:
    """The patches that the model requires; if the slide is too coarse, patches at its own scale, and the reason."""
    model, parameters = shared.model.info, shared.parameters
    finest = float(f"{max(slide.mpp):.6g}")  # 16.783, not 16.782999999999998
    too_coarse = is_too_coarse(finest, model.mpp)
    mpp = finest if too_coarse else model.mpp
    wanted = PatchParameters(mpp, model.patch_px, parameters.overlap_px, parameters.min_tissue)
    if not too_coarse:
        return wanted, None
    return (
        wanted,
        f"scanned at {finest:.4g} µm/px, the model reads {model.mpp:g} µm/px: too coarse for this model",
    )
