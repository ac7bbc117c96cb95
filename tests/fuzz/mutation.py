"""Damage to slide files, by a seed: to the coded pixels, to the structure, or anywhere. Nothing here knows a reader.

`mutate` writes one damaged copy and says what was done to it, in the words of a table. Structures are understood only
as far as is needed to hit them: directories of TIFF, elements of DICOM, JSON of Zarr.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PIXELS, STRUCTURE, ANYWHERE = "coded pixels", "structure", "anywhere"

_KINDS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of each type of TIFF."""
_SIZES, _CODING, _OFFSETS, _COUNTS = (
    (256, 257, 322, 323, 278),
    (258, 259, 262, 277, 284, 317, 339),
    (324, 273),
    (325, 279),
)
_TEXTS, _SUB_DIRECTORIES = (270, 305, 700, 65000), 330

_TEXT_TRICKS = (
    b"<" * 200,
    b"<a>" * 60,
    b"<!DOCTYPE a [<!ENTITY b 'cccccccccc'><!ENTITY d '&b;&b;&b;&b;&b;&b;&b;&b;'>]><a>&d;&d;</a>",
    b"<OME><Image><Pixels SizeX='-1' SizeY='1e99' PhysicalSizeX='nan' Type='uint8'/></Image></OME>",
    b"Aperio Image Library|AppMag = -1|MPP = 0|Filtered = \xff\xfe",
    b"|MPP = nan|AppMag = inf|" + b"=" * 100,
    b"\0" * 16,
    b"\xff" * 64,
    b"{}[]{}" * 20,
)


@dataclass(frozen=True)
class Damage:
    """What was done to a copy."""

    area: str
    """PIXELS, STRUCTURE or ANYWHERE."""
    kind: str


@dataclass(frozen=True)
class _Entry:
    """One entry of a TIFF directory."""

    place: int
    """Of the entry in the file."""
    code: int
    kind: int
    count: int
    value: int
    """Where its value is in the file."""


class _Tiff:
    """Where the directories of a valid TIFF, their entries and the coded pixels are."""

    def __init__(self, data: bytes) -> None:
        self.data, self.order = data, "<" if data[:2] == b"II" else ">"
        self.big = struct.unpack_from(self.order + "H", data, 2)[0] == 43
        self.entries: list[list[_Entry]] = []
        self.directories: list[int] = []
        self.links = [8 if self.big else 4]
        place = self.number(self.links[0])
        while place and place not in self.directories:
            place = self._directory(place)
        for entry in [entry for entries in self.entries for entry in entries if entry.code == _SUB_DIRECTORIES]:
            for at in self.values(entry):
                self._directory(self.number(at, _KINDS[entry.kind]))

    def _directory(self, place: int) -> int:
        count_form, width = ("Q", 20) if self.big else ("H", 12)
        start = place + struct.calcsize(count_form)
        (count,) = struct.unpack_from(self.order + count_form, self.data, place)
        self.directories.append(place)
        self.entries.append([self._entry(start + width * index) for index in range(count)])
        self.links.append(start + width * count)
        return self.number(self.links[-1])

    def _entry(self, place: int) -> _Entry:
        code, kind = struct.unpack_from(self.order + "HH", self.data, place)
        (count,) = struct.unpack_from(self.order + ("Q" if self.big else "I"), self.data, place + 4)
        inside = place + (12 if self.big else 8)
        fits = count * _KINDS.get(kind, 1) <= (8 if self.big else 4)
        return _Entry(place, code, kind, count, inside if fits else self.number(inside))

    def values(self, entry: _Entry) -> range:
        """Places of the numbers of an entry."""
        width = _KINDS.get(entry.kind, 1)
        return range(entry.value, entry.value + width * entry.count, width)

    def number(self, place: int, width: int = 0) -> int:
        width = width or (8 if self.big else 4)
        return int.from_bytes(self.data[place : place + width], "little" if self.order == "<" else "big")

    def written(self, value: int, width: int) -> bytes:
        return (value % (1 << 8 * width)).to_bytes(width, "little" if self.order == "<" else "big")

    def coded(self) -> list[tuple[int, int]]:
        """Start and end of each tile or strip."""
        found = []
        for entries in self.entries:
            by_code = {entry.code: entry for entry in entries}
            pairs = [(by_code[o], by_code[c]) for o, c in zip(_OFFSETS, _COUNTS) if o in by_code and c in by_code]
            for offsets, counts in pairs:
                for at, size in zip(self.values(offsets), self.values(counts)):
                    start = self.number(at, _KINDS[offsets.kind])
                    found.append((start, start + self.number(size, _KINDS[counts.kind])))
        return found


