"""Whether a Zstandard frame is complete: found from the lengths of its blocks, without decompression (RFC 8878)."""

from __future__ import annotations

_MAGIC = b"\x28\xb5\x2f\xfd"
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_DICTIONARY_BYTES = (0, 1, 2, 4)


def is_complete_frame(data: bytes) -> bool:
    """Whether `data` is one Zstandard frame from its first to its last byte.

    >>> import imagecodecs
    >>> frame = imagecodecs.zstd_encode(bytes(range(256)) * 50)
    >>> is_complete_frame(frame), is_complete_frame(frame[:-1])
    (True, False)
    """
    if len(data) < 6 or data[:4] != _MAGIC:
        return False
    descriptor = data[4]
    single = bool(descriptor & 0x20)
    size_bytes = _CONTENT_SIZE_BYTES[descriptor >> 6] or int(single)
    position = 5 + (not single) + _DICTIONARY_BYTES[descriptor & 3] + size_bytes
    while position + 3 <= len(data):
        header = int.from_bytes(data[position : position + 3], "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        position += 3 + (1 if kind == 1 else size)  # kind 1: one byte, repeated
        if last:
            return position + (4 if descriptor & 4 else 0) == len(data)
    return False
