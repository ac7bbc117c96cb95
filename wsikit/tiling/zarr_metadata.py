"""The metadata of a store's image: levels, root, vendor group, associated images. Small files, written by hand.

They are written as plain JSON, without zarr.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ReadError
from wsikit.slides.base import Slide
from wsikit.slides.store import SlideStore
from wsikit.slides.types import Channel
from wsikit.store import ngff
from wsikit.store.atomic import atomic_write, json_bytes, write_bytes, write_json
from wsikit.store.flushing import Flushing
from wsikit.store.level_files import BYTES
from wsikit.store.level_format import REGISTERED_JPEG, Codec, LevelFormat
from wsikit.store.paths import is_url, place
from wsikit.store.receipts import Receipt
from wsikit.store.shards import ShardedLevel
from wsikit.store.table import STORE_FORMAT
from wsikit.tiling.encode import encode
from wsikit.tiling.jpeg_headers import read_header
from wsikit.tiling.plan import PORTABLE_CODEC, ImageParameters, LevelPlan
from wsikit.tiling.shard import ShardResult

_log = logging.getLogger(__name__)

_PICTURE_QUALITY = 90
_YCBCR_444 = {"encoded_color_space": "ycbcr", "subsampling": [[1, 1], [1, 1], [1, 1]]}
_MOST_REASONS = 10
"""Damaged tiles can each have a reason of their own."""


def level_attributes(
    level: LevelPlan, parameters: ImageParameters, results: Sequence[ShardResult], *, dropped: int, exact: bool
) -> dict[str, Any]:
    """Attributes of a level's pixels. `exact`: the reader's 8-bit pixels hold all information of the source."""
    recoded = sum(result.recoded for result in results)
    fidelity = _fidelity(level)
    attributes: dict[str, Any] = {
        "fidelity": fidelity,
        "lossless": recoded == 0
        and not dropped
        and (level.source is not None or (fidelity == "pixels" and exact and level.source_level is not None)),
        "origin": _origin(level),
        "source_level": level.source_level,
        "missing_tiles": sum(result.missing for result in results),
        "recoded_tiles": recoded,
        "unreadable_tiles": sorted([col, row] for result in results for col, row in result.unreadable),
    }
    if level.reason is not None:
        attributes["reencoded_because"] = level.reason
    if recoded:
        attributes["recoded_because"] = _reasons(results)
    if level.source is not None and level.source.subsampled:
        # a decoder of the whole image interpolates chroma across the borders of chunks
        attributes["chunk_border_upsampling"] = True
    if dropped:
        attributes |= {"background": "dropped", "dropped_tiles": dropped}
    if fidelity == "encoded":
        attributes["codec"] = {"name": "jpeg", "quality": parameters.jpeg_quality, "subsampling": "444"}
    return attributes


def of_store(attributes: dict[str, Any], store: SlideStore, level: LevelPlan) -> dict[str, Any]:
    """Attributes of a level whose tiles were passed through from another store: they are what they were there."""
    own = store.level_record(level.source_level) if level.source is not None and level.source_level is not None else {}
    if not own:
        return attributes
    kept = ("fidelity", "origin", "codec", "reencoded_because", "chunk_border_upsampling")
    found = {**attributes, **{name: own[name] for name in kept if name in own}}
    found["lossless"] = attributes["lossless"] and bool(own["lossless"])
    if "dropped_tiles" in own and "dropped_tiles" not in attributes:
        found |= {"background": "dropped", "dropped_tiles": own["dropped_tiles"]}
        found["missing_tiles"] = max(0, attributes["missing_tiles"] - own["dropped_tiles"])
    return found


def _reasons(results: Sequence[ShardResult]) -> dict[str, int]:
    """Number of re-encoded tiles by reason, the most frequent ones."""
    counts: Counter[str] = Counter()
    for result in results:
        counts.update(dict(result.faults))
    return dict(sorted(counts.most_common(_MOST_REASONS)))


def _fidelity(level: LevelPlan) -> str:
    """bytes, coefficients (of the source, with other headers), pixels (lossless) or encoded (lossy)."""
    if level.source is not None:
        return "coefficients" if level.source.rewrapped else "bytes"
    return "encoded" if level.format.codec == "jpeg" else "pixels"


def _origin(level: LevelPlan) -> str:
    if level.source_level is None:
        return "averaged from the level before"
    return "the source's own tiles" if level.source else "decoded and encoded again"


def write_level(
    folder: Path, level: LevelPlan, attributes: dict[str, Any], parameters: ImageParameters, flushing: Flushing
) -> None:
    """Write the metadata of one level: Zarr v3, and for NGFF 0.4 also v2."""
    array = folder / str(level.level)
    if parameters.ngff == "0.4":
        _write_json(array / ".zarray", level.format.to_zarr2(), flushing)
    jpeg = registered_jpeg(folder, level) if level.format.jpeg_name == REGISTERED_JPEG else None
    _write_json(array / "zarr.json", level.format.to_zarr(attributes, jpeg=jpeg), flushing)


def _write_json(path: Path, record: dict[str, Any], flushing: Flushing) -> None:
    write_json(path, record, sync=False)
    flushing.add(path)


def _write_bytes(path: Path, data: bytes, flushing: Flushing) -> None:
    write_bytes(path, data, sync=False)
    flushing.add(path)


def registered_jpeg(folder: Path, level: LevelPlan) -> dict[str, Any] | None:
    """Configuration of the codec `jpeg`, from the first stored tile; None for grey levels and other codecs.

    It states how the tiles were encoded; decoders use the headers of the tiles, which can differ from one another.
    """
    form = level.format
    if form.codec != "jpeg" or form.channels == 1:
        return None
    assert form.chunks_per_shard is not None
    cols, rows = form.n_tiles
    with contextlib.closing(ShardedLevel(folder / str(level.level), form.chunks_per_shard)) as tiles:
        stored = (tiles.chunk(col, row) for row in range(rows) for col in range(cols))
        first = next((chunk for chunk in stored if chunk is not None), None)
    head = None if first is None else read_header(first)
    if head is not None and head.rgb:
        return {"encoded_color_space": "rgb"}
    factors = (1, 1) if head is None else head.subsampling
    return {"encoded_color_space": "ycbcr", "subsampling": [list(factors), [1, 1], [1, 1]]}


def write_root(
    slide: Slide,
    folder: Path,
    *,
    slide_id: str,
    receipt: Receipt,
    levels: Sequence[LevelPlan],
    parameters: ImageParameters,
    lossless: bool,
    flushing: Flushing,
    check: Callable[[], None],
) -> None:
    """Write the root's metadata, which commit the store: without them it is incomplete.

    They get their name when all other files are on the disk, and `check` has raised no error.
    """
    info = slide.info
    downsamples = [level.downsample for level in levels]
    record: dict[str, Any] = {
        "format": STORE_FORMAT,
        "slide_id": slide_id,
        "pixels": "source" if parameters.pixels == "none" else "stored",
        "lossless": lossless,
        "dimensions": list(info.dimensions),
        "mpp": list(info.mpp) if info.mpp else None,
        "mpp_source": info.mpp_source,
        "magnification": info.magnification,
        "downsamples": [list(downsample) for downsample in downsamples],
        "source": {
            "name": Path(info.path).name,
            "vendor": info.vendor,
            "reader": info.reader,
            "compression": info.compression,
            "fingerprint": receipt.inputs["source"],
            "place": place_digest(info.path),
        },
        "receipt": receipt.to_json(),
    }
    if info.channels:
        record["channels"] = [asdict(channel) for channel in info.channels]
    if info.scene is not None and info.scenes:
        record["source"]["scene"] = info.scene
    attributes: dict[str, Any] = {"wsikit": record}
    if parameters.pixels == "none":
        record["source"]["path"] = str(place(info.path).absolute())
    else:
        channels = levels[0].format.channels
        image: dict[str, Any] = {"name": slide_id, "mpp": info.mpp, "downsamples": downsamples, "channels": channels}
        if info.channels:
            image["shown"] = [_shown(channel) for channel in info.channels]
        attributes["ome"] = ngff.of_version(ngff.multiscale_image(**image), parameters.ngff)
        if parameters.ngff == "0.4":
            _write_json(folder / ".zattrs", ngff.multiscale_image_04(**image), flushing)
            _write_json(folder / ".zgroup", {"zarr_format": 2}, flushing)
    with atomic_write(folder / "zarr.json", sync=False) as partial:
        partial.write_bytes(json_bytes(ngff.group(attributes)))
        flushing.add(partial)
        flushing.wait()
        check()


def _shown(channel: Channel) -> ngff.ShownChannel:
    """How OME-Zarr viewers show a channel."""
    largest = {"uint8": 255.0, "uint16": 65535.0}.get(channel.dtype, channel.window[1])
    smallest = min(0.0, channel.window[0])
    return ngff.ShownChannel(channel.name, channel.hex, channel.window, (smallest, largest), channel.shown)


def place_digest(path: str) -> str:
    """Digest of a slide's path without links: it recognises the place, and does not show the names in it."""
    real = path if is_url(path) else os.path.realpath(path)
    return hashlib.sha256(os.fsencode(real)).hexdigest()[:16]


