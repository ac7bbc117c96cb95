"""Format of one image level of a store: its zarr metadata, and the key of each chunk. Nothing is decoded here.

Used for writing and for reading: zarr.json is made from a LevelFormat, and parsed into one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Codec = Literal["jpeg", "jpeg2k", "zstd", "zstd_frame"]

ZARR_CODECS: Mapping[Codec, str] = {
    "jpeg": "imagecodecs_jpeg",
    "jpeg2k": "imagecodecs_jpeg2k",
    "zstd": "blosc",
    "zstd_frame": "zstd",
}
"""Codec of a chunk and its name in zarr.json. The first two are this package's entry points in zarr.codecs. "zstd" is
Zstandard in Blosc, "zstd_frame" is Zstandard alone, which more programs read (docs/store.md)."""

EXACT_CODECS: frozenset[Codec] = frozenset({"zstd", "zstd_frame"})
"""Codecs of arrays, not of images: their chunks are planes of samples."""

REGISTERED_JPEG = "jpeg"
"""Name of the JPEG codec that is proposed to the Zarr extensions registry; it is read too, and written on request."""

ZSTD_LEVEL = 5
ZSTD_FRAME_LEVEL = 3
"""Same size as level 5 (1 % of a slide), at 2.5 times the speed."""

_BLOSC3 = {"typesize": 1, "cname": "zstd", "clevel": ZSTD_LEVEL, "shuffle": "noshuffle", "blocksize": 0}
_ZSTD3 = {"level": ZSTD_FRAME_LEVEL, "checksum": True}
_ZSTD2 = {"id": "zstd", "level": ZSTD_FRAME_LEVEL, "checksum": True}
_BYTES: dict[str, Any] = {"name": "bytes"}
_LITTLE_BYTES: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC: dict[str, Any] = {"name": "crc32c"}
_ZARR2_TYPES = {"uint8": "|u1", "uint16": "<u2", "float32": "<f4"}


@dataclass(frozen=True)
class LevelFormat:
    """One level (channels, height, width), in tiles. A tile is one chunk; of a fluorescence slide, one per channel."""

    width: int
    height: int
    tile_px: tuple[int, int]
    """Width and height of a tile."""
    codec: Codec
    channels: int = 3
    """3: R, G, B; 1: grey; of a fluorescence slide, any number."""
    chunks_per_shard: int | None = 16
    """Chunks along a shard's side; None: one file per chunk."""
    fill: int = 255
    """Value of the pixels of a chunk that is not stored."""
    jpeg_name: str = ZARR_CODECS["jpeg"]
    """Name of the JPEG codec in zarr.json."""
    v2_keys: bool = True
    """Whether files of single chunks are named as in Zarr v2, so that v2 metadata can refer to the same files; some
    programs look for the names of v3 whatever the metadata state. Shards have the names of v3."""
    dtype: str = "uint8"
    """Type of a sample: uint8; of a fluorescence slide also uint16, float32."""
    planes: int = 1
    """Chunks of a tile: 1, or one per channel, all in one shard. Those of the first channel come first."""

    @property
    def of_pixels(self) -> bool:
        """Whether a chunk can be that of RGB or grey pixels; otherwise it has samples of fluorescence channels."""
        return self.dtype == "uint8" and self.channels in (1, 3) and self.planes == 1

    @property
    def n_tiles(self) -> tuple[int, int]:
        """Columns and rows of tiles."""
        return math.ceil(self.width / self.tile_px[0]), math.ceil(self.height / self.tile_px[1])

    @property
    def shard_side(self) -> int:
        """Tiles along the side of one stored object."""
        return self.chunks_per_shard or 1

    def object_key(self, col: int, row: int) -> str:
        """Key, below the array, of the object in column and row of objects (shards, or single chunks)."""
        return f"{self.key_prefix}0/{row}/{col}"

    @property
    def key_prefix(self) -> str:
        """What the keys of Zarr v3 begin with, those of v2 not."""
        return "" if self.v2_keys and not self.chunks_per_shard else "c/"

    def to_zarr(self, attributes: Mapping[str, Any], *, jpeg: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """zarr.json (Zarr v3) of the level. `jpeg`: configuration of the JPEG codec, where it has one."""
        inner = self._inner_codecs(jpeg or {})
        chunk = [self.channels // self.planes, *self._chunk_shape(1)[1:]]
        codecs = inner
        if self.chunks_per_shard:
            index = [{"name": "bytes", "configuration": {"endian": "little"}}, _CRC]
            sharding = {
                "chunk_shape": chunk,
                "codecs": [*inner, _CRC],
                "index_codecs": index,
                "index_location": "end",
            }
            codecs = [{"name": "sharding_indexed", "configuration": sharding}]
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self.channels, self.height, self.width],
            "data_type": self.dtype,
            "fill_value": float(self.fill) if self.dtype == "float32" else self.fill,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": self._chunk_shape(self.shard_side)}},
            "chunk_key_encoding": {
                "name": "default" if self.key_prefix else "v2",
                "configuration": {"separator": "/"},
            },
            "codecs": codecs,
            "dimension_names": ["c", "y", "x"],
            "attributes": {"wsikit": dict(attributes)},
        }

    def to_zarr2(self) -> dict[str, Any]:
        """.zarray (Zarr v2) for the same chunk files, for readers of NGFF 0.4. ValueError with shards or JPEG."""
        if self.key_prefix or self.codec != "zstd_frame":
            raise ValueError("Zarr v2 has neither shards nor these codecs")
        return {
            "zarr_format": 2,
            "shape": [self.channels, self.height, self.width],
            "chunks": self._chunk_shape(1),
            "dtype": _ZARR2_TYPES[self.dtype],
            "fill_value": float(self.fill) if self.dtype == "float32" else self.fill,
            "order": "C",
            "compressor": _ZSTD2,
            "filters": None,
            "dimension_separator": "/",
        }

    @classmethod
    def from_zarr(cls, record: Mapping[str, Any]) -> LevelFormat:
        """Parse zarr.json. KeyError, IndexError or ValueError if it is not that of an image level of a store."""
        outer = record["codecs"][0]
        chunk = record["chunk_grid"]["configuration"]["chunk_shape"]
        codecs, side, planes = record["codecs"], None, 1
        if outer["name"] == "sharding_indexed":
            codecs, inner = outer["configuration"]["codecs"], outer["configuration"]["chunk_shape"]
            side = int(chunk[2]) // int(inner[2])
            planes = int(chunk[0]) // int(inner[0])
            chunk = inner
        names = {codec["name"] for codec in codecs}
        known: list[Codec] = [codec for codec, name in ZARR_CODECS.items() if name in names]
        if REGISTERED_JPEG in names:
            known.append("jpeg")
        if len(known) != 1:
            raise ValueError(f"chunks coded by {sorted(names)}")
        channels, height, width = (int(size) for size in record["shape"])
        if record["data_type"] not in _ZARR2_TYPES:
            raise ValueError(f"samples of type {record['data_type']}")
        return cls(
            width=width,
            height=height,
            tile_px=(int(chunk[2]), int(chunk[1])),
            codec=known[0],
            channels=channels,
            chunks_per_shard=side,
            fill=int(record["fill_value"]),
            v2_keys=record["chunk_key_encoding"]["name"] == "v2",
            jpeg_name=REGISTERED_JPEG if REGISTERED_JPEG in names else ZARR_CODECS["jpeg"],
            dtype=str(record["data_type"]),
            planes=planes,
        )

    def _chunk_shape(self, tiles: int) -> list[int]:
        return [self.channels, self.tile_px[1] * tiles, self.tile_px[0] * tiles]

    def _inner_codecs(self, jpeg: Mapping[str, Any]) -> list[dict[str, Any]]:
        if self.codec in EXACT_CODECS:
            settings = _BLOSC3 if self.codec == "zstd" else _ZSTD3
            order = _BYTES if self.dtype == "uint8" else _LITTLE_BYTES
            return [order, {"name": ZARR_CODECS[self.codec], "configuration": settings}]
        # an encoded image is (y, x, c), the array (c, y, x) as NGFF requires
        turn = {"name": "transpose", "configuration": {"order": [1, 2, 0]}}
        if self.codec == "jpeg":
            return [turn, {"name": self.jpeg_name, **({"configuration": dict(jpeg)} if jpeg else {})}]
        return [turn, {"name": ZARR_CODECS[self.codec]}]
