"""The pixel size of a slide: its source, whether it is plausible, and how to give it. µm per level-0 px, (x, y).

Priority: given by the caller (option, manifest), sidecar file, slide file. It is never guessed from anything else.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsikit.errors import RequestError, ScaleError
from wsikit.geometry import GIVEN_MPP_RANGE, HOW_TO_GIVE_MPP, MAGNIFICATION_MPP, STATED_MPP_RANGE, mpp_fault
from wsikit.lengths import parse_mpp
from wsikit.tables import key

__all__ = [
    "DICOM_SPACING",
    "NO_SCALE",
    "SIDECAR",
    "UNKNOWN",
    "Scale",
    "as_pair",
    "from_resolution",
    "how_to_give",
    "missing_scale",
    "parse_mpp",
    "per_unit",
    "read_sidecar",
    "resolve",
    "sidecar_path",
    "stated",
    "stated_text",
]

logger = logging.getLogger(__name__)

UNKNOWN, SIDECAR = "unknown", "sidecar"
"""Sources of a pixel size that are not a field of the file."""

DICOM_SPACING = "DICOM PixelSpacing"
"""The source that is believed over a wide range: it is mandatory, in mm, and a file is any one level of a slide."""

_UM_PER_TIFF_UNIT = {2: 25_400.0, 3: 10_000.0, 4: 1_000.0, 5: 1.0}
"""TIFF ResolutionUnit: 2 inch, 3 centimetre; outside the standard, some writers use 4 millimetre and 5 micrometre.
Unit 1 means that the numbers are an aspect ratio, not a size."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A pixel size with its source; `mpp` is None if there is no usable one."""

    mpp: tuple[float, float] | None
    """µm per level-0 px, (x, y)."""
    source: str
    """Source of the pixel size; "unknown" if there is none."""
    fault: str | None = None
    """Why a stated pixel size is not used."""
    literal: str = ""
    """The words of the file for it, such as `MPP = 0,4990`, for messages about a faulty value."""


NO_SCALE = Scale(None, UNKNOWN)


def stated(mpp_x: float | None, mpp_y: float | None, source: str, literal: str = "") -> Scale:
    """The scale that a file states, not yet checked (`resolve` checks it)."""
    if mpp_x is None or mpp_y is None:
        return NO_SCALE
    return Scale((mpp_x, mpp_y), source, literal=literal)


def stated_text(mpp_x: str | None, mpp_y: str | None, source: str, literal: str) -> Scale:
    """The scale that a file states as text, in µm or with its own unit; a fault if the text is no pixel size.

    >>> stated_text("0,4990", "0,4990", "vendor property aperio.MPP", "MPP = 0,4990").mpp
    (0.499, 0.499)
    >>> stated_text("0", "0", "vendor property aperio.MPP", "MPP = 0").fault
    'the file says “MPP = 0”, which is not a pixel size'
    """
    if mpp_x is None or mpp_y is None:
        return NO_SCALE
    try:
        return Scale((parse_mpp(mpp_x), parse_mpp(mpp_y)), source, literal=literal)
    except ValueError:
        return Scale(None, source, f"the file says “{_quoted(literal)}”, which is not a pixel size")


def from_resolution(
    x_per_unit: float | None, y_per_unit: float | None, unit: int | None, source: str, literal: str = ""
) -> Scale:
    """The scale of TIFF's XResolution and YResolution (px per unit).

    >>> from_resolution(40_000, 40_000, 3, "TIFF XResolution").mpp
    (0.25, 0.25)
    """
    return per_unit(x_per_unit, y_per_unit, _UM_PER_TIFF_UNIT.get(unit or 0), source, literal)


def per_unit(
    x_per_unit: float | None, y_per_unit: float | None, um: float | None, source: str, literal: str = ""
) -> Scale:
    """The scale of a resolution in px per `um` µm; none if any of the three is missing, zero or no number."""
    if not um or not x_per_unit or not y_per_unit or not math.isfinite(x_per_unit) or not math.isfinite(y_per_unit):
        return NO_SCALE
    return Scale((um / x_per_unit, um / y_per_unit), source, literal=literal)


def as_pair(mpp: float | str | tuple[float | str, float | str]) -> tuple[float, float]:
    """(x, y) of one number for both axes, or of (x, y). A number may be a text (`parse_mpp`).

    >>> as_pair(0.25), as_pair("0,25 µm")
    ((0.25, 0.25), (0.25, 0.25))
    """
    x, y = mpp if isinstance(mpp, (tuple, list)) else (mpp, mpp)
    return _number(x), _number(y)


