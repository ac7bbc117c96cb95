"""Fluorescence and multiplex slides in TIFF (OME-TIFF, QPTIFF, ImageJ), channel by channel. Positions are px of the
level read.

`read_channels` gives the samples unchanged, `read_region` a composite of the channels' colours.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import tifffile

from wsikit.errors import UnsupportedSlideError
from wsikit.slides import jpeg, jpeg2k
from wsikit.slides.base import MppLike, Pixels, SlideInfo, true_downsamples
from wsikit.slides.channel_tiles import ChannelTiles
from wsikit.slides.composite import Samples, default_colors, default_shown, is_bright_field
from wsikit.slides.formats.tiff.channel_layout import ChannelImage, read_channel_image
from wsikit.slides.formats.tiff.channel_names import unique_names, usable_colors
from wsikit.slides.formats.tiff.channel_planes import Plane
from wsikit.slides.formats.tiff.codecs import COMPRESSIONS, JPEG, JPEG_2000
from wsikit.slides.formats.tiff.metadata import TiffMetadata, read_metadata
from wsikit.slides.formats.tiff.page import read_associated
from wsikit.slides.scenes import SceneLike
from wsikit.slides.storage import LevelStorage
from wsikit.slides.tile_reader import TiledFileSlide, in_words
from wsikit.slides.types import Channel

_VENDORS = {"qpi": "perkinelmer", "imagej": "imagej", "ome": "ome", "shaped": "generic-tiff"}


class MultichannelTiffSlide(ChannelTiles, TiledFileSlide):
    """A TIFF of several channels, tile by tile: exact at every level."""

    reader: ClassVar[str] = "multichannel"

    has_scenes: ClassVar[bool] = True

    def __init__(
        self,
        path: str,
        *,
        mpp: MppLike | None = None,
        mpp_source: str = "option",
        scene: SceneLike | None = None,
    ) -> None:
        self._image = read_channel_image(path, scene)
        self.channels = _channels(self._image)
        metadata = _metadata(path, self._image)
        self._significant_bits = metadata.significant_bits
        info = _info(path, self.reader, self._image, metadata)
        super().__init__(info, mpp=mpp, mpp_source=mpp_source, scene=scene)
        try:
            if self._image.may_be_rgb and is_bright_field(self._measured_planes()):
                self._read_as_rgb()
            else:
                self.channels = self._with_windows(self.channels)
                self._state_channels()
        except BaseException:
            self.close()
            raise
        self._forget_tiles()  # composites of other windows

    def tile_px(self, level: int) -> tuple[int, int]:
        """Width and height of the tiles of `level`, px."""
        return self._image.levels[level][0].tile_px

    def pass_through_fault(self, level: int) -> str | None:
        """Why a store cannot keep the tiles of `level` as they are."""
        return "each channel is in tiles of its own"

    def storage(self) -> tuple[LevelStorage, ...]:
        """Per level, how its tiles are kept when the slide is stored: the samples of channels, without loss."""
        if not self.info.channels:
            return super().storage()
        levels = range(len(self.level_dimensions))
        return tuple(LevelStorage(level, "pixels", "a store keeps the samples of channels") for level in levels)

    def _read_as_rgb(self) -> None:
        """The channels are the planes of a colour image, whose composite is the image itself."""
        order = self._image.rgb_order
        if order is None:
            raise UnsupportedSlideError(
                f"{self.path}: 3 channels without names on a bright field. If they are red, green and blue, name them "
                "so in the OME-XML, or export the slide as RGB; if they are fluorescence, give them their names."
            )
        bits = self._significant_bits or 16
        white = 255 if self.channels[0].dtype == "uint8" else (1 << bits) - 1
        colors = dict(zip(order, ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=True))
        self.channels = tuple(
            replace(channel, color=colors[number], window=(0.0, float(white)), shown=True)
            for number, channel in enumerate(self.channels)
        )
        properties = dict(self._info.properties or {}) | ({"wsikit.white-level": str(white)} if white != 255 else {})
        note = "Its channels are red, green and blue on a bright field: they are read as one RGB image."
        self._info = replace(self._info, properties=properties, notes=(*self._info.notes, note))

    def _state_channels(self) -> None:
        """State the channels in `info`, with what the composite leaves out."""
        notes = list(self._info.notes)
        hidden = [channel.name for channel in self.channels if not channel.shown]
        if hidden:
            shown = len(self.channels) - len(hidden)
            notes.append(f"The composite shows {shown} of {len(self.channels)} channels, without {', '.join(hidden)}.")
        self._info = replace(self._info, channels=self.channels, notes=tuple(notes))

    def _decode_channel_tile(self, level: int, column: int, row: int, channel: int) -> Samples:
        plane = self._image.levels[level][channel]
        if plane.sample is None:
            return self._samples(level, column, row, plane)

        def decode() -> Pixels:
            return self._samples(level, column, row, plane)  # type: ignore[return-value]

        # all channels are interleaved in the same segments, which are decoded once
        whole = self._cache.get_or_make((self._owner, level, column, row, "all channels"), decode)
        return np.ascontiguousarray(whole[..., plane.sample])

    def _samples(self, level: int, column: int, row: int, plane: Plane) -> Samples:
        """Decoded segments of a tile: (h, w), or (h, w, samples) if they are interleaved. Missing ones are 0."""
        width, height = plane.tile_px
        n_samples = len(self.channels)
        shape = (height, width) if plane.sample is None else (height, width, n_samples)
        out = np.zeros(shape, plane.dtype.newbyteorder("="))
        for index, number in enumerate(plane.segments(column, row)):
            offset, count = int(plane.offsets[number]), int(plane.counts[number])
            if plane.lost[number]:
                raise self._read_error(
                    level, column, row, "a place in the file without bytes, or bytes without a place"
                )
            if not count:
                continue
            encoded = self._bytes(self._file, level, column, row, offset, count)
            rows = plane.rows_of(row, index)
            try:
                found = _decoded(plane, number, encoded, rows)
                if plane.sample is None:
                    found = found[..., 0]
                top = index * plane.segment_rows
                out[top : top + len(found), : found.shape[1]] = found[: plane.segment_rows, :width]
                needed = min(width, plane.width - column * width)
                if found.shape[0] < rows or found.shape[1] < needed:
                    raise ValueError(f"{found.shape[1]}×{found.shape[0]} px where {needed}×{rows} px are expected")
            except Exception as error:  # the decoders raise errors of many kinds for damaged bytes
                raise self._read_error(level, column, row, in_words(error)) from error
        return out

    def _read_associated(self, name: str) -> Pixels:
        with tifffile.TiffFile(self.path) as tiff:
            return read_associated(self.path, name, tiff, tiff.pages[self._image.associated[name]].aspage())


def _decoded(plane: Plane, number: int, encoded: bytes, rows: int) -> Samples:
    """Samples (h, w, samples) of one segment."""
    if plane.decode is None:
        return np.frombuffer(encoded, plane.dtype).reshape(rows, plane.width, 1)
    if plane.compression == JPEG and plane.sample is None and plane.dtype.itemsize == 1:
        stream = jpeg.self_contained(encoded, plane.jpeg_tables, rgb=False)
        size = plane.tile_px[0], rows if plane.tile_px[0] == plane.width else plane.segment_rows
        return jpeg.decode(stream, size, grey=True)[..., :1]
    fault = jpeg2k.damage(encoded) if plane.compression in JPEG_2000 else None
    if fault is not None:
        raise ValueError(fault)
    decoded, _, _ = plane.decode(encoded, plane.first + number, jpegtables=plane.jpeg_tables)
    assert decoded is not None
    samples: Samples = decoded[0]
    return samples


def _channels(image: ChannelImage) -> tuple[Channel, ...]:
    """Channels as stated, with default colours. Windows that are not stated are measured later."""
    names = unique_names(image.stated)
    dtype = image.levels[0][0].dtype.newbyteorder("=").name
    stated = usable_colors(image.stated)
    return tuple(
        Channel(
            name=name,
            color=color,
            dtype=dtype,
            window=given.window or (0.0, 1.0),
            window_source="stated" if given.window else "measured",
            color_source="stated" if own is not None else "chosen",
            shown=shown,
        )
        for name, color, own, given, shown in zip(
            names, default_colors(names, stated), stated, image.stated, default_shown(names), strict=True
        )
    )


def _metadata(path: str, image: ChannelImage) -> TiffMetadata:
    with tifffile.TiffFile(path, is_philips=False) as tiff:
        return read_metadata(tiff, image.page)


def _info(path: str, reader: str, image: ChannelImage, metadata: TiffMetadata) -> SlideInfo:
    sizes = tuple((planes[0].width, planes[0].height) for planes in image.levels)
    plane = image.levels[0][0]
    return SlideInfo(
        path=path,
        reader=reader,
        vendor=_VENDORS[image.kind],
        kind="tiled",
        dimensions=sizes[0],
        level_dimensions=sizes,
        level_downsamples=true_downsamples(sizes),
        mpp=metadata.scale.mpp,
        mpp_source=metadata.scale.source,
        mpp_literal=metadata.scale.literal,
        magnification=metadata.magnification,
        tile_px=plane.tile_px,
        compression=COMPRESSIONS[plane.compression],
        associated=tuple(image.associated),
        properties=metadata.properties,
        notes=image.notes,
        scenes=image.scenes,
        scene=image.scene,
    )
