"""A run that is killed, at any moment, by the operating system: the next one finishes it, to the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from wsikit.executor import Executor
from wsikit.slides.store import SlideStore
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile
from wsikit.tiling.verify import verify

KILLS = 60

IMAGES = {
    "passed": ImageParameters(tile_px=64, chunks_per_shard=2),
    "encoded": ImageParameters(tile_px=64, chunks_per_shard=2, codec="zstd", regions="all"),
}


def make(slide: Path, store: Path, image: ImageParameters) -> SlideStore:
    return tile(
        slide,
        store,
        slide_id="s",
        image=image,
        patch_px=128,
        executor=Executor(workers=2),
    )


@pytest.fixture
def slide(tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """Two levels of JPEG tiles."""
    path = tmp_path / "disc.tiff"
    options: dict[str, Any] = {
        "tile": (64, 64),
        "photometric": "rgb",
        "compression": "jpeg",
        "resolutionunit": "CENTIMETER",
        "metadata": None,
    }
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, resolution=(2e4, 2e4), **options)
        writer.write(np.ascontiguousarray(pixels[::2, ::2]), resolution=(1e4, 1e4), subfiletype=1, **options)
    return path


@pytest.mark.parametrize("kind", list(IMAGES))
def test_a_run_killed_repeatedly_ends_in_the_same_bytes(
    slide: Path, tmp_path: Path, kind: str, contents: Callable[[Path], dict[str, str]]
) -> None:
    image = IMAGES[kind]
    make(slide, tmp_path / "whole.zarr", image)
    script = Path(__file__).with_name("killed_runs.py")
    arguments = [str(slide), str(tmp_path / "killed.zarr"), json.dumps(asdict(image)), str(KILLS), "7"]
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["left_behind"] >= 5, "killed at different moments"
    assert said["finished"] == 1, "every run that came to its end did so with the bytes of one that was never killed"
    store = make(slide, tmp_path / "killed.zarr", image)
    assert contents(store.folder) == contents(tmp_path / "whole.zarr")
    assert verify(store, source=slide).problems == ()


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_ended_before_any_single_write_is_finished_by_the_next(slide: Path, tmp_path: Path, step: int) -> None:
    image = ImageParameters(tile_px=128, chunks_per_shard=8, codec="zstd", regions="all")
    script = Path(__file__).with_name("killed_operations.py")
    arguments = [str(slide), str(tmp_path), json.dumps(asdict(image)), "1", str(step)]
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["wrong"] == [], "numbers of the changes before which the run ended"
    assert said["tried"] * step > 100
