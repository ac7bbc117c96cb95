"""Which directories of a TIFF are the channels of a fluorescence slide, at which level. No pixels.

Channels are recognised only where the file states them: OME-TIFF, PerkinElmer QPTIFF, ImageJ, and the JSON description
of tifffile. The pages of any other TIFF may be anything: focal planes, time points, other slides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tifffile

from wsikit.errors import BrokenSlideError, RequestError, SlideError, UnsupportedSlideError
from wsikit.slides.formats.tiff import channel_names
from wsikit.slides.formats.tiff.channel_names import Stated
from wsikit.slides.formats.tiff.channel_planes import Plane, plane_of, unfit_plane
from wsikit.slides.formats.tiff.layout import images_of, scene_infos, structure_fault
from wsikit.slides.formats.tiff.ome import read_ome
from wsikit.slides.formats.tiff.page_facts import is_reduction
from wsikit.slides.scenes import SceneLike, choose_scene
from wsikit.slides.types import SceneInfo

_QPI_ROOT = "<PerkinElmer-QPI-ImageDescription"
_AXIS_WORDS = {"Z": "focal planes", "T": "time points"}
_RGB_COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
_NUMBERED = re.compile(r"^(channel|ch|c|image)?[\s:_#-]*[\d\s:_/]*$", re.IGNORECASE)
_SPLIT_RGB = ({"r", "g", "b"}, {"red", "green", "blue"})


@dataclass(frozen=True)
class ChannelImage:
    """The image of several channels in a TIFF."""

    page: tifffile.TiffPage
    """Directory of the first channel at the finest level."""
    levels: tuple[tuple[Plane, ...], ...]
    """Per level, finest first: one plane per channel."""
    stated: tuple[Stated, ...]
    """What the file states about each channel."""
    kind: str
    """ome, qpi, imagej, shaped."""
    associated: dict[str, int] = field(default_factory=dict)
    """Name of each associated image and the number of its directory."""
    notes: tuple[str, ...] = ()
    scenes: tuple[SceneInfo, ...] = ()
    """The scenes of a file that has several."""
    scene: int = 0
    """Number of the one that is read."""

    @property
    def rgb_order(self) -> tuple[int, ...] | None:
        """Numbers of the red, green and blue channel, if names or, without names, colours say so; else None."""
        names = [(channel.name or "").strip().lower() for channel in self.stated]
        if set(names) in _SPLIT_RGB and len(names) == 3:
            return tuple(next(k for k, name in enumerate(names) if name[0] == part) for part in "rgb")
        colors = [channel.color for channel in self.stated]
        return (0, 1, 2) if colors == _RGB_COLORS and not self.named else None

    @property
    def named(self) -> bool:
        """Whether any channel has a name that is more than a number."""
        return any(channel.name and not _NUMBERED.match(channel.name.strip()) for channel in self.stated)

    @property
    def may_be_rgb(self) -> bool:
        """Whether the three channels can be those of a colour image, as far as the file states them."""
        states_nothing = not self.named and not any(channel.color for channel in self.stated)
        unsigned = self.levels[0][0].dtype.kind == "u"
        return len(self.stated) == 3 and unsigned and (states_nothing or self.rgb_order is not None)


def holds_channels(path: str, scene: SceneLike | None = None) -> bool:
    """Whether the slide (or scene) in a TIFF file is one of several channels, which are stated as such."""
    try:
        with tifffile.TiffFile(path, is_philips=False) as tiff:
            return _find(tiff, path, scene) is not None
    except Exception:  # the reader that is chosen then explains what is wrong
        return False


def read_channel_image(path: str, scene: SceneLike | None = None) -> ChannelImage:
    """The channels of a TIFF, or of the scene that is requested.

    Raises
    ------
    UnsupportedSlideError
        The file states no channels, or they are of a type that is not read.
    BrokenSlideError
        The TIFF structure is damaged, or channels are missing.
    """
    try:
        with tifffile.TiffFile(path, is_philips=False) as tiff:
            found = _find(tiff, path, scene)
            if found is None:
                raise UnsupportedSlideError(
                    f"{path}: states no channels (as OME-TIFF, QPTIFF and ImageJ files do). Open it with reader='auto'."
                )
            return _image(path, tiff, found)
    except (SlideError, RequestError, FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # tifffile raises errors of many kinds for a damaged structure
        raise BrokenSlideError(f"{path}: {structure_fault(path, error)}") from error


@dataclass(frozen=True)
class _Found:
    """Channels as directories (or samples of one directory), before they are checked."""

    kind: str
    series: tifffile.TiffPageSeries | None
    number: int
    """Number of the image in the file."""
    per_level: list[list[Any]]
    """Directories per level: one per channel, or one for all. At level 0 the first may be None (not stored)."""
    n_channels: int
    interleaved: bool
    """Whether one directory has all channels as samples."""
    planes_at: list[int | None] | None = None
    """Number of each channel's plane after one directory that describes several."""
    notes: tuple[str, ...] = ()
    scenes: tuple[SceneInfo, ...] = ()
    scene: int = 0


