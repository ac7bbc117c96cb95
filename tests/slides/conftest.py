"""Small slides made for the tests of readers. Every level has content of its own, so that a wrong level shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.uint8]

LEVEL_SIZES = ((640, 480), (320, 240), (160, 120))
MPP = 0.25


def _texture(width: int, height: int, seed: int) -> Pixels:
    """Smooth colour noise, uint8 (height, width, 3): codecs keep it, and no two places look alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5))).astype(float)
    return np.clip((smooth - 128) * 4 + 128, 0, 255).astype(np.uint8)


def _area_average(
    pixels: Pixels, x0: float, y0: float, x1: float, y1: float, out: tuple[int, int]
) -> npt.NDArray[np.float64]:
    def weights(low: float, high: float, n_out: int, n_in: int) -> npt.NDArray[np.float64]:
        edges = np.linspace(low, high, n_out + 1)
        pixel = np.arange(n_in)
        covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        return np.clip(covered, 0, None) * n_out / (high - low)

    rows = weights(y0, y1, out[1], pixels.shape[0])
    columns = weights(x0, x1, out[0], pixels.shape[1])
    return np.einsum("oy,yxc,px->opc", rows, pixels.astype(np.float64), columns, optimize=True)


@pytest.fixture(scope="session")
def area_average() -> Callable[..., npt.NDArray[np.float64]]:
    """area_average(pixels, x0, y0, x1, y1, out): exact means, (out h, out w, 3); a pixel weighs by the area covered."""
    return _area_average


@pytest.fixture(scope="session")
def texture() -> Callable[[int, int, int], Pixels]:
    """texture(width, height, seed): uint8 (height, width, 3)."""
    return _texture


@pytest.fixture(scope="session")
def levels() -> list[Pixels]:
    """Pixels of each level of `pyramid`, finest first."""
    return [_texture(width, height, seed) for seed, (width, height) in enumerate(LEVEL_SIZES)]


@pytest.fixture(scope="session")
def write_pyramid() -> Callable[..., Path]:
    """write_pyramid(path, levels, mpp=…, **tifffile options): a tiled TIFF, one directory per level."""

    def write(path: Path, levels: list[Pixels], *, mpp: float | None = MPP, **options: object) -> Path:
        options = {"tile": (64, 64), "compression": "deflate", "photometric": "rgb", "metadata": None, **options}
        unit = {"resolutionunit": "CENTIMETER"} if mpp else {}
        with tifffile.TiffWriter(path) as writer:
            for number, pixels in enumerate(levels):
                scale = pixels.shape[1] / levels[0].shape[1]
                resolution = {"resolution": (1e4 / mpp * scale,) * 2} if mpp else {}
                writer.write(pixels, subfiletype=int(number > 0), **resolution, **unit, **options)
        return path

    return write


@pytest.fixture(scope="session")
def pyramid(tmp_path_factory: pytest.TempPathFactory, levels: list[Pixels], write_pyramid: Callable[..., Path]) -> Path:
    """A lossless tiled pyramid of 640 × 480 px at 0.25 µm/px with three levels."""
    return write_pyramid(tmp_path_factory.mktemp("slides") / "pyramid.tiff", levels)


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory, levels: list[Pixels]) -> Path:
    """The finest level as a PNG that states 0.25 µm/px."""
    path = tmp_path_factory.mktemp("slides") / "picture.png"
    Image.fromarray(levels[0]).save(path, dpi=(25400 / MPP, 25400 / MPP))
    return path


@pytest.fixture(scope="session")
def overwrite_tile() -> Callable[..., None]:
    """overwrite_tile(path, tile number, change, page=0): replace one tile's bytes by change(bytes) of equal length."""

    def overwrite(path: Path, number: int, change: Callable[[bytes], bytes], page: int = 0) -> None:
        with tifffile.TiffFile(path) as tiff:
            offset = tiff.pages[page].dataoffsets[number]
            count = tiff.pages[page].databytecounts[number]
        with open(path, "r+b") as file:
            file.seek(offset)
            changed = change(file.read(count))
            assert len(changed) == count
            file.seek(offset)
            file.write(changed)

    return overwrite


@pytest.fixture(scope="session")
def patch_tag() -> Callable[..., None]:
    """patch_tag(path, code, value, page=0): overwrite the value of one TIFF tag in place."""

    def patch(path: Path, code: int, value: object, page: int = 0) -> None:
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            tiff.pages[page].tags[code].overwrite(value)

    return patch
