"""What a slide is to the rest of wsikit, and what all readers share. Places are level-0 px (x, y), top-left.

A reader subclasses BaseSlide and says how pixels of one level are read; where, how much and at which scale is here.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

from wsikit.errors import BrokenSlideError, ReadError, RequestError
from wsikit.geometry import downsample_of
from wsikit.slides import scale
from wsikit.slides.region import RegionPlan, plan_region, resample
from wsikit.store.paths import is_url

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]
MppLike = float | tuple[float, float]

WHITE = 255
"""Outside of its scanned area a slide is white, as glass is."""


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """What is known of a slide without reading its pixels."""

    path: str
    """As given when it was opened."""
    reader: str
    """Name of the reader that opened it, as `open_slide(reader=…)` takes it."""
    vendor: str
    """Who wrote the file: aperio, hamamatsu, dicom, ome, generic-tiff, …"""
    kind: str
    """tiled: a slide in tiles; plain: one picture, held in memory; store: a SlideStore."""
    dimensions: Size
    """Width and height of level 0, px."""
    level_dimensions: tuple[Size, ...]
    """Width and height of each level, px, finest first."""
    level_downsamples: tuple[tuple[float, float], ...]
    """Level-0 px per px of each level, along x and y: true ratios, never rounded to whole numbers that they are not."""
    mpp: tuple[float, float] | None
    """µm per level-0 px, (x, y); None if unknown or not credible."""
    mpp_source: str
    """Who states it: vendor property …, TIFF XResolution, OME-XML, DICOM PixelSpacing, sidecar, option, manifest."""
    mpp_fault: str | None = None
    """Why a stated pixel size is not used; None if it is used or if none is stated."""
    magnification: float | None = None
    """Of the objective, as stated. A label for people: no size is computed from it."""
    tile_px: Size | None = None
    """Width and height of the tiles in which the file stores level 0, px."""
    compression: str | None = None
    """Of level 0: JPEG, JPEG 2000, WebP, deflate, …"""
    associated: tuple[str, ...] = ()
    """Names of the images that come with the slide: thumbnail, label, macro. Label and macro may show identity."""
    icc_profile: bytes | None = None
    properties: dict[str, str] | None = None
    """The file's own properties, by allow-list (`wsikit.slides.properties`)."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values. Of the ICC profile only its size in bytes."""
        record = asdict(self)
        profile = record.pop("icc_profile")
        record["icc_profile_bytes"] = len(profile) if profile else 0
        record["properties"] = self.properties or {}
        return record