def _find(tiff: tifffile.TiffFile, path: str, scene: SceneLike | None) -> _Found | None:
    if not tiff.pages or tiff.is_ndpi or tiff.is_svs or tiff.is_scn or tiff.is_bif:
        return None
    if tiff.is_qpi or _QPI_ROOT in tiff.pages.first.description[:500]:
        choose_scene(path, [""], scene, 0)
        return _find_qpi(tiff)
    if not (tiff.is_ome or tiff.is_imagej or tiff.is_shaped):
        return None
    number, chosen = 0, 0
    notes: list[str] = []
    scenes: tuple[SceneInfo, ...] = ()
    if tiff.is_ome and len(tiff.series) > 1:
        images = images_of(path, tiff, scene)
        first = [series.pages[0] and series.pages[0].offset for series in tiff.series]
        if images.scene.main.offset not in first:
            return None
        number = first.index(images.scene.main.offset)
        notes, scenes, chosen = list(images.notes), scene_infos(images), images.chosen
    else:
        choose_scene(path, [""], scene, 0)
    series = tiff.series[number]
    kind = "ome" if tiff.is_ome else "imagej" if tiff.is_imagej else "shaped"
    page = series.keyframe
    axes = _axes(tiff, path, series)
    in_pages, in_samples = _size(series, axes, "C"), page.samplesperpixel
    if in_samples > 1:
        if int(page.photometric) != 1 or not _states_samples(tiff, number, in_pages, page, kind):
            return None
        n_channels = in_samples
    elif in_pages > 1 and not (tiff.is_ome and _held_planes(tiff, path, page) < 2):
        n_channels = in_pages
    else:
        return None
    lead = [(axis, size) for axis, size in zip(axes, series.shape) if axis not in "YXS"]
    if in_samples > 1:
        lead = [(axis, size) for axis, size in lead if axis != "C"]
    indices = [0] if in_samples > 1 else _page_numbers(lead, n_channels)
    pages = list(series.pages)
    planes_at: list[int | None] | None = None
    if len(pages) == 1 and len(indices) > 1:
        planes_at, pages = [*indices], [pages[0]] * len(indices)
    else:
        pages = [pages[index] for index in indices]
    notes += [
        f"It has {size} {_AXIS_WORDS.get(axis, f'planes along {axis}')}; only the first is read."
        for axis, size in lead
        if axis != "C" and size > 1
    ]
    interleaved = in_samples > 1
    return _Found(kind, series, number, [pages], n_channels, interleaved, planes_at, tuple(notes), scenes, chosen)


def _held_planes(tiff: tifffile.TiffFile, path: str, page: tifffile.TiffPage) -> int:
    """Number of planes of an OME image that are in this file; 0 if its text describes another file."""
    pages = [page.aspage() for page in tiff.pages]
    found = read_ome(path, pages[0].description, pages)
    held = [image for image in found.images if pages[image.directories[0]].offset == page.offset] if found else []
    return len(held[0].directories) if held else 0


