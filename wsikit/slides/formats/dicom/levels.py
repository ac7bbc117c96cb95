"""The levels of a DICOM slide: which frame of which file lies where, and how it becomes pixels.

A level is one image: one file, or the parts of a concatenation. Focal planes and optical paths beyond the first are
counted and named; they are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from os.path import basename

import numpy as np
import numpy.typing as npt

from wsikit.errors import BrokenSlideError, UnsupportedSlideError
from wsikit.slides.base import Size
from wsikit.slides.encoded_tiles import TileSource
from wsikit.slides.formats.dicom import files as dicom_files
from wsikit.slides.formats.dicom import native
from wsikit.slides.formats.dicom.coding import Coding, coding_of
from wsikit.slides.formats.dicom.header import DicomFile, TooLargeError
from wsikit.slides.formats.dicom.places import grid_of
from wsikit.slides.tile_reader import PositionedFile

_SAMPLES = 8
"""Frames that are examined for the colours of a level."""

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Level:
    """A level whose frames are in place."""

    size: Size
    tile_px: Size
    files: tuple[PositionedFile, ...]
    file_of: Numbers
    """(frames,): which of `files` has the frame."""
    starts: Numbers
    ends: Numbers
    """(frames,): byte range of each frame, with the headers of its items if `wrapped`."""
    wrapped: bool
    grid: Numbers
    """(rows, columns): number of the frame at each position; -1 if there is none."""
    places: Numbers | None
    """(frames, 2): x, y of each frame, px of the level, where frames lie on no grid; `grid` is empty then."""
    coding: Coding
    source: TileSource | None
    notes: tuple[str, ...]

    def range(self, number: int) -> tuple[PositionedFile, int, int]:
        """File, start and end of a frame."""
        return self.files[int(self.file_of[number])], int(self.starts[number]), int(self.ends[number])

    def stored(self, number: int) -> bytes:
        """The coded bytes of a frame; fewer than it has, or a ValueError, if the file is damaged."""
        file, start, end = self.range(number)
        data = file.read(start, end - start)
        return dicom_files.unwrap(data) if self.wrapped else data


def image_of(headers: Sequence[DicomFile]) -> tuple[list[DicomFile], list[str]]:
    """The files of one image among those of equal size, in the order of its parts; and what is left out, in words.

    Raises
    ------
    UnsupportedSlideError
        Several files hold the same level, and nothing tells them apart.
    BrokenSlideError
        Parts of a concatenation are missing.
    """
    parts = {key: list(group) for key, group in groupby(sorted(headers, key=_key), _key)}
    images = [sorted(group, key=lambda file: file.part) for group in parts.values()]
    notes = []
    unique: dict[str, list[DicomFile]] = {}
    for image in sorted(images, key=lambda files: (files[0].number, files[0].path)):
        if image[0].instance and image[0].instance in unique:
            notes.append(f"{basename(image[0].path)} is a copy of {basename(unique[image[0].instance][0].path)}")
        else:
            unique[image[0].instance or image[0].path] = image
    found = list(unique.values())
    first = found[0]
    if len(found) > 1:
        kinds = {(image[0].paths, image[0].depth) for image in found}
        if len(kinds) < len(found):
            names = ", ".join(basename(image[0].path) for image in found)
            raise UnsupportedSlideError(
                f"{first[0].path}: a DICOM series in whose folder several files hold the same level ({names[:200]}). "
                "Leave one of them in the folder."
            )
        notes.append(f"{_others(found)}: the first is used, in {basename(first[0].path)}")
    if first[0].concatenation:
        _check_parts(first)
    return first, notes


def level_of(headers: Sequence[DicomFile], opened: Callable[[DicomFile], PositionedFile]) -> Level:
    """The level that these files of equal size hold. `opened` opens the bytes of a file.

    Raises
    ------
    UnsupportedSlideError, BrokenSlideError
        The frames are not those of one image, or the meaning of their samples cannot be decided.
    """
    image, notes = image_of(headers)
    first = image[0]
    if min(*first.size, *first.tile_px) < 1:
        raise UnsupportedSlideError(f"{first.path}: a DICOM file that states no size of the whole image.")
    try:
        files = tuple(opened(header) for header in image)
    except TooLargeError as error:
        raise UnsupportedSlideError(
            f"{first.path}: a deflated DICOM file (1.2.840.10008.1.2.1.99) of {error}. Convert it with dcmconv +te."
        ) from None
    wrapped = dicom_files.is_encapsulated(files[0], first)
    layout = native.Layout() if wrapped else _layout(first, files[0])
    image = [_counted(header, file, layout, wrapped, notes) for header, file in zip(image, files)]
    ranges = [_ranges(header, file, layout, wrapped) for header, file in zip(image, files)]
    file_of = np.repeat(np.arange(len(image)), [len(found.starts) for found in ranges])
    starts = np.concatenate([found.starts for found in ranges])
    ends = np.concatenate([found.ends for found in ranges])
    grid, places, said = grid_of(image, files)
    notes += said

    def some() -> Iterator[bytes]:
        used = np.unique(grid[grid >= 0]) if places is None else np.arange(len(places))
        for number in used[np.linspace(0, len(used) - 1, min(_SAMPLES, len(used))).astype(int)]:
            file, start, end = files[int(file_of[number])], int(starts[number]), int(ends[number])
            try:
                data = file.read(start, end - start)
                yield dicom_files.unwrap(data) if wrapped else data
            except ValueError:
                continue  # a damaged frame is an error where it is read

    coding, source = coding_of(first, wrapped, layout, some)
    return Level(
        size=first.size,
        tile_px=first.tile_px,
        files=files,
        file_of=file_of,
        starts=starts,
        ends=ends,
        wrapped=wrapped,
        grid=grid,
        places=places,
        coding=coding,
        source=source if places is None else None,
        notes=(*notes, *coding.notes),
    )


def _key(file: DicomFile) -> str:
    return f"concatenation {file.concatenation}" if file.concatenation else f"file {file.path}"


def _others(found: list[list[DicomFile]]) -> str:
    """What the images of one level are, in words."""
    paths = {image[0].paths for image in found}
    if len(paths) > 1:
        return f"{len(found)} optical paths in files of their own ({', '.join(image[0].paths[0] for image in found)})"
    depths = [image[0].depth for image in found]
    return f"{len(found)} focal planes in files of their own (at {', '.join(f'{depth or 0:g}' for depth in depths)} µm)"


def _check_parts(parts: list[DicomFile]) -> None:
    numbers = [file.part for file in parts]
    expected = max(1, parts[0].columns * parts[0].rows)
    whole = numbers == list(range(1, len(parts) + 1)) and sum(file.frames for file in parts) >= expected
    if len(parts) == 1 or (not whole and parts[0].organisation != "TILED_SPARSE"):
        raise BrokenSlideError(
            f"{parts[0].path}: one part of a DICOM image that is split into several files; the others are missing. "
            "Copy all of them into one folder."
        )


def _layout(header: DicomFile, file: PositionedFile) -> native.Layout:
    """Order of samples that are not compressed."""
    samples = header.samples
    start, end, words = dicom_files.native_data(file, header)
    if samples.bits_allocated not in (8, 16) or samples.bits_stored > samples.bits_allocated:
        raise UnsupportedSlideError(
            f"{header.path}: a DICOM slide of {samples.bits_stored} bits in {samples.bits_allocated}, where up to 8 in "
            "8 or 16 in 16 are read. Export it again."
        )
    halved = native.frame_bytes(samples, header.tile_px, chroma_halved=True)
    full = native.frame_bytes(samples, header.tile_px)
    chroma_halved = (
        samples.photometric == "YBR_FULL_422"
        and samples.bits_allocated == 8
        and header.tile_px[0] % 2 == 0
        and end - start < full * header.frames
        and end - start >= halved * header.frames
    )
    swapped = header.big_endian and words and samples.bits_allocated == 8
    if swapped and full % 2:
        raise UnsupportedSlideError(
            f"{header.path}: a DICOM slide of big endian whose frames have an odd number of bytes. Convert it with "
            "dcmconv +te."
        )
    return native.Layout(header.big_endian, swapped, chroma_halved)


def _counted(
    header: DicomFile, file: PositionedFile, layout: native.Layout, wrapped: bool, notes: list[str]
) -> DicomFile:
    """The header with the number of frames that its data hold, if that covers the image and the stated one does not."""
    per_image = header.columns * header.rows
    if header.organisation == "TILED_SPARSE" or header.concatenation or header.frames % per_image == 0:
        return header
    if wrapped:
        held = dicom_files.count_streams(file, header)
    else:
        start, end, _ = dicom_files.native_data(file, header)
        held = (end - start) // native.frame_bytes(header.samples, header.tile_px, chroma_halved=layout.chroma_halved)
    if held and held % per_image == 0:
        notes.append(f"the file says {header.frames} frames, its data are {held}, which cover the image")
        return replace(header, frames=held)
    return header


def _ranges(header: DicomFile, file: PositionedFile, layout: native.Layout, wrapped: bool) -> dicom_files.Frames:
    if not wrapped:
        start, end, _ = dicom_files.native_data(file, header)
        size = native.frame_bytes(header.samples, header.tile_px, chroma_halved=layout.chroma_halved)
        stated = dicom_files.native_bytes(file, header)
        if stated % size > 1:  # one byte makes the length even
            raise BrokenSlideError(
                f"{header.path}: its pixel data have {stated} bytes, which is no number of frames of {size} bytes "
                f"({header.tile_px[0]} × {header.tile_px[1]} px). Copy it again from its source."
            )
        starts = start + np.arange(header.frames, dtype=np.int64) * size
        # what follows the pixel data is no frame
        starts = np.where(starts + size > end, file.size(), starts)
        return dicom_files.Frames(starts, starts + size)
    found = dicom_files.find_frames(file, header)
    if found is None:
        raise BrokenSlideError(
            f"{header.path}: its pixel data are damaged: their items cannot be assigned to the {header.frames} frames. "
            "Copy it again from its source."
        )
    return found
