"""The data of all patches in small files next to a page, which loads those that it needs.

A page opened by double click may not read files, but it may run scripts: each file is a call with one text, the
data of the patches in a square of 64 × 64 positions of the grid. A file's name holds a digest of its content, so that
a page never shows the data of another one.

The text is base64 of a zlib stream: the length of a JSON header (32 bits, little-endian), the header, and the columns
that it lists. "int" is 32 bits per patch; "float" is the upper 24 bits of a 32-bit float, first all upper bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.executor import available_cpus
from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.deflate import deflate
from wsikit.exporters.patchdata import PatchWords, caption_of
from wsikit.store.atomic import write_bytes

CELLS = 64
"""Positions of the grid along the side of a tile."""
CALL = "wsikitPatches"
"""Function of the page that takes a tile."""
_LEVEL = 3
_OWN = re.compile(r"\d+_\d+_[0-9a-f]{16}\.js")
_SINGLE = ("gate", "ood_score", "blur_um", "pen")


@dataclass(frozen=True)
class TileIndex:
    """What a page must know to load the tiles."""

    base: str
    """Relative address of the folder, ending in /."""
    names: dict[str, str]
    """Tile, as <column>_<row>, and the digest in the name of its file; empty: its name has none."""

    def to_json(self) -> dict[str, Any]:
        return {"base": self.base, "cells": CELLS, "names": self.names}


@dataclass(frozen=True, eq=False)
class PatchTiles:
    """The patches of a slide, divided into tiles."""

    class_map: ClassMap
    words: PatchWords
    rows: dict[str, npt.NDArray[np.int64]] = field(repr=False)
    """Rows of the patches in each tile, by its name <column>_<row>."""

    @classmethod
    def of(cls, class_map: ClassMap, words: PatchWords) -> PatchTiles:
        """Divide the patches by their positions on the grid, rounded where they lie on none."""
        # rounded as by Math.round of the page
        cells = [
            np.floor(class_map.coords[:, axis] / class_map.grid.stride[axis] + 0.5).astype(np.int64) for axis in (0, 1)
        ]
        cols, rows = (cell // CELLS for cell in cells)
        width = int(cols.max(initial=0)) + 1
        number = rows * width + cols
        order = np.argsort(number, kind="stable")
        borders = np.flatnonzero(np.diff(number[order])) + 1
        parts = np.split(order, borders) if len(order) else []
        named = {}
        for part in parts:
            row, col = divmod(int(number[part[0]]), width)
            named[f"{col}_{row}"] = part
        return cls(class_map, words, named)

    def script(self, name: str) -> bytes | None:
        """The file of a tile; None if there is no such tile."""
        rows = self.rows.get(name)
        if rows is None:
            return None
        text = base64.b64encode(deflate(self._packed(rows), _LEVEL))
        return b'%s("%s","%s");\n' % (CALL.encode(), name.encode(), text)

    def write(self, folder: Path) -> TileIndex:
        """Write all tiles into a folder. Files of earlier pages stay until `remove_others`."""
        folder.mkdir(parents=True, exist_ok=True)

        def write_one(name: str) -> tuple[str, str]:
            script = self.script(name)
            assert script is not None
            digest = hashlib.sha256(script).hexdigest()[:16]
            path = folder / f"{name}_{digest}.js"
            if not path.is_file() or path.stat().st_size != len(script):
                write_bytes(path, script, sync=False)
            return name, digest

        with ThreadPoolExecutor(available_cpus()) as pool:
            return TileIndex(f"{folder.name}/", dict(pool.map(write_one, self.rows)))

    def _packed(self, rows: npt.NDArray[np.int64]) -> bytes:
        class_map, words = self.class_map, self.words
        integers: list[tuple[str, npt.NDArray[Any]]] = [
            ("row", rows),
            ("x", class_map.coords[rows, 0]),
            ("y", class_map.coords[rows, 1]),
            ("label", class_map.labels[rows]),
        ]
        texts: list[str] = []
        if words.readable is not None:
            integers.append(("unreadable", ~words.readable[rows]))
        if words.captions is not None:
            known: dict[str, int] = {}
            at = [known.setdefault(text, len(known)) if text else -1 for text in self._captions(rows)]
            integers.append(("caption", np.asarray(at)))
            texts = list(known)
        floats = list(self._floats(rows))
        header = {
            "n": len(rows),
            "int": [name for name, _ in integers],
            "float": [name for name, _ in floats],
            "fact_names": list(words.fact_names),
            "fact_units": list(words.fact_units),
            "captions": texts,
        }
        head = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        parts = [len(head).to_bytes(4, "little"), head]
        parts += [np.asarray(values).astype("<i4").tobytes() for _, values in integers]
        parts += [_upper_bytes(values) for _, values in floats]
        return b"".join(parts)

    def _captions(self, rows: npt.NDArray[np.int64]) -> Iterator[str]:
        for row in rows.tolist():
            yield caption_of(self.words, row)

    def _floats(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, npt.NDArray[np.floating]]]:
        if self.class_map.probs is not None:
            probs = self.class_map.probs[rows]
            yield from ((f"probs:{index}", probs[:, index]) for index in range(probs.shape[1]))
        for name in _SINGLE:
            values = getattr(self.words, name)
            if values is not None:
                yield name, values[rows]
        if self.words.facts is not None:
            facts = self.words.facts[rows]
            yield from ((f"facts:{index}", facts[:, index]) for index in range(facts.shape[1]))


def remove_others(folder: Path, index: TileIndex | None) -> None:
    """Remove tiles of earlier pages from a folder, and the folder if it is then empty. Other files stay."""
    if not folder.is_dir():
        return
    kept = set() if index is None else {f"{name}_{digest}.js" for name, digest in index.names.items()}
    for path in folder.iterdir():
        if _OWN.fullmatch(path.name) and path.name not in kept:
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _upper_bytes(values: npt.NDArray[np.floating]) -> bytes:
    """(n,) as 32-bit floats rounded to their upper 24 bits, first all upper bytes."""
    single = np.where(np.isnan(values), np.float32(np.nan), values).astype("<f4")
    bits = single.view("<u4")
    rounded = np.where(np.isfinite(single), bits + np.uint32(0x80), bits).astype("<u4")
    return np.ascontiguousarray(rounded.view(np.uint8).reshape(-1, 4)[:, :0:-1].T).tobytes()
