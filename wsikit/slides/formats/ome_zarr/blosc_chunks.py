"""A folder of Blosc chunks, each as long as its header states: zarr and Blosc do not compare the two."""

from __future__ import annotations

from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from wsikit.slides.decode import check_blosc


class BloscChunks(LocalStore):
    """The folder of one array that is compressed with Blosc, in files of one chunk each."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """As of `LocalStore`; ValueError for a chunk that was cut short, or is too long."""
        found = await super().get(key, prototype, byte_range)
        name = key.rpartition("/")[2]
        if found is not None and byte_range is None and not name.startswith(".") and name != "zarr.json":
            check_blosc(found[:16].to_bytes(), len(found))
        return found


def is_of_blosc(array: Any) -> bool:
    """Whether the files of an array are Blosc chunks: not of arrays with shards, whose files hold several."""
    last = array.compressors[-1] if array.compressors else None
    return array.shards is None and type(last).__name__ in ("Blosc", "BloscCodec")
