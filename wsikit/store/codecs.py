"""The zarr codec `imagecodecs_jpeg`: a chunk is one JPEG stream. Named by this package's entry point in zarr.codecs.

Where imagecodecs brings the class itself (2026.10 and later), it is that very class, so that no environment sees two.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Self

from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from wsikit.store.ngff import JPEG_CODEC


@dataclass(frozen=True)
class _Jpeg(ArrayBytesCodec):
    """Decodes 8-bit JPEG with 1 or 3 components. Arrays of it are read-only: their bytes are the scanner's."""

    configuration: dict[str, Any] = field(default_factory=dict)
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(dict(data.get("configuration", {})))

    def to_dict(self) -> dict[str, Any]:
        return {"name": JPEG_CODEC, "configuration": self.configuration} if self.configuration else {"name": JPEG_CODEC}

    def __hash__(self) -> int:
        return hash((JPEG_CODEC, tuple(sorted(self.configuration.items()))))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise TypeError(f"{JPEG_CODEC}: the length of a JPEG stream is not known before it is encoded")

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        import imagecodecs

        pixels = imagecodecs.jpeg8_decode(
            chunk_bytes.as_numpy_array(),
            colorspace=self.configuration.get("colorspace_jpeg"),
            outcolorspace=self.configuration.get("colorspace_data"),
        )
        if pixels.size != _product(chunk_spec.shape):
            raise ValueError(f"{JPEG_CODEC}: a chunk holds {pixels.shape} px where {chunk_spec.shape} was expected")
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(chunk_spec.shape))

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        raise TypeError(f"{JPEG_CODEC}: this array keeps encoded bytes and is read-only; write a new store instead")


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


try:
    from imagecodecs.zarr import Jpeg
except ImportError:
    Jpeg = _Jpeg
