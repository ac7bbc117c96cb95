"""Reads GeoJSON as QuPath and other programs write it: objects with class and geometry, in the pixels of the file.

One object that cannot be read never costs the file: it is named. Nothing is shifted here; see `wsikit.tiling.roi`.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wsikit.errors import RequestError
from wsikit.tables import decode

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

Frame = Literal["level0", "bounds"]

AREAS = ("Polygon", "MultiPolygon")
_GEOMETRIES = (*AREAS, "Point", "MultiPoint", "LineString", "MultiLineString", "GeometryCollection")
MEMBER = "wsikit"
"""Name of the member in which wsikit records the frame of the coordinates."""

_FAULT = "wsikit-fault"
"""In place of an object that is no feature: why not."""

_FARTHEST_PX = 1e8
"""No slide is that wide; beyond it areas lose their precision."""

_DETECTIONS = {"detection", "cell", "tile"}
_OLD_IDS = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tma_core",
    "PathRootObject": "root",
}
"""What QuPath before 0.4 writes as id, in place of objectType."""

_NOT_GEOJSON: tuple[tuple[str, str], ...] = (
    ("<ASAP_Annotations", "annotations of ASAP"),
    ("<Annotations", "annotations of Aperio ImageScope"),
    ("<?xml", "XML"),
    ("<", "XML or HTML"),
)


@dataclass(frozen=True)
class Thing:
    """One object of a file."""

    number: int
    """From 1, in the order of the file."""
    label: str | None
    """Its class; the names of a derived class are joined as QuPath shows them: "Tumor: Positive"."""
    kind: str
    """Type of its geometry; "" if it has none."""
    area: BaseGeometry | None
    """Its polygons, made valid; None if it has no area, or is a detection (see `with_area`)."""
    is_detection: bool
    """A cell, a detection or a tile, which programs make by the thousand; not an annotation."""
    geometry: Any
    """As the file has it."""
    frame: Frame | None
    """Frame of its coordinates, if wsikit wrote the object; None: not stated."""
    fault: str = ""
    """Why its geometry cannot be used."""


@dataclass(frozen=True)
class Drawing:
    """The objects of a file."""

    path: str
    things: tuple[Thing, ...]
    by_qupath: bool
    """Whether the file has marks of QuPath."""
    frame: Frame | None
    """Frame of the whole file, if it states one."""
    origin: tuple[float, float] | None
    """Position of the frame's origin, level-0 px, if the file states it."""
    notes: tuple[str, ...]


def read_drawing(path: str | Path) -> Drawing:
    """Read a file of regions: GeoJSON, also compressed, in UTF-8 or another encoding.

    A FeatureCollection, a Feature, a bare geometry, or lists of them, as QuPath writes them.

    Raises
    ------
    RequestError
        There is no such file, or it is not GeoJSON; a file of another program is named.
    """
    place = Path(path)
    text, notes = decode(str(place), _content(place), "regions", form="GeoJSON")
    start = text.lstrip()[:400]
    if not start:
        raise RequestError(f"{place}: the file is empty. Export the regions as GeoJSON again.")
    for mark, program in _NOT_GEOJSON:
        if start.startswith(mark) or (mark.startswith("<A") and mark in start):
            raise RequestError(f"{place}: {program}, not GeoJSON. Open it in QuPath and export the objects as GeoJSON.")
    try:
        record = json.loads(text)
        features = list(_features(record))
        if not isinstance(record, dict | list):
            raise ValueError(f"{type(record).__name__} found")
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise RequestError(
            f"{place}: not GeoJSON of annotations ({_short(error)}). Export it from QuPath again."
        ) from error
    things = tuple(_thing(number, feature) for number, feature in enumerate(features, start=1))
    frame, origin = _stated_frame(record)
    return Drawing(str(place), things, any(map(_is_qupath, features)), frame, origin, tuple(notes))


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            return gzip.decompress(content)
        if content[:4] == b"PK\x03\x04":  # QuPath can compress its export
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                names = [name for name in archive.namelist() if name.lower().endswith((".geojson", ".json"))]
                if len(names) != 1:
                    raise RequestError(f"{path}: a zip with {len(names)} files of GeoJSON; give one of them")
                return archive.read(names[0])
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file. Give the regions as GeoJSON.") from None
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise RequestError(f"{path}: cannot be read ({error}). Export the regions as GeoJSON again.") from error
    return content


def _features(record: Any) -> Iterator[Mapping[str, Any]]:
    """All features of any of the shapes of a file; a bare geometry as a feature without properties."""
    if isinstance(record, list):
        for item in record:
            try:
                yield from list(_features(item))
            except (ValueError, TypeError, KeyError) as error:  # it costs this object only
                yield {_FAULT: _short(error)}
    elif not isinstance(record, dict):
        raise ValueError(f"{record!r:.40} in place of a feature")
    elif record.get("type") in _GEOMETRIES and "geometry" not in record:
        yield {"type": "Feature", "geometry": record, "properties": {}}
    elif "features" in record:
        yield from _features(list(record["features"] or []))
    elif "geometry" in record or record.get("type") == "Feature":
        yield record
    else:
        raise KeyError("features")


