"""The words for what is measured: every fact with its unit, its scale limit and its grades; from facts to a sentence.

Words follow the vocabulary of neuroblastic tumours as far as pixels carry it: "neuropil-like", never a subtype.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from wsikit.errors import RequestError

ABSENT, SCANT, MODERATE, ABUNDANT, PRESENT = "absent", "scant", "moderate", "abundant", "present"


@dataclass(frozen=True, slots=True)
class Fact:
    """One measured quantity."""

    unit: str
    """"share" is a fraction of the patch's area unless `meaning` says of what."""
    coarsest_mpp: float
    """Above this many µm per pixel it is not stated; inf: at any scale."""
    meaning: str
    term: str = ""
    """What `parse` calls it; empty: never put into words."""
    grades: tuple[tuple[float, str], ...] = ()
    """(upper limit, word), ascending; the last limit is inf."""
    finest_mpp: float = 0.0
    """At or below this many µm per pixel it is not stated either: there, cells say more."""

    def grade(self, value: float) -> str:
        """The word for `value`: the first whose limit lies above it."""
        return next(word for limit, word in self.grades if value < limit)


DARK, BARE = 0.5, 0.95
"""Shares of black and of blank from which on nothing else is said of a patch."""

_ANY, _BLOOD, _SPACE, _COUNT, _SHAPE, _FINE = math.inf, 5.0, 2.0, 1.5, 1.0, 0.6
_END = math.inf


def _amounts(scant: float, moderate: float, abundant: float) -> tuple[tuple[float, str], ...]:
    return (scant, ABSENT), (moderate, SCANT), (abundant, MODERATE), (_END, ABUNDANT)


def _tone(meaning: str, term: str, words: str, *limits: float) -> Fact:
    """A fact of the tone. The limits part eighths of 1,200 unlabelled breast patches, half at 0.7, half at 4 µm/px."""
    return Fact("ratio", _ANY, meaning, term, tuple(zip((*limits, _END), words.split(), strict=True)), _FINE)


