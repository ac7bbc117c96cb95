"""Subtype regions, and optionally patches, as GeoJSON for QuPath, written as a stream.

Coordinates are level-0 px, or count from the corner of the slide's bounds, as QuPath shows it; the file states which.
Regions are merged per class, with their holes; patches are detections with their own measurements.
"""

from __future__ import annotations

import itertools
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.outline import Rings, components, trace
from wsikit.exporters.summary_text import RESEARCH_USE
from wsikit.store.atomic import atomic_write

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bounds = tuple[int, int, int, int]
Frame = Literal["auto", "level0", "bounds"]
Per = Literal["class", "region"]

_NAMESPACE = uuid.UUID("6f0d6a52-7b39-5f4e-9f0e-2a3f5c1d8e47")
"""Namespace of the feature ids: the same map gives the same ids, so a repeated import is recognised."""


def write_geojson(
    path: str | os.PathLike[str],
    class_map: ClassMap,
    *,
    per: Per = "class",
    patches: Mapping[str, npt.NDArray[np.floating]] | None = None,
    bounds: Bounds | None = None,
    frame: Frame = "auto",
) -> int:
    """Write the map's regions as a FeatureCollection, atomically, and return the number of features.

    Parameters
    ----------
    path
        The file to write.
    class_map
        Patches without prediction are left out. Where patches overlap, the more certain one is used.
    per
        "class": one annotation per class present. "region": one per connected region, with its own measurements.
    patches
        Write each patch too, as a detection after the regions, with these measurements: (N,) by name, NaN left out. An
        empty mapping gives detections with the class and its probability only.
    bounds
        The slide's scanned area (x, y, width, height), level-0 px, if it states one (`SlideInfo.bounds`).
    frame
        "bounds": coordinates count from the corner of `bounds`; "level0": from the corner of the slide; "auto": bounds
        where there are some, since QuPath opens the slide so. The file states it in its member "wsikit".

    Notes
    -----
    Fields as QuPath ≥ 0.4 reads them: `objectType` "annotation", `classification` {name, color}, `measurements`
    area_mm2 (patch area, overlaps counted once), mean_probability (over that area, of the region's class) and
    n_patches; `metadata` carries slide, µm/px with its source, the frame, and the notices.
    """
    placed = Placed.of(bounds, frame)
    if per not in ("class", "region"):
        raise RequestError(f'per={per!r}: use "class" or "region"')
    wrong = [name for name, values in (patches or {}).items() if np.shape(values) != (len(class_map.labels),)]
    if wrong:
        raise RequestError(f"{class_map.slide_id}: measurement {wrong[0]!r} is not one value per patch")
    detections = iter(()) if patches is None else _detections(class_map, patches, placed)
    n_features = 0
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(f'{{"type": "FeatureCollection", "wsikit": {_json(placed.to_json())}, "features": [')
        for feature in itertools.chain(_regions(class_map, per, placed), map(_json, detections)):
            file.write(",\n" if n_features else "\n")
            file.write(feature)
            n_features += 1
        file.write("\n]}\n")
    return n_features


@dataclass(frozen=True)
class Placed:
    """The frame of the coordinates in a file."""

    frame: Literal["level0", "bounds"]
    x: int
    y: int
    """Its origin, level-0 px."""

    @classmethod
    def of(cls, bounds: Bounds | None, frame: Frame) -> Placed:
        if frame not in ("auto", "level0", "bounds"):
            raise RequestError(f"frame {frame!r}: choose auto, level0 or bounds")
        if bounds is None or frame == "level0":
            return cls("level0", 0, 0)
        return cls("bounds", bounds[0], bounds[1])

    def to_json(self) -> dict[str, Any]:
        return {"frame": self.frame, "origin": [self.x, self.y]}


