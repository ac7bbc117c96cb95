"""The files of a DICOM slide: which belong together, and where the frames of each are. No pixels.

A series is one slide: one file per level (or several, for focal planes, colours and concatenations) and its label.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wsikit.slides.formats.dicom.header import DicomFile, open_bytes, read_header
from wsikit.slides.tile_reader import PositionedFile

__all__ = [
    "DicomFile",
    "Frames",
    "find_frames",
    "frame_positions",
    "level_0_files",
    "open_bytes",
    "read_header",
    "same_series",
    "slides_of",
    "unwrap",
]

_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_STREAM_BEGINS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ")
"""First bytes of a JPEG or JPEG-LS, of a JPEG 2000, and of a JPEG XL stream."""
_ENCAPSULATED = b"\xe0\x7f\x10\x00O[BW]\x00\x00\xff\xff\xff\xff"
"""Head of PixelData whose frames are compressed: tag, type, reserved, undefined length (DICOM PS3.5, A.4)."""
_ENCAPSULATED_BYTES = 12

_COLUMN_POSITION, _ROW_POSITION = rb"\x48\x00\x1e\x02SL\x04\x00(.{4})", rb"\x48\x00\x1f\x02SL\x04\x00(.{4})"
"""ColumnPositionInTotalImagePixelMatrix, RowPosition…: tag, type, length, value, in explicit little endian."""

_SAME_SHAPE = 0.02
"""Relative difference of aspect up to which two images can be levels of one slide; levels are rounded to whole px."""


class Frames(NamedTuple):
    """Byte range of each frame, including the headers of its items."""

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


def same_series(path: str) -> list[DicomFile]:
    """All files of the series that `path` belongs to, in its folder, by name."""
    own = read_header(path)
    if own is None:
        return []
    if not own.series:
        return [own]
    neighbours = (entry.path for entry in os.scandir(os.path.dirname(path) or ".") if entry.is_file())
    headers = (own if os.path.samefile(other, path) else read_header(other) for other in sorted(neighbours))
    return [header for header in headers if header is not None and header.series == own.series]


def slides_of(files: Iterable[DicomFile]) -> list[list[DicomFile]]:
    """The levels of each slide among the files of one series, finest first, largest slide first.

    A series is one slide, except where the files state other containers or pyramids, or have another aspect: a level is
    a reduction of the level above it.
    """
    slides: list[list[DicomFile]] = []
    for file in sorted(
        (file for file in files if file.is_level), key=lambda file: (-_area(file), file.number, file.path)
    ):
        for slide in slides:
            if slide[0].glass == file.glass and _same_shape(slide[0].size, file.size):
                slide.append(file)
                break
        else:
            slides.append([file])
    return slides


def frame_positions(file: PositionedFile, header: DicomFile) -> npt.NDArray[np.int64] | None:
    """(frames, 2): x, y of each frame's top-left corner, px of the level, from 0; None if a frame does not state it.

    pydicom needs 14 s to read a sequence of 100,000 frames, so the two numbers of each frame are searched as bytes.
    There must be exactly as many matches as frames, so that no other bytes are mistaken for them.
    """
    if header.implicit or header.big_endian:
        return _parsed_positions(header)
    bytes_before_pixels = file.read(0, header.pixel_data)
    found = [re.findall(element, bytes_before_pixels, re.DOTALL) for element in (_COLUMN_POSITION, _ROW_POSITION)]
    if {len(values) for values in found} != {header.frames}:
        return None
    return np.stack([np.frombuffer(b"".join(values), "<i4") for values in found], axis=1).astype(np.int64) - 1


def is_encapsulated(file: PositionedFile, header: DicomFile) -> bool:
    """Whether the pixel data are a sequence of items, one or more for each frame."""
    return re.match(_ENCAPSULATED, file.read(header.pixel_data, _ENCAPSULATED_BYTES), re.DOTALL) is not None


def native_bytes(file: PositionedFile, header: DicomFile) -> int:
    """Length of pixel data that are not compressed, as their element states it; the file can end before."""
    head, order = file.read(header.pixel_data, 12), "big" if header.big_endian else "little"
    return int.from_bytes(head[4:8] if header.implicit else head[8:12], order)  # type: ignore[arg-type]


def native_data(file: PositionedFile, header: DicomFile) -> tuple[int, int, bool]:
    """Start and end of pixel data that are not compressed, and whether they are of type OW (words of 16 bits)."""
    start = header.pixel_data + (8 if header.implicit else 12)
    words = header.implicit or file.read(header.pixel_data + 4, 2) == b"OW"
    return start, min(start + native_bytes(file, header), file.size()), words


def find_frames(file: PositionedFile, header: DicomFile) -> Frames | None:
    """Byte ranges of the frames of a file; None if its items cannot be assigned to frames.

    From the offset tables if there are any, else from one pass over the item headers. In a truncated file, the missing
    frames get positions beyond its end.
    """
    if not is_encapsulated(file, header):
        return None
    table = header.pixel_data + _ENCAPSULATED_BYTES
    head = file.read(table, 8)
    if head[:4] != _ITEM:
        return None
    length = int.from_bytes(head[4:], "little")
    first = table + 8 + length
    basic = file.read(table + 8, length)
    for offsets in (
        np.frombuffer(header.offset_table[: len(header.offset_table) // 8 * 8], "<u8").astype(np.int64),
        np.frombuffer(basic[: len(basic) // 4 * 4], "<u4").astype(np.int64),
    ):
        if len(offsets) == header.frames and offsets[0] == 0 and (np.diff(offsets) > 0).all():
            starts = first + offsets
            last = [start + size for start, size in _items(file, int(starts[-1]))]
            return Frames(starts, np.append(starts[1:], last[-1] if last else starts[-1] + 8))
    return _by_walk(file, first, header.frames)


def count_streams(file: PositionedFile, header: DicomFile) -> int:
    """How many items of the pixel data begin as a coded frame does; 0 if they have no mark."""
    table = header.pixel_data + _ENCAPSULATED_BYTES
    length = int.from_bytes(file.read(table + 4, 4), "little")
    items = _items(file, table + 8 + length)
    return sum(file.read(start + 8, 12).startswith(_STREAM_BEGINS) for start, _ in items)


def unwrap(stored: bytes) -> bytes:
    """The stream of a frame, joined from its items; ValueError if an item header is damaged."""
    parts, position = [], 0
    while position < len(stored):
        length = int.from_bytes(stored[position + 4 : position + 8], "little")
        if stored[position : position + 4] != _ITEM or position + 8 + length > len(stored):
            raise ValueError("the frame's item in the file is damaged")
        parts.append(stored[position + 8 : position + 8 + length])
        position += 8 + length
    return b"".join(parts)


def _by_walk(file: PositionedFile, first: int, frames: int) -> Frames | None:
    items = list(_items(file, first))
    if not items:
        return None
    starts, sizes = (np.array(column, dtype=np.int64) for column in zip(*items))
    ends = starts + sizes
    if frames == 1:
        return Frames(starts[:1], ends[-1:])
    if len(items) > frames:
        first_of_frame = np.array([file.read(start + 8, 12).startswith(_STREAM_BEGINS) for start, _ in items])
        if first_of_frame.sum() != frames or not first_of_frame[0]:
            return None
        starts = starts[first_of_frame]
        return Frames(starts, np.append(starts[1:], ends[-1]))
    behind = np.full(frames - len(items), ends[-1], dtype=np.int64)
    return Frames(np.append(starts, behind), np.append(ends, behind + 8))


def _items(file: PositionedFile, position: int) -> Iterator[tuple[int, int]]:
    """Offset and size, including the header, of each item up to the end of the sequence or of the file."""
    while True:
        head = file.read(position, 8)
        if len(head) < 8 or head[:4] != _ITEM:
            return
        size = 8 + int.from_bytes(head[4:], "little")
        yield position, size
        position += size


def _parsed_positions(header: DicomFile) -> npt.NDArray[np.int64] | None:
    """`frame_positions` of an uncommon encoding, read by pydicom."""
    import pydicom

    wanted: list[str] = ["PerFrameFunctionalGroupsSequence"]
    dataset = pydicom.dcmread(header.path, stop_before_pixels=True, specific_tags=wanted, force=True)
    places = []
    for frame in dataset.get("PerFrameFunctionalGroupsSequence") or []:
        place = (frame.get("PlanePositionSlideSequence") or [{}])[0]
        places.append(
            (place.get("ColumnPositionInTotalImagePixelMatrix"), place.get("RowPositionInTotalImagePixelMatrix"))
        )
    if len(places) != header.frames or any(None in place for place in places):
        return None
    return np.array(places, dtype=np.int64) - 1


def _area(file: DicomFile) -> int:
    return file.size[0] * file.size[1]


def _same_shape(size: tuple[int, int], smaller: tuple[int, int]) -> bool:
    (width, height), (w, h) = size, smaller
    # a rounded side of a small level can be off by a whole px
    tolerance = _SAME_SHAPE + 1 / w + 1 / h
    return abs((width / w) / (height / h) - 1) <= tolerance


def level_0_files(paths: list[Path]) -> dict[Path, Path]:
    """Maps each file that is part of a DICOM slide to the file by which the slide is opened: its largest image.

    Files that are not part of a DICOM slide, or whose slide has no level among `paths`, are left out.
    """
    series: dict[tuple[Path, str], list[DicomFile]] = {}
    for path in paths:
        header = read_header(str(path))
        if header is not None and header.series:
            series.setdefault((path.parent, header.series), []).append(header)
    found = {}
    for files in series.values():
        slides = slides_of(files)
        for slide in slides:
            found.update({Path(file.path): Path(slide[0].path) for file in slide})
        if slides:
            others = [file for file in files if not file.is_level]
            found.update({Path(file.path): Path(slides[0][0].path) for file in others})
    return found
