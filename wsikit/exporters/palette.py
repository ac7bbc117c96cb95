"""Class colours that can be distinguished with colour-vision deficiency, over grey tissue and on white."""

from __future__ import annotations

import re
from collections.abc import Mapping

from wsikit.errors import RequestError

RGB = tuple[int, int, int]

CLASS_COLORS: tuple[RGB, ...] = (
    (213, 94, 0),  # vermillion
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
    (86, 180, 233),  # sky blue
    (0, 0, 0),  # black
)
"""The palette of Okabe and Ito (2008), ordered so that the first three differ most."""

SUBTYPE_COLORS: Mapping[str, RGB] = dict(zip(("UD", "PD", "D", "GNB-I", "GN"), CLASS_COLORS))
"""Colours of INPC's categories, the same in every model, whichever of them it has."""

BACKGROUND_COLOR: RGB = (140, 140, 140)
"""Colour of classes that do not vote."""

UNPREDICTED_COLOR: RGB = (70, 70, 70)
"""Colour of patches without prediction, which have no class."""
UNPREDICTED_NAME = "No prediction"

MUTED_SATURATION = 0.4
"""What is left of the saturation of a class colour where no subtype is called."""


def muted(color: RGB) -> RGB:
    """The colour with less saturation and the same luminance.

    >>> muted((213, 94, 0)), muted((140, 140, 140))
    ((157, 109, 71), (140, 140, 140))
    """
    red, green, blue = color
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    dull = [round(grey + MUTED_SATURATION * (value - grey)) for value in color]
    return dull[0], dull[1], dull[2]


def class_colors(classes: tuple[str, ...], background: tuple[str, ...] = ()) -> tuple[RGB, ...]:
    """One colour per class, in the order of `classes`; all of `background` are grey.

    Where all voting classes are categories of INPC, each has its own colour of `SUBTYPE_COLORS`.

    >>> class_colors(("UD", "other"), background=("other",))
    ((213, 94, 0), (140, 140, 140))
    >>> class_colors(("PD", "GNB-I")) == (SUBTYPE_COLORS["PD"], SUBTYPE_COLORS["GNB-I"])
    True
    """
    voting = [code for code in classes if code not in background]
    if len(voting) > len(CLASS_COLORS):
        raise RequestError(
            f"{len(voting)} classes, but there are only {len(CLASS_COLORS)} colours that are safe to distinguish: "
            "give the colours yourself"
        )
    given = SUBTYPE_COLORS if set(voting) <= set(SUBTYPE_COLORS) else dict(zip(voting, CLASS_COLORS))
    return tuple(given.get(code, BACKGROUND_COLOR) for code in classes)


def parse_color(text: str) -> RGB:
    """The inverse of `hex_color`.

    >>> parse_color("#d55e00")
    (213, 94, 0)
    """
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise RequestError(f"colour {text!r}: write it as #rrggbb, such as #d55e00")
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def hex_color(color: RGB) -> str:
    """The colour as CSS and matplotlib write it.

    >>> hex_color((213, 94, 0))
    '#d55e00'
    """
    return "#{:02x}{:02x}{:02x}".format(*color)
