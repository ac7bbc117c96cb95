"""Numbers and units as people and scanners write them: `0,4990`, `0.25 µm/px`, `250 nm`, `1 micron`. No files.

One parser for the pixel sizes of slide files, sidecar files, manifests and options.
"""

from __future__ import annotations

import math
import re

_UM_PER_UNIT = {
    "nm": 1e-3,
    "nanometer": 1e-3,
    "nanometre": 1e-3,
    "pm": 1e-6,
    "å": 1e-4,
    "ångström": 1e-4,
    "angstrom": 1e-4,
    "": 1.0,
    "µm": 1.0,
    "um": 1.0,
    "mum": 1.0,
    "mcm": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "mikron": 1.0,
    "mikrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "millimetre": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "centimetre": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "meter": 1e6,
    "metre": 1e6,
    "in": 25_400.0,
    "inch": 25_400.0,
    "inche": 25_400.0,
    '"': 25_400.0,
    "thou": 25.4,
    "pt": 25_400.0 / 72,
}
"""Lower case, in the singular."""

_MICRO = str.maketrans({"\u03bc": "µ", "\ufffd": "µ"})
"""Greek mu is written for the micro sign; U+FFFD is a micro sign whose encoding was lost: no other unit has one."""

_SPACES = re.compile(r"[\s\u00a0\u2007\u2009\u202f]+")
_PER_PIXEL = re.compile(r"(/|\bper\b)\s*(px|pixels?|pxl)\.?$")
_NUMBER = re.compile(r"([-+]?)([0-9][0-9.,' ]*|[.,][0-9]+)((?:[eE][-+]?[0-9]+)?)")


def um_per_unit(unit: str) -> float | None:
    """µm per one of `unit`; None for what is no length, such as `pixel`.

    >>> um_per_unit("microns"), um_per_unit("\\\\u00B5m"), um_per_unit("cm"), um_per_unit("pixel")
    (1.0, 1.0, 10000.0, None)
    """
    # ImageJ writes the micro sign as an escape; UTF-8 that was read as Latin-1 has one letter too many
    text = re.sub(r"\\?\\u00b5", "µ", unit.strip().lower()).translate(_MICRO).replace("âµ", "µ")
    text = text.strip(" .[]()")
    found = _UM_PER_UNIT.get(text)
    return found if found is not None or not text else _UM_PER_UNIT.get(text.removesuffix("s") or "?")


def parse_number(text: str) -> float:
    """The number that a text states, with decimal point or comma, and with spaces; ValueError if it states none.

    The last point or comma is the decimal mark; a mark that occurs more than once separates thousands.

    >>> parse_number("0,4990"), parse_number(" 0. 25 "), parse_number("1.234,5"), parse_number("2,5E-01")
    (0.499, 0.25, 1234.5, 0.25)
    """
    found = _NUMBER.fullmatch(_SPACES.sub(" ", text).strip())
    if found is None:
        raise ValueError(f"{text!r} is not a number")
    return _value((found[1], found[2], found[3]), text)


def parse_mpp(text: str) -> float:
    """The pixel size that a text states, µm/px. Without a unit, the number is in µm.

    Raises
    ------
    ValueError
        It is not one positive number with a unit of length, or none; the message quotes the text.

    >>> parse_mpp("0,4990"), parse_mpp("0.25 µm/px"), parse_mpp("250 nm"), parse_mpp("0.00025 mm")
    (0.499, 0.25, 0.25, 0.25)
    """
    wrong = ValueError(f"{text!r} is not a pixel size in µm, such as 0.25")
    cleaned = _PER_PIXEL.sub("", _SPACES.sub(" ", text).strip().strip("'").lower()).strip()
    found = _NUMBER.match(cleaned)
    if found is None:
        raise wrong
    factor = um_per_unit(cleaned[found.end() :])
    try:
        value = _value((found[1], found[2], found[3]), text)
    except ValueError:
        raise wrong from None
    if factor is None or not (math.isfinite(value) and value > 0):
        raise wrong
    return round(value * factor, 12)


def _value(parts: tuple[str, str, str], text: str) -> float:
    """The value of (sign, digits, exponent), where digits may have spaces, points and commas."""
    sign, digits, exponent = parts
    wrong = ValueError(f"{text!r} is not a number")
    digits = re.sub(r" ?([.,]) ?", r"\1", digits.strip())
    marks = [mark for mark in ".," if mark in digits]
    decimal = max(marks, key=digits.rfind) if marks else ""
    if decimal and digits.count(decimal) > 1:
        if len(marks) > 1:
            raise wrong
        decimal = ""
    whole, _, fraction = digits.partition(decimal) if decimal else (digits, "", "")
    groups = re.split(r"[., ']", whole)
    in_thousands = 1 <= len(groups[0]) <= 3 and groups[0][0] != "0" and {len(group) for group in groups[1:]} == {3}
    if (len(groups) > 1 and not in_thousands) or not re.fullmatch(r"[0-9]*", fraction):
        raise wrong
    return float(f"{sign}{''.join(groups) or 0}.{fraction or 0}{exponent}")
