"""Composite of fluorescence channels for viewing, and the defaults of display: windows, colours, which are shown.

Pure functions of arrays. A composite pixel depends only on the samples of that pixel, so tiles of a slide agree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.slides.types import Channel, Pixels

Samples = npt.NDArray[np.generic]
"""uint8, uint16 or float32: (channels, height, width), or (height, width) for one channel."""

RGB = tuple[int, int, int]

MOST_SHOWN = 7
"""Channels in a composite: more colours cannot be distinguished, and their sum is white."""

MEASURED_LOW, MEASURED_HIGH = 1.0, 99.9
"""Percentiles of the samples that bound a measured window."""
LEAST_WINDOW_SDS = 20.0
"""Least width of a measured window, in standard deviations of the noise: an empty channel stays dark."""

_BRIGHT = 0.3
"""Median of the brightest channel of a bright field, as a fraction of the range."""

_LEAST_WIDTH = 1e-30
"""Divisor of a window without width."""

_NUCLEAR = re.compile(r"dapi|hoechst|draq ?5|\bdna\d*\b|nuclei|nuclear", re.IGNORECASE)
_BACKGROUND = re.compile(r"auto[ -_]?fluorescence|\baf\b|^blank|^empty", re.IGNORECASE)
NUCLEAR_COLOR: RGB = (0, 0, 255)
COLORS: tuple[RGB, ...] = (
    (0, 255, 0),
    (255, 0, 0),
    (255, 255, 0),
    (255, 0, 255),
    (0, 255, 255),
    (255, 128, 0),
    (255, 255, 255),
)
"""Colours of channels whose file states none, in their order; a nuclear stain is blue."""
_COLOR_WORDS: dict[str, RGB] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
}
"""Colours of channels that are named after one."""


def composite(planes: Sequence[Samples] | Samples, channels: Sequence[Channel]) -> Pixels:
    """Additive blending: uint8 (height, width, 3) from one plane (height, width) per channel.

    Each channel gives `color · clip((sample - low) / (high - low), 0, 1)`; the sum is clipped to 255 and rounded.
    Channels that are not `shown` are left out; a sample that is not a number counts as `low`.

    >>> red = Channel("CD3", (255, 0, 0), "uint16", (100.0, 300.0), "stated")
    >>> blue = Channel("DAPI", (0, 0, 255), "uint16", (0.0, 1000.0), "stated")
    >>> composite(np.array([[[200]], [[1500]]], np.uint16), [red, blue]).tolist()
    [[[128, 0, 255]]]
    """
    height, width = planes[0].shape
    total = np.zeros((3, height, width), np.float32)
    for plane, channel in zip(planes, channels, strict=True):
        if not channel.shown:
            continue
        low, high = channel.window
        share = np.subtract(plane, low, dtype=np.float32) / np.float32(max(high - low, _LEAST_WIDTH))
        np.nan_to_num(share, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
        np.clip(share, 0, 1, out=share)
        for part, strength in enumerate(channel.color):
            if strength:
                total[part] += np.float32(strength) * share
    np.minimum(total, 255, out=total)
    return np.ascontiguousarray((total + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0))


def measured_window(samples: Sequence[Samples]) -> tuple[float, float]:
    """Display window of a channel from planes (height, width) of it: the 1st and the 99.9th percentile.

    It is widened to 20 standard deviations of the noise between neighbouring pixels, so that a channel without signal
    is dark, and to one grey level at least.

    >>> plane = np.full((100, 100), 50, np.uint16)
    >>> plane[:50] = 1000
    >>> measured_window([plane])
    (50.0, 1000.0)
    """
    values = np.concatenate([plane.ravel() for plane in samples]).astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, (MEASURED_LOW, MEASURED_HIGH), method="nearest")
    steps = [np.abs(np.diff(plane.astype(np.float64), axis=1)).ravel() for plane in samples if plane.shape[1] > 1]
    steps = [step[np.isfinite(step)] for step in steps]
    noise = float(np.median(np.concatenate(steps))) * 1.4826 / np.sqrt(2) if steps and sum(map(len, steps)) else 0.0
    least = 1.0 if samples[0].dtype.kind in "ui" else float(np.spacing(np.float32(abs(low) or 1.0)))
    high = max(high, low + LEAST_WINDOW_SDS * noise, low + least)
    return float(f"{low:.6g}"), float(f"{high:.6g}")


def is_bright_field(channels: Sequence[Sequence[Samples]]) -> bool:
    """Whether planes of unsigned samples, per channel, show stain on a bright field: fluorescence is dark outside of
    its signal.

    >>> glass = np.full((9, 9), 240, np.uint8)
    >>> is_bright_field([[glass], [glass], [glass]]), is_bright_field([[glass // 12], [glass // 4]])
    (True, False)
    """
    brightest = max((int(plane.max()) for planes in channels for plane in planes if plane.size), default=0)
    bits = 8 if channels and channels[0] and channels[0][0].dtype == np.uint8 else 10
    while (1 << bits) - 1 < brightest:
        bits += 2  # cameras have 10, 12, 14 or 16 bits
    medians = [float(np.median(np.concatenate([plane.ravel() for plane in planes]))) for planes in channels if planes]
    return max(medians, default=0.0) >= _BRIGHT * ((1 << bits) - 1)


def default_colors(names: Sequence[str], stated: Sequence[RGB | None] | None = None) -> list[RGB]:
    """One colour per channel: as stated or named; blue for a nuclear stain; the others differ as far as possible.

    >>> default_colors(["DAPI", "CD3", "CD8"])
    [(0, 0, 255), (0, 255, 0), (255, 0, 0)]
    """
    given: list[RGB | None] = [
        color or _COLOR_WORDS.get(name.strip().lower()) for name, color in zip(names, stated or [None] * len(names))
    ]
    free = [color for color in COLORS if color not in given] or list(COLORS)
    found: list[RGB] = []
    taken = 0
    for name, color in zip(names, given, strict=True):
        if color is None and is_nuclear(name) and NUCLEAR_COLOR not in [*given, *found]:
            color = NUCLEAR_COLOR
        elif color is None:
            color = free[taken % len(free)]
            taken += 1
        found.append(color)
    return found


def is_nuclear(name: str) -> bool:
    """Whether a channel's name is that of a stain of all nuclei."""
    return bool(_NUCLEAR.search(name))


def default_shown(names: Sequence[str]) -> list[bool]:
    """Which channels a composite shows: the first `MOST_SHOWN` that are not autofluorescence or empty.

    Repeated nuclear stains, one per staining cycle, are shown once.

    >>> default_shown(["DAPI", "AF", "CD3", "DAPI cycle 2"])
    [True, False, True, False]
    """
    shown: list[bool] = []
    has_nuclei = False
    for name in names:
        nuclear = is_nuclear(name)
        fits = sum(shown) < MOST_SHOWN and not _BACKGROUND.search(name) and not (nuclear and has_nuclei)
        has_nuclei = has_nuclei or nuclear
        shown.append(fits)
    return shown if any(shown) else [number < MOST_SHOWN for number in range(len(names))]


def channel_words(channels: Sequence[Channel], *, most: int = 4) -> str:
    """Number and names of channels, for messages.

    >>> from dataclasses import replace
    >>> one = Channel("DAPI", (0, 0, 255), "uint16", (0.0, 1.0), "stated")
    >>> channel_words([one, replace(one, name="CD3")])
    '2 fluorescence channels (DAPI, CD3)'
    """
    names = [channel.name for channel in channels]
    listed = ", ".join(names[:most]) + (", …" if len(names) > most else "")
    return f"{len(names)} fluorescence channel{'s' if len(names) > 1 else ''} ({listed})"


def channel_numbers(path: str, known: Sequence[Channel], wanted: Sequence[int | str] | None) -> list[int]:
    """Numbers of the channels that are named or numbered in `wanted`; RequestError for what is not there."""
    if not known:
        raise RequestError(f"{path}: has no channels; it is an RGB or grey slide. Read it with read_region.")
    if wanted is None:
        return list(range(len(known)))
    if isinstance(wanted, str):
        wanted = [wanted]
    names = [channel.name for channel in known]
    found = []
    for item in wanted:
        number = names.index(item) if isinstance(item, str) and item in names else item
        if isinstance(number, str) or not 0 <= int(number) < len(names):
            raise RequestError(f"{path}: there is no channel {item!r}; it has " + ", ".join(names))
        found.append(int(number))
    return found
