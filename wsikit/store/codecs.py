"""The zarr codecs `imagecodecs_jpeg`, `imagecodecs_jpeg2k` and `jpeg`: a chunk is one encoded image. Registered by this
package's entry points in zarr.codecs.

Where imagecodecs provides the first two classes (2026.10 and later), they are used, so that each name has one
implementation. `jpeg` is proposed to the registry of Zarr extensions; it is provided here as long as nothing else does.
"""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from wsikit.store.level_format import REGISTERED_JPEG, ZARR_CODECS


@dataclass(frozen=True)
class _Picture(ArrayBytesCodec):
    """Decoder of 8-bit images with 1 or 3 components. Its arrays are read-only: they hold the scanner's own bytes."""

    configuration: dict[str, Any] = field(default_factory=dict)
    name: ClassVar[str]
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(dict(data.get("configuration", {})))

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "configuration": self.configuration} if self.configuration else {"name": self.name}

    def __hash__(self) -> int:
        return hash((self.name, tuple(sorted(self.configuration.items()))))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise TypeError(f"{self.name}: the encoded length depends on the pixels")

    @abstractmethod
    def _decode(self, encoded: Any) -> npt.NDArray[np.uint8]:
        """Pixels of one encoded image, uint8 (h, w) or (h, w, 3)."""

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        pixels = self._decode(chunk_bytes.as_numpy_array().view(np.uint8))
        if pixels.size != math.prod(chunk_spec.shape):
            raise ValueError(f"{self.name}: a chunk holds {pixels.shape} px where {chunk_spec.shape} was expected")
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(chunk_spec.shape))

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        raise TypeError(f"{self.name}: arrays of encoded source bytes are read-only; write a new store instead")


class _Jpeg(_Picture):
    name = ZARR_CODECS["jpeg"]

    def _decode(self, encoded: Any) -> npt.NDArray[np.uint8]:
        import imagecodecs

        return imagecodecs.jpeg8_decode(
            encoded,
            colorspace=self.configuration.get("colorspace_jpeg"),
            outcolorspace=self.configuration.get("colorspace_data"),
        )


class RegisteredJpeg(_Picture):
    """The proposed codec `jpeg`. Its configuration states how the encoder worked; the stream itself is decisive."""

    name = REGISTERED_JPEG

    def _decode(self, encoded: Any) -> npt.NDArray[np.uint8]:
        import simplejpeg

        stream = encoded.tobytes()
        grey = simplejpeg.decode_jpeg_header(stream, strict=True)[2] == "Gray"
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(stream, "GRAY" if grey else "RGB", strict=True)
        return pixels


class _Jpeg2k(_Picture):
    name = ZARR_CODECS["jpeg2k"]

    def _decode(self, encoded: Any) -> npt.NDArray[np.uint8]:
        import imagecodecs

        return imagecodecs.jpeg2k_decode(encoded)


try:
    from imagecodecs.zarr import Jpeg, Jpeg2k
except ImportError:
    Jpeg, Jpeg2k = _Jpeg, _Jpeg2k
