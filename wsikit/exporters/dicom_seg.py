"""The class map as a DICOM segmentation (label map), in the frame of reference of the slide.

One pixel is a whole number of level-0 px, at least `FINER` px per stride of the patch grid.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.dicom_codes import algorithm, category_code, class_code, equipment, name_scheme, need_highdicom
from wsikit.exporters.dicom_source import DicomSource, stamp_time, uid_of

FINER = 4
"""Pixels per stride, at least: where patches are on a grid, borders are then exact to 1/8 of a stride."""
MOST_PX = 1 << 27
TILE_PX = 512


def label_map(class_map: ClassMap) -> tuple[npt.NDArray[np.uint8], int]:
    """uint8 (h, w) 1 … C for the classes, 0 where there is no prediction, and level-0 px per pixel, a power of two.

    A pixel has the class at its centre. The array covers the slide from level-0 (0, 0).

    Raises
    ------
    RequestError
        There are no classes, or more than 255, or the array would have more than `MOST_PX` px.
    """
    grid, partition = class_map.grid, class_map.partition
    if not 0 < len(class_map.classes) <= 255:
        raise RequestError(f"{class_map.slide_id}: {len(class_map.classes)} classes; a label map holds 1 to 255")
    step = 1 << max(0, math.floor(math.log2(max(1.0, min(grid.stride) / FINER))))
    shape = tuple(-(-size // step) for size in grid.slide_px[::-1])
    if shape[0] * shape[1] > MOST_PX:
        raise RequestError(f"{class_map.slide_id}: a label map of {shape[1]}×{shape[0]} px; use larger patches")
    labels = np.zeros(shape, dtype=np.uint8)
    if partition.patch.size == 0:
        return labels, step
    inside, index = [], []
    for edges, count in ((partition.y_edges, shape[0]), (partition.x_edges, shape[1])):
        found = np.searchsorted(edges, (np.arange(count) + 0.5) * step, side="right") - 1
        inside.append((found >= 0) & (found < len(edges) - 1))
        index.append(np.clip(found, 0, len(edges) - 2))
    # +1 makes "no prediction" 0; no patch is -2
    values = np.maximum(class_map.cell_labels + 1, 0).astype(np.uint8)
    np.multiply(values[np.ix_(*index)], inside[0][:, None] & inside[1][None, :], out=labels)
    return labels, step


def write_dicom_seg(path: Path, class_map: ClassMap, source: DicomSource, model: Mapping[str, Any]) -> None:
    """Write a Label Map Segmentation (DICOM PS3.3, A.51; Supplement 243) of the class map to `path`.

    Parameters
    ----------
    source
        What is referred to: its frame of reference, orientation and origin place the pixels on the glass.
    model
        Name, version and fingerprint, as in `StoredResults.model`.
    """
    hd = need_highdicom()
    labels, step = label_map(class_map)
    header, (mpp_x, mpp_y) = source.header, class_map.grid.slide_mpp
    known = algorithm(model)
    segments = [
        hd.seg.SegmentDescription(
            segment_number=index + 1,
            segment_label=class_map.class_names[index][:64],
            segmented_property_category=category_code(class_map, index),
            segmented_property_type=class_code(class_map, index),
            algorithm_type="AUTOMATIC",
            algorithm_identification=known,
            tracking_id=class_map.classes[index],
            tracking_uid=uid_of("segment", str(header.SOPInstanceUID), class_map.classes[index]),
            display_color=hd.color.CIELabColor.from_rgb(*class_map.colors[index]),
        )
        for index in range(len(class_map.classes))
    ]
    digest = hashlib.sha256(labels.tobytes() + repr((labels.shape, class_map.classes)).encode()).hexdigest()
    words = (str(header.SOPInstanceUID), str(model["fingerprint"]), digest)
    made = hd.seg.Segmentation(
        source_images=[header],
        pixel_array=labels,
        segmentation_type=hd.seg.SegmentationTypeValues.LABELMAP,
        segment_descriptions=segments,
        series_instance_uid=uid_of("segmentation series", *words),
        sop_instance_uid=uid_of("segmentation", *words),
        content_label="SUBTYPE_MAP",
        transfer_syntax_uid="1.2.840.10008.1.2.5",  # run lengths: every reader has them, and a map is made of runs
        pixel_measures=hd.PixelMeasuresSequence(
            pixel_spacing=[_decimal(step * mpp_y / 1000), _decimal(step * mpp_x / 1000)], slice_thickness=0.001
        ),
        plane_orientation=hd.PlaneOrientationSequence("SLIDE", [float(v) for v in header.ImageOrientationSlide]),
        plane_positions=[hd.PlanePositionSequence("SLIDE", _first_centre(source, step, (mpp_x, mpp_y)), (1, 1))],
        dimension_organization_type="TILED_FULL",
        omit_empty_frames=False,
        tile_pixel_array=True,
        tile_size=(TILE_PX, TILE_PX),
        **equipment(model),
    )
    name_scheme(made)
    stamp_time(made, str(header.StudyInstanceUID))
    made.save_as(path)


def _first_centre(source: DicomSource, step: int, mpp: tuple[float, float]) -> list[float]:
    """x, y, z in mm of the centre of the first pixel: the origin of the slide is the centre of its own, smaller one."""
    header = source.header
    origin = header.TotalPixelMatrixOriginSequence[0]
    start = [float(origin.XOffsetInSlideCoordinateSystem), float(origin.YOffsetInSlideCoordinateSystem), 0.0]
    directions = np.asarray([float(value) for value in header.ImageOrientationSlide]).reshape(2, 3)
    half_mm = (step - 1) / 2 * np.asarray(mpp) / 1000
    return [_decimal(value) for value in np.asarray(start) + half_mm @ directions]


def _decimal(value: float) -> float:
    """To 10 digits behind the point: a decimal string of DICOM has at most 16 characters."""
    return round(float(value), 10)
