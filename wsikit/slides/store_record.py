"""The metadata of a slide store, checked completely when they are read: the root, the levels, the tissue label.

Whatever a file holds, the result is a valid record or one StoreError with the file, the entry, and the next step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsikit.errors import StoreError
from wsikit.store import format2_names
from wsikit.store.level_files import BYTES, NO_OBJECTS, REWRITING
from wsikit.store.level_format import LevelFormat
from wsikit.store.remote import RemotePath
from wsikit.store.table import STORE_FORMAT, PatchTable

READABLE_FORMATS = (format2_names.FORMAT, STORE_FORMAT)

MOST_PX = 2**31 - 1
"""Along a side of a level."""
_MOST_TILE_PX = 2**28
_DTYPES = ("uint8", "uint16", "float32")
_MOST_SHARD_SIDE = 1024
_COARSEST_UM = 1000.0
_FIDELITIES = ("bytes", "coefficients", "pixels", "encoded")
_RECEIPT_KINDS = {"stage": str, "revision": int, "parameters": dict, "inputs": dict, "digest": str}


class _EntryError(ValueError):
    """An entry is not as it must be."""


def read_root(folder: Path, stated: object) -> dict[str, Any]:
    """`attributes.wsikit` of a complete store; `stated` is the path as the caller gave it, for messages.

    Raises
    ------
    StoreError
        There is no store of a readable format, or an entry is missing or impossible.
    """
    path = folder / "zarr.json"
    try:
        attributes = json.loads(path.read_text(encoding="utf-8"))["attributes"]
    except NotADirectoryError:
        raise StoreError(
            f"{stated}: a file, not a slide store. Run wsikit tile {stated} -o {folder.stem}.zarr first."
        ) from None
    except FileNotFoundError:
        raise StoreError(f"{stated}: not a complete slide store ({_why_no_store(folder, stated)}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{path}: not the metadata of a Zarr v3 group ({_words(error)}). {_redo(stated)}") from error
    record = attributes.get("wsikit") if isinstance(attributes, dict) else None
    if not isinstance(record, dict) or not {"downsamples", "format"} & set(record):
        raise StoreError(f"{stated}: a Zarr group that wsikit did not write. Give the slide it was made from.")
    levels = _ome_levels(attributes)

    def check(record: dict[str, Any]) -> dict[str, Any]:
        found = _check_root(record)
        if levels is not None and levels != len(found["downsamples"]):
            raise _EntryError(
                f"downsamples has {len(found['downsamples'])} levels, expected {levels} as in ome.multiscales"
            )
        return found

    return _checked(path, stated, record, check)


def _ome_levels(attributes: Mapping[str, Any]) -> int | None:
    """Number of levels that the OME metadata of a store name; None: there are none, or of another kind."""
    try:
        return len(attributes["ome"]["multiscales"][0]["datasets"])
    except (KeyError, IndexError, TypeError):
        return None


def _why_no_store(folder: Path, stated: object) -> str:
    if isinstance(folder, RemotePath):
        return "no zarr.json). If wsikit tile was interrupted, run it again."
    if not folder.exists():
        return "there is no such folder). Check the spelling; wsikit tile and wsikit run make stores."
    inside = next((place for place in (folder, folder / "slides") if any(place.glob("*.zarr/zarr.json"))), None)
    if inside is not None:
        shown = stated if inside == folder else f"{stated}/slides"
        return f"but a folder of stores). Give one or several of them: {shown}/*.zarr"
    return "no zarr.json). If wsikit tile was interrupted, run it again."


def read_level(path: Path, stated: object, *, of_image: bool = True) -> tuple[LevelFormat, dict[str, Any]]:
    """Format and `attributes.wsikit` of the level whose zarr.json is at `path`; StoreError if an entry is impossible.

    `of_image`: a level of the slide's image, whose attributes state what was kept.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not the metadata of an image level ({_words(error)}). {_redo(stated)}") from error

    def check(record: dict[str, Any]) -> dict[str, Any]:
        form = _level_format(record)
        attributes = _mapping(_mapping(record, "attributes"), "wsikit")
        _check_level(form, attributes, of_image)
        return {"format": form, "attributes": attributes}

    found = _checked(path, stated, record, check)
    return found["format"], found["attributes"]


