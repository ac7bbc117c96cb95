"""The base class of all readers: regions, scales, thumbnail, pickling. Positions are level-0 px (x, y), top-left.

A reader is a subclass that reads boxes of one level. Which level is read, and how it is resampled, is decided here.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

import numpy as np

from wsikit.errors import BrokenSlideError, ReadError, RequestError
from wsikit.geometry import downsample_of
from wsikit.slides import scale
from wsikit.slides.composite import Samples, channel_numbers
from wsikit.slides.encoded_tiles import EncodedTiles
from wsikit.slides.html import slide_html
from wsikit.slides.region import RegionPlan, plan_region, resample
from wsikit.slides.scenes import SceneLike
from wsikit.slides.storage import LevelStorage
from wsikit.slides.types import WHITE, MppLike, Pixels, Size, Slide, SlideInfo
from wsikit.store.paths import is_url

__all__ = ["WHITE", "BaseSlide", "MppLike", "Pixels", "Size", "Slide", "SlideInfo", "true_downsamples"]

logger = logging.getLogger(__name__)


class BaseSlide(ABC):
    """Base class of all readers. Reading is safe from several threads; a slide pickles as its path and is reopened.

    A subclass implements `_read_level` (or `read_box`) and `close`, and is constructed as
    `cls(path, mpp=…, mpp_source=…)`, with `has_scenes` also with `scene=…`. `wsikit.testing.check_reader` checks it.
    """

    reader: ClassVar[str]
    """Name of the reader: in the registry, or of the plug-in's entry point."""

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Of a plug-in: endings of file names, such as `(".npz",)`, by which its slides are found in folders."""

    has_scenes: ClassVar[bool] = False
    """Whether the reader takes `scene=…` too, and reads the scene of a file that it names."""

    def __init__(
        self,
        info: SlideInfo,
        *,
        mpp: MppLike | None = None,
        mpp_source: str = "option",
        scene: SceneLike | None = None,
    ) -> None:
        self._given_scene = scene
        resolved = scale.resolve(
            info.path,
            scale.Scale(info.mpp, info.mpp_source, info.mpp_fault, info.mpp_literal),
            info.magnification,
            given=mpp,
            given_source=mpp_source,
            checked=info.kind == "store",
        )
        # what a user typed, such as "0,25 µm", is kept as the number that it is
        typed = isinstance(mpp, str) or (isinstance(mpp, (tuple, list)) and any(isinstance(part, str) for part in mpp))
        self._given = (resolved.mpp if typed else mpp, mpp_source)
        self._info = replace(info, mpp=resolved.mpp, mpp_source=resolved.source, mpp_fault=resolved.fault)

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Pixels of a box that lies within `level`, in px of the level: uint8 (height, width, 3), or ReadError."""
        raise NotImplementedError(f"reader {self.reader!r} implements neither _read_level nor read_box")

    def _read_associated(self, name: str) -> Pixels:
        """One of `info.associated`, uint8 (h, w, 3). A reader that lists any must implement this."""
        raise RequestError(f"{self.path}: reader {self.reader!r} does not read the associated image {name!r}")

    @abstractmethod
    def close(self) -> None:
        """Release file handles and memory. Reading afterwards is an error; closing twice is not."""

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
        """µm per level-0 px, (x, y): stated by the file or given by the caller, never guessed.

        Raises
        ------
        ScaleError
            The file states none, or an impossible one. The message explains how to give it.
        """
        if self._info.mpp is None:
            raise scale.missing_scale(self.path, self._info.mpp_fault)
        return self._info.mpp

    @property
    def mpp_source(self) -> str:
        """Source of `mpp`: a file property, a sidecar file, an option, the manifest."""
        return self._info.mpp_source

    @property
    def has_given_mpp(self) -> bool:
        """Whether a user gives the pixel size (option, manifest, sidecar file), rather than the file itself."""
        return self._info.mpp is not None and (self._given[0] is not None or self._info.mpp_source == scale.SIDECAR)

    @property
    def given_mpp(self) -> tuple[MppLike | None, str]:
        """The pixel size that was given when the slide was opened, µm/px, and its source; None if none was given."""
        return self._given

    @property
    def given_scene(self) -> SceneLike | None:
        """The scene that was requested when the slide was opened; None if none was. `info.scene` is the one read."""
        return self._given_scene

    @property
    def magnification(self) -> float | None:
        return self._info.magnification

    def plan(
        self, x: float, y: float, width: int, height: int, *, mpp: MppLike | None = None, level: int | None = None
    ) -> RegionPlan:
        """The plan of `read_region` with the same parameters: which box of which level, and how it is resampled."""
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
            µm per output px, one number or (x, y). The field of view is exact: `width` · `mpp` µm wide. If a level has
            this scale, its pixels are returned unchanged; otherwise they are area averages of the coarsest level that
            has the detail.
        level
            Return pixels of this level unchanged. Level 0 if neither is given.

        Returns
        -------
        uint8 (height, width, 3), RGB. White outside the slide.

        Raises
        ------
        ReadError
            The file's bytes cannot be decoded. Unreadable pixels are never replaced by white.
        ScaleError
            `mpp` is given, but the slide's own pixel size is unknown or more than twice as coarse.
        """
        plan = self.plan(x, y, width, height, mpp=mpp, level=level)
        return self.read_plan(plan) if plan.resampled else self.read_box(plan.level, plan.box)

    def read_plan(self, plan: RegionPlan) -> Pixels:
        """Execute a plan: uint8 (out height, out width, 3). Large reductions are read in bands, with bounded memory."""
        if not plan.resampled:
            return self.read_box(plan.level, plan.box)
        out = np.empty((plan.out[1], plan.out[0], 3), dtype=np.uint8)
        for rows, band in plan.bands():
            out[rows] = resample(self.read_box(band.level, band.box), band.crop, band.out)
        return out

    def read_channels(
        self,
        x: float,
        y: float,
        width: int,
        height: int,
        *,
        level: int = 0,
        channels: Sequence[int | str] | None = None,
    ) -> Samples:
        """Samples of a region of a fluorescence slide, one plane per channel, unchanged.

        `read_region` of such a slide gives a composite for viewing: the colours of the channels (`info.channels`),
        added up within their display windows.

        Parameters
        ----------
        x, y
            Top-left corner, level-0 px.
        width, height
            Of the output, px of `level`.
        channels
            Names or numbers (from 0) of channels, in the order of the output; None: all.

        Returns
        -------
        (channels, height, width), of the type of the file: uint8, uint16 or float32. 0 outside the slide.

        Raises
        ------
        ReadError
            The file's bytes cannot be decoded.
        RequestError
            The slide has no channels (it is RGB or grey), or not these.
        """
        wanted = channel_numbers(self.path, self._info.channels, channels)
        return self.read_channel_box(level, self.plan(x, y, width, height, level=level).box, wanted)

    def read_channel_box(self, level: int, box: tuple[int, int, int, int], channels: Sequence[int]) -> Samples:
        """Samples of a box in px of `level`, (channels, height, width). A reader that lists channels implements it."""
        raise NotImplementedError(f"reader {self.reader!r} lists channels, but does not read them")

    def thumbnail(self, max_px: int = 1024) -> Pixels:
        """The whole slide, its longer side at most `max_px`: uint8 (h, w, 3). It needs no mpp and is never enlarged."""
        if max_px < 1:
            raise RequestError(f"{self.path}: a thumbnail of {max_px} px is empty; request 1 px or more")
        width, height = self.level_dimensions[0]  # a store may hold coarser levels only
        shrink = max(1.0, max(width, height) / max_px)
        out = max(1, round(width / shrink)), max(1, round(height / shrink))
        fine_enough = [i for i, (w, h) in enumerate(self.level_dimensions) if w >= out[0] and h >= out[1]]
        level = fine_enough[-1]
        level_width, level_height = self.level_dimensions[level]
        box = (0, 0, level_width, level_height)
        return self.read_plan(RegionPlan(level, box, (0.0, 0.0, float(level_width), float(level_height)), out))

    def associated(self, name: str) -> Pixels:
        """An image that is stored with the slide (`info.associated`): uint8 (h, w, 3).

        Label and macro can show a name or a case number, so they are read only by this call.
        """
        if name not in self._info.associated:
            known = ", ".join(self._info.associated) or "none"
            raise RequestError(f"{self.path}: there is no associated image {name!r}; it has {known}")
        return self._read_associated(name)

    def read_box(self, level: int, box: tuple[int, int, int, int]) -> Pixels:
        """Pixels of a box (x, y, width, height) in px of `level`: uint8 (height, width, 3), or ReadError.

        Outside the level the pixels are white.
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

    def pass_through_fault(self, level: int) -> str | None:
        """Why a store cannot keep the tiles of `level` as they are, as the end of a sentence; None if it can."""
        if not isinstance(self, EncodedTiles):
            return f"reader {self.reader} returns pixels, not coded tiles"
        return None if self.tile_source(level) else f"reader {self.reader} cannot hand out its tiles one by one"

    def storage(self) -> tuple[LevelStorage, ...]:
        """Per level, how its tiles are kept when the slide is stored with default settings, and why not if not."""
        found = []
        for level in range(len(self.level_dimensions)):
            fault = self.pass_through_fault(level)
            source = self.tile_source(level) if isinstance(self, EncodedTiles) and fault is None else None
            kept: Literal["bytes", "coefficients"] = "coefficients" if source and source.rewrapped else "bytes"
            found.append(LevelStorage(level, kept if fault is None else None, fault))
        return tuple(found)

    def _check_readable(self) -> None:
        """Raise BrokenSlideError if none of five places of level 0 can be read.

        A slide with one damaged tile is still useful; a file whose tiles are all damaged is not a slide.
        """
        width, height = self.dimensions
        fault: ReadError | None = None
        for share_x, share_y in ((0.5, 0.5), (0.25, 0.25), (0.75, 0.75), (0.75, 0.25), (0.25, 0.75)):
            x, y = min(width - 1, int(width * share_x)), min(height - 1, int(height * share_y))
            try:
                self.read_box(0, (x, y, 1, 1))
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
        # a worker process may have another working folder
        path = self.path if is_url(self.path) else os.path.abspath(self.path)
        return _reopen, (type(self), path, mpp, mpp_source, self._given_scene)

    def __repr__(self) -> str:
        width, height = self.dimensions
        size = f"{width} × {height} px"
        mpp = f"{self._info.mpp[0]:.4g} µm/px" if self._info.mpp else "µm/px unknown"
        return f"<{type(self).__name__} {self.path!r}: {size}, {mpp}, {len(self.level_dimensions)} levels>"

    def _repr_html_(self) -> str:
        return slide_html(self)


def true_downsamples(level_dimensions: Sequence[Size]) -> tuple[tuple[float, float], ...]:
    """Level-0 px per px of each level, (x, y), from the levels' sizes in px, finest first."""
    width, height = level_dimensions[0]
    return tuple((downsample_of(width, w), downsample_of(height, h)) for w, h in level_dimensions)


def _reopen(
    cls: Callable[..., BaseSlide], path: str, mpp: MppLike | None, mpp_source: str, scene: SceneLike | None
) -> BaseSlide:
    # a reader without scenes does not take the parameter
    chosen = {} if scene is None else {"scene": scene}
    return cls(path, mpp=mpp, mpp_source=mpp_source, **chosen)
