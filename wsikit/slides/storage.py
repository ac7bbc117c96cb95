"""How the tiles of each level are kept when a slide is stored, and why they are encoded again where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LevelStorage:
    """One level, as `wsikit tile` stores it by default, or as a store holds it."""

    level: int
    kept: Literal["bytes", "coefficients", "pixels"] | None
    """bytes: the file's tiles, byte for byte; coefficients: the scanner's, under new headers; pixels: encoded again
    without loss; None: encoded again with loss."""
    reason: str | None = None
    """Why the tiles are encoded again, as the end of a sentence; None if they are kept."""


def storage_of(slide: object) -> tuple[LevelStorage, ...]:
    """`slide.storage()`; nothing for a slide that is not a `BaseSlide`."""
    found: tuple[LevelStorage, ...] = getattr(slide, "storage", tuple)()
    return found


_WORDS = {
    "bytes": "tiles kept byte for byte (pass-through, lossless)",
    "coefficients": "coefficients of the scanner kept under new headers (pass-through, lossless)",
    "pixels": "encoded again without loss",
    None: "encoded again, with loss",
}


def storage_words(levels: Sequence[LevelStorage]) -> str:
    """The levels as text, one line for neighbouring levels of which the same holds.

    >>> print(storage_words([LevelStorage(0, "bytes"), LevelStorage(1, "bytes"), LevelStorage(2, None, "it is PNG")]))
    levels 0–1: tiles kept byte for byte (pass-through, lossless)
    level 2: encoded again, with loss, because it is PNG
    """
    lines = []
    first = 0
    for place, level in enumerate(levels):
        follows = levels[place + 1] if place + 1 < len(levels) else None
        if follows is not None and (follows.kept, follows.reason) == (level.kept, level.reason):
            continue
        start = levels[first].level
        span = f"level {start}" if first == place else f"levels {start}–{level.level}"
        because = f", because {level.reason}" if level.reason else ""
        lines.append(f"{span}: {_WORDS[level.kept]}{because}")
        first = place + 1
    return "\n".join(lines)
