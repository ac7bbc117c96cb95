"""Numbers for display: lengths, areas, percentages and probabilities, with useful precision. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wsikit.errors import ScaleError


def nice_length_um(field_um: float, *, share: float = 0.25) -> float:
    """The longest 1, 2 or 5 · 10ⁿ µm that takes at most `share` of a field of `field_um` µm.

    >>> nice_length_um(6800)
    1000.0
    """
    if not (math.isfinite(field_um) and field_um > 0):
        raise ScaleError(f"a field of {field_um} µm has no scale bar")
    room = field_um * share * (1 + 1e-9)
    power = 10.0 ** math.floor(math.log10(room))
    return max(factor * power for factor in (0.5, 1.0, 2.0, 5.0) if factor * power <= room)


def format_length(um: float) -> str:
    """A length in µm, or in mm from 1 mm on.

    >>> format_length(200.0), format_length(5000.0)
    ('200 µm', '5 mm')
    """
    return f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} µm"


def format_areas(areas: Sequence[float]) -> list[str]:
    """Areas of one column, with the decimals that the largest needs; an area above 0 is never shown as 0.

    >>> format_areas([123.4, 0.4, 0.0]), format_areas([1.234, 0.001]), format_areas([])
    (['123', '< 1', '0'], ['1.23', '< 0.01'], [])
    """
    largest = max(areas, default=0.0)
    decimals = min(4, max(0, 2 - math.floor(math.log10(largest)))) if largest > 0 else 0
    least = 10.0**-decimals

    def one(area: float) -> str:
        if area == 0:
            return "0"
        return f"< {least:g}" if area < least / 2 else f"{area:,.{decimals}f}"

    return [one(area) for area in areas]


def format_share(share: float) -> str:
    """A fraction in percent; a value above 0 is never shown as 0 %, one below 1 never as 100 %.

    >>> format_share(0.123), format_share(0.0004), format_share(0.9996), format_share(0.0)
    ('12.3 %', '< 0.1 %', '> 99.9 %', '0 %')
    """
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    if share < 0.0005:
        return "< 0.1 %"
    return "> 99.9 %" if share > 0.9995 else f"{share * 100:.1f} %"


def format_prob(prob: float) -> str:
    """A probability with two decimals, never rounded to 0 or 1.

    >>> format_prob(0.614), format_prob(0.999), format_prob(0.001), format_prob(1.0)
    ('0.61', '> 0.99', '< 0.01', '1.00')
    """
    if not math.isfinite(prob):
        return "–"
    if 0 < prob < 0.005:
        return "< 0.01"
    return "> 0.99" if 0.995 <= prob < 1 else f"{prob:.2f}"