def move_source(folder: Path, slide: Slide) -> None:
    """Update the place of the slide that a store was made from, after the slide was moved."""
    path = folder / "zarr.json"
    root = json.loads(path.read_text(encoding="utf-8"))
    source = root["attributes"]["wsikit"]["source"]
    source["name"] = Path(slide.path).name
    if "path" in source:
        source["path"] = str(place(slide.path).absolute())
    if "place" in source:
        source["place"] = place_digest(slide.path)
    write_json(path, root)


def write_vendor_group(slide: Slide, folder: Path, flushing: Flushing) -> None:
    """Write vendor properties (allow-listed by the reader) and the colour profile, outside of the NGFF metadata."""
    vendor = {"vendor": dict(slide.info.properties or {})}
    profile = slide.info.icc_profile
    if profile:
        _write_bytes(folder / "wsikit" / "icc" / "c" / "0", profile, flushing)
        _write_json(folder / "wsikit" / "icc" / "zarr.json", ngff.byte_array(len(profile)), flushing)
    _write_json(folder / "wsikit" / "zarr.json", ngff.group(vendor), flushing)


def kept_pictures(slide: Slide, parameters: ImageParameters) -> list[str]:
    """The associated images that are stored: all but the thumbnail only with `keep_label`.

    A picture without a name can be the label, as its macro can show it.
    """
    return [name for name in slide.info.associated if parameters.keep_label or name == "thumbnail"]


