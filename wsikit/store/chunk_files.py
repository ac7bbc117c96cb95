"""Chunks of an array without shards: one file per chunk. Encoded bytes; nothing is decoded."""

from __future__ import annotations

from pathlib import Path


class ChunkFiles:
    """Random access to the encoded chunks of one array, by (column, row)."""

    def __init__(self, folder: Path, prefix: str = "") -> None:
        self.folder = folder / prefix
        """`prefix` is `LevelFormat.key_prefix`."""

    def chunk(self, col: int, row: int, plane: int = 0) -> bytes | None:
        """The chunk's bytes, or None if it is not stored. A tile has one plane here."""
        try:
            return (self.folder / "0" / str(row) / str(col)).read_bytes()
        except FileNotFoundError:
            return None

    def holds(self, col: int, row: int) -> bool:
        """Whether the file of this chunk is there."""
        return (self.folder / "0" / str(row) / str(col)).is_file()

    def close(self) -> None:
        """Nothing is kept open."""
