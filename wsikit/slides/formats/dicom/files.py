"""The files of a DICOM slide: which belong together, what each contains, and where its frames are. No pixels.

A series is one slide: one file per level (or several, for focal planes, colours and concatenations) and its label.
pydicom reads the headers; pixel data are not loaded.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from wsikit.slides.tile_reader import PositionedFile

logger = logging.getLogger(__name__)

_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_STREAM_BEGINS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
"""First bytes of a JPEG and of a JPEG 2000 stream."""
_ENCAPSULATED = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff"
"""Head of PixelData whose frames are compressed: tag, type, reserved, undefined length (DICOM PS3.5, A.4)."""

_HEADER = [
    "SeriesInstanceUID",
    "ImageType",
    "DimensionOrganizationType",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
    "TotalPixelMatrixFocalPlanes",
    "NumberOfOpticalPaths",
    "ConcatenationUID",
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "ExtendedOffsetTable",
]
_COLUMN_POSITION, _ROW_POSITION = rb"\x48\x00\x1e\x02SL\x04\x00(.{4})", rb"\x48\x00\x1f\x02SL\x04\x00(.{4})"
"""ColumnPositionInTotalImagePixelMatrix, RowPosition…: tag, type, length, value. All compressed transfer
syntaxes use this encoding."""
_one_at_a_time = threading.Lock()  # Python's warning filters are shared by all threads


@dataclass(frozen=True)
class DicomFile:
    """The header of one file."""

    path: str
    series: str
    kind: str
    """VOLUME for a level of the slide; LABEL, OVERVIEW, THUMBNAIL, or empty if not stated."""
    size: tuple[int, int]
    """Width and height of the whole image, px; (0, 0) if it is not an image of a slide."""
    tile_px: tuple[int, int]
    frames: int
    organisation: str
    """TILED_FULL, TILED_SPARSE, or empty."""
    transfer_syntax: str
    photometric: str
    channels: int
    bits: int
    several: bool
    """The file has more than one focal plane or colour, or is one part of a concatenation."""
    pixel_data: int
    """Byte offset of the PixelData element."""
    offset_table: bytes
    """Extended Offset Table: one uint64 per frame; empty if there is none."""

    @property
    def is_level(self) -> bool:
        return self.kind == "VOLUME" and min(*self.size, *self.tile_px) > 0

    @property
    def columns(self) -> int:
        return -(-self.size[0] // self.tile_px[0])

    @property
    def rows(self) -> int:
        return -(-self.size[1] // self.tile_px[1])


class Frames(NamedTuple):
    """Byte range of each frame, including the headers of its items."""

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


def read_header(path: str) -> DicomFile | None:
    """Header of a DICOM file; None if it is not one, or is damaged (opening it then raises the reason)."""
    try:
        with open(path, "rb") as file:
            if file.read(132)[128:] != b"DICM":
                return None
            file.seek(0)
            dataset = _dataset(file, _HEADER)
            return _from_dataset(path, dataset, file.tell())
    except Exception as error:  # pydicom raises errors of many kinds for damaged headers
        logger.debug("%s: its DICOM header cannot be read: %s", path, error)
        return None


def same_series(path: str) -> list[DicomFile]:
    """All files of the slide that `path` belongs to, in its folder, by name."""
    own = read_header(path)
    if own is None or not own.series:
        return []
    neighbours = (entry.path for entry in os.scandir(os.path.dirname(path) or ".") if entry.is_file())
    headers = (own if os.path.samefile(other, path) else read_header(other) for other in sorted(neighbours))
    return [header for header in headers if header is not None and header.series == own.series]


def frame_positions(file: PositionedFile, header: DicomFile) -> npt.NDArray[np.int64] | None:
    """(frames, 2): x, y of each frame's top-left corner, px of the level, from 0; None if a frame does not state it.

    pydicom needs 14 s to read a sequence of 100,000 frames, so the two numbers of each frame are searched as bytes.
    There must be exactly as many matches as frames, so that no other bytes are mistaken for them.
    """
    bytes_before_pixels = file.read(0, header.pixel_data)
    found = [re.findall(element, bytes_before_pixels, re.DOTALL) for element in (_COLUMN_POSITION, _ROW_POSITION)]
    if {len(values) for values in found} != {header.frames}:
        return None
    return np.stack([np.frombuffer(b"".join(values), "<i4") for values in found], axis=1).astype(np.int64) - 1


def find_frames(file: PositionedFile, header: DicomFile) -> Frames | None:
    """Byte ranges of the frames of a file; None if its items cannot be assigned to frames.

    From the offset tables if there are any, else from one pass over the item headers. In a truncated file, the missing
    frames get positions beyond its end.
    """
    if file.read(header.pixel_data, len(_ENCAPSULATED)) != _ENCAPSULATED:
        return None
    table = header.pixel_data + len(_ENCAPSULATED)
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
        first_of_frame = np.array([file.read(start + 8, 4).startswith(_STREAM_BEGINS) for start, _ in items])
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


def _dataset(file: Any, tags: list[str]) -> Any:
    import pydicom

    with _one_at_a_time, warnings.catch_warnings(action="ignore"):
        # it warns about values that violate a rule, and leaves the file position at the start of the pixel data
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(tags))
        for tag in tags:
            dataset.get(tag)  # values are converted, with warnings, when first used
    return dataset


def _from_dataset(path: str, dataset: Any, pixel_data: int) -> DicomFile:
    kinds = dataset.get("ImageType") or []
    planes, colours = dataset.get("TotalPixelMatrixFocalPlanes") or 1, dataset.get("NumberOfOpticalPaths") or 1
    bits = {int(dataset.get("BitsAllocated") or 0), int(dataset.get("BitsStored") or 0)}
    return DicomFile(
        path=path,
        series=str(dataset.get("SeriesInstanceUID") or ""),
        kind=str(kinds[2]) if not isinstance(kinds, str) and len(kinds) > 2 else "",
        size=(int(dataset.get("TotalPixelMatrixColumns") or 0), int(dataset.get("TotalPixelMatrixRows") or 0)),
        tile_px=(int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0)),
        frames=int(dataset.get("NumberOfFrames") or 1),
        organisation=str(dataset.get("DimensionOrganizationType") or ""),
        transfer_syntax=str(dataset.file_meta.get("TransferSyntaxUID") or ""),
        photometric=str(dataset.get("PhotometricInterpretation") or ""),
        channels=int(dataset.get("SamplesPerPixel") or 0),
        bits=bits.pop() if len(bits) == 1 else 0,
        several=int(planes) > 1 or int(colours) > 1 or "ConcatenationUID" in dataset,
        pixel_data=pixel_data,
        offset_table=bytes(dataset.get("ExtendedOffsetTable") or b""),
    )


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
        levels = [file for file in files if file.is_level]
        if levels:
            largest = min(levels, key=lambda file: (-file.size[0] * file.size[1], file.path))
            found.update({Path(file.path): Path(largest.path) for file in files})
    return found
