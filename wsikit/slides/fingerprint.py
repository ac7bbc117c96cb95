"""Identity of a source file without reading all of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from wsikit.store.place import place

BLOCK_BYTES = 1 << 16
BLOCKS = 32


def fingerprint(path: str | os.PathLike[str]) -> str:
    """sha256 over the size and `BLOCKS` blocks spread evenly over the file, its first and last bytes among them.

    A whole-slide image may have tens of gigabytes; a changed scan changes its tables and its tiles everywhere. A
    folder (a store, a DICOM series) is fingerprinted by its files' names and sizes, and its root metadata.
    """
    source = place(path)
    if source.is_dir():
        return _folder_fingerprint(source)
    size = source.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    last = max(0, size - BLOCK_BYTES)
    with open(source, "rb") as file:
        for i in range(BLOCKS):
            file.seek(last * i // (BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))
    return f"sampled-sha256:{digest.hexdigest()}"


def _folder_fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    root = folder / "zarr.json"
    if root.is_file():
        digest.update(root.read_bytes())
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(f"{path.name}:{path.stat().st_size};".encode())
    return f"folder-sha256:{digest.hexdigest()}"
