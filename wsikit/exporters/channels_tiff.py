"""The channels of a fluorescence store as a pyramidal OME-TIFF, without loss."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np

from wsikit.slides.composite import RGB, Samples
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import atomic_write

BIGTIFF_BYTES = 3 << 30
"""Above this size of the samples BigTIFF is written: a classic TIFF is limited to 4 GB."""

_NAMESPACE = uuid.UUID("6b1f3ad0-0a6e-5c0a-9d52-0e1d5a8f7c33")
"""Namespace of the file's UUID; tifffile's default would contain the MAC address of the machine."""


def write_channels(store: SlideStore, path: str | os.PathLike[str]) -> None:
    """Write all channels and levels of a fluorescence store, atomically: Deflate, coarser levels as SubIFDs.

    Names and colours of the channels and µm/px are in the OME-XML; a display window has no place there.

    Raises
    ------
    ReadError
        A tile could not be read from the source when the store was made, or is damaged.
    """
    import tifffile

    channels = store.info.channels
    dtype = np.dtype(channels[0].dtype)
    n_bytes = sum(len(channels) * width * height * dtype.itemsize for width, height in store.level_dimensions)
    common: dict[str, Any] = {
        "dtype": dtype,
        "photometric": "minisblack",
        "compression": "deflate",
        "predictor": dtype.kind == "u",
        "software": "wsikit",
    }
    levels = range(len(store.level_dimensions))
    with (
        atomic_write(path) as partial,
        tifffile.TiffWriter(partial, bigtiff=n_bytes > BIGTIFF_BYTES, ome=True) as writer,
    ):
        for level in levels:
            width, height = store.level_dimensions[level]
            place: dict[str, Any] = {"subifds": len(levels) - 1, "metadata": _metadata(store)}
            if level:
                place = {"subfiletype": 1, "metadata": None}
            tile_width, tile_height = store.tile_px(level)
            writer.write(
                _tiles(store, level),
                shape=(len(channels), height, width),
                tile=(tile_height, tile_width),
                **common,
                **place,
            )


def _metadata(store: SlideStore) -> dict[str, Any]:
    """Metadata that tifffile writes as OME-XML."""
    channels = store.info.channels
    found: dict[str, Any] = {
        "axes": "CYX",
        "UUID": f"urn:uuid:{uuid.uuid5(_NAMESPACE, store.fingerprint)}",
        "Name": store.slide_id,
        "Channel": {
            "Name": [channel.name for channel in channels],
            "Color": [_ome_color(channel.color) for channel in channels],
        },
    }
    if store.info.mpp is not None:
        x, y = (mpp * ds for mpp, ds in zip(store.info.mpp, store.level_downsamples[0], strict=True))
        found |= {"PhysicalSizeX": x, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": y, "PhysicalSizeYUnit": "µm"}
    return found


def _ome_color(color: RGB) -> int:
    """A signed 32-bit integer, R, G, B, alpha from the highest byte.

    >>> _ome_color((255, 0, 0))
    -16776961
    """
    value = int.from_bytes(bytes((*color, 255)), "big")
    return value - (1 << 32) if value >= 1 << 31 else value


def _tiles(store: SlideStore, level: int) -> Iterator[Samples]:
    """Tiles of one channel after the other, row-major, each of full size."""
    width, height = store.level_dimensions[level]
    tile_width, tile_height = store.tile_px(level)
    for channel in range(len(store.info.channels)):
        for y in range(0, height, tile_height):
            for x in range(0, width, tile_width):
                yield store.read_channel_box(level, (x, y, tile_width, tile_height), [channel])[0]