class Slide(Protocol):
    """What the stages of wsikit need of a slide, whether it is a scanner's file or a SlideStore."""

    @property
    def path(self) -> str: ...
    @property
    def info(self) -> SlideInfo: ...
    @property
    def dimensions(self) -> Size: ...
    @property
    def level_dimensions(self) -> tuple[Size, ...]: ...
    @property
    def level_downsamples(self) -> tuple[tuple[float, float], ...]: ...
    @property
    def mpp(self) -> tuple[float, float]: ...
    @property
    def mpp_source(self) -> str: ...
    def read_region(
        self, x: float, y: float, width: int, height: int, *, mpp: MppLike | None = None, level: int | None = None
    ) -> Pixels: ...
    def read_box(self, level: int, box: tuple[int, int, int, int]) -> Pixels: ...
    def thumbnail(self, max_px: int = 1024) -> Pixels: ...
    def associated(self, name: str) -> Pixels: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BaseSlide(ABC):
    """Shared by all readers. Reading is safe from several threads; a slide pickles as its path and opens again.

    A subclass implements `_read_level`, and is made anew by `cls(path, mpp=…, mpp_source=…)`.
    """

    reader: ClassVar[str]
    """Name in the registry."""

    def __init__(self, info: SlideInfo, *, mpp: MppLike | None = None, mpp_source: str = "option") -> None:
        self._given = (mpp, mpp_source)
        settled = scale.resolve(
            info.path,
            scale.Scale(info.mpp, info.mpp_source, info.mpp_fault),
            info.magnification,
            given=mpp,
            given_source=mpp_source,
        )
        self._info = replace(info, mpp=settled.mpp, mpp_source=settled.source, mpp_fault=settled.fault)

    @abstractmethod
    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Pixels of a box that lies within `level`, in its px: uint8 (height, width, 3), or ReadError."""

    def _read_associated(self, name: str) -> Pixels:
        """One of `info.associated`, uint8 (h, w, 3). A reader that lists any reads them."""
        raise RequestError(f"{self.path}: reader {self.reader!r} does not read the associated image {name!r}")

    @abstractmethod
    def close(self) -> None:
        """Give back file handles and memory. Reading afterwards is an error; closing twice is not."""

    @property
    def info(self) -> SlideInfo:
        return self._info

    @property
    def path(self) -> str:
        return self._info.path

    @property
    def dimensions(self) -> Size:
        """Width and height of level 0, px."""
        return self._info.dimensions

    @property
    def level_dimensions(self) -> tuple[Size, ...]:
        """Width and height of each level, px, finest first."""
        return self._info.level_dimensions

    @property
    def level_downsamples(self) -> tuple[tuple[float, float], ...]:
        """Level-0 px per px of each level, (x, y)."""
        return self._info.level_downsamples

    @property
    def mpp(self) -> tuple[float, float]:
        """µm per level-0 px, (x, y): as stated by the file or given by the caller, never guessed.

        Raises
        ------
        ScaleError
            The file states none, or one that cannot be right. The message says how to give it.
        """
        if self._info.mpp is None:
            raise scale.missing_scale(self.path, self._info.mpp_fault)
        return self._info.mpp

    @property
    def mpp_source(self) -> str:
        """Who states `mpp`."""
        return self._info.mpp_source

    @property
    def given_mpp(self) -> tuple[MppLike | None, str]:
        """The pixel size that was given when the slide was opened, µm/px, and its source; None if none was given."""
        return self._given

    @property
    def magnification(self) -> float | None:
        return self._info.magnification

    def plan(
        self, x: float, y: float, width: int, height: int, *, mpp: MppLike | None = None, level: int | None = None
    ) -> RegionPlan:
        """What `read_region` would read, as data."""
        return plan_region(
            self.level_downsamples,
            self.mpp if mpp is not None else None,
            x,
            y,
            width,
            height,
            mpp=mpp,
            level=level,
            path=self.path,
        )

    def read_region(
        self, x: float, y: float, width: int, height: int, *, mpp: MppLike | None = None, level: int | None = None
    ) -> Pixels:
        """Pixels of a region, at a physical scale or of a level.

        Parameters
        ----------
        x, y
            Top-left corner, level-0 px; fractions are allowed.
        width, height
            Of the output, px.
        mpp
            µm per output px. The field of view is exact: `width` · `mpp` µm wide. Where a level has this scale the
            pixels are the file's own; else they are averaged by area from the coarsest level that holds the detail.
        level
            Pixels of this level, untouched. Level 0 if neither is given.

        Returns
        -------
        uint8 (height, width, 3), RGB. White outside of the slide.

        Raises
        ------
        ReadError
            The file's bytes cannot be decoded: never replaced by white.
        ScaleError
            `mpp` is asked for but the slide's own is unknown, or `mpp` is over twice finer than the slide.
        """
        return self.read_plan(self.plan(x, y, width, height, mpp=mpp, level=level))

    def read_plan(self, plan: RegionPlan) -> Pixels:
        """Carry out a plan: uint8 (out height, out width, 3). Large reductions pass in bands, in bounded memory."""
        if not plan.resampled:
            return self.read_box(plan.level, plan.box)
        out = np.empty((plan.out[1], plan.out[0], 3), dtype=np.uint8)
        for rows, band in plan.bands():
            out[rows] = resample(self.read_box(band.level, band.box), band.crop, band.out)
        return out

    def thumbnail(self, max_px: int = 1024) -> Pixels:
        """The whole slide with its longer side at most `max_px`: uint8 (h, w, 3). Needs no mpp; never enlarges."""
        if max_px < 1:
            raise RequestError(f"{self.path}: a thumbnail of {max_px} px is empty; ask for 1 px or more")
        width, height = self.level_dimensions[0]  # a store may hold coarser levels only
        shrink = max(1.0, max(width, height) / max_px)
        out = max(1, round(width / shrink)), max(1, round(height / shrink))
        fine_enough = [i for i, (w, h) in enumerate(self.level_dimensions) if w >= out[0] and h >= out[1]]
        level = fine_enough[-1]
        level_width, level_height = self.level_dimensions[level]
        box = (0, 0, level_width, level_height)
        return self.read_plan(RegionPlan(level, box, (0.0, 0.0, float(level_width), float(level_height)), out))

    def associated(self, name: str) -> Pixels:
        """An image that comes with the slide (`info.associated`): uint8 (h, w, 3).

        Label and macro can show a name or a case number: they are read only when asked for by name.
        """
        if name not in self._info.associated:
            known = ", ".join(self._info.associated) or "none"
            raise RequestError(f"{self.path}: there is no associated image {name!r}; it has {known}")
        return self._read_associated(name)

    def read_box(self, level: int, box: tuple[int, int, int, int]) -> Pixels:
        """Pixels of a box (x, y, width, height) in px of `level`: uint8 (height, width, 3), or ReadError.

        The box may reach outside of the level, where a slide is white.
        """
        x, y, width, height = box
        level_width, level_height = self.level_dimensions[level]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, level_width), min(y + height, level_height)
        if (left, top, right, bottom) == (x, y, x + width, y + height):
            return self._read_level(level, x, y, width, height)
        canvas = np.full((height, width, 3), WHITE, dtype=np.uint8)
        if right > left and bottom > top:
            inside = self._read_level(level, left, top, right - left, bottom - top)
            canvas[top - y : bottom - y, left - x : right - x] = inside
        return canvas

    def _check_readable(self) -> None:
        """Raise BrokenSlideError if not one of a few places of level 0 can be read.

        One damaged tile must not cost the slide; a file whose tiles are all damaged must not pass for one.
        """
        width, height = self.dimensions
        fault: ReadError | None = None
        for share_x, share_y in ((0.5, 0.5), (0.25, 0.25), (0.75, 0.75), (0.75, 0.25), (0.25, 0.75)):
            x, y = min(width - 1, int(width * share_x)), min(height - 1, int(height * share_y))
            try:
                self._read_level(0, x, y, 1, 1)
            except ReadError as error:
                fault = error
                logger.debug("%s: probe at x=%d y=%d: %s", self.path, x, y, error.reason)
            else:
                return
        assert fault is not None
        raise BrokenSlideError(
            f"{self.path}: opens, but none of its pixels that were tried can be decoded ({fault.reason}). "
            "The file is damaged: copy it again from its source, or export it again."
        ) from fault

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., BaseSlide], tuple[Any, ...]]:
        mpp, mpp_source = self._given
        # a worker may run in another folder
        path = self.path if is_url(self.path) else os.path.abspath(self.path)
        return _reopen, (type(self), path, mpp, mpp_source)

    def __repr__(self) -> str:
        width, height = self.dimensions
        size = f"{width} × {height} px"
        mpp = f"{self._info.mpp[0]:.4g} µm/px" if self._info.mpp else "µm/px unknown"
        return f"<{type(self).__name__} {self.path!r}: {size}, {mpp}, {len(self.level_dimensions)} levels>"

    def _repr_html_(self) -> str:
        from wsikit.slides.html import slide_html

        return slide_html(self)


def true_downsamples(level_dimensions: Sequence[Size]) -> tuple[tuple[float, float], ...]:
    """Level-0 px per px of each level, (x, y), from the levels' sizes in px, finest first."""
    width, height = level_dimensions[0]
    return tuple((downsample_of(width, w), downsample_of(height, h)) for w, h in level_dimensions)


def _reopen(cls: Callable[..., BaseSlide], path: str, mpp: MppLike | None, mpp_source: str) -> BaseSlide:
    return cls(path, mpp=mpp, mpp_source=mpp_source)
