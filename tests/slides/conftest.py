"""Small slides made for the tests of readers. Every level has different content, so that a wrong level is noticed."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.uint8]

LEVEL_SIZES = ((640, 480), (320, 240), (160, 120))
MPP = 0.25


def _texture(width: int, height: int, seed: int) -> Pixels:
    """Smooth colour noise, uint8 (height, width, 3): codecs keep it, and no two places are equal."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5))).astype(float)
    return np.clip((smooth - 128) * 4 + 128, 0, 255).astype(np.uint8)


def _area_average(
    pixels: Pixels, x0: float, y0: float, x1: float, y1: float, out: tuple[int, int]
) -> npt.NDArray[np.float64]:
    def weights(low: float, high: float, n_out: int, n_in: int) -> npt.NDArray[np.float64]:
        edges = np.linspace(low, high, n_out + 1)
        pixel = np.arange(n_in)
        covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        return np.clip(covered, 0, None) * n_out / (high - low)

    rows = weights(y0, y1, out[1], pixels.shape[0])
    columns = weights(x0, x1, out[0], pixels.shape[1])
    return np.einsum("oy,yxc,px->opc", rows, pixels.astype(np.float64), columns, optimize=True)


@pytest.fixture(scope="session")
def area_average() -> Callable[..., npt.NDArray[np.float64]]:
    """area_average(pixels, x0, y0, x1, y1, out): exact means, (out h, out w, 3); a pixel weighs by the area covered."""
    return _area_average


@pytest.fixture(scope="session")
def texture() -> Callable[[int, int, int], Pixels]:
    """texture(width, height, seed): uint8 (height, width, 3)."""
    return _texture


@pytest.fixture(scope="session")
def levels() -> list[Pixels]:
    """Pixels of each level of `pyramid`, finest first."""
    return [_texture(width, height, seed) for seed, (width, height) in enumerate(LEVEL_SIZES)]


@pytest.fixture(scope="session")
def write_pyramid() -> Callable[..., Path]:
    """write_pyramid(path, levels, mpp=…, **tifffile options): a tiled TIFF, one directory per level."""

    def write(path: Path, levels: list[Pixels], *, mpp: float | None = MPP, **options: object) -> Path:
        options = {"tile": (64, 64), "compression": "deflate", "photometric": "rgb", "metadata": None, **options}
        unit = {"resolutionunit": "CENTIMETER"} if mpp else {}
        with tifffile.TiffWriter(path) as writer:
            for number, pixels in enumerate(levels):
                scale = pixels.shape[1] / levels[0].shape[1]
                resolution = {"resolution": (1e4 / mpp * scale,) * 2} if mpp else {}
                writer.write(pixels, subfiletype=int(number > 0), **resolution, **unit, **options)
        return path

    return write


@pytest.fixture(scope="session")
def pyramid(tmp_path_factory: pytest.TempPathFactory, levels: list[Pixels], write_pyramid: Callable[..., Path]) -> Path:
    """A lossless tiled pyramid of 640 × 480 px at 0.25 µm/px with three levels."""
    return write_pyramid(tmp_path_factory.mktemp("slides") / "pyramid.tiff", levels)


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory, levels: list[Pixels]) -> Path:
    """The finest level as a PNG that states 0.25 µm/px."""
    path = tmp_path_factory.mktemp("slides") / "picture.png"
    Image.fromarray(levels[0]).save(path, dpi=(25400 / MPP, 25400 / MPP))
    return path


@pytest.fixture(scope="session")
def overwrite_tile() -> Callable[..., None]:
    """overwrite_tile(path, tile number, change, page=0): replace one tile's bytes by change(bytes) of equal length."""

    def overwrite(path: Path, number: int, change: Callable[[bytes], bytes], page: int = 0) -> None:
        with tifffile.TiffFile(path) as tiff:
            offset = tiff.pages[page].dataoffsets[number]
            count = tiff.pages[page].databytecounts[number]
        with open(path, "r+b") as file:
            file.seek(offset)
            changed = change(file.read(count))
            assert len(changed) == count
            file.seek(offset)
            file.write(changed)

    return overwrite


@pytest.fixture(scope="session")
def patch_tag() -> Callable[..., None]:
    """patch_tag(path, code, value, page=0): overwrite the value of one TIFF tag in place."""

    def patch(path: Path, code: int, value: object, page: int = 0) -> None:
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            tiff.pages[page].tags[code].overwrite(value)

    return patch


@pytest.fixture(scope="session")
def tiles_of() -> Callable[[Pixels, int], list[Pixels]]:
    """tiles_of(pixels, side): tiles row by row, padded with white."""
    return _tiles_of


