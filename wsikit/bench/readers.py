"""Other libraries' readers, used patch by patch. Positions are level-0 px, sizes are px of the level read.

Each class opens a slide or raises; its library is imported only then and need not be installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


class PatchReader(Protocol):
    """An open slide."""

    downsamples: Sequence[float]
    """Level-0 px per px of each level."""

    def read(self, x: int, y: int, level: int, width: int, height: int) -> Pixels:
        """uint8 (height, width, 3) RGB of `level`, from level-0 px (x, y)."""

    def close(self) -> None: ...


def note_of(reader: PatchReader) -> str | None:
    """What the numbers of an open reader are about, where its name is not enough."""
    found: str | None = getattr(reader, "note", None)
    return found


class OpenSlideReader:
    def __init__(self, path: str) -> None:
        import openslide

        self._slide = openslide.OpenSlide(path)
        self.downsamples: Sequence[float] = self._slide.level_downsamples

    def read(self, x: int, y: int, level: int, width: int, height: int) -> Pixels:
        return np.asarray(self._slide.read_region((x, y), level, (width, height)).convert("RGB"))

    def close(self) -> None:
        self._slide.close()


class TiffSlideReader:
    def __init__(self, path: str) -> None:
        import tiffslide

        self._slide = tiffslide.TiffSlide(path)
        self.downsamples: Sequence[float] = self._slide.level_downsamples

    def read(self, x: int, y: int, level: int, width: int, height: int) -> Pixels:
        return np.asarray(self._slide.read_region((x, y), level, (width, height), as_array=True))

    def close(self) -> None:
        self._slide.close()


class PyvipsReader:
    """libvips by a region of the opened image: faster than cropping an image of each patch."""

    def __init__(self, path: str) -> None:
        import pyvips

        pyvips.cache_set_max(0)  # otherwise it caches the opened image and its tiles between passes
        image = pyvips.Image.new_from_file(path)
        if image.bands < 3 or image.format != "uchar":
            raise ValueError(f"{image.bands} bands of {image.format} ; expected 8-bit RGB")
        loader = str(image.get("vips-loader"))
        self.note = (
            None if loader.startswith("openslide") else f"libvips' own loader {loader}, not OpenSlide in libvips"
        )
        self._region = pyvips.Region.new(image)
        self._bands = image.bands
        # other pages of the file may be label or thumbnail; only the first is certain
        self.downsamples: Sequence[float] = (1.0,)

    def read(self, x: int, y: int, level: int, width: int, height: int) -> Pixels:
        found = np.frombuffer(self._region.fetch(x, y, width, height), dtype=np.uint8)
        return found.reshape(height, width, self._bands)[..., :3]

    def close(self) -> None:
        del self._region


class FastSlideReader:
    """fastslide with its own cache, which is off by default."""

    def __init__(self, path: str) -> None:
        import fastslide

        self._slide = fastslide.FastSlide.from_file_path(path)
        self._slide.use_global_cache()
        self._slide.clear_cache()  # it persists after the slide is closed
        self.downsamples: Sequence[float] = self._slide.level_downsamples

    def read(self, x: int, y: int, level: int, width: int, height: int) -> Pixels:
        shrink = self.downsamples[level]
        place = round(x / shrink), round(y / shrink)  # fastslide expects px of the level
        return np.asarray(self._slide.read_region(place, level, (width, height)).numpy())[..., :3]

    def close(self) -> None:
        self._slide.close()


class CucimReader:
    """cuCIM on the CPU."""

    def __init__(self, path: str) -> None:
        from cucim import CuImage

        self._slide = CuImage(path)
        self.downsamples: Sequence[float] = self._slide.resolutions["level_downsamples"]

    def read(self, x: int, y: int, level: int, width: int, height: int) -> Pixels:
        return np.asarray(self._slide.read_region((x, y), (width, height), level))[..., :3]

    def close(self) -> None:
        self._slide.close()


OTHERS: dict[str, Callable[[str], PatchReader]] = {
    "openslide": OpenSlideReader,
    "tiffslide": TiffSlideReader,
    "pyvips": PyvipsReader,
    "fastslide": FastSlideReader,
    "cucim": CucimReader,
}
"""By name, as in the results."""
