"""The samples of one level of a fluorescence slide: from the source, or averaged from the store's previous level.

Frame: px of the store's level.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from wsikit.slides.base import BaseSlide, Slide
from wsikit.slides.composite import Samples
from wsikit.slides.store_levels import StoreLevels
from wsikit.tiling.plan import BUILT_DOWNSAMPLE, LevelPlan

Box = tuple[int, int, int, int]


@contextlib.contextmanager
def channel_samples(
    slide: Slide, folder: Path, level: LevelPlan, above: LevelPlan | None
) -> Iterator[Callable[[Box], Samples]]:
    """The function that reads all channels of a box (x, y, width, height): (channels, height, width).

    `above` is the level of the store at `folder` that a built level is averaged from; None for a level of the source.
    """
    numbers = range(len(slide.info.channels))
    if above is None:
        assert isinstance(slide, BaseSlide)
        source = level.source_level
        assert source is not None
        yield lambda box: slide.read_channel_box(source, box, numbers)
        return
    finer = above
    with contextlib.closing(StoreLevels(folder, finer.level + 1, slide.info.channels)) as levels:
        yield lambda box: _average(levels, finer, box)


def _average(levels: StoreLevels, above: LevelPlan, box: Box) -> Samples:
    """Mean of k × k samples of the previous level; at its right and lower edge, the last ones are repeated."""
    x, y, width, height = box
    factor = BUILT_DOWNSAMPLE
    right, bottom = min(factor * (x + width), above.format.width), min(factor * (y + height), above.format.height)
    finer = (factor * x, factor * y, right - factor * x, bottom - factor * y)
    averaged = []
    for channel in range(above.format.channels):  # one at a time, to bound memory
        plane = levels.read_channel_box(above.level, finer, [channel])[0]
        missing = (factor * height - plane.shape[0], factor * width - plane.shape[1])
        plane = np.pad(plane, ((0, missing[0]), (0, missing[1])), mode="edge")
        mean = plane.reshape(height, factor, width, factor).mean(axis=(1, 3), dtype=np.float64)
        averaged.append((np.rint(mean) if plane.dtype.kind == "u" else mean).astype(plane.dtype))
    return np.stack(averaged)
