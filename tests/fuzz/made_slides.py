"""Small valid slides of many containers and codecs, made at run time, whose damaged copies the fuzzer opens.

Each function writes one file or folder of 384 × 288 px at 0.5 µm/px, coloured everywhere: a tile that reads as white
was not read. Writers of NDPI, DICOM, SCN and BIF are those of `tests/slides`.
"""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

Pixels = npt.NDArray[np.uint8]

SIZE, TILE, MPP = (384, 288), 96, 0.5
_APERIO = "Aperio Image Library v11.2.1\n384x288 [0,0 384x288] (96x96) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5000"


@cache
def pixels(level: int = 0) -> Pixels:
    """uint8 (h, w, 3) in the colours of a stain; `level` 1 has half the size."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (SIZE[1] // 12, SIZE[0] // 12), np.uint8)
    shade = np.asarray(Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC), float)[..., None] / 255
    tissue = shade * np.array((232, 170, 205.0)) + (1 - shade) * np.array((96, 60, 140.0))
    found = np.clip(tissue + rng.normal(0, 5, tissue.shape), 0, 235).astype(np.uint8)
    return found if not level else np.asarray(Image.fromarray(found).resize((SIZE[0] // 2, SIZE[1] // 2)))


@cache
def _of_tests(file: str) -> ModuleType:
    """A module of `tests/slides`, with its writers of files."""
    place = Path(__file__).parents[1] / "slides" / file
    spec = importlib.util.spec_from_file_location(f"fuzzed_{place.stem}", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _tiff(path: Path, compression: Any, **options: Any) -> None:
    settings = {"photometric": "rgb", "tile": (TILE, TILE), "metadata": None, "compression": compression, **options}
    with tifffile.TiffWriter(path, bigtiff=settings.pop("bigtiff", False)) as writer:
        for level in (0, 1):
            per_cm = 1e4 / MPP / (1 + level)
            resolution = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
            writer.write(pixels(level), subfiletype=level, **resolution, **settings)


def _svs(path: Path, compression: Any) -> None:
    tiled = {"photometric": "rgb", "tile": (TILE, TILE), "metadata": None, "compression": compression}
    other = {"photometric": "rgb", "metadata": None, "compression": "jpeg", "rowsperstrip": 16}
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels(), description=_APERIO, **tiled)
        writer.write(pixels(1)[::2, ::2], description="Aperio Image Library v11.2.1\n384x288 -> 96x72 - |", **other)
        writer.write(pixels(1), description=_APERIO, **tiled)
        writer.write(pixels(1)[:64, :64], description="Aperio Image\nlabel 64x64", subfiletype=1, **other)
        writer.write(pixels(1)[:64], description="Aperio Image\nmacro 192x64", subfiletype=9, **other)


def _ome_tiff(path: Path, compression: Any, *, channels: bool = False) -> None:
    data: Any = [pixels(0), pixels(1)]
    metadata: dict[str, Any] = {"axes": "YXS", "PhysicalSizeX": MPP, "PhysicalSizeY": MPP}
    settings: dict[str, Any] = {"photometric": "rgb", "tile": (TILE, TILE), "compression": compression}
    if channels:
        data = [np.moveaxis(image, 2, 0).astype(np.uint16) * 200 for image in data]
        metadata = {**metadata, "axes": "CYX", "Channel": {"Name": ["DAPI", "CD3", "CD8"]}}
        settings["photometric"] = "minisblack"
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(data[0], subifds=1, metadata=metadata, **settings)
        writer.write(data[1], subfiletype=1, metadata=None, **settings)


def _strips(path: Path) -> None:
    per_cm = 1e4 / MPP
    resolution = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels(), photometric="rgb", compression="deflate", rowsperstrip=32, **resolution)


def _ndpi(path: Path) -> None:
    writers = _of_tests("conftest.py")
    images = [writers._ndpi_image(pixels(level), blocks=24 // (1 + level)) for level in (0, 1)]
    writers._write_ndpi(path, images, mpp=MPP)


def _scn(path: Path) -> None:
    _of_tests("scanner_files.py").write_scn(path, [[pixels(), pixels(1)]], mpp=MPP)


def _bif(path: Path) -> None:
    _of_tests("scanner_files.py").write_bif(path, pixels(), mpp=MPP, side=TILE)


def _dicom(path: Path, codec: str) -> None:
    writers = _of_tests("conftest.py")
    tiles = writers._tiles_of(pixels(), TILE)
    encoders: dict[str, tuple[Callable[[Pixels], bytes], str, str]] = {
        "jpeg": (_jpeg, "1.2.840.10008.1.2.4.50", "YBR_FULL_422"),
        "jpeg2k": (
            partial(imagecodecs.jpeg2k_encode, codecformat="j2k", mct=True),
            "1.2.840.10008.1.2.4.90",
            "YBR_RCT",
        ),
        "jpegls": (imagecodecs.jpegls_encode, "1.2.840.10008.1.2.4.80", "RGB"),
        "native": (lambda tile: tile.tobytes(), "1.2.840.10008.1.2.1", "RGB"),
    }
    encode, syntax, photometric = encoders[codec]
    frames = [encode(np.ascontiguousarray(tile)) for tile in tiles]
    options: dict[str, Any] = {"side": TILE, "mpp": MPP, "syntax": syntax, "photometric": photometric}
    # random identifiers of other lengths would move what a seed hits
    with mock.patch("pydicom.uid.generate_uid", return_value="1.2.3.4.5.6"):
        writers._write_dicom(path, frames, SIZE, native=codec == "native", **options)


def _jpeg(tile: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, "jpeg", quality=85)
    return stream.getvalue()


def _picture(path: Path, **options: Any) -> None:
    Image.fromarray(pixels()).save(path, dpi=(25400 / MPP, 25400 / MPP), **options)


def _jp2(path: Path) -> None:
    path.write_bytes(imagecodecs.jpeg2k_encode(pixels(), level=0, codecformat="jp2"))


def _ome_zarr(path: Path) -> None:
    import zarr

    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    group = zarr.open_group(path, mode="w", zarr_format=2)
    datasets = []
    for level in (0, 1):
        image = np.moveaxis(pixels(level), 2, 0)
        group.create_array(str(level), data=image, chunks=(3, TILE, TILE))
        scale = [1.0, MPP * (1 + level), MPP * (1 + level)]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    group.attrs["multiscales"] = [{"version": "0.4", "name": "a", "axes": axes, "datasets": datasets}]
    group.attrs["omero"] = {"version": "0.4", "channels": [{"label": name} for name in ("Red", "Green", "Blue")]}


def _store(path: Path, compression: Any) -> None:
    from wsikit.tiling.plan import ImageParameters
    from wsikit.tiling.tile import tile

    source = path.with_suffix(".tiff")
    _tiff(source, compression)
    tile(source, path, min_tissue=0, image=ImageParameters(codec="zstd")).close()
    source.unlink()


MADE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "SVS, JPEG": ("a.svs", partial(_svs, compression="jpeg")),
    "SVS, JPEG 2000": ("a.svs", partial(_svs, compression="aperio_jp2000_rgb")),
    "SCN by OpenSlide, JPEG": ("a.scn", _scn),
    "BIF by OpenSlide, JPEG": ("a.bif", _bif),
    "TIFF, JPEG": ("a.tiff", partial(_tiff, compression="jpeg")),
    "TIFF, JPEG 2000": ("a.tiff", partial(_tiff, compression=34712)),
    "TIFF, deflate": ("a.tiff", partial(_tiff, compression="deflate", predictor=True)),
    "TIFF, LZW": ("a.tiff", partial(_tiff, compression="lzw")),
    "TIFF, PackBits": ("a.tiff", partial(_tiff, compression="packbits")),
    "TIFF, Zstandard": ("a.tiff", partial(_tiff, compression="zstd")),
    "TIFF, WebP": ("a.tiff", partial(_tiff, compression=50001)),
    "TIFF, JPEG XL": ("a.tiff", partial(_tiff, compression=50002)),
    "TIFF, uncompressed": ("a.tiff", partial(_tiff, compression=None)),
    "TIFF in strips, deflate": ("a.tiff", _strips),
    "OME-TIFF, JPEG": ("a.ome.tiff", partial(_ome_tiff, compression="jpeg")),
    "OME-TIFF, deflate, BigTIFF": ("a.ome.tiff", partial(_ome_tiff, compression="deflate")),
    "OME-TIFF, fluorescence, LZW": ("a.ome.tiff", partial(_ome_tiff, compression="lzw", channels=True)),
    "NDPI, JPEG": ("a.ndpi", _ndpi),
    "DICOM, JPEG": ("a.dcm", partial(_dicom, codec="jpeg")),
    "DICOM, JPEG 2000": ("a.dcm", partial(_dicom, codec="jpeg2k")),
    "DICOM, JPEG-LS": ("a.dcm", partial(_dicom, codec="jpegls")),
    "DICOM, uncompressed": ("a.dcm", partial(_dicom, codec="native")),
    "OME-Zarr, Blosc": ("a.ome.zarr", _ome_zarr),
    "store, JPEG": ("a.zarr", partial(_store, compression="jpeg")),
    "store, JPEG 2000": ("a.zarr", partial(_store, compression=34712)),
    "store, Zstandard": ("a.zarr", partial(_store, compression="deflate")),
    "PNG": ("a.png", _picture),
    "JPEG": ("a.jpg", partial(_picture, quality=90)),
    "WebP": ("a.webp", partial(_picture, quality=90)),
    "JPEG 2000": ("a.jp2", _jp2),
}
"""Name of the file and its writer, by container and codec."""


def make(name: str, folder: Path) -> Path:
    """Write the slide `name` of `MADE` into a folder of its own; its path."""
    file, write = MADE[name]
    place = folder / "".join(letter if letter.isalnum() else "_" for letter in name)
    place.mkdir(parents=True)
    write(place / file)
    return place / file