def check_levels(folder: Path, stated: object, root: Mapping[str, Any], levels: Sequence[LevelFormat]) -> None:
    """StoreError if the levels do not have the sizes that the root states."""
    width, height = root["dimensions"]
    for level, (form, (x, y)) in enumerate(zip(levels, root["downsamples"], strict=True)):
        for size, whole, downsample in ((form.width, width, x), (form.height, height, y)):
            if abs(size * downsample - whole) > 2 * downsample + 1:
                raise StoreError(
                    f"{folder / str(level) / 'zarr.json'}: level of {form.width}×{form.height} px found, expected "
                    f"about {round(width / x)}×{round(height / y)} px: {width}×{height} px reduced {x:g}×{y:g} times. "
                    f"{_redo(stated)}"
                )
        known = root.get("channels") or ()
        found, wanted = (form.channels, form.dtype), {(1, "uint8"), (3, "uint8")}
        if known:
            wanted = {(len(known), str(known[0].get("dtype")))}
        if found not in wanted or (not known and form.planes > 1):
            expected = f"{len(known)} channels of the type in the root" if known else "1 or 3 channels of type uint8"
            raise StoreError(
                f"{folder / str(level) / 'zarr.json'}: {form.channels} channels of type {form.dtype} found, expected "
                f"{expected}. {_redo(stated)}"
            )
        if form.channels != levels[0].channels:
            raise StoreError(
                f"{folder / str(level) / 'zarr.json'}: {form.channels} channels found, expected "
                f"{levels[0].channels} as in level 0. {_redo(stated)}"
            )


def check_grid(table: PatchTable, root: Mapping[str, Any]) -> None:
    """StoreError if the grid of a patch table is not one of the slide that the root states."""
    grid, mpp = table.grid, root["mpp"]
    same_size = list(grid.slide_px) == list(root["dimensions"])
    same_mpp = mpp is None or all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(grid.slide_mpp, mpp, strict=True))
    if grid.name != table.name or not same_size or not same_mpp:
        found = f"{grid.name} of {_short(grid.slide_px)} px at {_short(grid.slide_mpp)} µm/px"
        expected = f"{table.name} of {_short(root['dimensions'])} px at {_short(mpp)} µm/px"
        raise StoreError(
            f"{table.folder / 'zarr.json'}: a grid {found} found, expected {expected}. Copy the store again, or delete "
            f"{table.folder} and run wsikit tile or wsikit run again."
        )


