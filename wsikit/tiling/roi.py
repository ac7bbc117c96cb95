"""Regions drawn on a slide (GeoJSON, as QuPath exports it), and the fraction of a patch inside them.

All coordinates are level-0 px. Those of a file may count from the corner of the slide's scanned area, as in QuPath
(`openslide.bounds`): they are shifted when the file is read.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.tiling.drawing import Drawing, Frame, Thing, read_drawing, with_area

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from wsikit.slides.types import Slide

logger = logging.getLogger(__name__)

_PIECE_CORNERS = 256

FrameChoice = Literal["auto", "level0", "bounds"]
FRAMES: tuple[FrameChoice, ...] = ("auto", "level0", "bounds")
"""What the coordinates of a file count from: the corner of level 0, or that of the slide's bounds, as in QuPath.
auto: as the file states; else bounds for files of QuPath, level 0 for others."""


@dataclass(frozen=True)
class Drawn:
    """Regions of one class on one slide."""

    label: str
    shape: BaseGeometry
    """Polygons, level-0 px."""


@dataclass(frozen=True)
class Roi:
    """Region of interest on a slide: a patch is used if a sufficient fraction of it lies inside."""

    shape: BaseGeometry
    """Polygons with their holes, level-0 px; may be empty."""
    source: str
    """File name and classes, for display."""
    min_share: float = 0.5
    """Minimum fraction of a patch's area inside; 0 keeps all patches that touch the region."""
    frame: str = "level0"
    """What the coordinates of the file counted from, and by how much they were shifted; for display."""
    notes: tuple[str, ...] = ()
    """Remarks on the file: a shift, objects that are not used. One sentence each."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_share <= 1:
            raise RequestError(f"minimum fraction of a patch {self.min_share}: expected 0 to 1")

    def share(self, coords: npt.NDArray[np.int64], side: tuple[float, float]) -> npt.NDArray[np.float32]:
        """Exact fraction of each patch's area inside, float32 (N,) in [0, 1].

        `coords` is (N, 2), top-left corners; `side` is the side of a patch along x and y; both in level-0 px.
        """
        import shapely

        x0, y0 = coords[:, 0].astype(np.float64), coords[:, 1].astype(np.float64)
        boxes = shapely.box(x0, y0, x0 + side[0], y0 + side[1])
        shapely.prepare(self.shape)
        found = shapely.contains_properly(self.shape, boxes).astype(np.float64)
        border = np.flatnonzero(shapely.intersects(self.shape, boxes) & (found == 0))
        if len(border):
            pieces = _pieces(self.shape)
            box, piece = shapely.STRtree(pieces).query(boxes[border])
            rectangles = shapely.bounds(boxes[border])
            # clipping with a rectangle is far faster than intersection; its degenerate seams have no area
            areas = [
                shapely.clip_by_rect(pieces[j], *rectangles[i]).area
                for i, j in zip(box.tolist(), piece.tolist(), strict=True)
            ]
            found[border] = np.bincount(box, areas, len(border)) / (side[0] * side[1])
        clipped: npt.NDArray[np.float32] = np.clip(found, 0.0, 1.0).astype(np.float32)
        return clipped

    def to_json(self) -> dict[str, Any]:
        """For receipts: equal for equal shapes, whatever the order of their corners."""
        return {"shape": hashlib.sha256(self.shape.normalize().wkb).hexdigest(), "min_share": self.min_share}


def _pieces(shape: BaseGeometry) -> npt.NDArray[Any]:
    """`shape` divided into disjoint pieces with few corners, so that a patch is clipped against few corners."""
    import shapely

    done, left = [], [shape]
    while left:
        part = left.pop()
        if shapely.get_num_coordinates(part) <= _PIECE_CORNERS:
            done.append(part)
            continue
        x0, y0, x1, y1 = part.bounds
        wide = x1 - x0 > y1 - y0
        middle = (x0 + x1) / 2 if wide else (y0 + y1) / 2
        halves = ((x0, y0, middle, y1), (middle, y0, x1, y1)) if wide else ((x0, y0, x1, middle), (x0, middle, x1, y1))
        cut = [shapely.clip_by_rect(part, *half) for half in halves]
        # corners too close to each other to be separated
        stuck = any(shapely.get_num_coordinates(half) >= shapely.get_num_coordinates(part) for half in cut)
        (done if stuck else left).extend(half for half in cut if not half.is_empty)
    return np.asarray(done, dtype=object)


RoiLike = Roi | str | os.PathLike[str]


def as_roi(roi: RoiLike | None, slide: Slide | None = None, *, frame: FrameChoice = "auto") -> Roi | None:
    """The region itself, or the one that a GeoJSON file draws on `slide`; see `read_roi`."""
    return roi if roi is None or isinstance(roi, Roi) else read_roi(Path(roi), slide=slide, frame=frame)


def read_roi(
    path: str | Path,
    *,
    classes: Sequence[str] = (),
    min_share: float = Roi.min_share,
    slide: Slide | None = None,
    frame: FrameChoice = "auto",
) -> Roi:
    """All areas of a GeoJSON file as one region of interest.

    Cells, detections and tiles are not regions; if the file has nothing else, those of the named `classes` are used.
    Points, lines and objects without geometry are passed over; objects that cannot be read are named in `Roi.notes`.

    Parameters
    ----------
    classes
        Names of the classes to use; empty: all areas, with or without a class.
    slide
        The slide on which they are drawn, for its bounds; None: the coordinates are level-0 px.
    frame
        What the coordinates count from (`FRAMES`).

    Raises
    ------
    RequestError
        The file is not GeoJSON, has no areas, or none of them has one of the `classes`.
    """
    from shapely import union_all

    drawing = read_drawing(path)
    wanted = set(classes)
    chosen = [thing for thing in drawing.things if not wanted or thing.label in wanted]
    areas = [thing for thing in chosen if thing.area is not None]
    if wanted and not areas:
        chosen = [with_area(thing) for thing in chosen]
        areas = [thing for thing in chosen if thing.area is not None]
    if not areas:
        raise RequestError(_nothing(drawing, chosen, classes))
    shapes, shifted, words = _in_level_0(drawing, areas, slide, frame)
    notes = [*drawing.notes, *words, *_unused(drawing, chosen, areas)]
    shape = union_all(shapes)
    if slide is not None and not shape.intersects(_rectangle(slide)):
        notes.append(f"{path}: no region lies on the slide ({slide.dimensions[0]} × {slide.dimensions[1]} px)")
    named = f"{Path(path).name}{': ' + ', '.join(classes) if classes else ''}"
    return Roi(shape, named, min_share, shifted, tuple(notes))


def read_regions(
    path: str | Path,
    *,
    slide: Slide | None = None,
    frame: FrameChoice = "auto",
    on_note: Callable[[str], None] = logger.warning,
) -> list[Drawn]:
    """Areas of a GeoJSON file by class, in level-0 px. Objects without a class, and cells and detections, are ignored.

    Parameters
    ----------
    slide, frame
        As for `read_roi`.
    on_note
        Called with each remark, such as an object that cannot be read.

    Raises
    ------
    RequestError
        If the file is not GeoJSON, or has no area with a class.
    """
    from shapely import union_all

    drawing = read_drawing(path)
    classed = [thing for thing in drawing.things if thing.label is not None]
    areas = [thing for thing in classed if thing.area is not None]
    if not areas:
        classed = [with_area(thing) for thing in classed]
        areas = [thing for thing in classed if thing.area is not None]
    if not areas:
        if classed:
            raise RequestError(_nothing(drawing, classed, ()))
        raise RequestError(f"{path}: no region has a class (properties.classification.name). Classify them.")
    placed, _, words = _in_level_0(drawing, areas, slide, frame)
    for note in (*drawing.notes, *words, *_unused(drawing, classed, areas)):
        on_note(note)
    shapes: dict[str, list[BaseGeometry]] = {}
    for thing, shape in zip(areas, placed, strict=True):
        shapes.setdefault(str(thing.label), []).append(shape)
    return [Drawn(label, union_all(parts)) for label, parts in shapes.items()]


def _in_level_0(
    drawing: Drawing, things: Sequence[Thing], slide: Slide | None, frame: FrameChoice
) -> tuple[list[BaseGeometry], str, list[str]]:
    """The shapes in level-0 px, the frame of the file in words, and remarks on it."""
    from shapely.affinity import translate

    if frame not in FRAMES:
        raise RequestError(f"frame {frame!r}: choose one of {', '.join(FRAMES)}")
    bounds = None if slide is None else slide.info.bounds
    corner = (0.0, 0.0) if bounds is None else (float(bounds[0]), float(bounds[1]))
    shapes: list[BaseGeometry] = []
    used: Counter[Frame] = Counter()
    for thing in things:
        assert thing.area is not None
        own, origin = _frame_of(drawing, thing, frame), corner
        if own == "bounds" and frame == "auto" and drawing.frame == "bounds" and drawing.origin is not None:
            origin = drawing.origin
        used[own] += 1
        moved = own == "bounds" and origin != (0.0, 0.0)
        shapes.append(translate(thing.area, *origin) if moved else thing.area)
    if drawing.frame == "bounds" and frame == "auto" and drawing.origin is not None:
        corner = drawing.origin
    if corner == (0.0, 0.0):
        return shapes, "level0", []
    where = f"x={corner[0]:.0f}, y={corner[1]:.0f}"
    if not used["bounds"]:
        why = "" if frame == "level0" else " QuPath's count from there: --frame bounds."
        note = f"{drawing.path}: regions read in level-0 px; the slide's bounds (scanned area) begin at {where}.{why}"
        return shapes, "level0", [note]
    why = {"auto": "as QuPath counts" if drawing.frame is None else "as the file states"}.get(frame, "as requested")
    mixed = f"{used['bounds']} of {len(things)} regions" if used["level0"] else "regions"
    note = f"{drawing.path}: {mixed} shifted by {where} px, the corner of the slide's bounds (openslide.bounds), {why}"
    return shapes, f"bounds ({where})", [f"{note}; --frame level0 reads them unshifted"]


def _frame_of(drawing: Drawing, thing: Thing, frame: FrameChoice) -> Frame:
    """The frame of one object: as requested, as wsikit wrote it, else bounds for objects of QuPath."""
    if frame != "auto":
        return frame
    return thing.frame or drawing.frame or ("bounds" if drawing.by_qupath else "level0")


def _rectangle(slide: Slide) -> BaseGeometry:
    from shapely import box

    return box(0, 0, *slide.dimensions)


def _nothing(drawing: Drawing, chosen: Sequence[Thing], classes: Sequence[str]) -> str:
    """Why no object of a file is a region."""
    path, things = drawing.path, drawing.things
    seen = sorted({thing.label or "no class" for thing in things})
    if classes and not chosen:
        found = f"its classes are {', '.join(seen)}" if seen else "it has no features"
        return f"{path}: no region of {', '.join(classes)}; {found}."
    if not things:
        return f"{path}: no region; it has no features."
    faults = [thing for thing in chosen if thing.fault]
    if faults:
        return f"{path}: not GeoJSON of areas (feature {faults[0].number}: {faults[0].fault}). Export it again."
    detections = sum(thing.is_detection for thing in chosen)
    if detections:
        return (
            f"{path}: no region; it has {detections} cells, detections or tiles. Export the annotations, or name the "
            "classes to use."
        )
    kinds = [thing for thing in chosen if thing.kind]
    if kinds:
        first = kinds[0]
        return (
            f"{path}: feature {first.number} ({first.label or 'no class'}) is a {first.kind}; expected Polygon or "
            "MultiPolygon. Export areas, not points or lines."
        )
    return f"{path}: not GeoJSON of areas: its features have no geometry. Export it from QuPath again."


def _unused(drawing: Drawing, chosen: Sequence[Thing], areas: Sequence[Thing]) -> list[str]:
    """What is passed over: objects that cannot be read by number, others by their count."""
    used = {thing.number for thing in areas}
    things = [thing for thing in chosen if thing.number not in used]
    notes = [
        f"{drawing.path}: feature {thing.number} ({thing.label or 'no class'}) is not used: {thing.fault}"
        for thing in things
        if thing.fault
    ]
    if len(notes) > 5:
        notes = [*notes[:5], f"{drawing.path}: {len(notes) - 5} more features cannot be read"]
    counts = Counter(
        "cells, detections or tiles" if thing.is_detection else thing.kind or "features without geometry"
        for thing in things
        if not thing.fault
    )
    for what, count in counts.items():
        empty = " without area" if what in ("Polygon", "MultiPolygon", "GeometryCollection") else ""
        notes.append(f"{drawing.path}: {count} {what}{empty} passed over")
    return notes