@pytest.fixture(scope="session")
def restart_starts() -> Callable[[bytes], list[int]]:
    """restart_starts(stream): where a JPEG's coded data and each of its restart intervals begin."""
    return _restart_starts


@pytest.fixture(scope="session")
def ndpi_image() -> Callable[..., dict[str, Any]]:
    """ndpi_image(pixels, blocks=…, subsampling=…, lens=…, depth=…): one image for `write_ndpi`."""
    return _ndpi_image


@pytest.fixture(scope="session")
def write_ndpi() -> Callable[..., Path]:
    """write_ndpi(path, images, mpp=…, first_byte=…)"""
    return _write_ndpi


@pytest.fixture(scope="session")
def write_dicom() -> Callable[..., Path]:
    """write_dicom(path, frames, size, **options): one file of a DICOM slide; see `_write_dicom`."""
    return _write_dicom


def _tiles_of(pixels: Pixels, side: int) -> list[Pixels]:
    """Tiles of `side` px row by row, padded with white."""
    height, width = pixels.shape[:2]
    tiles = []
    for y in range(0, height, side):
        for x in range(0, width, side):
            tile = np.full((side, side, 3), 255, np.uint8)
            part = pixels[y : y + side, x : x + side]
            tile[: part.shape[0], : part.shape[1]] = part
            tiles.append(tile)
    return tiles


