"""From facts to a caption: which facts are stated, in which words and order.

The words are those of the neuroblastic tumours as far as pixels support them: "neuropil-like", never a subtype. Models
are trained on these texts, so a changed word is another captioner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from wsikit.errors import RequestError
from wsikit.facts import ABSENT, ABUNDANT, FACTS, MODERATE, SCANT, TONE

DARK, BARE = 0.5, 0.95
"""Shares of black and of blank from which on nothing else is stated about a patch."""

TONE_HEAD = "Tone"
"""First word of the sentence on colour and texture. Each of its words has one meaning there, and none elsewhere."""

# Wording of the terms. The first two groups are stated whenever they were measured, the third if it is not absent.
_MATRIX = (
    ("fibrillary_share", "fibrillary matrix (neuropil-like)"),
    ("rosette_like", "rosette-like rings"),
    ("large_pale_nuclei_share", "large vesicular nuclei"),
    ("ganglion_like_share", "ganglion-like cells"),
    ("spindle_share", "spindle stroma"),
    ("blood_share", "blood"),
    ("necrosis_share", "necrosis-like areas"),
)
_STAINS = (("haematoxylin_share", "haematoxylin"), ("eosin_share", "eosin"))
_IF_PRESENT = (
    ("fat_share", "fat"),
    ("lumen_share", "lumens"),
    ("brown_share", "brown pigment"),
    ("grey_share", "grey dust or ink"),
    ("blank_share", "blank"),
    ("black_share", "black"),
    ("pen_share", "pen"),
    ("blur_um", "blur"),
)
_ONLY_SENTENCE = {
    "black_share": "Not a stained bright field: black abundant",
    "blank_share": "Bare glass: blank abundant",
    "grey_share": "No stain colour: grey abundant",
}
_CELLULARITY = {
    ABSENT: "Hardly any nuclei",
    SCANT: "Sparsely cellular",
    MODERATE: "Moderately cellular",
    ABUNDANT: "Densely cellular",
}


def grades(facts: Mapping[str, float]) -> dict[str, str]:
    """Term to grade of the facts that `phrase` states: what `wsikit.captions.parse` returns for its text.

    Examples
    --------
    >>> grades({"nuclei_per_mm2": 900.0})
    {'cellularity': 'scant'}
    """
    return {FACTS[name].term: FACTS[name].grade(facts[name]) for name in _stated(facts) if name in facts}


def phrase(facts: Mapping[str, float], mpp: float) -> str:
    """A caption of one to three sentences that states facts.

    Parameters
    ----------
    facts
        Name to value, as in `wsikit.facts.FACTS`. Facts that are missing are not stated.
    mpp
        Pixel size of the patch on which they were measured, µm per pixel.

    Raises
    ------
    RequestError
        A fact is unknown, or is not measured at `mpp`.

    Examples
    --------
    >>> phrase({"nuclei_per_mm2": 912.0, "fat_share": 0.3}, 1.2)
    'Sparsely cellular, 910 nuclei per mm². Fat moderate (30 %).'
    """
    for name in facts:
        if name not in FACTS:
            raise RequestError(f"unknown fact {name!r}; known: {', '.join(FACTS)}")
        if mpp > FACTS[name].coarsest_mpp:
            raise RequestError(f"{name} cannot be measured at {mpp} µm/px: only up to {FACTS[name].coarsest_mpp} µm/px")
        if mpp <= FACTS[name].finest_mpp:
            raise RequestError(
                f"{name} is not reported at {mpp} µm/px: only at pixel sizes above {FACTS[name].finest_mpp} µm/px"
            )
    only = _no_brightfield(facts)
    if only:
        return f"{_ONLY_SENTENCE[only]} ({_percent(facts[only])})."
    sentences = [_cells(facts), _tissue(facts), _tone_words(facts)]
    return " ".join(sentence for sentence in sentences if sentence)


def _stated(facts: Mapping[str, float]) -> list[str]:
    """Names of the facts that the sentences state, whether measured or not."""
    present = [name for name, _ in _IF_PRESENT if name in facts and FACTS[name].grade(facts[name]) != ABSENT]
    only = _no_brightfield(facts)
    if only:
        return [only]
    cells = ["nuclei_per_mm2"] if "nuclei_per_mm2" in facts else []
    if cells and FACTS["nuclei_per_mm2"].grade(facts["nuclei_per_mm2"]) != ABSENT:
        cells += ["nuclear_diameter_um", "elongated_nuclei_share", "nuclear_size_cv", "nuclear_density"]
    stains = [] if "nuclei_per_mm2" in facts else [name for name, _ in _STAINS]
    return cells + stains + [name for name, _ in _MATRIX] + present + list(TONE)


def _no_brightfield(facts: Mapping[str, float]) -> str:
    """The fact by which the patch has no stained bright field; empty if it has one."""
    if facts.get("black_share", 0.0) >= DARK:
        return "black_share"
    if facts.get("blank_share", 0.0) >= BARE:
        return "blank_share"
    return "grey_share" if facts.get("grey_share", 0.0) >= 0.5 and "haematoxylin_share" not in facts else ""


def _cells(facts: Mapping[str, float]) -> str:
    if "nuclei_per_mm2" not in facts:
        return ""
    grade = FACTS["nuclei_per_mm2"].grade(facts["nuclei_per_mm2"])
    head = f"{_CELLULARITY[grade]}, {_round(facts['nuclei_per_mm2'])} nuclei per mm²"
    if grade == ABSENT or "nuclear_diameter_um" not in facts:
        return head + "."
    size, shape, variation, chromatin = (
        FACTS[name].grade(facts[name])
        for name in ("nuclear_diameter_um", "elongated_nuclei_share", "nuclear_size_cv", "nuclear_density")
    )
    return f"{head}: {size} ({facts['nuclear_diameter_um']:.1f} µm), {shape}, {variation} in size, {chromatin}."


def _tissue(facts: Mapping[str, float]) -> str:
    stated = set(_stated(facts))
    parts = [
        _amount(name, words, facts[name])
        for name, words in (*_STAINS, *_MATRIX, *_IF_PRESENT)
        if name in facts and name in stated
    ]
    text = ", ".join(parts)
    return text[:1].upper() + text[1:] + "." if text else ""


def _tone_words(facts: Mapping[str, float]) -> str:
    words = [FACTS[name].grade(facts[name]) for name in TONE if name in facts]
    return f"{TONE_HEAD}: {', '.join(words)}." if words else ""


def _amount(name: str, words: str, value: float) -> str:
    grade = FACTS[name].grade(value)
    if grade == ABSENT:
        return f"{words} {grade}"
    if FACTS[name].unit == "count":
        return f"{words} {grade} ({value:.0f})"
    if FACTS[name].unit == "µm":
        return f"{words} {grade} ({value:.1f} µm)"
    of = " of nuclei" if FACTS[name].meaning.startswith("of the nuclei") else ""
    return f"{words} {grade} ({_percent(value)}{of})"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _round(value: float) -> str:
    """Two significant digits."""
    if value < 1:
        return "0"
    step = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return f"{round(value / step) * step:.0f}"
