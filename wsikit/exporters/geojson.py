"""Subtype regions, and optionally patches, as GeoJSON for QuPath, written as a stream.

Coordinates are level-0 px, or count from the corner of the slide's bounds, as QuPath shows it; the file states which.
Regions are merged per class, with their holes; patches are detections with their own measurements.
"""

from __future__ import annotations

import itertools
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.outline import Region, components, outlines
from wsikit.exporters.summary_text import RESEARCH_USE
from wsikit.store.atomic import atomic_write

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
    placed = _Placed.of(bounds, frame)
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
class _Placed:
    """The frame of the coordinates in a file."""

    frame: Literal["level0", "bounds"]
    x: int
    y: int
    """Its origin, level-0 px."""

    @classmethod
    def of(cls, bounds: Bounds | None, frame: Frame) -> _Placed:
        if frame not in ("auto", "level0", "bounds"):
            raise RequestError(f"frame {frame!r}: choose auto, level0 or bounds")
        if bounds is None or frame == "level0":
            return cls("level0", 0, 0)
        return cls("bounds", bounds[0], bounds[1])

    def to_json(self) -> dict[str, Any]:
        return {"frame": self.frame, "origin": [self.x, self.y]}


def _regions(class_map: ClassMap, per: Per, placed: _Placed) -> Iterator[str]:
    """One feature at a time, as JSON, classes in order, the regions of a class from top to bottom."""
    region, label_of_region = components(class_map.cell_labels)
    if len(label_of_region) == 0:
        return
    shapes = outlines(region, label_of_region)
    measures = _measure(class_map, region, label_of_region)
    x = [f"[{value}," for value in (class_map.partition.x_edges - placed.x).tolist()]
    y = [f"{value}]" for value in (class_map.partition.y_edges - placed.y).tolist()]
    for group in _groups(label_of_region, per):
        label = int(label_of_region[group[0]])
        polygons = _polygons(shapes[group[0] : group[-1] + 1], x, y)  # a group is a run of regions
        one = len(polygons) == 1
        geometry = f'{{"type":"{"Polygon" if one else "MultiPolygon"}","coordinates":'
        geometry += polygons[0] if one else f"[{','.join(polygons)}]"
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
    class_map: ClassMap, measurements: Mapping[str, npt.NDArray[np.floating]], placed: _Placed
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


def _groups(label_of_region: npt.NDArray[np.int64], per: Per) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of the regions that go into one feature each."""
    everything = np.arange(len(label_of_region))
    borders = everything[1:] if per == "region" else np.flatnonzero(np.diff(label_of_region)) + 1
    yield from np.split(everything, borders) if len(borders) < len(everything) - 1 else everything[:, None]


def _polygons(regions: Sequence[Region], x: Sequence[str], y: Sequence[str]) -> list[str]:
    """Each region as JSON: its rings, shell first, of [x, y]; `x` and `y` hold each column's and row's half of a point.

    Text is built directly: one list per corner, of which a speckled slide has a million, would dominate the run time.
    """
    rings = [ring for region in regions for ring in (region.shell, *region.holes)]
    corners = np.concatenate(rings)
    points = [x[col] + y[row] for col, row in zip(corners[:, 0].tolist(), corners[:, 1].tolist(), strict=True)]
    ends = np.cumsum([len(ring) for ring in rings]).tolist()
    texts = iter([f"[{','.join(points[start:stop])}]" for start, stop in zip([0, *ends], ends)])
    return [f"[{','.join(itertools.islice(texts, 1 + len(region.holes)))}]" for region in regions]


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

    def __init__(
        self,
        area_mm2: npt.NDArray[np.float64],
        prob_mm2: npt.NDArray[np.float64],
        owners: npt.NDArray[np.int64],
        owner_starts: npt.NDArray[np.int64],
    ) -> None:
        self.area_mm2 = area_mm2  # (R,)
        self.prob_mm2 = prob_mm2  # (R,) integral of the probability over the area
        self.owners = owners  # (K,) table rows of the patches in each region, region by region
        self.owner_starts = owner_starts  # (R + 1,)

    def of(self, group: npt.NDArray[np.int64]) -> dict[str, float]:
        area = float(self.area_mm2[group].sum())
        # a group is a run of regions; a patch may own cells in two regions of it
        owners = self.owners[self.owner_starts[group[0]] : self.owner_starts[group[-1] + 1]]
        found = {"area_mm2": round(area, 6), "n_patches": len(_distinct(owners))}
        probability = float(self.prob_mm2[group].sum()) / area
        if np.isfinite(probability):
            found["mean_probability"] = round(probability, 6)
        return found


def _measure(class_map: ClassMap, region: npt.NDArray[np.int64], label_of_region: npt.NDArray[np.int64]) -> _Measures:
    cells = np.flatnonzero(region >= 0)
    numbers = region.ravel()[cells]
    owners = class_map.partition.patch.ravel()[cells]
    area_mm2 = class_map.partition.area_px.ravel()[cells].astype(np.float64) * class_map.mm2_per_px
    n_regions, n_patches = len(label_of_region), len(class_map.labels)
    pair_region, pair_owner = np.divmod(_distinct(numbers * n_patches + owners), n_patches)
    return _Measures(
        area_mm2=_sums(numbers, area_mm2, n_regions),
        prob_mm2=_sums(numbers, area_mm2 * class_map.top_probs[owners], n_regions),
        owners=pair_owner,
        owner_starts=np.searchsorted(pair_region, np.arange(n_regions + 1)),
    )


def _sums(numbers: npt.NDArray[np.int64], values: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.float64]:
    """(count,) sum of the `values` (K,) of each number (K,)."""
    return np.asarray(np.bincount(numbers, values, count), dtype=np.float64)


def _distinct(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The distinct `values` (K,), ascending. np.unique hashes integers, which takes about ten times as long."""
    ordered = np.sort(values)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered
