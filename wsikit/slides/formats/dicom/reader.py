"""DICOM slides, level by level: every frame is read and decoded here. Positions are px of the level read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from wsikit.errors import BrokenSlideError, ReadError, RequestError, SlideError, UnsupportedSlideError
from wsikit.slides.base import WHITE, BaseSlide, MppLike, Pixels, SlideInfo, true_downsamples
from wsikit.slides.encoded_tiles import TileSource
from wsikit.slides.formats.dicom import files as dicom_files
from wsikit.slides.formats.dicom import pass_through
from wsikit.slides.formats.dicom.header import DicomFile, open_bytes
from wsikit.slides.formats.dicom.kinds import in_words, refusal
from wsikit.slides.formats.dicom.levels import Level, level_of
from wsikit.slides.formats.dicom.looks import HEAD_BYTES, has_preamble
from wsikit.slides.formats.dicom.scale import scale_of
from wsikit.slides.properties import allowed
from wsikit.slides.tile_reader import PositionedFile, TileReader
from wsikit.slides.tile_reader import in_words as error_words

_ASSOCIATED = {"LABEL": "label", "OVERVIEW": "macro", "THUMBNAIL": "thumbnail"}
"""Value 3 of ImageType."""
_MAX_SIDE = 16_384
"""Longest side of a label or macro that is decoded, px."""


class DicomSlide(BaseSlide, TileReader):
    """A DICOM slide: the levels of a series, each from one file or from the parts of a concatenation.

    Pixels are exact at every level, damage is detected, and the colours are those of the frames' own streams: `notes`
    states where they are not what the file says.
    """

    reader: ClassVar[str] = "dicom"
    has_scenes: ClassVar[bool] = False

    def __init__(self, path: str, *, mpp: MppLike | None = None, mpp_source: str = "option") -> None:
        TileReader.__init__(self)
        self._files: list[PositionedFile] = []
        try:
            path = slide_file(path)
            series, levels = _series(path)
            self._levels = [level_of(group, self._opened) for group in _by_size(levels)]
            self._images = {_ASSOCIATED[file.kind]: file for file in reversed(series) if file.kind in _ASSOCIATED}
            info = _info(path, self.reader, levels, self._levels, series, tuple(sorted(self._images)))
            BaseSlide.__init__(self, info, mpp=mpp, mpp_source=mpp_source)
            self._check_readable()
        except BaseException:
            self.close()
            raise

    def tile_px(self, level: int) -> tuple[int, int]:
        """Width and height of the frames of `level`, px."""
        return self._levels[level].tile_px

    def tile_source(self, level: int) -> TileSource | None:
        """Common properties of the frames of `level`; None if decoding alone does not give the slide's px."""
        return self._levels[level].source

    def pass_through_fault(self, level: int) -> str | None:
        """Why a store cannot keep the frames of `level` as they are, as the end of a sentence; None if it can."""
        return pass_through.fault(self._levels[level])

    def encoded_tile(self, level: int, column: int, row: int) -> bytes | None:
        """One frame as it is stored, including the byte that pads it to even length; None if there is none.

        Raises
        ------
        RequestError
            The frames of `level` are not its tiles.
        ReadError
            The file ends before the frame does, or the header of the frame is damaged.
        """
        found = self._levels[level]
        if found.source is None:
            raise RequestError(f"{self.path}: the frames of level {level} cannot be handed on as its tiles")
        number = int(found.grid[row, column])
        return None if number < 0 else self._frame(level, column, row, number)

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._forget_tiles()

    read_box = TileReader.read_box

    def _opened(self, header: DicomFile) -> PositionedFile:
        file = open_bytes(header)
        self._files.append(file)
        return file

    def _frame(self, level: int, column: int, row: int, number: int) -> bytes:
        found = self._levels[level]
        file, start, end = found.range(number)
        stored = self._bytes(file, level, column, row, start, end - start)
        try:
            return dicom_files.unwrap(stored) if found.wrapped else stored
        except ValueError as error:
            raise self._read_error(level, column, row, str(error)) from error

    def _decode_tile(self, level: int, column: int, row: int) -> Pixels:
        found = self._levels[level]
        if found.places is not None:
            return self._mosaic(level, column, row)
        number = int(found.grid[row, column])
        if number < 0:
            return _white(found.tile_px)
        return self._decoded(level, column, row, number)

    def _mosaic(self, level: int, column: int, row: int) -> Pixels:
        """A tile from all frames that overlap it, in their order."""
        found = self._levels[level]
        assert found.places is not None
        (width, height), tile = found.tile_px, _white(found.tile_px)
        offsets = found.places - np.array((column * width, row * height))
        for number in np.flatnonzero((np.abs(offsets) < (width, height)).all(axis=1)):
            x, y = offsets[number].tolist()
            pixels = self._decoded(level, column, row, int(number))
            inside = pixels[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
            tile[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)] = inside
        return tile

    def _decoded(self, level: int, column: int, row: int, number: int) -> Pixels:
        found = self._levels[level]
        data = self._frame(level, column, row, number)
        try:
            pixels = found.coding.decode(data)
        except Exception as error:  # the decoders raise errors of many kinds for damaged bytes
            raise self._read_error(level, column, row, error_words(error)) from error
        if pixels.shape != (found.tile_px[1], found.tile_px[0], 3):
            raise self._read_error(level, column, row, f"the frame holds {pixels.shape[1]}×{pixels.shape[0]} px")
        return pixels

    def _read_associated(self, name: str) -> Pixels:
        header = self._images[name]
        try:
            image = level_of([header], self._opened)
            (width, height), (tile_width, tile_height) = image.size, image.tile_px
            if max(image.size) > _MAX_SIDE:
                raise ValueError(f"{width} × {height} px")
            pixels = np.full((header.rows * tile_height, header.columns * tile_width, 3), WHITE, np.uint8)
            for (row, column), number in np.ndenumerate(image.grid):
                if number >= 0:
                    top, left = row * tile_height, column * tile_width
                    tile = image.coding.decode(image.stored(int(number)))
                    pixels[top : top + tile_height, left : left + tile_width] = tile
            return np.ascontiguousarray(pixels[:height, :width])
        except Exception as error:  # the decoders raise errors of many kinds for damaged bytes
            reason = f"associated image {name}: {error_words(error)}"
            raise ReadError(self.path, 0, (0, 0, 0, 0), reason) from error


def slide_file(path: str) -> str:
    """The file to open: `path`, or the finest level of the one slide in the folder `path`.

    Raises
    ------
    UnsupportedSlideError
        The folder holds no DICOM slide, or several.
    """
    if not os.path.isdir(path):
        return path
    slides = folder_slides(Path(path))
    if len(slides) == 1:
        return str(slides[0])
    if not slides:
        raise UnsupportedSlideError(f"{path}: a folder without a DICOM slide. Give a slide file.")
    names = ", ".join(slide.name for slide in slides[:3])
    raise UnsupportedSlideError(f"{path}: a folder of {len(slides)} DICOM slides. Give one of them: {names}.")


def folder_slides(folder: Path) -> list[Path]:
    """The finest level of each DICOM slide in a folder, whatever the files are named; not in its sub-folders."""
    files = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    return sorted(set(dicom_files.level_0_files(files).values()))


def _series(path: str) -> tuple[list[DicomFile], list[DicomFile]]:
    """All files of the series of `path`, and the levels of its slide, finest first.

    Raises
    ------
    UnsupportedSlideError, BrokenSlideError
        `path` is no DICOM file, not of a slide, or a part of one whose levels are missing.
    """
    own = dicom_files.read_header(path)
    if own is None:
        with open(path, "rb") as file:
            named = has_preamble(file.read(HEAD_BYTES))
        if named:
            raise BrokenSlideError(f"{path}: a DICOM file whose header is damaged. Copy it again from its source.")
        raise UnsupportedSlideError(
            f"{path}: not a DICOM slide: it lacks the DICOM file header. Open it with reader='auto'."
        )
    fault = refusal(own.sop_class, own.modality)
    if fault is not None:
        raise UnsupportedSlideError(f"{path}: {fault}")
    series = dicom_files.same_series(path)
    slides = dicom_files.slides_of(series)
    of_path = [levels for levels in slides if any(os.path.samefile(level.path, path) for level in levels)]
    if of_path:
        return series, of_path[0]
    if own.kind in _ASSOCIATED:
        if slides:
            return series, slides[0]
        raise UnsupportedSlideError(
            f"{path}: the {_ASSOCIATED[own.kind]} of a DICOM slide (ImageType {own.kind}), whose levels (ImageType "
            "VOLUME) are not in its folder. Copy all files of the series into one folder."
        )
    if min(own.size) < 1 or min(own.tile_px) < 1:
        raise UnsupportedSlideError(
            f"{path}: {in_words(own.sop_class, own.modality)} without the size of its image, not a DICOM slide. "
            "Export it again as a DICOM whole-slide image."
        )
    raise UnsupportedSlideError(
        f"{path}: a DICOM file that does not state which image of a slide it is (ImageType is empty or wrong). "
        "Export it again as a DICOM whole-slide image with ImageType VOLUME."
    )


def _by_size(levels: Sequence[DicomFile]) -> list[list[DicomFile]]:
    """The files of each size, finest first."""
    found: dict[tuple[int, int], list[DicomFile]] = {}
    for level in levels:
        found.setdefault(level.size, []).append(level)
    return list(found.values())


def _info(
    path: str,
    reader: str,
    files: Sequence[DicomFile],
    levels: Sequence[Level],
    series: Sequence[DicomFile],
    associated: tuple[str, ...],
) -> SlideInfo:
    first = files[0]
    scale, notes = scale_of(files)
    notes += _level_notes(levels)
    others = [slide for slide in dicom_files.slides_of(series) if slide[0] not in files]
    if others:
        names = ", ".join(os.path.basename(slide[0].path) for slide in others)
        notes.append(
            f"the series holds {len(others)} more image{'s' * (len(others) > 1)} of another shape or pyramid: {names}"
        )
    properties = dict(first.device)
    properties.update({f"dicom.ImageType[{i}]": value for i, value in enumerate(first.image_type)})
    properties["dicom.PhotometricInterpretation"] = first.samples.photometric
    properties["dicom.TransferSyntaxUID"] = first.transfer_syntax
    sizes = tuple(level.size for level in levels)
    return SlideInfo(
        path=path,
        reader=reader,
        vendor="dicom",
        kind="tiled",
        dimensions=sizes[0],
        level_dimensions=sizes,
        level_downsamples=true_downsamples(sizes),
        mpp=scale.mpp,
        mpp_source=scale.source,
        mpp_fault=scale.fault,
        mpp_literal=scale.literal,
        magnification=first.lens,
        tile_px=first.tile_px,
        compression=levels[0].coding.compression,
        associated=associated,
        icc_profile=first.icc_profile,
        properties=allowed(properties),
        notes=tuple(f"{note[0].upper()}{note[1:]}." for note in notes),
    )


def _level_notes(levels: Sequence[Level]) -> list[str]:
    """What was decided for the levels: once if it is the same for all of them."""
    found: dict[str, list[int]] = {}
    for number, level in enumerate(levels):
        for note in level.notes:
            found.setdefault(note, []).append(number)
    notes = []
    for note, numbers in found.items():
        where = "" if len(numbers) == len(levels) else f"level {', '.join(map(str, numbers))}: "
        notes.append(where + note)
    return notes


def _white(tile_px: tuple[int, int]) -> Pixels:
    return np.full((tile_px[1], tile_px[0], 3), WHITE, dtype=np.uint8)


__all__ = ["DicomSlide", "SlideError", "folder_slides", "slide_file"]
