"""The content of a report as plain values. Coordinates are level-0 px."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.patchdata import PAGE_BYTES, PatchWords
from wsikit.exporters.pyramid import EmbeddedPyramid, ServedPyramid
from wsikit.exporters.quantity import Quantity
from wsikit.voting import SlideResult

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Fact:
    """One measurement of a patch."""

    name: str
    """Name for display, such as "nuclei"."""
    value: float
    unit: str = ""
    """"/mm²", "µm", "%"; empty for a pure number."""


@dataclass(frozen=True, eq=False)
class PatchExample:
    """A patch to show; class, probabilities and coordinates are those of its row in the class map."""

    row: int
    """Row in the patch table."""
    image: Pixels
    """uint8 (P, P, 3) RGB."""
    caption: str | None = None
    facts: tuple[Fact, ...] = ()
    """The most important first; the first few are shown, the others on a click."""
    gate: float | None = None
    """Weight of the text in the fusion, 0 to 1; None for a model without text."""
    attention: float | None = None
    """Weight of the patch in the slide's result, × the mean of the slide; None for a model without attention."""
    attended: bool = False
    """Shown because it is among those with the highest attention."""
    opposing: bool = False
    """Shown because it contradicts the leading class most, not as one of the most probable of its own class."""


@dataclass(frozen=True)
class Section:
    """A titled list of facts about the provenance, such as software, model, parameters."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class ReportData:
    """All content of a report."""

    class_map: ClassMap
    thumbnail: Pixels
    """uint8 (h, w, 3) RGB of the whole slide."""
    result: SlideResult | None
    """The vote over `class_map.voting`; None if there is none."""
    reason: str = ""
    """Why there is no vote."""
    value: tuple[str, str] | None = None
    """Title and words of the slide's value, of a model that gives one."""
    examples: tuple[PatchExample, ...] = ()
    """The most probable patches per class; see `wsikit.exporters.classmap.strongest_patches`."""
    tissue_mm2: float | None = None
    """Area of the tissue mask; None if no mask was made."""
    unreadable_fraction: float | None = None
    """Fraction of the tissue patches whose pixels could not be read, 0 to 1; None if nothing was read."""
    quality: tuple[tuple[str, str], ...] = ()
    """Further rows for the quality table."""
    provenance: tuple[Section, ...] = ()
    """Versions, model name and fingerprint, parameters."""
    created: str = ""
    """Time of creation, ISO 8601."""
    words: PatchWords = field(default_factory=PatchWords)
    """Captions, facts and further columns of every patch, for the viewer."""
    pyramid: EmbeddedPyramid | ServedPyramid | None = None
    """Pixels for the viewer; without them the page has two static images and runs no script."""
    attention: npt.NDArray[np.floating] | None = None
    """(N,) attention of the patches, × the mean of the slide; None for a model without attention."""
    concepts: tuple[Quantity, ...] = ()
    """Maps of concepts that were localised by text."""
    patch_bytes: int = PAGE_BYTES
    """Maximum compressed size of the per-patch data in the page, bytes."""