FACTS: dict[str, Fact] = {
    "tissue_share": Fact("share", _ANY, "neither blank nor black"),
    "blank_share": Fact("share", _ANY, "bright and unstained", "blank", _amounts(0.10, 0.35, 0.80)),
    "black_share": Fact("share", _ANY, "no light, or in one channel alone", "black", _amounts(0.05, 0.2, 0.5)),
    "grey_share": Fact("share", _ANY, "dark without colour: soot, dust, black ink", "grey", _amounts(0.05, 0.2, 0.5)),
    "brown_share": Fact("share", _ANY, "brown chromogen or pigment", "brown", _amounts(0.03, 0.15, 0.4)),
    "haematoxylin_share": Fact(
        "share", _ANY, "more haematoxylin than eosin", "haematoxylin", _amounts(0.05, 0.25, 0.55)
    ),
    "eosin_share": Fact("share", _ANY, "more eosin than haematoxylin", "eosin", _amounts(0.05, 0.25, 0.55)),
    "pen_share": Fact("share", _ANY, "smooth film with the colour of marker ink", "pen", _amounts(0.05, 0.2, 0.5)),
    "blur_um": Fact(
        "µm", _COUNT, "standard deviation of the defocus", "blur", ((1.2, ABSENT), (2.0, MODERATE), (_END, ABUNDANT))
    ),
    "blood_share": Fact("share", _BLOOD, "colour of red cells", "blood", _amounts(0.04, 0.15, 0.40)),
    "fat_share": Fact("share", _BLOOD, "rounded empty spaces, thin walls between", "fat", _amounts(0.10, 0.25, 0.5)),
    "lumen_share": Fact("share", _SPACE, "empty spaces within thick tissue", "lumen", _amounts(0.05, 0.15, 0.4)),
    "nuclei": Fact("count", _COUNT, "nuclei; those cut by the patch's edge count half"),
    "nuclei_per_mm2": Fact(
        "per mm²", _COUNT, "nuclei per area of tissue", "cellularity",
        ((300.0, ABSENT), (2500.0, SCANT), (6000.0, MODERATE), (_END, ABUNDANT)),
    ),
    "nuclear_area_share": Fact("share", _COUNT, "covered by nuclei"),
    "nuclear_diameter_um": Fact(
        "µm", _SHAPE, "diameter of the circle with a nucleus' area, median by area", "nuclear_size",
        ((8.5, "small"), (11.0, "medium-sized"), (_END, "large")),
    ),
    "nuclear_size_cv": Fact(
        "ratio", _SHAPE, "standard deviation over mean of the diameters", "size_variation",
        ((0.2, "uniform"), (0.3, "variable"), (_END, "very variable")),
    ),
    "nuclear_eccentricity": Fact("ratio", _SHAPE, "median eccentricity of the fitted ellipses"),
    "elongated_nuclei_share": Fact(
        "share", _SHAPE, "of the nuclei, more than twice as long as wide", "nuclear_shape",
        ((0.22, "round"), (0.4, "partly elongated"), (_END, "elongated")),
    ),
    "nuclear_density": Fact(
        "density", _SHAPE, "median optical density of the nuclei in red", "chromatin",
        ((0.26, "pale"), (0.45, "medium dark"), (_END, "dark")),
    ),
    "spindle_share": Fact("share", _SHAPE, "fibres that run together", "spindle_stroma", _amounts(0.10, 0.25, 0.5)),
    "necrosis_share": Fact(
        "share", _SHAPE, "stained, without fibres, far from any nucleus: necrosis-like, or oedema",
        "necrosis", _amounts(0.08, 0.25, 0.5),
    ),
    "fibrillary_share": Fact(
        "share", _FINE, "fine fibrils that run in all directions: neuropil-like", "neuropil", _amounts(0.11, 0.18, 0.3)
    ),
    "rosette_like": Fact(
        "count", _FINE, "rings of nuclei around inward fibrils", "rosettes", ((0.5, ABSENT), (_END, PRESENT))
    ),
    "large_pale_nuclei_share": Fact(
        "share", _FINE, "of the nuclei, wide and pale beside the patch's dark ones: vesicular", "large_pale_nuclei",
        ((0.02, ABSENT), (0.06, SCANT), (0.2, MODERATE), (_END, ABUNDANT)),
    ),
    "ganglion_like_share": Fact(
        "share", _FINE, "of the nuclei, pale ones with a nucleolus, in pink cytoplasm", "ganglion_cells",
        ((0.015, ABSENT), (0.05, SCANT), (0.15, MODERATE), (_END, ABUNDANT)),
    ),
    "hue": _tone(
        "red over green density of the stained pixels", "hue",
        "salmon pink rose mauve lilac violet purple indigo", 0.316, 0.410, 0.516, 0.695, 0.839, 0.887, 0.931,
    ),
    "warmth": _tone(
        "blue over green density of the stained pixels", "warmth",
        "icy cold cool fresh neutral mild warm hot", 0.541, 0.551, 0.561, 0.576, 0.605, 0.645, 0.687,
    ),
    "hue_variety": _tone(
        "standard deviation of red over green density among the stained pixels", "hue_variety",
        "plain simple tinged mixed varied motley dappled chequered", 0.079, 0.100, 0.120, 0.141, 0.158, 0.174, 0.196,
    ),
    "nuclear_stain": _tone(
        "density in red that a tenth of the patch exceeds", "nuclear_stain",
        "blanched washed weak fair firm strong deep inky", 0.082, 0.138, 0.229, 0.369, 0.527, 0.645, 0.755,
    ),
    "ground": _tone(
        "density in green below which a tenth of the patch lies", "ground",
        "void airy open loose close compact tight solid", 0.028, 0.047, 0.092, 0.120, 0.143, 0.161, 0.193,
    ),
    "body": _tone(
        "median density in green", "body",
        "thin light slight medium full rich dense heavy", 0.073, 0.178, 0.232, 0.262, 0.284, 0.315, 0.351,
    ),
    "darkest": _tone(
        "density in green that a tenth of the patch exceeds", "darkest",
        "faint dim soft clear bold vivid stark harsh", 0.253, 0.347, 0.421, 0.494, 0.569, 0.637, 0.727,
    ),
    "nuclear_grain": _tone(
        "standard deviation of the density in red within areas of 20 µm", "nuclear_grain",
        "bland dusty peppered speckled dotted stippled studded crowded",
        0.023, 0.037, 0.052, 0.083, 0.134, 0.159, 0.178,
    ),
    "grain": _tone(
        "standard deviation of the density in green within areas of 20 µm", "grain",
        "smooth silky fine gritty granular coarse rough rugged", 0.052, 0.067, 0.081, 0.097, 0.117, 0.136, 0.154,
    ),
    "patchiness": _tone(
        "standard deviation of the density in green between areas of 20 µm", "patchiness",
        "level flat rippled wavy uneven cloudy patchy blotchy", 0.042, 0.062, 0.079, 0.098, 0.114, 0.130, 0.154,
    ),
}  # fmt: skip
"""Every fact a measuring captioner may state, in the order of the store's columns."""

