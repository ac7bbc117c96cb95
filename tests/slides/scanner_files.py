"""Small files with the structure that scanners write: directories, tags and descriptions of the vendors, made pixels.

Structure and descriptions follow the vendors' format documents and public test files; docs/formats.md names them.
Every function writes one file and returns its path. `levels` are uint8 (h, w, 3), finest first; `mpp` is µm/px.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

Pixels = npt.NDArray[np.uint8]
Levels = Sequence[Pixels]

_JPEG: dict[str, Any] = {"compression": "jpeg", "photometric": "rgb", "metadata": None}


def _resolution(mpp: float, downsample: float) -> dict[str, Any]:
    return {"resolution": (1e4 / mpp / downsample,) * 2, "resolutionunit": "CENTIMETER"}


def _tiled(pixels: Pixels, side: int = 64, **options: Any) -> dict[str, Any]:
    return {**_JPEG, "data": pixels, "tile": (side, side), **options}


def _strips(pixels: Pixels, **options: Any) -> dict[str, Any]:
    return {"data": pixels, "photometric": "rgb", "metadata": None, "rowsperstrip": 16, **options}


def _picture(seed: int, width: int = 96, height: int = 64) -> Pixels:
    width, height = width + 16 * seed, height + 16 * seed
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def _thumbnail(levels: Levels) -> Pixels:
    """The coarsest level at half its size."""
    height, width = (side // 2 * 2 for side in levels[-1].shape[:2])
    halves = levels[-1][:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return halves.mean(axis=(1, 3)).astype(np.uint8)


def _write(path: Path, directories: Sequence[dict[str, Any]], *, bigtiff: bool = False) -> Path:
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as writer:
        for directory in directories:
            writer.write(**directory)
    return path


def write_qptiff(path: Path, levels: Levels, *, mpp: float = 0.5) -> Path:
    """Akoya / PerkinElmer Vectra, brightfield: baseline, thumbnail, reduced levels, macro and label."""
    text = (
        '<?xml version="1.0" encoding="utf-16"?>\n<PerkinElmer-QPI-ImageDescription>'
        "<DescriptionVersion>2</DescriptionVersion><AcquisitionSoftware>VectraPolaris 1.0.7</AcquisitionSoftware>"
        "<ImageType>{}</ImageType><SlideID>S1</SlideID><Objective>20x</Objective></PerkinElmer-QPI-ImageDescription>"
    )
    common = {"software": "PerkinElmer-QPI"}
    first, *others = levels

    def level(pixels: Pixels, kind: str) -> dict[str, Any]:
        down = first.shape[1] / pixels.shape[1]
        return _tiled(pixels, description=text.format(kind), **common, **_resolution(mpp, down))

    def other(pixels: Pixels, kind: str) -> dict[str, Any]:
        return _strips(pixels, description=text.format(kind), **common, **_resolution(mpp, 8))

    return _write(
        path,
        [level(first, "FullResolution"), other(_thumbnail(levels), "Thumbnail")]
        + [level(pixels, "ReducedResolution") | {"subfiletype": 1} for pixels in others]
        + [other(_picture(2), "Overview"), other(_picture(3), "Label")],
    )


def write_huron(path: Path, levels: Levels, *, mpp: float = 0.4) -> Path:
    """Huron TissueScope (MACROscan): `Key = Value` lines, levels in tiles, other pictures uncompressed."""
    height, width = levels[0].shape[:2]
    text = (
        f"Source = Bright Field\r\nScan Size = 8.07x7.86 mm\r\nImage Dimensions = {width}x{height} Pixels\r\n"
        f"Resolution = {mpp:.2f} um\r\nScan Started = 2017:09:29 14:45:38\r\n"
    )
    common = {"software": "MACROscan 1.6", "extratags": [(271, 2, 0, "Huron Digital Pathology", True)]}
    thumbnail, label, macro = _thumbnail(levels), _picture(1), _picture(2)
    first, *others = (
        _tiled(pixels, description=text if number == 0 else "", **common) for number, pixels in enumerate(levels)
    )
    pictures = [_strips(label, subfiletype=1), _strips(macro, subfiletype=9)]
    return _write(path, [first, _strips(thumbnail), *others, *pictures])


def _aperio_like(path: Path, levels: Levels, first: str, other: str) -> Path:
    height, width = levels[0].shape[:2]
    thumbnail, label, macro = _thumbnail(levels), _picture(1), _picture(2)
    return _write(
        path,
        [
            _tiled(levels[0], description=first),
            _strips(thumbnail, description=f"{other}{width}x{height} -> 96x64", compression="jpeg"),
            *(_tiled(pixels, description=first, subfiletype=1) for pixels in levels[1:]),
            _strips(label, description=f"{other}label 96x64", compression="lzw", subfiletype=1),
            _strips(macro, description=f"{other}macro 96x64", compression="jpeg", subfiletype=9),
        ],
    )


def write_motic(path: Path, levels: Levels, *, mpp: float = 0.26) -> Path:
    """Motic EasyScan: Aperio's description after a header of its own."""
    height, width = levels[0].shape[:2]
    text = (
        f"Motic V1.0.0\n{width}x{height} [0,0 {width}x{height}] [64x64] JPEG/RGB Q = 75|AppMag = 40|MPP = {mpp:.6f}"
        "|BackgroundColor = 16514557"
    )
    return _aperio_like(path, levels, text, "Motic V1.0.0\n")


def write_mikroscan(path: Path, levels: Levels, *, mpp: float = 0.453) -> Path:
    """Mikroscan SL5: Aperio's description after a header of its own."""
    height, width = levels[0].shape[:2]
    text = (
        f"Mikroscan Image Structure\n{width}x{height} [0, 0 {width}x{height}] (64x64) JPEG / RGB Q = 30|AppMag = 20"
        f"|SL5 SERIAL # = 1053|Date = 09/26/19|Time = 09:57:06|MPP = {mpp:.6f}"
    )
    return _aperio_like(path, levels, text, "Mikroscan Image Structure\n")


def write_3dhistech_tiff(path: Path, levels: Levels, *, mpp: float = 0.2325) -> Path:
    """TIFF exported by 3DHISTECH's CaseViewer: the pixel size is in the description of each directory."""
    directories = []
    for number, pixels in enumerate(levels):
        height, width = pixels.shape[:2]
        here = mpp * levels[0].shape[1] / width
        text = (
            f"{width}x{height} (64x64) JPEG/RGB Q=80|Date = 29/12/2009|Time = 12:43:52|MPP = {here:.6g}"
            f"|3dh_PixelSizeX = {here:.6g}|3dh_PixelSizeY = {here:.6g}|3dh_Filter = Default"
        )
        directories.append(_tiled(pixels, description=text, subfiletype=int(number > 0)))
    return _write(path, directories)


def write_argos(path: Path, levels: Levels, *, mpp: float = 0.25, planes: int = 1) -> Path:
    """Argos AVS: levels of the lowest focal plane, those of the next, then overview and macro, which are last."""
    top = planes - 1
    text = (
        "<Argos.Scan.Metadata><ObjectiveMagnification>20</ObjectiveMagnification>"
        f"<ZRange>{top}</ZRange><MinZ>0</MinZ><MaxZ>{top}</MaxZ></Argos.Scan.Metadata>"
    )
    directories = []
    for plane in range(planes):
        for number, pixels in enumerate(levels):
            down = levels[0].shape[1] / pixels.shape[1]
            tags = [(65000, 2, 0, text, True)] if plane == number == 0 else []
            shown = np.roll(pixels, plane * 7, axis=1)
            directories.append(_tiled(shown, extratags=tags, subfiletype=int(number > 0), **_resolution(mpp, down)))
    pictures = [_strips(pixels, compression="jpeg") for pixels in (_thumbnail(levels), _picture(2))]
    return _write(path, directories + pictures, bigtiff=True)


