"""Fixtures that several test folders share: a small slide, and real ones from WSIKIT_DATA or ../shared/data."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

MPP = 0.5
SIZE = (1500, 1100)


def _tissue_pixels() -> npt.NDArray[np.uint8]:
    """uint8 (1100, 1500, 3): a disc of radius 420 px with dark dots, on glass."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    pixels = np.full((*x.shape, 3), 243, np.uint8)
    disc = (x - 700) ** 2 + (y - 560) ** 2 < 420**2
    pixels[disc] = (214, 150, 190)
    for cx, cy in rng.integers(300, 1000, size=(400, 2)):
        dot = (x - cx) ** 2 + (y - cy) ** 2 < 6**2
        pixels[dot & disc] = (90, 60, 130)
    noise = rng.integers(-2, 3, size=pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def _write_slide(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """A generic tiled TIFF, deflate (so that truth is exact), 128-px tiles, two levels."""
    options = {"tile": (128, 128), "compression": "deflate", "photometric": "rgb"}
    resolution = (1e4 / MPP, 1e4 / MPP)
    half = pixels[: SIZE[1] // 2 * 2, : SIZE[0] // 2 * 2].reshape(SIZE[1] // 2, 2, SIZE[0] // 2, 2, 3).mean(axis=(1, 3))
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, resolution=resolution, resolutionunit="CENTIMETER", metadata=None, **options)
        writer.write(
            half.astype(np.uint8),
            subfiletype=1,
            resolution=(resolution[0] / 2, resolution[1] / 2),
            resolutionunit="CENTIMETER",
            metadata=None,
            **options,
        )
    return path


def _damage_tile(path: Path, col: int, row: int, *, page: int = 0) -> None:
    """Overwrite the middle of one tile's bytes."""
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[page]
        cols = -(-found.imagewidth // found.tilewidth)
        index = row * cols + col
        offset, count = found.dataoffsets[index], found.databytecounts[index]
    with open(path, "r+b") as file:
        file.seek(offset + 2)
        file.write(b"\xa5" * (count - 2))


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """A test that calls the command line in its own process leaves the logger as it was."""
    logger = logging.getLogger("wsikit")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(scope="session")
def pixels() -> npt.NDArray[np.uint8]:
    """uint8 (1100, 1500, 3): a pink disc with dark dots on glass, radius 420 px around (700, 560)."""
    return _tissue_pixels()


@pytest.fixture
def slide_path(tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """`pixels` as a tiled pyramid of 0.5 µm/px."""
    return _write_slide(tmp_path / "disc.tiff", pixels)


@pytest.fixture(scope="session")
def write_slide() -> Callable[[Path, npt.NDArray[np.uint8]], Path]:
    """Writes (1100, 1500, 3) pixels as such a slide."""
    return _write_slide


@pytest.fixture(scope="session")
def damage_tile() -> Callable[..., None]:
    """Damages one tile: damage_tile(path, col, row, page=0)."""
    return _damage_tile


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real slides, patches and tables; the test is skipped where it is absent."""
    folder = Path(os.environ.get("WSIKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set WSIKIT_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def slides_dir(data_dir: Path) -> Path:
    """Folder of real slides."""
    return data_dir / "slides"
