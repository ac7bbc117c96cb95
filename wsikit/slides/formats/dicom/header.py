"""The header of a DICOM file of any encoding: little or big endian, deflated, without preamble. No pixels.

pydicom reads the headers; pixel data are not loaded.
"""

from __future__ import annotations

import io
import logging
import re
import threading
import warnings
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.lengths import parse_number
from wsikit.slides.formats.dicom.looks import HEAD_BYTES, has_preamble, looks_like_dicom
from wsikit.slides.tile_reader import PositionedFile

logger = logging.getLogger(__name__)

DEFLATED = "1.2.840.10008.1.2.1.99"
MAX_INFLATED = 1 << 30
"""Bytes of a deflated file that are kept in memory."""

_UM_PER_MM = 1000.0
_HEADER = [
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "SeriesInstanceUID",
    "PyramidUID",
    "ContainerIdentifier",
    "InstanceNumber",
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
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "PixelRepresentation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "ImagedVolumeWidth",
    "ImagedVolumeHeight",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence",
    "OpticalPathSequence",
    "ExtendedOffsetTable",
]
_one_at_a_time = threading.Lock()  # Python's warning filters are shared by all threads

_SPACING = re.compile(rb"\x28\x00\x30\x00DS(..)", re.DOTALL)
"""PixelSpacing of a frame, in explicit little endian: tag, type, length."""


@dataclass(frozen=True)
class Samples:
    """How a file says that its samples are stored."""

    photometric: str
    channels: int
    planar: bool
    """One plane after the other in each frame, where frames are not compressed."""
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    palette: npt.NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)
    """(entries, 3): RGB of each sample value, from 0."""


