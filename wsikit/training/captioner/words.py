"""Measured captions without their numbers, as targets for a small model. The facts stay the same."""

from __future__ import annotations

import re

_NUMBERS = re.compile(r" \([^()]*\d[^()]*\)|, \d+ nuclei per mm²")
_SIZE = re.compile(r"\b(small|medium-sized|large)(?=, (?:round|partly|elongated))")


def without_numbers(text: str) -> str:
    """A caption of `morphometry` without numbers; `captions.parse` finds the same terms and grades.

    Examples
    --------
    >>> without_numbers("Densely cellular, 6300 nuclei per mm²: small (7.4 µm), round. Blood scant (6 %).")
    'Densely cellular: small nuclei, round. Blood scant.'
    """
    return _SIZE.sub(r"\1 nuclei", _NUMBERS.sub("", text))
