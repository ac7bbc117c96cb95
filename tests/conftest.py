"""Fixtures that several test folders share: a small slide, and real ones from WSIKIT_DATA or ../shared/data."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

if TYPE_CHECKING:
    from wsikit.slides.store import SlideStore

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


def _spoil_weights(path: Path, fault: str) -> str:
    """Spoil one tensor of a safetensors file: the last of numbers by name; "nan", "inf", "unknown", "missing",
    "shape". Its name."""
    from safetensors.numpy import load_file, save_file

    arrays = load_file(path)
    name = next(name for name in sorted(arrays, reverse=True) if arrays[name].dtype.kind == "f" and arrays[name].size)
    if fault in ("nan", "inf"):
        arrays[name] = arrays[name].copy()
        arrays[name].flat[-1] = float(fault)
    elif fault == "missing":
        del arrays[name]
    elif fault == "shape":
        arrays[name] = np.concatenate([arrays[name].ravel(), np.zeros(3, arrays[name].dtype)])
    else:
        name = "zz_unknown"
        arrays[name] = np.zeros(3, np.float32)
    save_file(arrays, path, metadata={"format": "pt"})
    return name


WEIGHT_FAULTS = ("nan", "inf", "unknown", "missing", "shape")


@pytest.fixture(params=WEIGHT_FAULTS)
def fault_of_weights(request: pytest.FixtureRequest) -> str:
    """What is wrong with a file of weights."""
    fault: str = request.param
    return fault


@pytest.fixture(scope="session")
def refuses_spoilt_weights() -> Callable[..., None]:
    """Spoils a file of weights and loads it: refused in one line that names the place and the tensor."""

    def check(path: Path, fault: str, load: Callable[[], object], *, place: str | None = None) -> None:
        from wsikit.errors import ModelError

        load()  # as it was, it is loaded
        name = _spoil_weights(path, fault)
        with pytest.raises(ModelError) as caught:
            load()
        text = str(caught.value)
        assert (place or str(path)) in text
        assert "\n" not in text
        assert name.rpartition(".")[2] in text
        assert ("NaN or infinite" in text) == (fault in ("nan", "inf"))

    return check


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


class ColourEncoder:
    """Images and texts in one space, by rule: an axis per colour, and the words that name what has this colour."""

    COLOURS = {"pink": (226, 150, 190), "blue": (70, 60, 150), "white": (243, 243, 243), "red": (170, 20, 30)}
    WORDS = {
        "pink": ("neuropil", "fibrill", "pink"),
        "blue": ("undifferentiated", "round blue", "neuroblast", "scant cytoplasm", "blue"),
        "white": ("glass", "background", "blank"),
        "red": ("blood", "haemorrhag", "hemorrhage", "erythrocytes"),
    }
    logit_scale = 10.0

    def __init__(self, name: str = "colours", notice: str = "") -> None:
        from wsikit.encoders.protocol import EncoderInfo

        width = len(self.COLOURS) + 1
        self.info = EncoderInfo(name, width, 32, 0.5, f"fingerprint of {name}", notice=notice, shared_width=width)
        self.n_images = self.loads = 0
        self.texts: list[str] = []

    def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return self.encode_shared(images)

    def encode_shared(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.n_images += len(images)
        mean = images.reshape(len(images), -1, 3).mean(axis=1)
        apart = ((mean[:, None] - np.array(list(self.COLOURS.values()))) ** 2).sum(axis=2)
        found = np.hstack([np.exp(-apart / 2 / 40**2), np.full((len(images), 1), 0.02)])
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    def encode_texts(self, texts: list[str]) -> npt.NDArray[np.float32]:
        assert all(text.strip() for text in texts)
        self.texts += texts
        found = np.zeros((len(texts), self.info.width), np.float32)
        for row, text in enumerate(texts):
            for axis, words in enumerate(self.WORDS.values()):
                found[row, axis] = any(word in text.lower() for word in words)
            found[row, -1] = not found[row].any()
        return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture
def colour_encoder() -> ColourEncoder:
    """An encoder of images and texts whose answers are known."""
    return ColourEncoder()


def write_colours(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """A slide of 0.5 µm/px, deflate, one level."""
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        tile=(128, 128),
        compression="deflate",
        resolution=(1e4 / MPP, 1e4 / MPP),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return path


SQUARE = (288, 352, 384)
"""x, y and side of the planted square, level-0 px."""


@pytest.fixture(scope="session")
def square_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1024 px of pink with a blue square planted in it."""
    rng = np.random.default_rng(5)
    pixels = np.full((1024, 1024, 3), ColourEncoder.COLOURS["pink"], np.uint8)
    x, y, side = SQUARE
    pixels[y : y + side, x : x + side] = ColourEncoder.COLOURS["blue"]
    pixels = np.clip(pixels + rng.integers(-9, 10, size=pixels.shape), 0, 255).astype(np.uint8)
    return write_colours(tmp_path_factory.mktemp("square") / "square.tiff", pixels)


@pytest.fixture
def square_store(square_slide: Path, tmp_path: Path) -> SlideStore:
    """The store of `square_slide`, patches of 32 px."""
    from wsikit.tiling.tile import tile

    return tile(square_slide, tmp_path / "square.zarr", patch_px=32, min_tissue=0)


@pytest.fixture
def named_encoder(monkeypatch: pytest.MonkeyPatch, colour_encoder: ColourEncoder) -> ColourEncoder:
    """`colour_encoder` under the name "colours", as if it was installed; `loads` counts how often it was loaded."""
    from wsikit.encoders import registry
    from wsikit.encoders.protocol import EncoderInfo
    from wsikit.errors import ModelError

    colour_encoder.loads = 0

    def describe(name: str, **options: object) -> EncoderInfo:
        if name != "colours":
            raise ModelError(f"encoder {name!r} not found")
        return colour_encoder.info

    def load(name: str, **options: object) -> ColourEncoder:
        colour_encoder.loads += 1
        return colour_encoder

    monkeypatch.setattr(registry, "describe_encoder", describe)
    monkeypatch.setattr(registry, "load_encoder", load)
    return colour_encoder
