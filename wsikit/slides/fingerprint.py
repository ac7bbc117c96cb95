"""Fingerprint of a source file, without reading all of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from wsikit.store.paths import place

BLOCK_BYTES = 1 << 16
BLOCKS = 32


def fingerprint(path: str | os.PathLike[str]) -> str:
    """sha256 over the size and `BLOCKS` blocks spread evenly over the file, its first and last bytes among them.

    A whole-slide image can have tens of gigabytes; another scan differs in its tables and in tiles everywhere. Other
    files of the same slide (DICOM series, MIRAX) contribute their names and sizes. The fingerprint of a folder (a
    store) covers the names and sizes of its files, and its root metadata.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "a.svs")
    ...     _ = open(path, "wb").write(bytes(1000))
    ...     fingerprint(path).partition(":")[0]
    'sampled-sha256'
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
    for other in _companions(source):
        digest.update(f"{other.name}:{other.stat().st_size};".encode("utf-8", "surrogateescape"))
    return f"sampled-sha256:{digest.hexdigest()}"


def _companions(path: Path) -> list[Path]:
    """The other files of the slide that `path` names, by name."""
    if path.suffix.lower() == ".mrxs":
        folder = path.with_suffix("")
        return sorted(folder.iterdir()) if folder.is_dir() else []
    with open(path, "rb") as file:
        if file.read(132)[128:] != b"DICM":
            return []
    from wsikit.slides.formats.dicom.files import same_series

    return sorted(Path(other.path) for other in same_series(str(path)) if Path(other.path).name != path.name)


def _folder_fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    root = folder / "zarr.json"
    if root.is_file():
        digest.update(root.read_bytes())
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(f"{path.name}:{path.stat().st_size};".encode("utf-8", "surrogateescape"))
    return f"folder-sha256:{digest.hexdigest()}"