def write_scn(
    path: Path, areas: Sequence[Levels], *, offsets: Sequence[tuple[int, int]] = ((100, 60),), mpp: float = 0.5
) -> Path:
    """Leica SCN: a macro of the whole slide, then each scanned area at its place (`offsets`, level-0 px)."""
    nm = round(mpp * 1000)
    across, down = 2000 * nm, 1600 * nm
    images, directories = [], []

    def add(levels: Levels, view: tuple[int, int, int, int], name: str) -> None:
        first = len(directories)
        rows = "".join(
            f'<dimension sizeX="{pixels.shape[1]}" sizeY="{pixels.shape[0]}" r="{number}" ifd="{first + number}"/>'
            for number, pixels in enumerate(levels)
        )
        height, width = levels[0].shape[:2]
        images.append(
            f'<image name="{name}" uuid="u{name}"><creationDate>2012-01-01T00:00:00Z</creationDate>'
            '<device model="Leica SCN400" version="1.4"/>'
            f'<pixels sizeX="{width}" sizeY="{height}">{rows}</pixels>'
            f'<view sizeX="{view[2]}" sizeY="{view[3]}" offsetX="{view[0]}" offsetY="{view[1]}" spacingZ="0"/>'
            "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
            "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
            "</illuminationSettings></scanSettings></image>"
        )
        directories.extend(_tiled(pixels, subfiletype=0) for pixels in levels)

    add([_picture(5, 200, 160)], (0, 0, across, down), "macro")
    for number, (levels, (x, y)) in enumerate(zip(areas, offsets, strict=True)):
        height, width = levels[0].shape[:2]
        add(levels, (x * nm, y * nm, width * nm, height * nm), f"image{number}")
    text = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="u">'
        f'<collection name="S1" uuid="c" sizeX="{across}" sizeY="{down}"><barcode>UzE=</barcode>'
        + "".join(images)
        + "</collection></scn>"
    )
    for number, directory in enumerate(directories):
        directory.update(description=text if number == 0 else "", **_resolution(mpp, 1))
    return _write(path, directories, bigtiff=True)


def write_trestle(path: Path, tiles: Pixels, *, overlap: int = 8, mpp: float = 0.5) -> Path:
    """Trestle MedMicro: `tiles` is the mosaic of 64 px tiles as stored, each overlapping its neighbour."""
    text = f"Objective Power=20;OverlapsXY= {overlap} {overlap};Background Color=F0F0F0;"
    resolution = {"resolution": (mpp, mpp), "resolutionunit": "NONE"}
    return _write(path, [_tiled(tiles, description=text, software="MedScan 1.0", **resolution)])


def write_bif(path: Path, tiles: Pixels, *, overlap: int = 8, mpp: float = 0.5, side: int = 64) -> Path:
    """Ventana iScan: label and thumbnail, then `tiles`, the mosaic as stored, with the overlaps in its XMP."""
    rows, columns = tiles.shape[0] // side, tiles.shape[1] // side

    def number(row: int, column: int) -> int:
        """From 1, from the lower left corner, alternately to the right and to the left."""
        snake = rows - 1 - row
        return snake * columns + (column if snake % 2 == 0 else columns - 1 - column) + 1

    joints = []
    for row in range(rows):
        for column in range(columns):
            here = number(row, column)
            if column + 1 < columns:
                pair = (here, number(row, column + 1))
                joints.append(("RIGHT", *pair, overlap, 0))
            if row > 0:
                joints.append(("UP", here, number(row - 1, column), 0, overlap))
    lines = "".join(
        f'<TileJointInfo FlagJoined="1" Confidence="100" Direction="{way}" Tile1="{one}" Tile2="{two}" '
        f'OverlapX="{x}" OverlapY="{y}"/>'
        for way, one, two, x, y in joints
    )
    scan = f'<iScan Magnification="20" ScanRes="{mpp}" UnitNumber="1" ScanMode="0" Z-layers="1"/>'
    encode = (
        f'<EncodeInfo Ver="2"><SlideInfo>{scan}<AoiInfo XIMAGESIZE="{side}" YIMAGESIZE="{side}" NumRows="{rows}" '
        f'NumCols="{columns}" Pos-X="0" Pos-Y="0"/></SlideInfo><SlideStitchInfo><ImageInfo AOIScanned="1" AOIIndex="0" '
        f'NumRows="{rows}" NumCols="{columns}" Width="{side}" Height="{side}" Pos-X="0" Pos-Y="0">{lines}</ImageInfo>'
        '</SlideStitchInfo><AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )
    label = _strips(
        _picture(1),
        description="Label Image",
        software="ScanOutputManager 1",
        extratags=[_xmp(f"<Metadata>{scan}</Metadata>")],
    )
    thumbnail = _tiled(_picture(2), description="Thumbnail", software="ScanOutputManager 1")
    level = _tiled(
        tiles,
        side,
        description="level=0 mag=20 quality=90",
        software="ScanOutputManager 1",
        extratags=[_xmp(encode)],
    )
    return _write(path, [label, thumbnail, level], bigtiff=True)


def _xmp(text: str) -> tuple[int, int, int, bytes, bool]:
    data = text.encode()
    return (700, 1, len(data), data, True)
