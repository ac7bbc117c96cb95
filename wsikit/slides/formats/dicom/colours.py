"""The colour space of a level, where file, stream and content may disagree. See `decide` for the rule.

Evidence of the content: YCbCr that came from RGB is inside the gamut of RGB, and its neutral px (glass, black) have
both chroma samples at 128. Neutral px of RGB have three equal samples, which as YCbCr are far outside the gamut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.slides.formats.dicom.streams import Claim

NAMES = {"rgb": "RGB", "ycc": "YCbCr"}
_OUTSIDE, _MARGIN = 0.05, 24
"""More than this share of px outside the gamut by more than so many grey levels is no YCbCr."""
_NEUTRAL = 0.02
"""Share of px that must be neutral to be evidence."""


@dataclass(frozen=True)
class Decision:
    """Colour space of the components, and what must be said of it."""

    claim: Claim | None
    """None: it cannot be decided."""
    words: str = ""
    """Why, if file and stream disagree; empty if they agree."""


def claim_of_file(photometric: str) -> Claim | None:
    """What PhotometricInterpretation states of three components."""
    if photometric == "RGB":
        return "rgb"
    return "ycc" if photometric in ("YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT") else None


def decide(photometric: str, stream: Claim | None, marker: str, content: Callable[[], Claim | None]) -> Decision:
    """The colour space that two of the three support: the stream's own marker, the file, and the content.

    YBR_ICT and YBR_RCT name the transform of JPEG 2000, which its decoder undoes: with that marker they agree with RGB;
    without it, they are as doubtful as any mark of the stream that is missing.

    Parameters
    ----------
    photometric
        PhotometricInterpretation of the file.
    stream, marker
        Colour space that the stream states, and how, in words.
    content
        The colour space that the samples show, or None.
    """
    of_file = claim_of_file(photometric)
    transform = photometric in ("YBR_ICT", "YBR_RCT")
    if transform and stream == "rgb":
        of_file = "rgb"
    shown = content()
    said = f"the file says {photometric or 'nothing'}, its frames have {marker}"
    if stream is not None and stream == of_file:
        return Decision(stream) if shown in (None, stream) else Decision(None, f"{said}, {_shows(shown)}")
    if stream is None:
        if transform or of_file is None:
            return Decision(shown, f"{said}, {_shows(shown)}")
        if shown in (None, of_file):
            return Decision(of_file)
        # gamut is proof against YCbCr; that RGB looks like YCbCr is no proof
        return Decision("rgb" if shown == "rgb" else None, f"{said}, {_shows(shown)}")
    if shown is None or shown == stream:
        return Decision(stream, f"{said}: read as {NAMES[stream]}")
    if shown == of_file:
        return Decision(shown, f"{said}, {_shows(shown)}")
    return Decision(None, f"{said}, {_shows(shown)}")


def shown_by(samples: npt.NDArray[np.uint8]) -> Claim | None:
    """The colour space that samples (n, 3) show, or None if they could be either."""
    if not len(samples):
        return None
    a, b, c = (samples[:, i].astype(np.float32) for i in range(3))
    red, green, blue = a + 1.402 * (c - 128), a - 0.344 * (b - 128) - 0.714 * (c - 128), a + 1.772 * (b - 128)
    lowest, highest = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    if ((lowest < -_MARGIN) | (highest > 255 + _MARGIN)).mean() > _OUTSIDE:
        return "rgb"
    ends = np.abs(a - 128) > 40  # mid-grey is neutral in both
    as_ycc = (ends & (np.abs(b - 128) <= 8) & (np.abs(c - 128) <= 8)).mean()
    as_rgb = (ends & (np.abs(a - b) <= 16) & (np.abs(a - c) <= 16)).mean()
    return "ycc" if as_ycc > _NEUTRAL and as_ycc > 4 * as_rgb else None


def _shows(shown: Claim | None) -> str:
    return f"and its px are those of {NAMES[shown]}" if shown else "and its px do not show which it is"
