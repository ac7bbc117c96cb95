"""What is known about a slide (`SlideInfo`), and what the rest of wsikit needs of one (`Slide`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

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
