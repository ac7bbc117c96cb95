"""What a report is made from: plain values about one slide. Places are level-0 px."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.patchdata import PAGE_BYTES, PatchWords
from wsikit.exporters.pyramid import EmbeddedPyramid, ServedPyramid
from wsikit.voting import SlideResult

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Fact:
    """One thing that was measured on a patch."""

    name: str
    """For people: "nuclei"."""
    value: float
    unit: str = ""
    """"/mm²", "µm", "%"; empty for a pure number."""


@dataclass(frozen=True, eq=False)
class PatchExample:
    """A patch to show: class, probabilities and place are those of its row in the class map."""

    row: int
    """Row in the patch table."""
    image: Pixels
    """uint8 (P, P, 3) RGB."""
    caption: str | None = None
    facts: tuple[Fact, ...] = ()
    """The most telling first; the first few are shown, the others on a click."""
    gate: float | None = None
    """How much the text mattered in the fusion, 0 to 1; None for a model without text."""
    doubting: bool = False
    """Shown because it speaks most against the class ahead, not as one of the strongest of its own class."""


@dataclass(frozen=True)
class Section:
    """A titled list of facts about how the result came about, such as software, model, parameters."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class ReportData:
    """All that a report says."""

    class_map: ClassMap
    thumbnail: Pixels
    """uint8 (h, w, 3) RGB of the whole slide."""
    result: SlideResult | None
    """The vote over `class_map.voting`; None if there is none."""
    reason: str = ""
    """Why there is no vote."""
    examples: tuple[PatchExample, ...] = ()
    """The strongest patches; see `wsikit.exporters.classmap.strongest_patches`."""
    tissue_mm2: float | None = None
    """Area of the tissue mask; None if no mask was made."""
    unreadable_fraction: float | None = None
    """Share of the tissue patches whose pixels could not be read, 0 to 1; None if nothing was read."""
    quality: tuple[tuple[str, str], ...] = ()
    """Further rows for the quality table."""
    provenance: tuple[Section, ...] = ()
    """Versions, model name and fingerprint, parameters."""
    created: str = ""
    """When, as ISO 8601."""
    words: PatchWords = field(default_factory=PatchWords)
    """What is known of every patch, for the viewer."""
    pyramid: EmbeddedPyramid | ServedPyramid | None = None
    """Pixels for the viewer; without them the page has two still pictures and runs no script."""
    patch_bytes: int = PAGE_BYTES
    """Compressed bytes that the page may spend on its patches."""