@dataclass(frozen=True)
class DicomFile:
    """The header of one file."""

    path: str
    sop_class: str
    instance: str
    modality: str
    series: str
    glass: str
    """Container and pyramid of which it is an image: equal for all levels of one slide. Never shown."""
    number: int
    """InstanceNumber."""
    image_type: tuple[str, ...]
    size: tuple[int, int]
    """Width and height of the whole image, px; (0, 0) if it is not an image of a slide."""
    tile_px: tuple[int, int]
    frames: int
    organisation: str
    """TILED_FULL, TILED_SPARSE, or empty."""
    transfer_syntax: str
    implicit: bool
    """Elements do not state their types."""
    big_endian: bool
    samples: Samples
    planes: int
    """Focal planes that are stated, 1 or more."""
    paths: tuple[str, ...]
    """Optical paths: what is known of each, in words; at least one."""
    depth: float | None
    """Z offset of the plane of all frames, if it is stated, µm."""
    concatenation: str
    part: int
    """Number of the part of a concatenation, from 1."""
    pixel_data: int
    """Byte offset of the PixelData element."""
    offset_table: bytes
    """Extended Offset Table: one uint64 per frame; empty if there is none."""
    spacing: tuple[float, float] | None
    """µm per px, (x, y), as PixelSpacing states; it can be impossible."""
    volume_mm: tuple[float, float] | None
    """Width and height of the imaged volume, mm."""
    lens: float | None
    icc_profile: bytes | None = field(default=None, repr=False)
    device: tuple[tuple[str, str], ...] = ()
    """Manufacturer and model, by name of the property."""

    @property
    def kind(self) -> str:
        """VOLUME for a level of the slide; LABEL, OVERVIEW, THUMBNAIL, or empty if not stated."""
        return self.image_type[2] if len(self.image_type) > 2 else ""

    @property
    def is_level(self) -> bool:
        return self.kind == "VOLUME" and min(*self.size, *self.tile_px) > 0

    @property
    def columns(self) -> int:
        return -(-self.size[0] // self.tile_px[0])

    @property
    def rows(self) -> int:
        return -(-self.size[1] // self.tile_px[1])


class InflatedFile(PositionedFile):
    """The bytes of a deflated file, inflated, in the place of a file."""

    def __init__(self, path: str, data: bytes) -> None:
        super().__init__(path)
        self._data = data

    def read(self, offset: int, count: int) -> bytes:
        super().read(0, 0)  # an error if it is closed
        return self._data[offset : offset + count]

    def size(self) -> int:
        return len(self._data)


class TooLargeError(ValueError):
    """A deflated file is larger than what is kept in memory."""


def open_bytes(header: DicomFile) -> PositionedFile:
    """The bytes of a file in which `header.pixel_data` is a position."""
    if header.transfer_syntax == DEFLATED:
        return InflatedFile(header.path, _inflated(header.path))
    return PositionedFile(header.path)


def read_header(path: str) -> DicomFile | None:
    """Header of a DICOM file; None if it is not one, or is damaged."""
    try:
        with open(path, "rb") as file:
            if not looks_like_dicom(file.read(HEAD_BYTES)):
                return None
        return _read(path)
    except Exception as error:  # pydicom raises errors of many kinds for damaged headers
        logger.debug("%s: its DICOM header cannot be read: %s", path, error)
        return None


def _inflated(path: str) -> bytes:
    """A deflated file as one of explicit little endian: its dataset inflated, behind a file header of its own."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES + 12)
        start = 132 if has_preamble(head) else 0
        if head[start : start + 8] != b"\x02\0\0\0UL\x04\0":
            raise ValueError("the length of its file header is missing")
        file.seek(start + 12 + int.from_bytes(head[start + 8 : start + 12], "little"))
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        data = inflater.decompress(file.read(), MAX_INFLATED)
    if inflater.unconsumed_tail:
        raise TooLargeError(f"more than {MAX_INFLATED >> 20} MiB when inflated")
    syntax = b"1.2.840.10008.1.2.1\0"
    element = b"\x02\0\x10\0UI" + len(syntax).to_bytes(2, "little") + syntax
    return b"".join((bytes(128), b"DICM\x02\0\0\0UL\x04\0", len(element).to_bytes(4, "little"), element, data))


def _read(path: str) -> DicomFile:
    with open(path, "rb") as file:
        dataset, position = _dataset(file, path)
        spacing = None
        if _measures(dataset) is None:
            source: Any = file
            if str(dataset.file_meta.get("TransferSyntaxUID") or "") == DEFLATED:
                source = io.BytesIO(_inflated(path))
            spacing = _spacing_of_frames(source, position)
    return _from_dataset(path, dataset, position, spacing)


def _dataset(file: Any, path: str) -> tuple[Any, int]:
    """The dataset, and the position of its pixel data."""
    import pydicom

    with _one_at_a_time, warnings.catch_warnings(action="ignore"):
        # it warns about values that violate a rule, and leaves the file position at the start of the pixel data
        tags = list(_HEADER)
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags, force=True)
        position = int(file.tell())
        meta = dataset.file_meta if hasattr(dataset, "file_meta") else None
        if meta is None:
            dataset.file_meta = pydicom.dataset.FileMetaDataset()
        if str(dataset.file_meta.get("TransferSyntaxUID") or "") == DEFLATED:
            inflated = io.BytesIO(_inflated(path))
            whole = pydicom.dcmread(inflated, stop_before_pixels=True, specific_tags=tags)
            position = inflated.tell()
            meta = dataset.file_meta
            dataset = whole
            dataset.file_meta = meta
        for tag in _HEADER:
            dataset.get(tag)  # values are converted, with warnings, when first used
        return dataset, position


def _from_dataset(path: str, dataset: Any, pixel_data: int, spacing: tuple[float, float] | None) -> DicomFile:
    kinds = dataset.get("ImageType") or []
    implicit, little = dataset.original_encoding if hasattr(dataset, "original_encoding") else (False, True)
    shared = _first(dataset.get("SharedFunctionalGroupsSequence"))
    plane = _first(shared.get("PlanePositionSlideSequence")) if shared is not None else None
    depth = plane.get("ZOffsetInSlideCoordinateSystem") if plane is not None else None
    optics = list(dataset.get("OpticalPathSequence") or [])
    paths = [_path_words(path, number) for number, path in enumerate(optics, start=1)]
    stated = max(1, int(dataset.get("NumberOfOpticalPaths") or 1))
    paths += [str(number) for number in range(len(paths) + 1, stated + 1)]
    first = optics[0] if optics else None
    lens = first.get("ObjectiveLensPower") if first is not None else None
    profile = first.get("ICCProfile") if first is not None else None
    volume = dataset.get("ImagedVolumeWidth"), dataset.get("ImagedVolumeHeight")
    device = {f"dicom.{name}": dataset.get(name) for name in ("Manufacturer", "ManufacturerModelName", "Modality")}
    return DicomFile(
        path=path,
        sop_class=str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""),
        instance=str(dataset.get("SOPInstanceUID") or ""),
        modality=str(dataset.get("Modality") or ""),
        series=str(dataset.get("SeriesInstanceUID") or ""),
        glass=f"{dataset.get('ContainerIdentifier') or ''}|{dataset.get('PyramidUID') or ''}",
        number=int(dataset.get("InstanceNumber") or 0),
        image_type=() if isinstance(kinds, str) else tuple(map(str, kinds)),
        size=(int(dataset.get("TotalPixelMatrixColumns") or 0), int(dataset.get("TotalPixelMatrixRows") or 0)),
        tile_px=(int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0)),
        frames=int(dataset.get("NumberOfFrames") or 1),
        organisation=str(dataset.get("DimensionOrganizationType") or ""),
        transfer_syntax=str(dataset.file_meta.get("TransferSyntaxUID") or ""),
        implicit=bool(implicit),
        big_endian=not little,
        samples=_samples(dataset),
        planes=max(1, int(dataset.get("TotalPixelMatrixFocalPlanes") or 1)),
        paths=tuple(paths) or ("1",),
        depth=float(depth) if depth is not None else None,
        concatenation=str(dataset.get("ConcatenationUID") or ""),
        part=int(dataset.get("InConcatenationNumber") or 0),
        pixel_data=pixel_data,
        offset_table=bytes(dataset.get("ExtendedOffsetTable") or b""),
        spacing=_measures(dataset) or spacing,
        volume_mm=(float(volume[0]), float(volume[1])) if volume[0] and volume[1] else None,
        lens=float(lens) if lens else None,
        icc_profile=bytes(profile) if profile else None,
        device=tuple((name, str(value)) for name, value in device.items() if value),
    )


def _samples(dataset: Any) -> Samples:
    stored = int(dataset.get("BitsStored") or 0)
    photometric = str(dataset.get("PhotometricInterpretation") or "")
    return Samples(
        photometric=photometric,
        channels=int(dataset.get("SamplesPerPixel") or 0),
        planar=bool(dataset.get("PlanarConfiguration") or 0),
        bits_allocated=int(dataset.get("BitsAllocated") or 0),
        bits_stored=stored,
        high_bit=int(dataset.get("HighBit") or stored - 1),
        signed=bool(dataset.get("PixelRepresentation") or 0),
        palette=_palette(dataset) if photometric == "PALETTE COLOR" else None,
    )


def _palette(dataset: Any) -> npt.NDArray[np.uint8] | None:
    """RGB of every sample value; None if the lookup tables are missing or damaged."""
    from pydicom.pixels.processing import apply_color_lut

    bits = int(dataset.get("BitsAllocated") or 0)
    if bits not in (8, 16):
        return None
    try:
        values = np.arange(1 << bits, dtype=np.uint8 if bits == 8 else np.uint16)
        colours: npt.NDArray[np.generic] = apply_color_lut(values[None], dataset)[0][:, :3]
    except Exception as error:  # pydicom raises errors of many kinds for damaged tables
        logger.debug("the palette cannot be read: %s", error)
        return None
    return (colours if colours.dtype == np.uint8 else colours.astype(np.uint16) >> 8).astype(np.uint8)


def _measures(dataset: Any) -> tuple[float, float] | None:
    """µm per px (x, y) of the shared functional groups; PixelSpacing is (between rows, between columns), mm."""
    shared = _first(dataset.get("SharedFunctionalGroupsSequence"))
    measures = _first(shared.get("PixelMeasuresSequence")) if shared is not None else None
    element = measures.get_item("PixelSpacing") if measures is not None and "PixelSpacing" in measures else None
    if element is None or not element.value:
        return None
    # pydicom refuses a decimal comma, which some writers use
    raw = element.value
    words = raw.decode("ascii", "replace").split("\\") if isinstance(raw, bytes) else [str(part) for part in raw]
    return _um(words)


def _um(words: list[str]) -> tuple[float, float] | None:
    """µm (x, y) of two texts in mm, (y, x)."""
    try:
        y, x = (parse_number(part.strip(" \0")) for part in words)
    except ValueError:
        return None
    return x * _UM_PER_MM, y * _UM_PER_MM


def _spacing_of_frames(file: Any, pixel_data: int) -> tuple[float, float] | None:
    """µm per px (x, y) that each frame states for itself, if it is the same in all; searched as bytes, for speed."""
    file.seek(0)
    before = file.read(pixel_data)
    found = set()
    for match in _SPACING.finditer(before):
        length = int.from_bytes(match.group(1), "little")
        found.add(before[match.end() : match.end() + length])
    if len(found) != 1:
        return None
    return _um(found.pop().decode("ascii", "replace").split("\\"))


def _path_words(path: Any, number: int) -> str:
    """What an optical path is: its number, its description or its wavelength."""
    words = str(path.get("OpticalPathDescription") or "").strip()
    if not words and path.get("IlluminationWaveLength"):
        words = f"{float(path.IlluminationWaveLength):g} nm"
    code = _first(path.get("IlluminationColorCodeSequence"))
    if not words and code is not None:
        words = str(code.get("CodeMeaning") or "")
    identifier = str(path.get("OpticalPathIdentifier") or number)
    shown = "".join(letter if letter.isprintable() else "?" for letter in words)[:40]
    return f"{identifier} ({shown})" if shown else identifier


def _first(sequence: Any) -> Any:
    return sequence[0] if sequence else None
