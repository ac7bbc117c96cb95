"""Coded tiles of slides by wsikit, compared with opentile (TIFF, NDPI) and wsidicom (DICOM): are they equal, how fast.

    python benchmarks/tile_sources.py SLIDE… [--repeat 5]

opentile needs Python 3.12 and the system's library libturbojpeg (the variable TURBOJPEG may name the file).
Both sources run interleaved in one process, over the same file in the cache of the system; medians. `open_ratio` and
`tiles_ratio` are the other source's time divided by wsikit's: above 1, wsikit is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from wsikit.slides import jpeg, open_slide
from wsikit.slides.encoded_tiles import EncodedTiles
from wsikit.slides.formats.ndpi.reader import NdpiSlide

Tile = Callable[[int, int], bytes | None]


def theirs(path: Path) -> tuple[Any, Tile, tuple[int, int]]:
    """The other source: its open slide, its function for a tile of level 0, and its tile size, px."""
    if path.suffix == ".dcm":
        from wsidicom import WsiDicom

        slide = WsiDicom.open(path)

        def frame(column: int, row: int) -> bytes:
            # by default, frames at the edge are decoded, cropped and encoded again
            return bytes(slide.read_encoded_tile(0, (column, row), crop_to_image_boundary=False))

        return slide, frame, (slide.tile_size.width, slide.tile_size.height)
    from opentile import OpenTile

    tiler = OpenTile.open(path)
    level = tiler.get_level(0)
    return tiler, lambda column, row: level.get_tile((column, row)), (level.tile_size.width, level.tile_size.height)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def grid(size: tuple[int, int], tile: tuple[int, int]) -> list[tuple[int, int]]:
    columns, rows = (-(-side // step) for side, step in zip(size, tile, strict=True))
    return [(column, row) for row in range(rows) for column in range(columns)]


def all_tiles(tile: Tile, places: list[tuple[int, int]]) -> int:
    """Read them all; the number of bytes."""
    return sum(len(tile(*place) or b"") for place in places)


def decoded(stream: bytes) -> np.ndarray:
    codec = imagecodecs.jpeg8_decode if stream.startswith(b"\xff\xd8") else imagecodecs.jpeg2k_decode
    return np.asarray(codec(stream))


def measure(path: Path, repeat: int) -> dict[str, Any]:
    """Times of opening and of all tiles of level 0, and whether the decoded tiles are equal."""
    opens: dict[str, list[float]] = {"wsikit": [], "other": []}
    reads: dict[str, list[float]] = {"wsikit": [], "other": []}
    for _ in range(repeat + 1):
        seconds, slide = timed(partial(open_slide, path))
        if not isinstance(slide, EncodedTiles) or slide.tile_source(0) is None:
            return {"slide": path.name, "refused": slide.pass_through_fault(0)}
        opens["wsikit"].append(seconds)
        seconds, (other, tile, tile_px) = timed(partial(theirs, path))
        opens["other"].append(seconds)
        own_px, size = slide.tile_px(0), slide.dimensions
        reads["wsikit"].append(timed(partial(all_tiles, partial(slide.encoded_tile, 0), grid(size, own_px)))[0])
        reads["other"].append(timed(partial(all_tiles, tile, grid(size, tile_px)))[0])
        equal = _equal(slide, tile) if own_px == tile_px else None
        other.close()
        slide.close()
    seconds = {
        kind: {name: statistics.median(times[1:]) for name, times in found.items()}
        for kind, found in (("open", opens), ("tiles", reads))
    }
    return {
        "slide": path.name,
        "tiles": {"wsikit": len(grid(size, own_px)), "other": len(grid(size, tile_px))},
        "equal": equal,
        "open_ratio": round(seconds["open"]["other"] / seconds["open"]["wsikit"], 2),
        "tiles_ratio": round(seconds["tiles"]["other"] / seconds["tiles"]["wsikit"], 2),
        "wsikit_ms": {kind: round(1000 * found["wsikit"], 2) for kind, found in seconds.items()},
    }


def _equal(slide: Any, tile: Tile) -> bool:
    source = slide.tile_source(0)
    for column, row in grid(slide.dimensions, slide.tile_px(0)):
        own, other = slide.encoded_tile(0, column, row), tile(column, row)
        if own is None or other is None:
            continue
        if source.codec == "jpeg" and not isinstance(slide, NdpiSlide):
            own = jpeg.self_contained(own, source.tables, rgb=source.rgb)
            other = jpeg.self_contained(other, None, rgb=source.rgb)
        if not np.array_equal(decoded(own), decoded(other)):
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    for path in options.slides:
        try:
            record = measure(path, options.repeat)
        except Exception as error:  # the libraries raise errors of many kinds, and the other files are still measured
            record = {"slide": path.name, "error": f"{type(error).__name__}: {error}"}
        json.dump(record, sys.stdout)
        print(flush=True)


if __name__ == "__main__":
    main()
