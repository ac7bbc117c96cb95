"""What is known about a slide (`SlideInfo`), and what the rest of wsikit needs of one (`Slide`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]
MppLike = float | tuple[float, float]

WHITE = 255
"""Outside its scanned area a slide is white, like glass."""


_BOUNDS = ("x", "y", "width", "height")


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of a fluorescence slide, and how it is shown. Its samples are read by `Slide.read_channels`."""

    name: str
    """As the file states it (DAPI, CD3, …), otherwise "channel 1" and so on."""
    color: tuple[int, int, int]
    """RGB of its brightest pixels in the composite."""
    dtype: str
    """Type of a sample: uint8, uint16, float32."""
    window: tuple[float, float]
    """Sample values that are shown black and in full colour. One window per slide, so that all tiles agree."""
    window_source: str
    """stated: by the file; measured: once, on a coarse level."""
    color_source: str = "stated"
    """stated: by the file; chosen: by wsikit, from the name and the order of the channels."""
    shown: bool = True
    """Whether it is part of the composite, which shows a few channels at most."""

    @property
    def hex(self) -> str:
        """The colour as RRGGBB.

        >>> Channel("DAPI", (0, 0, 255), "uint16", (100.0, 4000.0), "measured").hex
        '0000FF'
        """
        return "".join(f"{part:02X}" for part in self.color)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Channel:
        """From the values of `dataclasses.asdict`, read from JSON; KeyError, TypeError or ValueError otherwise."""
        red, green, blue = (int(part) for part in record["color"])
        low, high = (float(bound) for bound in record["window"])
        return cls(**{**record, "color": (red, green, blue), "window": (low, high)})


@dataclass(frozen=True, slots=True)
class SceneInfo:
    """One of several main images of a slide file: scanned areas, sections, focal planes."""

    number: int
    """As `open_slide(scene=…)` takes it, from 0 in the order of the file."""
    name: str
    """As the file gives it, which `scene` takes too; empty if it gives none."""
    dimensions: Size
    """Width and height of its level 0, px."""


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """Facts about a slide that are known without reading its pixels."""

    path: str
    """The path as it was given to `open_slide`."""
    reader: str
    """Name of the reader that opened it, as `open_slide(reader=…)` takes it."""
    vendor: str
    """Writer of the file: aperio, hamamatsu, dicom, ome, generic-tiff, …"""
    kind: str
    """tiled: a slide stored as tiles; plain: one picture, kept in memory; store: a SlideStore."""
    dimensions: Size
    """Width and height of level 0, px."""
    level_dimensions: tuple[Size, ...]
    """Width and height of each level, px, finest first."""
    level_downsamples: tuple[tuple[float, float], ...]
    """Level-0 px per px of each level, along x and y: exact ratios, not rounded to whole numbers."""
    mpp: tuple[float, float] | None
    """µm per level-0 px, (x, y); None if unknown or implausible."""
    mpp_source: str
    """Source of `mpp`: vendor property …, TIFF XResolution, OME-XML, DICOM PixelSpacing, sidecar, option, manifest."""
    mpp_fault: str | None = None
    """Why a stated pixel size is not used, or what the file states instead of one; None if there is nothing to say."""
    magnification: float | None = None
    """Magnification of the objective, as stated. For display only: no size is computed from it."""
    tile_px: Size | None = None
    """Width and height of the tiles of level 0 in the file, px."""
    compression: str | None = None
    """Codec of level 0: JPEG, JPEG 2000, WebP, deflate, …"""
    associated: tuple[str, ...] = ()
    """Names of the images stored with the slide: thumbnail, label, macro. Label and macro can identify the patient."""
    icc_profile: bytes | None = None
    properties: dict[str, str] | None = None
    """Properties of the file that are on the allow-list (`wsikit.slides.properties`)."""
    channels: tuple[Channel, ...] = ()
    """Channels of a fluorescence or multiplex slide, in the order of the file. Empty: RGB, or one grey image."""
    mpp_literal: str = ""
    """The words of the file for its pixel size, such as `MPP = 0,4990`."""
    notes: tuple[str, ...] = ()
    """What was decided in reading this file, and why; and what the file holds that is not used. One sentence each."""
    scenes: tuple[SceneInfo, ...] = ()
    """The scenes of a file that has several; empty if it has one."""
    scene: int | None = None
    """Number of the scene that is read; None: all of them in one picture, as in a Leica SCN, or the reader has none."""

    @property
    def bounds(self) -> tuple[int, int, int, int] | None:
        """The scanned area (x, y, width, height), level-0 px, if the file states it as OpenSlide reads it.

        QuPath and other programs show only this part of the slide, and their coordinates count from its corner.
        """
        properties = self.properties or {}
        try:
            x, y, width, height = (int(properties[f"openslide.bounds-{name}"]) for name in _BOUNDS)
        except (KeyError, ValueError):
            return None
        return (x, y, width, height) if width > 0 and height > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. The ICC profile is replaced by its size in bytes."""
        record = asdict(self)
        record["bounds"] = None if self.bounds is None else list(self.bounds)
        profile = record.pop("icc_profile")
        record["icc_profile_bytes"] = len(profile) if profile else 0
        record["properties"] = self.properties or {}
        return record


class Slide(Protocol):
    """The interface of a slide that all stages of wsikit use: a scanner's file or a SlideStore."""

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
