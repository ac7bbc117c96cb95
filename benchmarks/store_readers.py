"""Which program reads which profile of a slide store: pixels, tables and captions, tried one by one.

    python benchmarks/store_readers.py [--write docs/store.md] [--codecs SLIDE]

A phantom slide is stored in every profile. Each installed reader opens each store in a process of its own, and what it
reads is compared with wsikit's own pixels and columns. The result is a table in Markdown; `--write` puts it into a
document, between the two comments that name this script. `--codecs` measures size and speed of the lossless codecs on
the finest level of a slide instead. Readers: pip install zarrs tensorstore ngff-zarr ome-zarr bioio-ome-zarr
imagecodecs-zarr fastslide
"""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PROFILES: dict[str, dict[str, Any]] = {
    "native": {},
    "`--jpeg-name jpeg`": {"jpeg_name": "jpeg"},
    "`--codec zstd`": {"codec": "zstd"},
    "portable": {"profile": "portable"},
    "portable `--ngff 0.4`": {"profile": "portable", "ngff": "0.4"},
    "portable `--ngff 0.6`": {"profile": "portable", "ngff": "0.6"},
}
"""Each with exact pixels where its codec is not JPEG; JPEG is decoded by the reader."""

COLUMNS = ("coords", "probability", "caption", "text/caption")
_MARKS = ("<!-- benchmarks/store_readers.py -->", "<!-- end of benchmarks/store_readers.py -->")
_SECONDS = 120


# ---- readers: each reads level 0, (c, y, x), and an array at a path


def _hide_codecs() -> None:
    """As if neither wsikit nor imagecodecs-zarr were installed: only the codecs of zarr itself."""
    from importlib.metadata import EntryPoints

    import zarr.registry as registry

    listed = importlib.metadata.entry_points

    def without(**given: Any) -> Any:
        return EntryPoints() if str(given.get("group", "")).startswith("zarr") else listed(**given)

    for collected in registry.__dict__.values():
        if isinstance(collected, dict):
            for name in ("imagecodecs_jpeg", "imagecodecs_jpeg2k", "jpeg"):
                collected.pop(name, None)
    importlib.metadata.entry_points = without  # type: ignore[assignment]
    registry.entry_points = without  # type: ignore[attr-defined]


def _zarr_array(path: str) -> Any:
    import zarr

    return np.asarray(zarr.open_array(path, mode="r")[...])


def _zarr(path: str) -> Any:
    return _zarr_array(f"{path}/0")


def _bare_zarr_array(path: str) -> Any:
    _hide_codecs()
    return _zarr_array(path)


def _bare_zarr(path: str) -> Any:
    return _bare_zarr_array(f"{path}/0")


def _zarrs_array(path: str) -> Any:
    import zarr
    import zarrs  # noqa: F401

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}):
        return _zarr_array(path)


def _zarrs(path: str) -> Any:
    return _zarrs_array(f"{path}/0")


def _fused_array(path: str) -> Any:
    import zarr

    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline"}):
        return _zarr_array(path)


def _fused(path: str) -> Any:
    return _fused_array(f"{path}/0")


def _tensorstore_array(path: str) -> Any:
    import tensorstore

    return tensorstore.open({"driver": "auto", "kvstore": f"file://{path}/"}).result().read().result()


def _tensorstore(path: str) -> Any:
    return _tensorstore_array(f"{path}/0")


def _ngff_zarr_array(path: str) -> Any:
    import ngff_zarr

    return np.asarray(ngff_zarr.open_array(path)[...])


def _ngff_zarr(path: str) -> Any:
    import ngff_zarr

    return np.asarray(ngff_zarr.from_ngff_zarr(path).images[0].data)


def _ome_zarr(path: str) -> Any:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    return np.asarray(next(iter(Reader(parse_url(path))())).data[0])


def _bioio(path: str) -> Any:
    from bioio_ome_zarr import Reader

    return Reader(path).get_image_data("CYX")


def _fastslide(path: str) -> Any:
    import fastslide

    slide = fastslide.FastSlide.from_file_path(path)
    return np.asarray(slide.read_region((0, 0), 0, slide.level_dimensions[0]).numpy())