TONE = tuple(name for name, fact in FACTS.items() if fact.finest_mpp)
"""Facts of colour and texture, said one after the other where pixels are too coarse for fibrils."""

TONE_HEAD = "Tone"
"""Opens their sentence; within it a word has one meaning, and outside of it none of them."""

# How a term is worded. The first group is always said when measured, the second only when it is there.
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
_IF_THERE = (
    ("fat_share", "fat"),
    ("lumen_share", "lumens"),
    ("brown_share", "brown pigment"),
    ("grey_share", "grey dust or ink"),
    ("blank_share", "blank"),
    ("black_share", "black"),
    ("pen_share", "pen"),
    ("blur_um", "blur"),
)
_ALONE = {
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
    """Term to grade of the facts that `phrase` puts into words, as `parse` would read them back."""
    spoken = [name for name in _spoken(facts) if name in facts]
    return {FACTS[name].term: FACTS[name].grade(facts[name]) for name in spoken}


def phrase(facts: Mapping[str, float], mpp: float) -> str:
    """Say facts in one to three sentences.

    Parameters
    ----------
    facts
        Name to value, as in `FACTS`. What is absent is not spoken of.
    mpp
        µm per pixel of the patch they were measured on.

    Raises
    ------
    RequestError
        If a fact is unknown, or cannot be measured at `mpp`.
    """
    for name in facts:
        if name not in FACTS:
            raise RequestError(f"unknown fact {name!r}; known are {', '.join(FACTS)}")
        if mpp > FACTS[name].coarsest_mpp:
            raise RequestError(f"{name} cannot be measured at {mpp} µm/px: {FACTS[name].coarsest_mpp} is the coarsest")
        if mpp <= FACTS[name].finest_mpp:
            raise RequestError(f"{name} is not told at {mpp} µm/px: only where pixels exceed {FACTS[name].finest_mpp}")
    alone = _no_brightfield(facts)
    if alone:
        return f"{_ALONE[alone]} ({_percent(facts[alone])})."
    sentences = [_cells(facts), _matter(facts), _tone_words(facts)]
    return " ".join(sentence for sentence in sentences if sentence)


def _spoken(facts: Mapping[str, float]) -> list[str]:
    """Names of the facts that the sentences speak of."""
    there = [name for name, _ in _IF_THERE if name in facts and FACTS[name].grade(facts[name]) != ABSENT]
    alone = _no_brightfield(facts)
    if alone:
        return [alone]
    cells = ["nuclei_per_mm2"] if "nuclei_per_mm2" in facts else []
    if cells and FACTS["nuclei_per_mm2"].grade(facts["nuclei_per_mm2"]) != ABSENT:
        cells += ["nuclear_diameter_um", "elongated_nuclei_share", "nuclear_size_cv", "nuclear_density"]
    stains = [] if "nuclei_per_mm2" in facts else [name for name, _ in _STAINS]
    return cells + stains + [name for name, _ in _MATRIX] + there + list(TONE)


def _no_brightfield(facts: Mapping[str, float]) -> str:
    """The fact that leaves no stain to speak of, if there is one."""
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


def _matter(facts: Mapping[str, float]) -> str:
    spoken = set(_spoken(facts))
    parts = [
        _amount(name, words, facts[name])
        for name, words in (*_STAINS, *_MATRIX, *_IF_THERE)
        if name in facts and name in spoken
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
