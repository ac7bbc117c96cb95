"""The pixel size of a slide: its source, whether it is plausible, and how to give it. µm per level-0 px, (x, y).

Priority: given by the caller (option, manifest), sidecar file, slide file. It is never guessed from anything else.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsikit.errors import RequestError, ScaleError
from wsikit.geometry import HOW_TO_GIVE_MPP, mpp_fault

logger = logging.getLogger(__name__)

UNKNOWN, SIDECAR = "unknown", "sidecar"
"""Sources of a pixel size that are not a field of the file."""

_UM_PER_TIFF_UNIT = {2: 25_400.0, 3: 10_000.0}
"""TIFF ResolutionUnit: 2 inch, 3 centimetre. Unit 1 means that the numbers are an aspect ratio, not a size."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A pixel size with its source; `mpp` is None if there is no usable one."""

    mpp: tuple[float, float] | None
    """µm per level-0 px, (x, y)."""
    source: str
    """Source of the pixel size; "unknown" if there is none."""
    fault: str | None = None
    """Why a stated pixel size is not used."""


NO_SCALE = Scale(None, UNKNOWN)


def stated(mpp_x: float | None, mpp_y: float | None, source: str) -> Scale:
    """The scale that a file states, not yet checked (`resolve` checks it)."""
    if mpp_x is None or mpp_y is None:
        return NO_SCALE
    return Scale((mpp_x, mpp_y), source)


def from_resolution(x_per_unit: float | None, y_per_unit: float | None, unit: int | None, source: str) -> Scale:
    """The scale of TIFF's XResolution and YResolution (px per unit).

    >>> from_resolution(40_000, 40_000, 3, "TIFF XResolution").mpp
    (0.25, 0.25)
    """
    um = _UM_PER_TIFF_UNIT.get(unit or 0)
    if um is None or not x_per_unit or not y_per_unit:
        return NO_SCALE
    return Scale((um / x_per_unit, um / y_per_unit), source)


def as_pair(mpp: float | tuple[float, float]) -> tuple[float, float]:
    """(x, y) of one number for both axes, or of (x, y).

    >>> as_pair(0.25)
    (0.25, 0.25)
    """
    if isinstance(mpp, (tuple, list)):
        x, y = mpp
        return float(x), float(y)
    return float(mpp), float(mpp)


def resolve(
    path: str,
    in_file: Scale,
    magnification: float | None,
    *,
    given: float | tuple[float, float] | None,
    given_source: str,
) -> Scale:
    """The scale to use, or the reason why there is none.

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
        return in_file
    fault = mpp_fault(in_file.mpp, magnification=magnification)
    if fault is None:
        return in_file
    return Scale(None, in_file.source, f"{in_file.source} states a pixel size that cannot be right: {fault}")


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
        record = json.loads(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return Scale(None, SIDECAR, f"{sidecar.name} next to it cannot be read as JSON ({error})")
    keys = {"mpp", "mpp_x", "mpp_y"} & set(record) if isinstance(record, dict) else set()
    if not keys:
        logger.debug("%s has no mpp: it has another purpose", sidecar)
        return None
    if keys not in ({"mpp"}, {"mpp_x", "mpp_y"}):
        return Scale(None, SIDECAR, f"{sidecar.name} next to it must have either mpp or both mpp_x and mpp_y")
    return _from_record(sidecar.name, record)


def _from_record(name: str, record: dict[str, Any]) -> Scale:
    try:
        mpp = as_pair(record["mpp"]) if "mpp" in record else (float(record["mpp_x"]), float(record["mpp_y"]))
    except (TypeError, ValueError):
        return Scale(None, SIDECAR, f"{name} next to it gives no number for mpp")
    fault = mpp_fault(mpp)
    if fault is not None:
        return Scale(None, SIDECAR, f"{name} next to it gives a pixel size that cannot be right: {fault}")
    return Scale(mpp, SIDECAR)


def _given(path: str, given: float | tuple[float, float], source: str, magnification: float | None) -> Scale:
    try:
        mpp = as_pair(given)
    except (TypeError, ValueError):
        raise RequestError(f"{path}: mpp={given!r} is not a pixel size; give µm per px, such as 0.25") from None
    fault = mpp_fault(mpp)
    if fault is not None:
        raise RequestError(f"{path}: the pixel size given ({source}) cannot be right: {fault}")
    contradiction = mpp_fault(mpp, magnification=magnification)
    if contradiction is not None:
        # the caller may know that the magnification in the file is wrong
        logger.warning("%s: %s; the pixel size given (%s) is used", path, contradiction, source)
    return Scale(mpp, source)