def write_associated(
    slide: Slide, folder: Path, names: Sequence[str], parameters: ImageParameters, flushing: Flushing
) -> None:
    """Write some associated images of a slide, each as an NGFF image. One that is damaged is left out: the slide itself
    does not need it."""
    for name in names:
        try:
            pixels = slide.associated(name)
        except ReadError as error:
            _log.warning("%s: its %s is left out of the store (%s)", slide.path, name, error)
            continue
        _write_picture(folder / "associated" / name, name, pixels, parameters, flushing)
    _write_json(folder / "associated" / "zarr.json", ngff.group({}), flushing)


def _write_picture(
    folder: Path, name: str, pixels: npt.NDArray[np.uint8], parameters: ImageParameters, flushing: Flushing
) -> None:
    height, width = pixels.shape[:2]
    portable = parameters.profile == "portable"
    codec: Codec = PORTABLE_CODEC if portable else "jpeg"
    form = LevelFormat(
        width,
        height,
        (width, height),
        codec,
        chunks_per_shard=None,
        jpeg_name=parameters.jpeg_name,
        v2_keys=not portable or parameters.ngff == "0.4",
    )
    chunk = encode(pixels, form, quality=_PICTURE_QUALITY)
    _write_bytes(folder / "0" / form.object_key(0, 0), chunk, flushing)
    attributes: dict[str, Any] = {
        "unreadable_tiles": [],
        "fidelity": "pixels" if portable else "encoded",
        "lossless": portable,
        BYTES: len(chunk),
    }
    jpeg = _YCBCR_444 if form.jpeg_name == REGISTERED_JPEG else None
    _write_json(folder / "0" / "zarr.json", form.to_zarr(attributes, jpeg=jpeg), flushing)
    ome = ngff.multiscale_image(name=name, mpp=None, downsamples=[(1.0, 1.0)])
    _write_json(folder / "zarr.json", ngff.group({"ome": ngff.of_version(ome, parameters.ngff)}), flushing)