def read_tissue(folder: Path, stated: object) -> dict[str, Any]:
    """The record of the tissue label of the store at `folder`.

    Raises
    ------
    StoreError
        There is no tissue label, or an entry is missing or impossible.
    """
    path = folder / "labels" / "tissue" / "zarr.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{stated}: no tissue label yet. Run wsikit tile again to add it.") from None
    try:
        record = json.loads(text)["attributes"]["wsikit"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{path}: not the metadata of a label ({_words(error)}). {_redo(stated)}") from error
    return _checked(path, stated, record, _check_tissue)


def _checked(
    path: Path, stated: object, record: Any, check: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    try:
        if not isinstance(record, dict):
            raise _EntryError(f"{_short(record)} found, expected a JSON object")
        return check(record)
    except _EntryError as fault:
        raise StoreError(f"{path}: {fault}. {_redo(stated)}") from fault


def _redo(stated: object) -> str:
    return f"Copy the store again, or delete {stated} and tile the slide again."


# ---- root


def _check_root(record: dict[str, Any]) -> dict[str, Any]:
    found = _whole(record, "format", 1, 10**6)
    if found not in READABLE_FORMATS:
        read = " and ".join(map(str, READABLE_FORMATS))
        raise _EntryError(
            f"store format {found}, this version reads {read}. "
            + ("Update wsikit" if found > STORE_FORMAT else "Tile the slide again")
        )
    if not _text(record, "slide_id"):
        raise _EntryError("slide_id is empty, expected the name of the slide")
    if record.get("pixels") not in ("stored", "source"):
        raise _EntryError(f"pixels is {_short(record.get('pixels'))}, expected stored or source")
    _pair(record, "dimensions", lambda value: _is_whole(value, 1, MOST_PX), "two sizes in px")
    if record.setdefault("mpp", None) is not None:
        _pair(record, "mpp", lambda value: _is_number(value, 0, _COARSEST_UM), "two pixel sizes in µm")
    _text(record, "mpp_source")
    record.setdefault("magnification", None)
    if record["magnification"] is not None and not _is_number(record["magnification"], 0, 10_000):
        raise _EntryError(f"magnification is {_short(record['magnification'])}, expected a number such as 40")
    _check_downsamples(record)
    source = _mapping(record, "source")
    for name in ("name", "vendor", "reader", "fingerprint", *(("path",) if record["pixels"] == "source" else ())):
        _text(source, name, "source.")
    if not isinstance(source.setdefault("compression", None), str | None):
        raise _EntryError(f"source.compression is {_short(source['compression'])}, expected text")
    if source.get("scene") is not None and not _is_whole(source["scene"], 0, 10**6):
        raise _EntryError(f"source.scene is {_short(source['scene'])}, expected the number of a scene")
    _check_receipt(record)
    return record


def _check_downsamples(record: dict[str, Any]) -> None:
    levels = record.get("downsamples")
    if not isinstance(levels, list) or (record["pixels"] == "stored") != bool(levels) or len(levels) > 64:
        raise _EntryError(f"downsamples is {_short(levels)}, expected one pair of numbers per level")
    before = [0.0, 0.0]
    for pair in levels:
        if not isinstance(pair, list) or len(pair) != 2 or not all(_is_number(value, 0, 1e7) for value in pair):
            raise _EntryError(f"downsamples has {_short(pair)}, expected two positive numbers per level")
        if min(pair) < 1 or pair[0] < before[0] or pair[1] < before[1]:
            raise _EntryError(
                f"downsamples is {_short(levels)}, expected levels from the finest, 1 or more, to the coarsest"
            )
        before = pair


def _check_receipt(record: dict[str, Any]) -> None:
    receipt = _mapping(record, "receipt")
    for name, kind in _RECEIPT_KINDS.items():
        if not isinstance(receipt.get(name), kind) or isinstance(receipt.get(name), bool):
            raise _EntryError(f"receipt.{name} is {_short(receipt.get(name))}, expected {kind.__name__}")


# ---- levels


def _level_format(record: dict[str, Any]) -> LevelFormat:
    if record.get("data_type") not in _DTYPES:
        raise _EntryError(f"data_type is {_short(record.get('data_type'))}, expected one of {', '.join(_DTYPES)}")
    shape = _sizes(record.get("shape"), "shape", MOST_PX)
    chunk = _sizes(_at(record, "chunk_grid", "configuration", "chunk_shape"), "chunk_shape", 2 * MOST_PX)
    codecs = record.get("codecs")
    if not isinstance(codecs, list) or not codecs or not all(isinstance(codec, dict) for codec in codecs):
        raise _EntryError(f"codecs is {_short(codecs)}, expected a list of codecs")
    tile = chunk
    if codecs[0].get("name") == "sharding_indexed":
        tile = _sizes(_at(codecs[0], "configuration", "chunk_shape"), "chunk_shape of the shards", MOST_PX)
        side = chunk[2] // tile[2]
        if [chunk[0], tile[1] * side, tile[2] * side] != chunk or not 1 <= side <= _MOST_SHARD_SIDE:
            raise _EntryError(f"shards of {_short(chunk)} with chunks of {_short(tile)}, expected n × n whole chunks")
    whole = tile[0] == shape[0] or (tile[0] == 1 and tile is not chunk)
    if chunk[0] != shape[0] or not whole or tile[1] * tile[2] > _MOST_TILE_PX:
        raise _EntryError(
            f"chunks of {_short(tile)} in a level of {_short(shape)}, expected one or all channels of a small tile"
        )
    fill = record.get("fill_value")
    if not _is_whole(fill, 0, 255) and not (record["data_type"] == "float32" and fill == 0.0):
        raise _EntryError(f"fill_value is {_short(fill)}, expected 0 to 255")
    try:
        return LevelFormat.from_zarr(record)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, ZeroDivisionError, OverflowError) as error:
        raise _EntryError(f"{_words(error)}: expected chunks as wsikit tile writes them") from error


def _check_level(form: LevelFormat, record: dict[str, Any], of_image: bool) -> None:
    if not of_image and not form.of_pixels:
        raise _EntryError(f"{form.channels} channels of type {form.dtype}, expected 1 or 3 of type uint8")
    cols, rows = form.n_tiles
    unreadable = record.get("unreadable_tiles")
    if not isinstance(unreadable, list) or not all(
        isinstance(tile, list)
        and len(tile) == 2
        and _is_whole(tile[0], 0, cols - 1)
        and _is_whole(tile[1], 0, rows - 1)
        for tile in unreadable
    ):
        raise _EntryError(f"unreadable_tiles is {_short(unreadable)}, expected pairs of column and row")
    if of_image:
        if record.get("fidelity") not in _FIDELITIES:
            raise _EntryError(f"fidelity is {_short(record.get('fidelity'))}, expected one of {', '.join(_FIDELITIES)}")
        if not isinstance(record.get("lossless"), bool):
            raise _EntryError(f"lossless is {_short(record.get('lossless'))}, expected true or false")
        for name in ("missing_tiles", "recoded_tiles"):
            _whole(record, name, 0, cols * rows)
        if record.get("source_level", 0) is not None:
            _whole(record, "source_level", 0, 1000)
        _whole({"dropped_tiles": 0, **record}, "dropped_tiles", 0, cols * rows)
    n_cols, n_rows = (math.ceil(count / form.shard_side) for count in (cols, rows))
    for name in (NO_OBJECTS, REWRITING):
        runs = record.get(name, [])
        if not isinstance(runs, list) or not all(_is_run(run, n_cols, n_rows) for run in runs):
            raise _EntryError(f"{name} is {_short(runs)}, expected runs of row, first and last column")
    if BYTES in record:
        _whole(record, BYTES, 0, 2**62)


def _is_place(tile: Any, cols: int, rows: int) -> bool:
    if not isinstance(tile, list) or len(tile) != 2:
        return False
    return _is_whole(tile[0], 0, cols - 1) and _is_whole(tile[1], 0, rows - 1)


def _is_run(run: Any, n_cols: int, n_rows: int) -> bool:
    if not isinstance(run, list) or len(run) != 3 or not _is_whole(run[0], 0, n_rows - 1):
        return False
    return _is_whole(run[1], 0, n_cols - 1) and _is_whole(run[2], run[1], n_cols - 1)


# ---- tissue


def _check_tissue(record: dict[str, Any]) -> dict[str, Any]:
    _pair(record, "downsample", lambda value: _is_number(value, 0, 1e7), "two positive numbers")
    if record.get("stain") not in ("brightfield", "fluorescence"):
        raise _EntryError(f"stain is {_short(record.get('stain'))}, expected brightfield or fluorescence")
    for name, most in (("area_mm2", 1e9), ("unreadable_fraction", 1.0)):
        if not _is_number(record.get(name), -1e-12, most):
            raise _EntryError(f"{name} is {_short(record.get(name))}, expected a number from 0 to {most:g}")
    _check_receipt(record)
    return record


# ---- entries


def _at(record: Mapping[str, Any], *names: str) -> Any:
    found: Any = record
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _mapping(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = record.get(name)
    if not isinstance(found, dict):
        raise _EntryError(f"{name} is {_short(found)}, expected a JSON object")
    return found


def _text(record: Mapping[str, Any], name: str, prefix: str = "") -> str:
    found = record.get(name)
    if not isinstance(found, str):
        raise _EntryError(f"{prefix}{name} is {_short(found)}, expected text")
    return found


def _whole(record: Mapping[str, Any], name: str, least: int, most: int) -> int:
    found: Any = record.get(name)
    if not _is_whole(found, least, most):
        raise _EntryError(f"{name} is {_short(found)}, expected a whole number from {least} to {most}")
    return int(found)


def _pair(record: Mapping[str, Any], name: str, valid: Callable[[Any], bool], expected: str) -> None:
    found = record.get(name)
    if not isinstance(found, list) or len(found) != 2 or not all(valid(value) for value in found):
        raise _EntryError(f"{name} is {_short(found)}, expected {expected}")


def _sizes(found: Any, name: str, most: int) -> list[int]:
    if not isinstance(found, list) or len(found) != 3 or not all(_is_whole(value, 1, most) for value in found):
        raise _EntryError(f"{name} is {_short(found)}, expected channels, height and width")
    return found


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: Any, above: float, most: float) -> bool:
    """Whether it is a finite number in (above, most]."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return above < value <= most and math.isfinite(value)


def _short(value: Any) -> str:
    text = "missing" if value is None else " ".join(str(value).split())
    return text if len(text) <= 60 else text[:59] + "…"


def _words(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if isinstance(error, KeyError):
        return f"without {error}"
    return " ".join(str(error).split()) or type(error).__name__
