"""The regions of the class map as DICOM Microscopy Bulk Simple Annotations: polygons in px of the slide's finest level.

One group per class. Polygons of DICOM have no holes, so a region with holes is cut into pieces without any; together
they cover the same area exactly. Structured reports (TID 1500) were not chosen: they store every polygon as a content
item, of which a speckled slide has 10⁵, and viewers of slides read bulk annotations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.dicom_codes import algorithm, category_code, class_code, equipment, name_scheme, need_highdicom
from wsikit.exporters.dicom_source import DicomSource, stamp_time, uid_of
from wsikit.exporters.outline import components, outlines

if TYPE_CHECKING:
    from shapely import Polygon

_EXACT_IN_FLOAT32 = 1 << 24


def simple_polygons(class_map: ClassMap) -> dict[int, list[npt.NDArray[np.int64]]]:
    """Per class that is present, polygons (K, 2) x, y in level-0 px, not closed, without holes.

    Their union is the area of the class; they touch, but do not overlap.
    """
    import shapely

    region, label_of_region = components(class_map.cell_labels)
    x, y = class_map.partition.x_edges, class_map.partition.y_edges
    found: dict[int, list[npt.NDArray[np.int64]]] = {}
    for one in outlines(region, label_of_region) if len(label_of_region) else ():
        rings = [np.stack([x[ring[:, 0]], y[ring[:, 1]]], axis=1) for ring in (one.shell, *one.holes)]
        pieces = _without_holes(shapely.Polygon(rings[0], rings[1:])) if one.holes else [shapely.Polygon(rings[0])]
        corners = [np.rint(np.asarray(piece.exterior.coords)[:-1]).astype(np.int64) for piece in pieces]
        found.setdefault(one.label, []).extend(corners)
    return found


def _without_holes(polygon: Polygon) -> list[Polygon]:
    """Pieces of a polygon, cut upright at the edges of holes; the hole in the middle first, so that cuts stay few."""
    import shapely

    done, open_pieces = [], [polygon]
    while open_pieces:
        piece = open_pieces.pop()
        if not piece.interiors:
            done.append(piece)
            continue
        edges = sorted(hole.bounds[0] for hole in piece.interiors)
        cut = edges[len(edges) // 2]
        left, top, right, bottom = piece.bounds
        for x0, x1 in ((left, cut), (cut, right)):
            part = shapely.intersection(piece, shapely.box(x0, top, x1, bottom))
            open_pieces += [one for one in shapely.get_parts(part) if one.geom_type == "Polygon" and one.area > 0]
    return done


def write_dicom_ann(path: Path, class_map: ClassMap, source: DicomSource, model: Mapping[str, Any]) -> int:
    """Write Microscopy Bulk Simple Annotations (DICOM PS3.3, A.87; Supplement 222); return the number of polygons.

    Coordinates are 2D: column, row of the total pixel matrix of the finest level, (0, 0) its top-left corner. Each
    polygon states its area in mm².

    Raises
    ------
    RequestError
        There is no region.
    """
    hd = need_highdicom()
    from pydicom.sr.codedict import codes

    header, known = source.header, algorithm(model)
    regions = sorted(simple_polygons(class_map).items())
    digest = hashlib.sha256(repr(class_map.classes).encode())
    for label, polygons in regions:
        digest.update(f"{label}:{[len(points) for points in polygons]}".encode())
        digest.update(np.concatenate(polygons).tobytes())
    words = (str(header.SOPInstanceUID), str(model["fingerprint"]), digest.hexdigest())
    groups: list[Any] = []
    for label, polygons in regions:
        highest = max(int(points.max()) for points in polygons)
        kind = np.float32 if highest <= _EXACT_IN_FLOAT32 else np.float64
        area_mm2 = np.asarray([_area(points) for points in polygons]) * class_map.mm2_per_px
        groups.append(
            hd.ann.AnnotationGroup(
                number=len(groups) + 1,
                uid=uid_of("group", *words, class_map.classes[label]),
                label=class_map.class_names[label][:64],
                annotated_property_category=category_code(class_map, label),
                annotated_property_type=class_code(class_map, label),
                graphic_type=hd.ann.GraphicTypeValues.POLYGON,
                graphic_data=[points.astype(kind) for points in polygons],
                algorithm_type=hd.ann.AnnotationGroupGenerationTypeValues.AUTOMATIC,
                algorithm_identification=known,
                measurements=[
                    hd.ann.Measurements(codes.SCT.Area, area_mm2.astype(np.float32), codes.UCUM.SquareMillimeter)
                ],
                display_color=hd.color.CIELabColor.from_rgb(*class_map.colors[label]),
            )
        )
    if not groups:
        raise RequestError(f"{class_map.slide_id}: no region; annotations need at least one")
    made = hd.ann.MicroscopyBulkSimpleAnnotations(
        source_images=[header],
        annotation_coordinate_type=hd.ann.AnnotationCoordinateTypeValues.SCOORD,
        annotation_groups=groups,
        series_instance_uid=uid_of("annotation series", *words),
        sop_instance_uid=uid_of("annotations", *words),
        content_label="SUBTYPE_REGIONS",
        **equipment(model),
    )
    name_scheme(made)
    stamp_time(made, str(header.StudyInstanceUID))
    made.save_as(path)
    return sum(len(polygons) for _, polygons in regions)


def _area(points: npt.NDArray[np.int64]) -> float:
    """Area of a polygon that is not closed, px²."""
    x, y = points[:, 0], points[:, 1]
    return abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2