def _states_samples(tiff: tifffile.TiffFile, number: int, in_pages: int, page: tifffile.TiffPage, kind: str) -> bool:
    """Whether the file states that the samples of a pixel are channels: not grey with alpha, and not RGB."""
    n = page.samplesperpixel
    if kind == "imagej":
        return in_pages == n or n > 4
    if in_pages not in (1, n):
        return False
    if kind == "ome":
        return n > 4 or len(channel_names.ome_channels(tiff.ome_metadata, number, page)) == n
    return in_pages == n


def _page_numbers(lead: Sequence[tuple[str, int]], n_channels: int) -> list[int]:
    """Numbers of the directories of all channels, at the first position along the other axes."""
    shape = [size for _, size in lead]
    place = [axis for axis, _ in lead].index("C")
    return [
        int(np.ravel_multi_index([channel if k == place else 0 for k in range(len(shape))], shape))
        for channel in range(n_channels)
    ]


def _find_qpi(tiff: tifffile.TiffFile) -> _Found | None:
    """Channels of a PerkinElmer file: each directory states in XML what it is."""
    by_size: dict[tuple[int, int], list[tifffile.TiffPage]] = {}
    for page in (page.aspage() for page in tiff.pages):
        kind = channel_names.qpi_field(page.description, "ImageType")
        if kind in ("FullResolution", "ReducedResolution") and page.samplesperpixel == 1:
            by_size.setdefault((page.imagewidth, page.imagelength), []).append(page)
    if not by_size:
        return None
    sizes = sorted(by_size, reverse=True)
    n_channels = len(by_size[sizes[0]])
    if n_channels < 2:
        return None
    per_level = [by_size[size] for size in sizes if len(by_size[size]) == n_channels]
    left = len(sizes) - len(per_level)
    notes = (f"{left} levels do not have all of the {n_channels} channels and are not used.",) if left else ()
    return _Found("qpi", None, 0, per_level, n_channels, False, None, notes)


def _image(path: str, tiff: tifffile.TiffFile, found: _Found) -> ChannelImage:
    pages = [_own_page(path, tiff, page, number) for number, page in enumerate(found.per_level[0])]
    per_level = [pages, *(found.per_level[1:] or _sub_levels(pages))]
    notes = list(found.notes)
    for page in pages:
        fault = unfit_plane(page) or (None if _same(page, pages[0]) else "channels of different size, type or tiling")
        if fault is not None:
            raise UnsupportedSlideError(
                f"{path}: {fault}. Export it again as OME-TIFF, uint8 or uint16, with all channels alike."
            )
    levels = []
    for level, of_level in enumerate(per_level):
        first = of_level[0]
        if level and not (
            is_reduction(first, pages[0])
            and unfit_plane(first) is None
            and all(_same(page, first) for page in of_level)
        ):
            notes.append(f"An image of {first.imagewidth} × {first.imagelength} px is not a level of the slide.")
            continue
        levels.append(_planes(of_level, found, level))
    levels.sort(key=lambda planes: -planes[0].width)
    return ChannelImage(
        page=pages[0],
        levels=tuple(levels),
        stated=tuple(_stated(tiff, found, pages)),
        kind=found.kind,
        associated=_associated(tiff, found),
        notes=tuple(notes),
        scenes=found.scenes,
        scene=found.scene,
    )


def _own_page(path: str, tiff: tifffile.TiffFile, page: Any, number: int) -> tifffile.TiffPage:
    """The directory of a channel, which must be in this file."""
    if page is None:
        raise BrokenSlideError(
            f"{path}: channel {number + 1} is not in the file, although its metadata list it. If the slide consists of "
            "several files, keep them in one folder; export it again as one file."
        )
    if page.parent.filehandle.path != tiff.filehandle.path:
        name = page.parent.filehandle.name
        raise UnsupportedSlideError(
            f"{path}: channel {number + 1} is in another file ({name}). Export the slide as one OME-TIFF file."
        )
    full: tifffile.TiffPage = page.aspage()
    return full


def _sub_levels(pages: Sequence[tifffile.TiffPage]) -> list[list[tifffile.TiffPage]]:
    """Directories of the coarser levels, which are sub-directories of those of level 0."""
    subs = [[sub.aspage() for sub in page.pages or ()] for page in pages]
    return [[sub[level] for sub in subs] for level in range(min(map(len, subs)))]


def _planes(pages: Sequence[tifffile.TiffPage], found: _Found, level: int) -> tuple[Plane, ...]:
    if found.interleaved:
        return tuple(plane_of(pages[0], sample) for sample in range(found.n_channels))
    if level == 0 and found.planes_at is not None:
        first = pages[0]
        starts = [int(first.dataoffsets[0]) + (number or 0) * first.nbytes for number in found.planes_at]
        return tuple(plane_of(first, 0, start=start) for start in starts)
    return tuple(plane_of(page, 0) for page in pages)


def _same(page: tifffile.TiffPage, other: tifffile.TiffPage) -> bool:
    """Whether two channels have tiles at the same places, of the same type."""
    return all(
        getattr(page, name) == getattr(other, name)
        for name in ("imagewidth", "imagelength", "dtype", "is_tiled", "tilewidth", "tilelength", "samplesperpixel")
    ) and (page.is_tiled or page.rowsperstrip == other.rowsperstrip)


def _stated(tiff: tifffile.TiffFile, found: _Found, pages: Sequence[tifffile.TiffPage]) -> list[Stated]:
    n = found.n_channels
    if found.kind == "qpi":
        return [channel_names.qpi_channel(page) for page in pages]
    if found.kind == "imagej":
        assert found.series is not None
        lead = [(axis, size) for axis, size in zip(found.series.axes, found.series.shape) if axis in "TZC"]
        labels = _page_numbers(lead, n) if "C" in dict(lead) else list(range(n))
        return channel_names.imagej_channels(dict(tiff.imagej_metadata or {}), n, labels=labels)
    if found.kind == "ome":
        stated = channel_names.ome_channels(tiff.ome_metadata, found.number, pages[0])
        # a channel of several samples is listed once
        return stated if len(stated) == n else [Stated()] * n
    described = tiff.shaped_metadata or ()
    return channel_names.shaped_channels(described[0] if described else None, n) or [Stated()] * n


def _associated(tiff: tifffile.TiffFile, found: _Found) -> dict[str, int]:
    """Thumbnail, label and overview of a QPTIFF, and images of these names in an OME-TIFF: number of the directory."""
    named: dict[str, int] = {}
    if found.kind == "qpi":
        kinds = {"Thumbnail": "thumbnail", "Label": "label", "Overview": "macro"}
        for page in tiff.pages:
            kind = kinds.get(channel_names.qpi_field(page.aspage().description, "ImageType") or "")
            if kind is not None:
                named.setdefault(kind, page.index)
    elif found.kind == "ome":
        for series in tiff.series:
            name = series.name.strip().lower()
            known = next((word for word in ("thumbnail", "label", "macro") if word in name), None)
            if series is not found.series and known is not None and len(series.pages) == 1 and series.pages[0]:
                named.setdefault(known, series.pages[0].index)
    return dict(sorted(named.items()))


def _size(series: tifffile.TiffPageSeries, axes: str, axis: str) -> int:
    return math.prod(size for name, size in zip(axes, series.shape) if name == axis)


def _axes(tiff: tifffile.TiffFile, path: str, series: tifffile.TiffPageSeries) -> str:
    """Axes of a series. Where an OME-XML names no directories, tifffile does not know that pages are channels."""
    axes: str = series.axes
    if not tiff.is_ome or axes != "IYX":
        return axes
    pages = [page.aspage() for page in tiff.pages]
    found = read_ome(path, pages[0].description, pages)
    image = found.images[0] if found is not None and len(found.images) == 1 else None
    is_channels = image is not None and image.channels == image.planes == len(image.directories) == series.shape[0]
    return "CYX" if is_channels else axes
