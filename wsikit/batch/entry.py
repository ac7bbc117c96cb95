"""One slide of a batch, as it was requested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsikit.errors import SlideError

if TYPE_CHECKING:
    from wsikit.slides.base import Slide


@dataclass(frozen=True)
class SlideEntry:
    """One slide of a batch."""

    slide_id: str
    path: str
    mpp: float | tuple[float, float] | None = None
    """µm/px at level 0 from the manifest or the caller; it overrides the pixel size in the file."""
    mpp_source: str = "manifest"
    """Source of `mpp`."""
    assume_mpp: float | None = None
    """µm/px at level 0, used if neither manifest nor sidecar nor file gives a credible one."""
    patient: str = ""
    """Patient id from the manifest; empty if there is none."""
    roi: str | None = None
    """GeoJSON file of the regions that are analysed; None: the whole slide."""
    scene: int | str | None = None
    """Which of several main images of the file is read, by number or name; None: the largest."""
    id_requested: bool = False
    """Whether `slide_id` was given by the user: the slide then has this id, or fails."""
    reader: str | None = None
    """Name of the reader that opens the file; None: chosen by its content."""
    label: str = ""
    """Known class of the slide, from the manifest; carried to slides.csv, and not used by the run."""
    fault: str = ""
    """Why the slide cannot be opened as requested: its row of the manifest is wrong. The slide fails with this text."""

    @classmethod
    def of(cls, slide: Slide) -> SlideEntry:
        """The entry of an open slide. A pixel size and a scene given at opening are used in the batch too."""
        given: Any = getattr(slide, "given_mpp", (None, ""))
        mpp, source = given
        scene: Any = getattr(slide, "given_scene", None)
        return cls("", str(slide.path), mpp=mpp, mpp_source=source or "option", scene=scene)

    def open(self) -> Slide:
        """Open the slide with its pixel size.

        Raises
        ------
        SlideError, ScaleError
            The file is not a readable slide; its pixel size is not given anywhere; its row of the manifest is wrong.
        RequestError
            It has no such scene.
        """
        from wsikit.slides.registry import open_slide

        if self.fault:
            raise SlideError(self.fault)
        reader = self.reader or "auto"
        if self.mpp is not None:
            return open_slide(self.path, reader, mpp=self.mpp, mpp_source=self.mpp_source, scene=self.scene)
        slide = open_slide(self.path, reader, scene=self.scene)
        if slide.info.mpp is None and self.assume_mpp is not None:
            slide.close()
            source = "assumed (--assume-mpp)"
            slide = open_slide(self.path, reader, mpp=self.assume_mpp, mpp_source=source, scene=self.scene)
        return slide
