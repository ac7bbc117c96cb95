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
    fault: str = ""
    """Why the slide cannot be opened as requested: its row of the manifest is wrong. The slide fails with this text."""

    @classmethod
    def of(cls, slide: Slide) -> SlideEntry:
        """The entry of an open slide. A pixel size given at opening is used in the batch too."""
        given: Any = getattr(slide, "given_mpp", (None, ""))
        mpp, source = given
        return cls("", str(slide.path), mpp=mpp, mpp_source=source or "option")

    def open(self) -> Slide:
        """Open the slide with its pixel size.

        Raises
        ------
        SlideError, ScaleError
            The file is not a readable slide; its pixel size is not given anywhere; its row of the manifest is wrong.
        """
        from wsikit.slides.registry import open_slide

        if self.fault:
            raise SlideError(self.fault)
        if self.mpp is not None:
            return open_slide(self.path, mpp=self.mpp, mpp_source=self.mpp_source)
        slide = open_slide(self.path)
        if slide.info.mpp is None and self.assume_mpp is not None:
            slide.close()
            slide = open_slide(self.path, mpp=self.assume_mpp, mpp_source="assumed (--assume-mpp)")
        return slide