def resolve(
    path: str,
    in_file: Scale,
    magnification: float | None,
    *,
    given: float | tuple[float, float] | None,
    given_source: str,
    checked: bool = False,
) -> Scale:
    """The scale to use, or the reason why there is none.

    `checked`: `in_file` was given or checked before, as that of a store was when the store was made.

    Raises
    ------
    RequestError
        `given` is not a pixel size: an error of the caller, not of the file.
    """
    if given is not None:
        return _given(path, given, given_source, magnification)
    sidecar = read_sidecar(path)
    if sidecar is not None:
        return sidecar
    if in_file.mpp is None:
        return in_file if in_file.fault or not magnification else _only_magnification(in_file, magnification)
    if checked:
        fault = mpp_fault(in_file.mpp, within=STATED_MPP_RANGE)
    elif in_file.source == DICOM_SPACING:
        # the magnification is that of the scan, also in a file that holds a coarser level of it
        fine = in_file.mpp[0] < MAGNIFICATION_MPP / (magnification or math.inf)
        fault = mpp_fault(in_file.mpp, magnification=magnification if fine else None, within=STATED_MPP_RANGE)
    else:
        fault = mpp_fault(in_file.mpp, magnification=magnification)
    if fault is None:
        return in_file
    words = f"{in_file.source} states a pixel size that cannot be right: {fault}"
    return Scale(
        None, in_file.source, words + (f" (in the file: {_quoted(in_file.literal)})" if in_file.literal else "")
    )


def missing_scale(path: str, scale_fault: str | None) -> ScaleError:
    """The error for a slide without a usable pixel size, with three ways to give one."""
    found = scale_fault or "the file states no pixel size"
    return ScaleError(f"{path}: {found}. {how_to_give(path)}")


def how_to_give(path: str) -> str:
    """Three ways to give the pixel size of a slide, as one sentence."""
    return HOW_TO_GIVE_MPP.format(sidecar=sidecar_path(path).name) + "."


def sidecar_path(path: str) -> Path:
    """The file next to a slide that can give its pixel size: the full name of the slide and `.json`.

    >>> sidecar_path("a.svs").name
    'a.svs.json'
    """
    return Path(path + ".json")


def read_sidecar(path: str) -> Scale | None:
    """The scale that the sidecar gives: {"mpp": 0.25} or {"mpp_x": 0.25, "mpp_y": 0.26}. None if it gives none.

    A sidecar with an invalid pixel size is reported as a fault: the pixel size of the file is then not used instead.
    """
    sidecar = sidecar_path(path)
    try:
        record = json.loads(sidecar.read_bytes())  # UTF-8 or UTF-16, with or without byte order mark
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        return Scale(None, SIDECAR, f"{sidecar.name} next to it cannot be read as JSON ({error})")
    names = {key(name): name for name in ("mpp", "mpp_x", "mpp_y")}
    record = {names.get(key(name), name): value for name, value in record.items()} if isinstance(record, dict) else {}
    keys = set(names.values()) & set(record)
    if not keys:
        logger.debug("%s has no mpp: it has another purpose", sidecar)
        return None
    if keys not in ({"mpp"}, {"mpp_x", "mpp_y"}):
        return Scale(None, SIDECAR, f"{sidecar.name} next to it must have either mpp or both mpp_x and mpp_y")
    return _from_record(sidecar.name, record)


def _only_magnification(in_file: Scale, magnification: float) -> Scale:
    """No pixel size, but a magnification, of which only a usual pixel size can be said."""
    field = _quoted(in_file.literal) or f"a magnification of {magnification:g}x"
    usual = f"{MAGNIFICATION_MPP / magnification:.3g}"
    hint = f"scans at {magnification:g}x are about {usual} µm/px; if this one is, give --assume-mpp {usual}"
    return Scale(None, UNKNOWN, f"the file states no pixel size, only {field}: {hint}")


def _quoted(literal: str) -> str:
    """Words of a file, in one short line without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(literal.split()))[:80]


def _number(value: float | str) -> float:
    return parse_mpp(value) if isinstance(value, str) else float(value)


def _from_record(name: str, record: dict[str, Any]) -> Scale:
    try:
        mpp = as_pair(record["mpp"]) if "mpp" in record else as_pair((record["mpp_x"], record["mpp_y"]))
    except (TypeError, ValueError):
        return Scale(None, SIDECAR, f"{name} next to it gives no number for mpp")
    fault = mpp_fault(mpp, within=GIVEN_MPP_RANGE)
    if fault is not None:
        return Scale(None, SIDECAR, f"{name} next to it gives a pixel size that cannot be right: {fault}")
    return Scale(mpp, SIDECAR)


def _given(path: str, given: float | tuple[float, float], source: str, magnification: float | None) -> Scale:
    try:
        mpp = as_pair(given)
    except (TypeError, ValueError):
        raise RequestError(f"{path}: mpp={given!r} is not a pixel size; give µm per px, such as 0.25") from None
    fault = mpp_fault(mpp, within=GIVEN_MPP_RANGE)
    if fault is not None:
        raise RequestError(f"{path}: the pixel size given ({source}) cannot be right: {fault}")
    contradiction = mpp_fault(mpp, magnification=magnification, within=GIVEN_MPP_RANGE)
    if contradiction is not None:
        # the caller may know that the magnification in the file is wrong
        logger.warning("%s: %s; the pixel size given (%s) is used", path, contradiction, source)
    return Scale(mpp, source)