READERS: dict[str, tuple[str, Callable[[str], Any], Callable[[str], Any] | None]] = {
    "zarr-python, with wsikit or imagecodecs-zarr": ("zarr", _zarr, _zarr_array),
    "zarr-python, fused pipeline, with the same": ("zarr", _fused, _fused_array),
    "zarr-python alone": ("zarr", _bare_zarr, _bare_zarr_array),
    "zarrs in zarr-python": ("zarrs", _zarrs, _zarrs_array),
    "tensorstore, `auto`": ("tensorstore", _tensorstore, _tensorstore_array),
    "ngff-zarr": ("ngff-zarr", _ngff_zarr, _ngff_zarr_array),
    "ome-zarr": ("ome-zarr", _ome_zarr, None),
    "bioio-ome-zarr": ("bioio-ome-zarr", _bioio, None),
    "fastslide": ("fastslide", _fastslide, None),
}
"""By name: its package, how it reads level 0, and how it reads an array (None: it reads images only)."""


def attempt(reader: str, what: str, path: str, truth: str) -> str:
    """Executed in a process of its own: what became of one attempt, in a word or two."""
    image, array = READERS[reader][1:]
    work = image if what == "pixels" else array
    assert work is not None
    try:
        found, expected = work(path), np.load(truth, allow_pickle=True)
        if what == "caption":
            return "yes" if [str(text) for text in found] == [str(text) for text in expected] else "other text"
        if found.shape != expected.shape:
            return f"other shape {found.shape}"
        difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
        most = 0.0 if difference.size == 0 else float(np.nanmax(difference))
        return "yes" if most == 0 else f"off by {most:g}"
    except BaseException as error:  # noqa: BLE001 - readers raise errors of every kind, Rust's panics among them
        words = " ".join(str(error).split()).lower()
        named = [name for name in ("imagecodecs_jpeg", "sharding", "blosc", "jpeg", "zstd", "0.6") if name in words]
        if isinstance(error, ImportError):
            return "not installed"
        if (
            type(error).__name__ == "UnsupportedDataTypeError"
            or "string" in words
            or "data type" in words
            or "data_type" in words
        ):
            return "no: type"
        if "ambiguous" in words or "both" in words or "multiple" in words:
            return "no: two formats"
        return f"no: {named[0]}" if named else f"no: {type(error).__name__}"


