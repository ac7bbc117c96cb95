"""Tiles of fluorescence slides: planes of samples per channel, and their composite as the tile's RGB pixels.

Used for slide files and for stores. Frame: pixels of one level.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from wsikit.errors import ReadError
from wsikit.slides.base import Pixels
from wsikit.slides.composite import Samples, composite, measured_window
from wsikit.slides.tile_reader import TileReader
from wsikit.slides.types import Channel

_MEASURED_SIDE = 512
"""Windows are measured on the coarsest level whose longer side has this many px."""
_MEASURED_PX = 1 << 20
"""About so many pixels per channel are measured."""


class ChannelTiles(TileReader):
    """Levels of several channels. A subclass sets `channels` and implements `_decode_channel_tile`."""

    channels: tuple[Channel, ...] = ()

    @abstractmethod
    def _decode_channel_tile(self, level: int, column: int, row: int, channel: int) -> Samples:
        """One whole tile of one channel, (tile height, tile width), or ReadError."""

    def channel_tile(self, level: int, column: int, row: int, channel: int, *, keep: bool = True) -> Samples:
        """One whole tile of one channel, (tile height, tile width), read-only; ReadError if it cannot be decoded."""

        def decode() -> Pixels:
            # the cache counts bytes, whatever the type of the samples
            return cast(Pixels, self._decode_channel_tile(level, column, row, channel))

        return self._cache.get_or_make((self._owner, level, column, row, channel), decode, keep=keep)

    def read_channel_box(self, level: int, box: tuple[int, int, int, int], channels: Sequence[int]) -> Samples:
        """Samples of a box in px of `level`: (channels, height, width), unchanged; 0 outside the level."""
        x, y, width, height = box
        level_width, level_height = self.level_dimensions[level]
        tile_width, tile_height = self.tile_px(level)
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, level_width), min(y + height, level_height)
        out: Samples = np.zeros((len(channels), height, width), np.dtype(self.channels[0].dtype))
        if right <= left or bottom <= top:
            return out
        for row in range(top // tile_height, (bottom - 1) // tile_height + 1):
            upper, lower = max(top, row * tile_height), min(bottom, (row + 1) * tile_height)
            for column in range(left // tile_width, (right - 1) // tile_width + 1):
                first, last = max(left, column * tile_width), min(right, (column + 1) * tile_width)
                keep = (last - first, lower - upper) != (tile_width, tile_height)
                for place, channel in enumerate(channels):
                    tile = self.channel_tile(level, column, row, channel, keep=keep)
                    out[place, upper - y : lower - y, first - x : last - x] = tile[
                        upper - row * tile_height : lower - row * tile_height,
                        first - column * tile_width : last - column * tile_width,
                    ]
        return out

    def _decode_tile(self, level: int, column: int, row: int) -> Pixels:
        shown = [number for number, channel in enumerate(self.channels) if channel.shown]
        planes = [self.channel_tile(level, column, row, number, keep=False) for number in shown]
        return composite(planes, [self.channels[number] for number in shown])

    def _with_windows(self, channels: Sequence[Channel]) -> tuple[Channel, ...]:
        """`channels` with a measured window where the file states none. All of them have tiles of the same size."""
        if all(channel.window_source == "stated" for channel in channels):
            return tuple(channels)
        level = self._level_to_measure()
        sampled = self._sampled_tiles(level)
        measured = []
        for number, channel in enumerate(channels):
            if channel.window_source != "stated":
                planes = self._readable_planes(level, sampled, number)
                window = measured_window(planes) if planes else (0.0, 1.0)
                channel = replace(channel, window=window, window_source="measured")
            measured.append(channel)
        return tuple(measured)

    def _measured_planes(self) -> list[list[Samples]]:
        """Planes of each channel on the level where windows are measured."""
        level = self._level_to_measure()
        sampled = self._sampled_tiles(level)
        return [self._readable_planes(level, sampled, number) for number in range(len(self.channels))]

    def _level_to_measure(self) -> int:
        large = [level for level, size in enumerate(self.level_dimensions) if max(size) >= _MEASURED_SIDE]
        return large[-1] if large else 0

    def _sampled_tiles(self, level: int) -> list[tuple[int, int]]:
        """Tiles (column, row), evenly over the level: all of a small level."""
        (width, height), (tile_width, tile_height) = self.level_dimensions[level], self.tile_px(level)
        columns, rows = -(-width // tile_width), -(-height // tile_height)
        tiles = [(column, row) for row in range(rows) for column in range(columns)]
        most = max(1, _MEASURED_PX * 4 // (tile_width * tile_height))
        chosen = np.unique(np.linspace(0, len(tiles) - 1, min(most, len(tiles))).round().astype(int))
        return [tiles[index] for index in chosen]

    def _readable_planes(self, level: int, tiles: Sequence[tuple[int, int]], channel: int) -> list[Samples]:
        """Planes of the tiles without padding, thinned out; tiles that cannot be read are left out."""
        (width, height), (tile_width, tile_height) = self.level_dimensions[level], self.tile_px(level)
        planes: list[Samples] = []
        for column, row in tiles:
            try:
                tile = self.channel_tile(level, column, row, channel, keep=False)
            except ReadError:
                continue
            planes.append(tile[: height - row * tile_height, : width - column * tile_width])
        step = max(1, sum(plane.size for plane in planes) // _MEASURED_PX)
        # whole rows, because the noise is measured between neighbours of a row
        return [plane[::step] for plane in planes]
