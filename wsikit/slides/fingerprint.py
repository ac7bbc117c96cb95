"""Fingerprint of a source file, without reading all of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from wsikit.slides.formats.dicom.looks import HEAD_BYTES, looks_like_dicom
from wsikit.slides.formats.ome_zarr.nodes import is_store
from wsikit.store.paths import place

BLOCK_BYTES = 1 << 16
BLOCKS = 32
_METADATA = frozenset({"zarr.json", ".zattrs", ".zarray", "METADATA.ome.xml"})


def fingerprint(path: str | os.PathLike[str]) -> str:
    """sha256 over the size and `BLOCKS` blocks spread evenly over the file, its first and last bytes among them.

    A whole-slide image can have tens of gigabytes; another scan differs in its tables and in tiles everywhere. Other
    files of the same slide (DICOM series, MIRAX) contribute their names and sizes. The fingerprint of a store covers
    its root metadata, in which its pixels have a digest; that of another folder (OME-Zarr) covers the names and sizes
    of all files in it, its metadata, and a block of `BLOCKS` files.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "a.svs")
    ...     _ = open(path, "wb").write(bytes(1000))
    ...     fingerprint(path).partition(":")[0]
    'sampled-sha256'
    """
    source = place(path)
    if source.is_dir():
        return _folder_fingerprint(source) if is_store(source) else _deep_fingerprint(source)
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
        if not looks_like_dicom(file.read(HEAD_BYTES)):
            return []
    from wsikit.slides.formats.dicom.files import same_series

    return sorted(Path(other.path) for other in same_series(str(path)) if Path(other.path).name != path.name)


def _deep_fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sampled = {files[(len(files) - 1) * i // (BLOCKS - 1)] for i in range(BLOCKS)} if files else set()
    for path in files:
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}:{path.stat().st_size};".encode("utf-8", "surrogateescape"))
        if path in sampled or path.name in _METADATA:
            with open(path, "rb") as file:
                digest.update(file.read(BLOCK_BYTES))
    return f"tree-sha256:{digest.hexdigest()}"


def _folder_fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    root = folder / "zarr.json"
    if root.is_file():
        digest.update(root.read_bytes())
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(f"{path.name}:{path.stat().st_size};".encode("utf-8", "surrogateescape"))
    return f"folder-sha256:{digest.hexdigest()}"