def _restarted_jpeg(pixels: Pixels, *, blocks: int, subsampling: str = "4:4:4") -> bytes:
    """One JPEG with a restart marker after each `blocks` MCUs; none if 0."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(
        stream, "jpeg", quality=90, subsampling=subsampling, **({"restart_marker_blocks": blocks} if blocks else {})
    )
    return stream.getvalue()


def _restart_starts(stream: bytes) -> list[int]:
    """Where the coded data and each restart interval begin."""
    position = 2
    while stream[position + 1] != 0xDA:
        position += 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
    starts = [position + 2 + int.from_bytes(stream[position + 2 : position + 4], "big")]
    coded = np.frombuffer(stream, np.uint8)
    marks = np.flatnonzero((coded[:-1] == 0xFF) & (coded[1:] >= 0xD0) & (coded[1:] <= 0xD7))
    return starts + [int(mark) + 2 for mark in marks if mark >= starts[0]]


def _ndpi_image(
    pixels: Pixels, *, blocks: int, subsampling: str = "4:4:4", lens: float = 40.0, depth: int = 0, **tags: Any
) -> dict[str, Any]:
    """One image of an NDPI, for `write_ndpi`."""
    stream = _restarted_jpeg(pixels, blocks=blocks, subsampling=subsampling)
    return {"pixels": pixels, "stream": stream, "lens": lens, "depth": depth, "restarts": blocks > 0, **tags}


def _write_ndpi(path: Path, images: Sequence[dict[str, Any]], *, mpp: float = 0.25, first_byte: int = 12) -> Path:
    """An NDPI of such images: a TIFF whose offsets have 64 bits though its version says 32.

    `first_byte` is where the first image begins.
    """
    with open(path, "wb") as file:
        file.write(b"II*\0" + bytes(8))
        file.seek(first_byte)
        link = 4
        for image in images:
            start = file.tell()
            file.write(image["stream"])
            link = _write_directory(file, link, _ndpi_tags(image, start, mpp, images[0]["pixels"].shape[1]))
    return path


def _ndpi_tags(image: dict[str, Any], start: int, mpp: float, width_0: int) -> list[tuple[int, int, int, bytes | int]]:
    """(code, type, count, value): a number, or the bytes of a longer value."""
    height, width = image["pixels"].shape[:2]
    per_cm = struct.pack("<II", round(1e7 / mpp * width / width_0), 1000)
    tags: list[tuple[int, int, int, bytes | int]] = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, struct.pack("<3H", 8, 8, 8)),
        (259, 3, 1, 7),
        (262, 3, 1, 6),
        (271, 2, 10, b"Hamamatsu\0"),
        (272, 2, 9, b"C9600-12\0"),
        (273, 4, 1, start),
        (277, 3, 1, 3),
        (278, 4, 1, height),
        (279, 4, 1, len(image["stream"])),
        (282, 5, 1, per_cm),
        (283, 5, 1, per_cm),
        (296, 3, 1, 3),
        (305, 2, 9, b"NDP.scan\0"),
        (65420, 4, 1, 1),
        (65421, 11, 1, struct.unpack("<I", struct.pack("<f", image["lens"]))[0]),
        (65424, 9, 1, image["depth"]),
        (65442, 2, 8, b"SN12345\0"),
    ]
    if image["restarts"]:
        starts = _restart_starts(image["stream"])
        tags.append((65426, 4, len(starts), struct.pack(f"<{len(starts)}I", *starts)))
    return sorted(tags)


def _write_directory(file: Any, link: int, tags: list[tuple[int, int, int, bytes | int]]) -> int:
    """Write one directory, point `link` at it, and return where its own link to the next lies."""
    places = []
    for _, _, _, value in tags:
        places.append(file.tell() if isinstance(value, bytes) else value)
        if isinstance(value, bytes):
            file.write(value)
    directory = file.tell()
    file.write(struct.pack("<H", len(tags)))
    for (code, kind, count, _), place in zip(tags, places):
        file.write(struct.pack("<HHII", code, kind, count, place & 0xFFFFFFFF))
    next_link = file.tell()
    file.write(bytes(8))
    file.write(struct.pack(f"<{len(tags)}I", *(max(place, 0) >> 32 for place in places)))
    end = file.tell()
    file.seek(link)
    file.write(struct.pack("<Q", directory))
    file.seek(end)
    return next_link


def _write_dicom(path: Path, frames: Sequence[bytes], size: tuple[int, int], **options: Any) -> Path:
    """One file of a DICOM slide.

    Options: side (of a frame, 64 px), mpp, syntax, photometric, series, kind, positions (of frames, px from 0),
    basic_table, extended_table, fragments (of each frame), `native` (frames that are not compressed), and `attributes`,
    more DICOM attributes by keyword; None removes one.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate, encapsulate_extended
    from pydicom.uid import UID, generate_uid

    if not UID(
        options.get("syntax", "1.2.840.10008.1.2.1")
    ).is_transfer_syntax:  # pydicom does not write what it does not know
        path = _write_dicom(path, frames, size, **{**options, "syntax": "1.2.840.10008.1.2.4.50"})
        return _restate_syntax(path, options["syntax"])
    side, mpp = options.get("side", 64), options.get("mpp", 0.25)
    dataset, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID = options.get("syntax", "1.2.840.10008.1.2.4.50")
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta = meta
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = options.get("series", "1.2.3"), "1.2.3.4"
    dataset.Modality, dataset.PatientName = "SM", "Doe^Jane"
    dataset.ImageType = ["DERIVED", "PRIMARY", options.get("kind", "VOLUME"), "NONE"]
    dataset.Rows = dataset.Columns = side
    dataset.NumberOfFrames = len(frames)
    dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = size
    dataset.SamplesPerPixel, dataset.PlanarConfiguration, dataset.PixelRepresentation = 3, 0, 0
    dataset.PhotometricInterpretation = options.get("photometric", "YBR_FULL_422")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    measures, shared, optics = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    shared.PixelMeasuresSequence = [measures]
    optics.OpticalPathIdentifier, optics.ObjectiveLensPower = "1", 40
    dataset.SharedFunctionalGroupsSequence, dataset.OpticalPathSequence = [shared], [optics]
    dataset.DimensionOrganizationType = "TILED_SPARSE" if "positions" in options else "TILED_FULL"
    if "positions" in options:
        dataset.PerFrameFunctionalGroupsSequence = [_placed(x, y) for x, y in options["positions"]]
    for keyword, value in options.get("attributes", {}).items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    if options.get("native"):
        dataset.PixelData = b"".join(frames)
        dataset["PixelData"].VR = options.get("pixel_type", "OW")
        dataset.save_as(path, enforce_file_format=True)
        return path
    if options.get("extended_table"):
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(
            list(frames)
        )
    else:
        dataset.PixelData = encapsulate(
            list(frames), has_bot=options.get("basic_table", True), fragments_per_frame=options.get("fragments", 1)
        )
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return path


def _restate_syntax(path: Path, syntax: str) -> Path:
    """Replace the transfer syntax in the file header, whose length it has at byte 140."""
    data = path.read_bytes()
    start = data.index(b"\x02\0\x10\0UI")
    end = start + 8 + int.from_bytes(data[start + 6 : start + 8], "little")
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    element = data[start : start + 6] + len(value).to_bytes(2, "little") + value
    length = int.from_bytes(data[140:144], "little") + len(element) - (end - start)
    path.write_bytes(data[:140] + length.to_bytes(4, "little") + data[144:start] + element + data[end:])
    return path


def _placed(x: int, y: int) -> Any:
    from pydicom.dataset import Dataset

    place, frame = Dataset(), Dataset()
    place.ColumnPositionInTotalImagePixelMatrix, place.RowPositionInTotalImagePixelMatrix = x + 1, y + 1
    frame.PlanePositionSlideSequence = [place]
    return frame
