"""A tiny Qwen2.5-VL with weights at random, on disk, and a table of small pictures that differ in one thing to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from wsikit.captions.vlm.tiny import TinySize, build_tiny, save_tiny
from wsikit.training.datasets import ImageTable

PX = 56
WORDS = ("Abundant blood. No neuropil.", "No blood. Abundant neuropil.", "No blood. Scant neuropil.")


class _Arrays:
    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        self.images = images

    def read(self, rows: Sequence[int]) -> list[npt.NDArray[np.uint8]]:
        return [self.images[row] for row in rows]


def _table(n: int, *, patients: int = 6, captions: Sequence[str] = WORDS) -> ImageTable:
    """Row i: a picture of one colour out of three, with noise; captioned by that colour; patient i % patients."""
    rng = np.random.default_rng(0)
    kind = rng.integers(len(captions), size=n)
    colours = np.array([[200, 40, 60], [230, 180, 210], [90, 60, 150]], np.int64)
    images = np.clip(colours[kind][:, None, None] + rng.integers(-25, 26, (n, PX, PX, 3)), 0, 255).astype(np.uint8)
    return ImageTable(
        files=tuple(f"image_{row}.png" for row in range(n)),
        captions=tuple(captions[k] for k in kind),
        classes=("PD",) * n,
        patients=tuple(f"patient {row % patients}" for row in range(n)),
        slides=(None,) * n,
        coords=None,
        source="table.csv",
        pixels=_Arrays(images),
        rows=tuple(range(n)),
    )


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model for images of 56 px. Its layers are made loud, so that what it babbles follows the image."""
    size = TinySize(image_px=PX, vocabulary=320, hidden=32, text_mlp=64, vision_mlp=64)
    model, processor = build_tiny(WORDS * 5, size, seed=3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embed_tokens" not in name:
                weight.mul_(8)
    return save_tiny(model, processor, tmp_path_factory.mktemp("tiny") / "tiny-qwen")


@pytest.fixture(scope="session")
def make_table() -> Callable[..., ImageTable]:
    """make_table(n, patients=6, captions=WORDS)"""
    return _table


@pytest.fixture(scope="session")
def pictures() -> npt.NDArray[np.uint8]:
    """uint8 (9, 56, 56, 3), all different."""
    return np.random.default_rng(1).integers(0, 256, (9, PX, PX, 3), dtype=np.uint8)
