"""Regions drawn on a slide (GeoJSON, as QuPath exports it), and the fraction of a patch inside them.

All coordinates are level-0 px.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

_AREAS = ("Polygon", "MultiPolygon")
_PIECE_CORNERS = 256


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


def as_roi(roi: RoiLike | None) -> Roi | None:
    """The region itself, or the one that a GeoJSON file draws; see `read_roi`."""
    return roi if roi is None or isinstance(roi, Roi) else read_roi(Path(roi))


def read_roi(path: str | Path, *, classes: Sequence[str] = (), min_share: float = Roi.min_share) -> Roi:
    """All polygons of a GeoJSON file as one region of interest.

    Parameters
    ----------
    classes
        Names of the classes to use; empty: all polygons, with or without a class.

    Raises
    ------
    RequestError
        The file is not GeoJSON of polygons, or none of them has one of the `classes`.
    """
    from shapely import union_all

    wanted = set(classes)
    shapes, seen = [], set()
    for number, label, kind, shape in _features(Path(path)):
        seen.add(label or "no class")
        if wanted and label not in wanted:
            continue
        _check_area(Path(path), number, label, kind)
        shapes.append(shape)
    if not shapes:
        found = f"its classes are {', '.join(sorted(seen))}" if seen else "it has no features"
        raise RequestError(f"{path}: no region{' of ' + ', '.join(classes) if classes else ''}; {found}.")
    named = f"{Path(path).name}{': ' + ', '.join(classes) if classes else ''}"
    return Roi(union_all(shapes), named, min_share)


def read_regions(path: str | Path) -> list[Drawn]:
    """Polygons of a GeoJSON file by class, in level-0 px. Annotations without a class are ignored.

    Raises
    ------
    RequestError
        If the file is not GeoJSON of classified polygons.
    """
    from shapely import union_all

    shapes: dict[str, list[Any]] = {}
    for number, label, kind, shape in _features(Path(path)):
        if label is None:
            continue
        _check_area(Path(path), number, label, kind)
        shapes.setdefault(label, []).append(shape)
    if not shapes:
        raise RequestError(f"{path}: no region has a class (properties.classification.name). Classify them.")
    return [Drawn(label, union_all(parts)) for label, parts in shapes.items()]


def _features(path: Path) -> Iterator[tuple[int, str | None, str, BaseGeometry | None]]:
    """Number, class, kind and shape (made valid; None if it is not an area) of each feature."""
    from shapely import make_valid
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
        features = record
        if isinstance(record, dict):
            features = [record] if record.get("type") == "Feature" else record["features"]
        for number, feature in enumerate(features, start=1):
            label = ((feature.get("properties") or {}).get("classification") or {}).get("name")
            kind = str(feature["geometry"]["type"])
            area = make_valid(shape(feature["geometry"])) if kind in _AREAS else None
            if area is not None and not np.isfinite(area.bounds).all() and not area.is_empty:
                raise RequestError(f"{path}: feature {number} has a coordinate that is not a number. Export it again.")
            yield number, None if label is None else str(label), kind, area
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file. Give the regions as GeoJSON.") from None
    except RequestError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, ShapelyError) as error:
        raise RequestError(f"{path}: not GeoJSON of annotations ({error!r}). Export it from QuPath again.") from error


def _check_area(path: Path, number: int, label: str | None, kind: str) -> None:
    if kind not in _AREAS:
        raise RequestError(
            f"{path}: feature {number} ({label or 'no class'}) is a {kind}; expected Polygon or MultiPolygon. "
            "Export areas, not points or lines."
        )