def _thing(number: int, feature: Mapping[str, Any]) -> Thing:
    properties = feature.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    geometry = feature.get("geometry")
    kind = str(geometry.get("type", "")) if isinstance(geometry, dict) else ""
    stated = properties.get("objectType", properties.get("object_type", _OLD_IDS.get(str(feature.get("id")))))
    thing = Thing(
        number,
        _label(properties.get("classification")),
        kind,
        None,
        str(stated).lower() in _DETECTIONS,
        geometry,
        _frame_of(properties.get("metadata")),
        feature.get(_FAULT, ""),
    )
    return thing if thing.is_detection or thing.fault else with_area(thing)


def with_area(thing: Thing) -> Thing:
    """The object with the polygons of its geometry, or with the fault in them."""
    try:
        area = _area(thing.geometry) if isinstance(thing.geometry, dict) else None
    except Exception as error:  # of the content, or of GEOS; it costs this object only
        return replace(thing, fault=_short(error))
    return replace(thing, area=None if area is None or area.is_empty else area)


def _label(classification: Any) -> str | None:
    """The class as QuPath displays it."""
    if isinstance(classification, str):
        return classification.strip() or None
    if not isinstance(classification, dict):
        return None
    names = classification.get("names")
    if isinstance(names, list) and names:
        return ": ".join(str(name) for name in names)
    name = classification.get("name")
    return None if name is None or name == "" else str(name)


def _area(geometry: Mapping[str, Any]) -> BaseGeometry | None:
    """The polygons of a geometry as one valid shape; None if it has none.

    Raises
    ------
    ValueError
        A ring has fewer than three corners, or a coordinate is not a number on a slide.
    """
    from shapely import Polygon, union_all

    polygons = [ring for rings in _polygons(geometry) if (ring := [_ring(corners) for corners in rings])]
    if not polygons:
        return None
    shapes = [_valid(Polygon(rings[0], rings[1:])) for rings in polygons]
    return shapes[0] if len(shapes) == 1 else union_all(shapes)


def _polygons(geometry: Mapping[str, Any]) -> Iterator[list[Any]]:
    kind = geometry.get("type")
    if kind == "Polygon":
        yield list(geometry["coordinates"] or [])
    elif kind == "MultiPolygon":
        yield from (list(polygon) for polygon in geometry["coordinates"] or [])
    elif kind == "GeometryCollection":
        for part in geometry["geometries"] or []:
            yield from _polygons(part)
    elif kind not in _GEOMETRIES:
        raise ValueError(f"type {kind!r}")


def _ring(corners: Any) -> list[tuple[float, float]]:
    ring = [(float(corner[0]), float(corner[1])) for corner in corners]  # a third number, z, is not used
    if len(set(ring)) < 3:
        raise ValueError(f"a ring of {len(set(ring))} corners; an area has 3 or more")
    if not np.isfinite(ring).all() or np.abs(ring).max() > _FARTHEST_PX:
        raise ValueError("a coordinate that is not a number on a slide")
    return ring


def _valid(shape: BaseGeometry) -> BaseGeometry:
    """The shape with lines that cross resolved. GEOS' other method takes minutes for a scribble of 2,000 corners."""
    from shapely import GeometryCollection, MultiPolygon, make_valid, union_all

    if shape.is_valid:
        return shape
    try:
        made = make_valid(shape, method="structure", keep_collapsed=False)
    except TypeError:  # shapely < 2.1
        made = make_valid(shape)
    if isinstance(made, GeometryCollection) and not isinstance(made, MultiPolygon):
        made = union_all([part for part in made.geoms if part.geom_type in AREAS])
    return made


def _is_qupath(feature: Mapping[str, Any]) -> bool:
    properties = feature.get("properties")
    if str(feature.get("id")) in _OLD_IDS or "nucleusGeometry" in feature:
        return True
    marks = {"objectType", "object_type", "isLocked", "classification"}
    return isinstance(properties, dict) and bool(marks & set(properties))


def _frame_of(metadata: Any) -> Frame | None:
    """The frame of an object that wsikit wrote; QuPath keeps the metadata of an object through import and export."""
    if not isinstance(metadata, dict):
        return None
    stated = metadata.get("frame")
    if stated in ("level0", "bounds"):
        return "bounds" if stated == "bounds" else "level0"
    # files of earlier versions state the use, and are in level-0 px
    return "level0" if {"slide_id", "class", "use"} <= set(metadata) else None


def _stated_frame(record: Any) -> tuple[Frame | None, tuple[float, float] | None]:
    member = record.get(MEMBER) if isinstance(record, dict) else None
    if not isinstance(member, dict) or member.get("frame") not in ("level0", "bounds"):
        return None, None
    try:
        x, y = (float(value) for value in member["origin"])
    except (KeyError, TypeError, ValueError):
        return member["frame"], None
    return member["frame"], (x, y)


def _short(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 160 else text[:159] + "…"