def mutate(source: Path, copy: Path, seed: int) -> Damage:
    """Write a damaged copy of a slide; the same for the same seed."""
    rng = random.Random(seed)
    if source.is_dir():
        shutil.copytree(source, copy)
        return _mutate_folder(copy, rng)
    data = source.read_bytes()
    tiff = _Tiff(data) if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") else None
    coded = tiff.coded() if tiff else _dicom_frames(data) if data[128:132] == b"DICM" else []
    area = rng.choices((PIXELS, STRUCTURE, ANYWHERE), (4, 4, 2))[0]
    if area == PIXELS:
        changed, kind = _hit_range(data, rng.choice(coded or [(min(64, len(data) // 2), len(data))]), rng)
    elif area == STRUCTURE and tiff:
        changed, kind = _hit_directories(tiff, rng)
    elif area == STRUCTURE and data[128:132] == b"DICM":
        changed, kind = _hit_elements(data, rng)
    elif area == STRUCTURE:
        changed, kind = _hit_range(data, (0, min(len(data), 256)), rng)
    else:
        changed, kind = _hit_file(data, rng)
    copy.write_bytes(changed)
    return Damage(area, kind)


def _hit_range(data: bytes, span: tuple[int, int], rng: random.Random) -> tuple[bytes, str]:
    """Damage within one range of bytes; what follows it stays where it is."""
    start, end = span
    if end - start < 4:
        return data, "nothing"
    kind = rng.choice(("bits flipped", "zeroed", "noise", "other bytes", "cut short", "bytes left out", "end zeroed"))
    part, at = bytearray(data[start:end]), rng.randrange(end - start)
    size = min(len(part) - at, rng.choice((1, 4, 32, 256, 2048)))
    if kind == "bits flipped":
        for _ in range(rng.choice((1, 1, 2, 8))):
            part[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
    elif kind == "zeroed":
        part[at : at + size] = bytes(size)
    elif kind == "noise":
        part[at : at + size] = rng.randbytes(size)
    elif kind == "other bytes":
        other = rng.randrange(max(1, len(data) - size))
        part[at : at + size] = data[other : other + size]
    elif kind == "cut short":
        part[at:] = bytes(len(part) - at)
    elif kind == "bytes left out":
        part = part[:at] + part[at + size :] + bytes(size)
    else:
        size = min(len(part), rng.choice((1, 2, 3, 8)))
        part[-size:] = bytes(size)
    return data[:start] + bytes(part) + data[end:], kind


def _hit_file(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Damage to a file as a whole, as a copy over a network or a dying disk leaves it."""
    kind = rng.choice(("file cut off", "end missing", "bits flipped", "block zeroed", "bytes put in", "bytes left out"))
    at = rng.randrange(len(data))
    if kind == "file cut off":
        return data[:at], kind
    if kind == "end missing":
        return data[: -rng.choice((1, 2, 16, 200))], kind
    if kind == "bits flipped":
        changed = bytearray(data)
        for _ in range(rng.choice((1, 4, 32))):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed), kind
    size = rng.choice((1, 16, 512, 4096))
    if kind == "block zeroed":
        return data[:at] + bytes(min(size, len(data) - at)) + data[at + size :], kind
    return data[:at] + (rng.randbytes(size) + data[at:] if kind == "bytes put in" else data[at + size :]), kind


def _hit_directories(tiff: _Tiff, rng: random.Random) -> tuple[bytes, str]:
    """Damage to the directories of a TIFF."""
    number = rng.randrange(len(tiff.entries))
    entries, width = tiff.entries[number], 8 if tiff.big else 4

    def entry_of(codes: tuple[int, ...]) -> _Entry | None:
        found = [entry for entry in entries if entry.code in codes]
        return rng.choice(found) if found else None

    def of_numbers(codes: tuple[int, ...], choices: Callable[[int], list[int]]) -> tuple[int, bytes] | None:
        entry = entry_of(codes)
        if entry is None or not entry.count:
            return None
        at, size = rng.choice(tiff.values(entry)), _KINDS.get(entry.kind, 1)
        return at, tiff.written(rng.choice(choices(tiff.number(at, size))), size)

    def link() -> tuple[int, bytes]:
        places = [*tiff.directories, rng.randrange(len(tiff.data)), len(tiff.data) + 1000, 0]
        return rng.choice(tiff.links), tiff.written(rng.choice(places), width)

    def tile_offset() -> tuple[int, bytes] | None:
        entry = entry_of(_OFFSETS)
        if entry is None:
            return None
        places, size = tiff.values(entry), _KINDS[entry.kind]
        other = tiff.number(rng.choice(places), size)
        choices = [other, other + 1, 0, len(tiff.data) - 1, len(tiff.data) + 10, -1, rng.randrange(len(tiff.data))]
        return rng.choice(places), tiff.written(rng.choice(choices), size)

    def text() -> tuple[int, bytes] | None:
        entry = entry_of(_TEXTS)
        return None if entry is None else (entry.value, rng.choice(_TEXT_TRICKS)[: entry.count])

    def any_entry() -> tuple[int, bytes]:
        entry = rng.choice(entries)
        at, size = rng.choice(((0, 2), (2, 2), (4, width), (4 + width, width)))
        return entry.place + at, tiff.written(rng.choice((0, 1, 13, 0xFFFF, -1, rng.getrandbits(32))), size)

    def count_of_entries() -> tuple[int, bytes]:
        size = 8 if tiff.big else 2
        return tiff.directories[number], tiff.written(rng.choice((0, 1, len(entries) - 1, len(entries) + 9, -1)), size)

    def sub_directory() -> tuple[int, bytes] | None:
        return of_numbers((_SUB_DIRECTORIES,), lambda _: [*tiff.directories, 0, -1, rng.randrange(len(tiff.data))])

    kinds: dict[str, Callable[[], tuple[int, bytes] | None]] = {
        "sizes": lambda: of_numbers(_SIZES, _near_and_far),
        "coding": lambda: of_numbers(_CODING, lambda value: [*_near_and_far(value), 5, 6, 7, 8, 50000, 34712]),
        "tile byte counts": lambda: of_numbers(_COUNTS, _near_and_far),
        "tile offsets": tile_offset,
        "next directory": link,
        "number of entries": count_of_entries,
        "an entry": any_entry,
        "text": text,
        "sub-directories": sub_directory,
        "other numbers": lambda: of_numbers(tuple({entry.code for entry in entries}), _near_and_far),
    }
    while True:
        kind = rng.choice(list(kinds))
        change = kinds[kind]()
        if change is not None:
            at, value = change
            return tiff.data[:at] + value + tiff.data[at + len(value) :], kind


def _near_and_far(value: int) -> list[int]:
    return [0, 1, value - 1, value + 1, value // 2, value * 2, value + 16, 0x7FFF, 0xFFFF, 0x7FFFFFFF, -1]


_ELEMENTS: dict[str, tuple[bytes, str]] = {
    "sizes": (rb"\x28\x00[\x10\x11]\x00US\x02\x00|\x48\x00[\x06\x07]\x00UL\x04\x00", "number"),
    "number of frames": (rb"\x28\x00\x08\x00IS(?=.\x00)", "text"),
    "samples": (rb"\x28\x00(?:\x02|\x03|\x06|\x00\x01|\x01\x01|\x02\x01)\x00?US\x02\x00", "number"),
    "colours": (rb"\x28\x00\x04\x00CS(?=.\x00)", "text"),
    "transfer syntax": (rb"\x02\x00\x10\x00UI(?=.\x00)", "text"),
    "image type": (rb"\x08\x00\x08\x00CS(?=.\x00)", "text"),
    "spacing": (rb"\x28\x00\x30\x00DS(?=.\x00)", "text"),
    "items": (rb"\xfe\xff[\x00\x0d]\xe0", "number"),
    "sequences": (rb"..\x00?.SQ\x00\x00", "number"),
    "pixel data": (rb"\xe0\x7f\x10\x00O[BW]\x00\x00", "number"),
}
"""Elements of DICOM in explicit little endian: pattern of what stands before the value, and what the value is."""


def _hit_elements(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Damage to the elements of a DICOM file."""
    while True:
        kind = rng.choice(list(_ELEMENTS))
        pattern, form = _ELEMENTS[kind]
        found = list(re.finditer(pattern, data[:4096] if rng.random() < 0.8 else data, re.DOTALL))
        if not found:
            continue
        match = rng.choice(found)
        if form == "text":
            size, at = data[match.end()], match.end() + 2
            value = rng.choice((b"0", b"-1", b"99999999", b"RGB", b"YBR_FULL", b"MONOCHROME2", b"1.2.840.10008.1.2"))
            changed = value[:size].ljust(size)
        else:
            at = match.end()
            size = 2 if match.group().endswith(b"US\2\0") else 4
            old = int.from_bytes(data[at : at + size], "little")
            changed = (rng.choice(_near_and_far(old)) % (1 << 8 * size)).to_bytes(size, "little")
        return data[:at] + changed + data[at + len(changed) :], kind


def _dicom_frames(data: bytes) -> list[tuple[int, int]]:
    """Start and end of the pixel data of each frame, or of all of them if they are not compressed."""
    head = data.rindex(b"\xe0\x7f\x10\x00O", 0, len(data) if len(data) < 4096 else len(data) // 2)
    position = head + 12
    if data[head + 8 : position] != b"\xff\xff\xff\xff":
        return [(position, len(data))]
    found = []
    while data[position : position + 4] == b"\xfe\xff\x00\xe0":
        end = position + 8 + int.from_bytes(data[position + 4 : position + 8], "little")
        found.append((position + 8, end))
        position = end
    return found[1:]


def _mutate_folder(copy: Path, rng: random.Random) -> Damage:
    """Damage to one file of a Zarr folder."""
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    texts = [path for path in files if path.name == "zarr.json" or path.name.startswith(".z")]
    chunks = [path for path in files if path not in texts and path.stat().st_size]
    area = rng.choices((PIXELS, STRUCTURE, ANYWHERE), (4, 4, 2))[0]
    if area == STRUCTURE:
        path = rng.choice(texts)
        changed, kind = _hit_json(path.read_bytes(), rng)
        path.write_bytes(changed)
        return Damage(area, kind)
    path = rng.choice(chunks if area == PIXELS else files)
    if area == PIXELS:
        data = path.read_bytes()
        changed, kind = _hit_range(data, (0, len(data)), rng)
        path.write_bytes(changed)
        return Damage(area, kind)
    kind = rng.choice(("file missing", "file of another place", "file empty", "file cut off"))
    if kind == "file missing":
        path.unlink()
    elif kind == "file of another place":
        path.write_bytes(rng.choice(files).read_bytes())
    else:
        data = path.read_bytes()
        path.write_bytes(data[: 0 if kind == "file empty" else rng.randrange(max(1, len(data)))])
    return Damage(area, kind)


def _hit_json(text: bytes, rng: random.Random) -> tuple[bytes, str]:
    if rng.random() < 0.2:
        at = rng.randrange(len(text))
        return text[:at] + rng.choice((b"", b"[" * 5000, b'"', b"\xff")), "text of the metadata"
    document = json.loads(text)
    places = list(_places(document))
    if not places:
        return b"[]", "text of the metadata"
    holder, key = rng.choice(places)
    old = holder[key]
    if rng.random() < 0.2:
        del holder[key]
        return json.dumps(document).encode(), "an entry left out"
    others: list[Any] = [0, -1, 1, 1e99, float("nan"), "", "x" * 50, None, [], {}, True, [0, 0, 0], "../../a"]
    if isinstance(old, int) and not isinstance(old, bool):
        others += [old + 1, old - 1, old * 2, old // 2, 2**31, 2**63]
    holder[key] = rng.choice(others)
    return json.dumps(document).encode(), "an entry changed"


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder and key in a JSON document."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
    for key in keys:
        yield node, key
        yield from _places(node[key])