def _regions(class_map: ClassMap, per: Per, placed: Placed) -> Iterator[str]:
    """One feature at a time, as JSON, classes in order, the regions of a class from top to bottom."""
    region, label_of_region = components(class_map.cell_labels)
    if len(label_of_region) == 0:
        return
    polygons = _Polygons.of(
        trace(region, len(label_of_region)),
        class_map.partition.x_edges - placed.x,
        class_map.partition.y_edges - placed.y,
    )
    measures = _measure(class_map, region, label_of_region)
    for group in _groups(label_of_region, per):
        label = int(label_of_region[group[0]])
        one = len(group) == 1
        geometry = f'{{"type":"{"Polygon" if one else "MultiPolygon"}","coordinates":'
        text = polygons.text(int(group[0]), int(group[-1]) + 1)  # a group is a run of regions
        geometry += text if one else f"[{text}]"
        properties = {
            "objectType": "annotation",
            "classification": _classification(class_map, label),
            "measurements": measures.of(group),
            "metadata": {**_metadata(class_map, label), "frame": placed.frame},
        }
        number = uuid.uuid5(_NAMESPACE, f"{class_map.slide_id}/{class_map.classes[label]}/{per}/{group[0]}")
        yield f'{{"type":"Feature","id":"{number}","geometry":{geometry}}},"properties":{_json(properties)}}}'


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _detections(
    class_map: ClassMap, measurements: Mapping[str, npt.NDArray[np.floating]], placed: Placed
) -> Iterator[dict[str, Any]]:
    """Every patch, in table order: its square, clipped to the slide; without a classification if it has no class."""
    right, bottom = class_map.grid.slide_px
    side_x, side_y = (round(side) for side in class_map.grid.side)
    named = {name: np.asarray(values, dtype=np.float64) for name, values in measurements.items()}
    for row, ((x0, y0), label) in enumerate(zip(class_map.coords.tolist(), class_map.labels.tolist(), strict=True)):
        x1, y1 = min(x0 + side_x, right), min(y0 + side_y, bottom)
        found = {"probability": class_map.top_probs[row], **{name: values[row] for name, values in named.items()}}
        properties: dict[str, Any] = {
            "objectType": "detection",
            "measurements": {name: round(float(value), 6) for name, value in found.items() if np.isfinite(value)},
            "metadata": {"row": str(row), "frame": placed.frame},
        }
        if label >= 0:
            properties["classification"] = _classification(class_map, label)
        number = uuid.uuid5(_NAMESPACE, f"{class_map.slide_id}/{class_map.grid.name}/patch/{x0}/{y0}")
        x0, x1, y0, y1 = x0 - placed.x, x1 - placed.x, y0 - placed.y, y1 - placed.y
        yield {
            "type": "Feature",
            "id": str(number),
            "geometry": {"type": "Polygon", "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]},
            "properties": properties,
        }


def _classification(class_map: ClassMap, label: int) -> dict[str, Any]:
    """As in QuPath: a displayed name and its colour."""
    return {"name": class_map.class_names[label], "color": [int(value) for value in class_map.colors[label]]}


def _groups(label_of_region: Ints, per: Per) -> Iterator[Ints]:
    """Indices of the regions that go into one feature each."""
    everything = np.arange(len(label_of_region))
    borders = everything[1:] if per == "region" else np.flatnonzero(np.diff(label_of_region)) + 1
    yield from np.split(everything, borders) if len(borders) < len(everything) - 1 else everything[:, None]


@dataclass(frozen=True)
class _Polygons:
    """Coordinates of R polygons as JSON: their rings, shell first, of [x, y]."""

    joined: str
    """All polygons, each after a comma."""
    starts: Ints
    """(R + 1,) place of each one's comma, and the length of all."""

    @classmethod
    def of(cls, rings: Rings, x: Ints, y: Ints) -> _Polygons:
        """The text of `rings`; `x` and `y` are the coordinates of each column and row of corner points.

        Text is built for all corners at once, in fields of fixed width padded with zero bytes, which are then removed:
        one list or string per corner, of which a speckled slide has a million, would dominate the run time.
        """
        left, right = _field("[{},", x), _field("{}]", y)
        fields = np.zeros(
            len(rings.points),
            [("before", "S3"), ("x", left.dtype), ("y", right.dtype), ("after", "S2")],
        )
        fields["x"], fields["y"], fields["after"] = left[rings.points[:, 0]], right[rings.points[:, 1]], b","
        opened, closed = fields["before"], fields["after"]
        opened[rings.starts[:-1]], closed[rings.starts[1:] - 1] = b",[", b"]"
        opened[rings.starts[rings.first[:-1]]], closed[rings.starts[rings.first[1:]] - 1] = b",[[", b"]]"
        lengths = sum(np.char.str_len(fields[name]) for name in ("before", "after"))
        lengths += np.char.str_len(left)[rings.points[:, 0]] + np.char.str_len(right)[rings.points[:, 1]]
        ends = np.append(0, np.cumsum(lengths))
        joined = fields.tobytes().translate(None, b"\0").decode("ascii")
        return cls(joined, ends[rings.starts[rings.first]])

    def text(self, first: int, stop: int) -> str:
        """The polygons `first` to `stop` - 1, separated by commas."""
        return self.joined[self.starts[first] + 1 : self.starts[stop]]


def _field(pattern: str, values: Ints) -> npt.NDArray[np.bytes_]:
    """(n,) each of the `values` in the `pattern`."""
    return np.array([pattern.format(value) for value in values.tolist()], dtype="S")


def _metadata(class_map: ClassMap, label: int) -> dict[str, str]:
    """QuPath accepts only strings."""
    mpp_x, mpp_y = class_map.grid.slide_mpp
    record = {
        "slide_id": class_map.slide_id,
        "class": class_map.classes[label],
        "mpp": f"{mpp_x:.6g} x {mpp_y:.6g} µm/px ({class_map.mpp_source})",
        "use": RESEARCH_USE,
    }
    return {**record, "notice": class_map.notice} if class_map.notice else record


class _Measures:
    """Area, probability and patch counts of R regions, summed over any group of them."""

    def __init__(self, area_mm2: Floats, prob_mm2: Floats, owners: _Owners | None, n_cells: Ints) -> None:
        self.area_mm2 = area_mm2  # (R,)
        self.prob_mm2 = prob_mm2  # (R,) integral of the probability over the area
        self.owners = owners  # None: no patch owns several cells
        self.n_cells = n_cells  # (R,)

    def of(self, group: Ints) -> dict[str, float]:
        area = float(self.area_mm2[group].sum())
        n_patches = int(self.n_cells[group].sum()) if self.owners is None else self.owners.count(group)
        found = {"area_mm2": round(area, 6), "n_patches": n_patches}
        probability = float(self.prob_mm2[group].sum()) / area
        if np.isfinite(probability):
            found["mean_probability"] = round(probability, 6)
        return found


class _Owners:
    """The patches that own cells in each region."""

    def __init__(self, numbers: Ints, owners: Ints, n_regions: int, n_patches: int) -> None:
        pair_region, self._owners = np.divmod(_distinct(numbers * n_patches + owners), n_patches)
        self._starts = np.searchsorted(pair_region, np.arange(n_regions + 1))

    def count(self, group: Ints) -> int:
        """Distinct patches in a run of regions; a patch may own cells in two regions of it."""
        return len(_distinct(self._owners[self._starts[group[0]] : self._starts[group[-1] + 1]]))


def _measure(class_map: ClassMap, region: Ints, label_of_region: Ints) -> _Measures:
    cells = np.flatnonzero(region >= 0)
    numbers = region.ravel()[cells]
    owners = class_map.partition.patch.ravel()[cells]
    area_mm2 = class_map.partition.area_px.ravel()[cells].astype(np.float64) * class_map.mm2_per_px
    n_regions, n_patches = len(label_of_region), len(class_map.labels)
    shared = int(np.bincount(owners).max(initial=0)) > 1
    return _Measures(
        area_mm2=_sums(numbers, area_mm2, n_regions),
        prob_mm2=_sums(numbers, area_mm2 * class_map.top_probs[owners], n_regions),
        owners=_Owners(numbers, owners, n_regions, n_patches) if shared else None,
        n_cells=np.bincount(numbers, minlength=n_regions),
    )


def _sums(numbers: Ints, values: npt.NDArray[np.floating], count: int) -> Floats:
    """(count,) sum of the `values` (K,) of each number (K,)."""
    return np.asarray(np.bincount(numbers, values, count), dtype=np.float64)


def _distinct(values: Ints) -> Ints:
    """The distinct `values` (K,), ascending. np.unique hashes integers, which takes about ten times as long."""
    ordered = np.sort(values)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered
