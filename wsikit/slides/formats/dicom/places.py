"""Where the frames of an image lie: row by row, or where each says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsikit.errors import BrokenSlideError, SlideError, UnsupportedSlideError
from wsikit.slides.formats.dicom import files as dicom_files
from wsikit.slides.formats.dicom.header import DicomFile
from wsikit.slides.tile_reader import PositionedFile

Numbers = npt.NDArray[np.int64]


def grid_of(image: Sequence[DicomFile], files: Sequence[PositionedFile]) -> tuple[Numbers, Numbers | None, list[str]]:
    """Frame numbers by position, (rows, columns), -1 for none; or the places of frames that lie on no grid; and notes.

    Parameters
    ----------
    image
        The headers of an image's file, or of its parts in order. Frames are numbered through all of them.
    files
        Their bytes.

    Raises
    ------
    UnsupportedSlideError, BrokenSlideError
        There are too few frames for the image, or several at one place that nothing tells apart.
    """
    positions = _positions(image, files)
    if positions is None:
        return _row_by_row(image), None, _planes_left_out(image)
    return _by_position(image, positions)


def _positions(image: Sequence[DicomFile], files: Sequence[PositionedFile]) -> Numbers | None:
    """(frames, 2): x, y that the frames state; None if they lie row by row."""
    first = image[0]
    if first.organisation == "TILED_FULL":
        return None
    found = [dicom_files.frame_positions(file, header) for header, file in zip(image, files)]
    if any(positions is None for positions in found):
        if first.organisation == "TILED_SPARSE":
            raise BrokenSlideError(
                f"{first.path}: a DICOM slide whose frames have places of their own (TILED_SPARSE), which are not "
                "stated for every frame. Export it again."
            )
        return None
    return np.concatenate([positions for positions in found if positions is not None])


def _row_by_row(image: Sequence[DicomFile]) -> Numbers:
    first = image[0]
    shape = first.rows, first.columns
    per_image, frames = shape[0] * shape[1], sum(header.frames for header in image)
    stated = first.planes * len(first.paths)
    if frames < per_image or frames % per_image:
        raise BrokenSlideError(
            f"{first.path}: a DICOM slide of {frames} frames, where {per_image} cover its {first.size[0]} × "
            f"{first.size[1]} px. Copy or export it again."
        )
    if frames == per_image and stated > 1:
        what = f"{first.planes} focal planes" if first.planes > 1 else f"{len(first.paths)} optical paths"
        raise UnsupportedSlideError(
            f"{first.path}: a DICOM slide of {what}, in a file with the frames of one. Export one plane from the "
            "scanner's software."
        )
    # PS3.3, C.7.6.17.3: columns, rows, focal planes, optical paths, the last one slowest
    return np.arange(per_image, dtype=np.int64).reshape(shape)


def _planes_left_out(image: Sequence[DicomFile]) -> list[str]:
    first = image[0]
    count = sum(header.frames for header in image) // (first.rows * first.columns)
    if count == 1:
        return []
    notes = []
    if first.planes > 1:
        notes.append(f"{first.planes} focal planes: the first is used")
    if len(first.paths) > 1:
        notes.append(f"{len(first.paths)} optical paths ({', '.join(first.paths)}): the first is used")
    if first.planes * len(first.paths) != count:
        notes.append(f"{count} frames at each place, which are not explained: the first is used")
    return notes


def _by_position(image: Sequence[DicomFile], positions: Numbers) -> tuple[Numbers, Numbers | None, list[str]]:
    first = image[0]
    (width, height), (tile_width, tile_height) = first.size, first.tile_px
    x, y = positions.T
    notes = []
    outside = (x >= width) | (y >= height) | (x <= -tile_width) | (y <= -tile_height)
    if outside.all():
        raise BrokenSlideError(
            f"{first.path}: a DICOM slide all of whose frames lie outside of the image. Export it again."
        )
    if outside.any():
        notes.append(f"{int(outside.sum())} of {len(positions)} frames lie outside of the image and are not used")
    used = np.flatnonzero(~outside)
    used, said = _first_of_each_place(image, positions, used)
    notes += said
    x, y = positions[used].T
    grid = np.full((first.rows, first.columns), -1, dtype=np.int64)
    if (x % tile_width == 0).all() and (y % tile_height == 0).all() and x.min() >= 0 and y.min() >= 0:
        grid[y // tile_height, x // tile_width] = used
        return grid, None, notes
    # frames anywhere: those that are not used lie far outside
    places = np.full_like(positions, np.iinfo(np.int32).min)
    places[used] = positions[used]
    notes.append("its frames lie on no common grid: where they overlap, the later one is shown")
    return grid, places, notes


def _first_of_each_place(image: Sequence[DicomFile], positions: Numbers, used: Numbers) -> tuple[Numbers, list[str]]:
    """Of frames at one place, those of the first focal plane and optical path; and what is left out, in words."""
    _, counts = np.unique(positions[used], axis=0, return_counts=True)
    if counts.max() == 1:
        return used, []
    keys = _plane_and_path(image)
    if keys is not None:
        path = keys[used[0]][1]
        chosen: dict[tuple[int, ...], int] = {}
        distinct = {(*positions[number].tolist(), *keys[number]) for number in used}
        for number in used:
            if keys[number][1] == path:
                chosen.setdefault(tuple(positions[number].tolist()), int(number))
        if len(distinct) == len(used):
            n_paths = len({keys[number][1] for number in used})
            n_planes = round(counts.max() / n_paths)
            words = [f"{n_planes} focal planes"] if n_planes > 1 else []
            words += [f"{n_paths} optical paths ({', '.join(image[0].paths)})"] if n_paths > 1 else []
            return np.array(list(chosen.values())), [f"{' and '.join(words)}: the first is used"]
    raise UnsupportedSlideError(
        f"{image[0].path}: a DICOM slide with up to {counts.max()} frames at one place, which nothing tells apart. "
        "Export one plane from the scanner's software."
    )


def _plane_and_path(image: Sequence[DicomFile]) -> list[tuple[str, str]] | None:
    """Depth and optical path of each frame, as text; None if they are not stated."""
    import pydicom

    found = []
    for header in image:
        wanted: list[str] = ["PerFrameFunctionalGroupsSequence"]
        try:
            dataset = pydicom.dcmread(header.path, stop_before_pixels=True, specific_tags=wanted, force=True)
            for frame in dataset.PerFrameFunctionalGroupsSequence:
                place = (frame.get("PlanePositionSlideSequence") or [{}])[0]
                path = (frame.get("OpticalPathIdentificationSequence") or [{}])[0]
                depth = place.get("ZOffsetInSlideCoordinateSystem")
                found.append((str(depth), str(path.get("OpticalPathIdentifier"))))
        except (AttributeError, SlideError, OSError):
            return None
    return found