def _in_own_process(*arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", __file__, "--attempt", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return "no: no answer"
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return lines[-1].removeprefix("RESULT ") if lines else f"no: exit {done.returncode}"


# ---- stores


def make_stores(folder: Path) -> dict[str, Path]:
    """One store in each profile, with captions and a column `probability`."""
    import wsikit
    from wsikit.store.receipts import Receipt
    from wsikit.store.table import ColumnSpec
    from wsikit.tiling.plan import ImageParameters

    slide = folder / "slide.tif"
    wsikit.make_phantom(slide, size_px=(2048, 1536))
    with wsikit.open_slide(slide) as opened:
        picture = folder / "slide.png"  # has no tiles to pass through, so that all of it is encoded
        Image.fromarray(opened.read_box(0, (0, 0, *opened.dimensions))).save(picture)
        mpp = opened.mpp
    stores = {}
    for number, (name, options) in enumerate(PROFILES.items()):
        image = ImageParameters(regions="all", **options)
        source = wsikit.open_slide(picture, mpp=mpp) if "codec" in options else slide
        store = wsikit.tile(source, folder / f"{number}.zarr", patch_px=224, image=image)
        table = store.patches()
        for rows in table.prepare([ColumnSpec("probability", "float32", 2)], Receipt("try", 1)):
            table.write("probability", rows, np.full((rows.stop - rows.start, 2), 0.5, np.float32))
        wsikit.caption(store)
        stores[name] = store.folder
    return stores


def truths(store_path: Path, folder: Path) -> dict[str, Path]:
    """What wsikit reads, as files."""
    from wsikit.slides.store import SlideStore

    with SlideStore(store_path) as store:
        pixels = store.read_box(0, (0, 0, *store.level_dimensions[0])).transpose(2, 0, 1)
        table = store.patches()
        found = {"pixels": pixels, "coords": table.coords, "probability": table.read("probability")}
        found["caption"] = table.read("caption")
        texts = [text.encode() for text in found["caption"]]
        width = max(1, *map(len, texts))
        rows = np.frombuffer(b"".join(text.ljust(width, b"\0") for text in texts), np.uint8)
        found["text/caption"] = rows.reshape(len(texts), width)
    paths = {}
    for name, values in found.items():
        paths[name] = folder / f"{store_path.stem}-{name.replace('/', '-')}.npy"
        np.save(paths[name], values, allow_pickle=True)
    return paths


def table_of_readers(folder: Path) -> str:
    """Both tables, in Markdown."""
    stores = make_stores(folder)
    expected = {name: truths(path, folder) for name, path in stores.items()}
    pixels = ["| pixels of level 0 | " + " | ".join(PROFILES) + " |", "|---" * (len(PROFILES) + 1) + "|"]
    columns = ["| tables of a portable store | " + " | ".join(f"`{name}`" for name in COLUMNS) + " |"]
    columns += ["|---" * (len(COLUMNS) + 1) + "|"]
    grid = next((stores["portable"] / "patches").glob("*/zarr.json")).parent
    for reader, (package, _, array) in READERS.items():
        try:
            named = f"{reader} ({package} {importlib.metadata.version(package)})"
        except importlib.metadata.PackageNotFoundError:
            print(f"{package}: not installed", file=sys.stderr)
            continue
        cells = [
            _in_own_process(reader, "pixels", str(path), str(expected[name]["pixels"])) for name, path in stores.items()
        ]
        pixels.append(f"| {named} | " + " | ".join(cells) + " |")
        if array is not None:
            truth = expected["portable"]
            cells = [_in_own_process(reader, name, str(grid / name), str(truth[name])) for name in COLUMNS]
            columns.append(f"| {named} | " + " | ".join(cells) + " |")
    return "\n".join([*pixels, "", *columns])


# ---- codecs


def table_of_codecs(slide_path: Path) -> str:
    """Size and speed of lossless codecs on up to 12 tiles of 1,024 px of a slide, in Markdown."""
    import imagecodecs
    from numcodecs.gzip import GZip
    from numcodecs.zstd import Zstd

    from wsikit.slides.registry import open_slide

    side = 1024
    with open_slide(slide_path) as slide:
        width, height = slide.level_dimensions[0]
        corners = [(x, y) for y in range(0, height - side + 1, side) for x in range(0, width - side + 1, side)]
        chosen = corners[:: max(1, len(corners) // 12)][:12]
        boxes = [slide.read_box(0, (x, y, side, side)) for x, y in chosen]
    tiles = [np.ascontiguousarray(box.transpose(2, 0, 1)).tobytes() for box in boxes]
    codecs: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], Any]]] = {
        "Blosc-Zstandard 5": (
            lambda data: imagecodecs.blosc_encode(data, level=5, compressor="zstd", shuffle=0, typesize=1),
            imagecodecs.blosc_decode,
        )
    }
    for level in (1, 3, 5):
        codecs[f"Zstandard {level}"] = (Zstd(level=level, checksum=True).encode, Zstd().decode)
    for level in (1, 6):
        codecs[f"gzip {level}"] = (GZip(level=level).encode, GZip().decode)
    lines = ["| codec | share of the raw bytes | encoding, Mpx/s | decoding, Mpx/s |", "|---|---|---|---|"]
    mega_px = len(tiles) * side * side / 1e6
    for name, (encode, decode) in codecs.items():
        begun = time.process_time()
        coded = [encode(tile) for tile in tiles]
        encoding = time.process_time() - begun
        begun = time.process_time()
        for chunk in coded:
            decode(chunk)
        decoding = time.process_time() - begun
        share = sum(map(len, coded)) / sum(map(len, tiles))
        lines.append(f"| {name} | {share:.3f} | {mega_px / encoding:.0f} | {mega_px / decoding:.0f} |")
    return "\n".join(lines)


def write_into(document: Path, table: str) -> None:
    """Replace what is between the marks."""
    text = document.read_text(encoding="utf-8")
    before, _, rest = text.partition(_MARKS[0])
    _, _, after = rest.partition(_MARKS[1])
    document.write_text(f"{before}{_MARKS[0]}\n{table}\n{_MARKS[1]}{after}", encoding="utf-8")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--write", type=Path)
    arguments.add_argument("--codecs", type=Path)
    arguments.add_argument("--attempt", nargs=4, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.attempt:
        print("RESULT", attempt(*given.attempt))
        return 0
    if given.codecs:
        print(table_of_codecs(given.codecs))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        table = table_of_readers(Path(folder))
    print(table)
    if given.write:
        write_into(given.write, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
