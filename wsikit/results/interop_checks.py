"""Checks of another tool's coordinates and features, one line per fault: units, sizes, duplicates, NaN, wrong slide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.geometry import MAGNIFICATION_MPP
from wsikit.results.interop_patches import ExternalPatches, usual_step

UNIT_TOLERANCE = 0.03
"""Relative. A step this close to the one expected for a wrong unit is attributed to that unit."""

FIELD_TOLERANCE = 0.025
"""Accepted relative difference of the true field of view and the one that follows from the magnifications."""

MAGNIFICATION_RANGE = (0.58, 1.25)
"""Accepted ratio of the slide's µm/px to that of its magnification: tools call all from 0.3 to 0.6 µm/px 20x."""


@dataclass(frozen=True)
class Finding:
    """One fault or remark."""

    text: str
    """One line: what was found, what was expected."""
    fatal: bool
    """Whether the file cannot be imported as it is."""


def check_external(
    found: ExternalPatches, *, slide_px: tuple[int, int], slide_mpp: tuple[float, float], side_px: float | None = None
) -> list[Finding]:
    """Check a file against its slide.

    Parameters
    ----------
    slide_px, slide_mpp
        Level-0 size (px) and µm/px of the slide, x and y.
    side_px
        Side of a patch in level-0 px given by the user, which overrides the file's.
    """
    side = side_px or found.side_px
    findings = [Finding(note, False) for note in found.notes]
    findings += [*_check_size(found, side_px), *_check_vectors(found)]
    if not np.isfinite(found.coords).all():
        return [*findings, Finding(f"{_bad_rows(found.coords)} rows have coordinates that are not numbers", True)]
    unit = list(_check_units(found, side, slide_px, slide_mpp)) if side else []
    findings += unit
    if not any(finding.fatal for finding in unit):  # in a wrong unit all coordinates are wrong
        findings += _check_places(found, slide_px)
    if side:
        findings += _check_magnification(found, side, slide_mpp)
    return findings


def _check_size(found: ExternalPatches, given: float | None) -> Iterator[Finding]:
    if "patch_size_level0" in found.missing and found.side_px is not None and given is None:
        yield Finding(
            f"no patch_size_level0: {found.side_px:g} level-0 px follow from patch_size and the magnifications", False
        )
    if found.side_px is None and given is None:
        lacking = f" ({', '.join(found.missing)} missing)" if found.missing else ""
        yield Finding(f"the size of a patch is not stated{lacking}: give it in level-0 px (--side)", True)
    if found.layout == "stamp" and found.unit != "um":
        yield Finding(
            f"the unit of the coordinates is {found.unit or 'not stated'}; STAMP 2 writes um. Is it from STAMP 1?",
            True,
        )


def _check_vectors(found: ExternalPatches) -> Iterator[Finding]:
    for name, values in (("features", found.features), ("probabilities", found.probs)):
        if values is None:
            continue
        if len(values) != len(found.coords):
            yield Finding(f"{len(values)} rows of {name} for {len(found.coords)} coordinates", True)
        known = (
            values if found.unreadable is None or len(found.unreadable) != len(values) else values[~found.unreadable]
        )
        bad = _bad_rows(known)
        if bad:
            yield Finding(f"{bad} of {len(values)} rows of {name} hold NaN or infinity", True)


def _check_places(found: ExternalPatches, slide_px: tuple[int, int]) -> Iterator[Finding]:
    coords = found.coords
    if found.slide_px is not None and found.slide_px != slide_px:
        stated, real = ("{} × {}".format(*size) for size in (found.slide_px, slide_px))
        yield Finding(f"written for a slide of {stated} px; this slide has {real} px", True)
    duplicates = len(coords) - len(np.unique(np.rint(coords), axis=0)) if len(coords) else 0
    if duplicates:
        yield Finding(f"{duplicates} rows have the coordinates of another row", True)
    outside = ((coords < 0) | (coords >= np.asarray(slide_px))).any(axis=1)
    if outside.any():
        x, y = coords[int(outside.argmax())]
        yield Finding(
            f"{int(outside.sum())} of {len(coords)} coordinates lie outside the slide ({slide_px[0]} × {slide_px[1]} "
            f"px), the first at x={x:.0f} y={y:.0f}: another slide, or pixels of another level?",
            True,
        )


def _check_units(
    found: ExternalPatches, side: float, slide_px: tuple[int, int], slide_mpp: tuple[float, float]
) -> Iterator[Finding]:
    """Detect a wrong unit by the step from patch to patch, which must be that of level-0 px."""
    step = usual_step(found.coords)
    if step is None:
        return
    mpp = sum(slide_mpp) / 2
    overlap = 0.0 if not found.overlap_px or not found.patch_px else found.overlap_px * side / found.patch_px
    expected = side - overlap
    share = step / expected
    if abs(share - 1) <= UNIT_TOLERANCE:
        return
    far = bool((found.coords.max(axis=0) + side * mpp > np.asarray(slide_px) * np.asarray(slide_mpp)).any())
    in_patch_px = found.patch_px / side if found.patch_px else 1.0
    if found.layout == "stamp" and abs(share * mpp - 1) <= UNIT_TOLERANCE and abs(mpp - 1) > UNIT_TOLERANCE:
        what = "level-0 px, though the file says um"
    elif abs(share / mpp - 1) <= UNIT_TOLERANCE and not far:
        what = "µm, not level-0 px"
    elif abs(share / in_patch_px - 1) <= UNIT_TOLERANCE and not far:
        what = f"px of the patches' own scale ({found.patch_px} px a patch), not level-0 px"
    else:
        return  # patches may overlap, or have gaps
    neighbours = f"neighbours are {step * (mpp if found.layout == 'stamp' else 1):g} apart"
    # if the file does not state the overlap of patches, the same step may be a real overlap
    yield Finding(
        f"{neighbours}, a patch is {side:g} level-0 px ({side * mpp:g} µm) wide: the coordinates look like {what}",
        fatal=found.overlap_px is not None,
    )


def _check_magnification(found: ExternalPatches, side: float, slide_mpp: tuple[float, float]) -> Iterator[Finding]:
    if found.magnification is None:
        return
    mpp = sum(slide_mpp) / 2
    level0, target = found.magnification
    nominal = MAGNIFICATION_MPP / level0
    if not MAGNIFICATION_RANGE[0] <= mpp / nominal <= MAGNIFICATION_RANGE[1]:
        yield Finding(
            f"the file states {level0:g}x (about {nominal:.3g} µm/px), this slide has {mpp:.4g} µm/px: "
            "one of the two is wrong; the slide's is used",
            False,
        )
    if found.patch_px:
        field_um, named_um = side * mpp, found.patch_px * MAGNIFICATION_MPP / target
        if abs(named_um / field_um - 1) > FIELD_TOLERANCE:
            yield Finding(
                f"a patch shows {field_um:.4g} µm, but {target:g}x would be {named_um:.4g} µm: the true field is kept "
                f"({field_um / found.patch_px:.4g} µm/px)",
                False,
            )


def _bad_rows(values: npt.NDArray[np.floating]) -> int:
    return int((~np.isfinite(values)).any(axis=1).sum())
