"""What can be measured on a patch: names of facts, units, scale limits and grades. Pure data, standard library only.

`wsikit.captions` measures facts and puts them into words; patch tables store them in the column `caption_facts`, by
these names; voting reads their grades.

Abbreviations: OD is optical density, log10(white / value); `p10` is a 10th percentile; `sd` a standard deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ABSENT, SCANT, MODERATE, ABUNDANT, PRESENT = "absent", "scant", "moderate", "abundant", "present"
"""Grades of an amount; `PRESENT` where no amount is stated."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One quantity that is measured on a patch.

    Examples
    --------
    >>> FACTS["fibrillary_share"].grade(0.25)
    'moderate'
    """

    unit: str
    """"share" (0 to 1, a fraction of the patch's area unless `meaning` states another whole), "count", "per mm²", "µm",
    "ratio" or "density" (optical density)."""
    coarsest_mpp: float
    """µm per pixel up to which it is measured, inclusive; inf: at any scale."""
    meaning: str
    term: str = ""
    """Its name in what `wsikit.captions.parse` returns; empty: it is never put into words."""
    grades: tuple[tuple[float, str], ...] = ()
    """(upper limit, word), ascending, upper limits exclusive; the last limit is inf."""
    finest_mpp: float = 0.0
    """µm per pixel down to which it is measured, exclusive: on finer pixels, facts of cells are more informative."""

    def grade(self, value: float) -> str:
        """The word for `value`: the first one whose upper limit is greater than it."""
        for limit, word in self.grades:
            if value < limit:
                return word
        raise ValueError(f"no grade for {value}")


# Coarsest scales in µm per pixel
_ANY, _BLOOD, _SPACE, _COUNT, _SHAPE, _FINE = math.inf, 5.0, 2.0, 1.5, 1.0, 0.6
_END = math.inf


def _amounts(scant: float, moderate: float, abundant: float) -> tuple[tuple[float, str], ...]:
    return (scant, ABSENT), (moderate, SCANT), (abundant, MODERATE), (_END, ABUNDANT)


def _color_texture(meaning: str, term: str, words: str, *limits: float) -> Fact:
    """A fact of colour or texture. Its limits are the octiles of 1,200 unlabelled breast patches, half of them at 0.7
    and half at 4 µm/px."""
    return Fact("ratio", _ANY, meaning, term, tuple(zip((*limits, _END), words.split(), strict=True)), _FINE)


FACTS: dict[str, Fact] = {
    "tissue_share": Fact("share", _ANY, "tissue: neither blank nor black"),
    "blank_share": Fact("share", _ANY, "bright and unstained: glass, lumens, fat", "blank", _amounts(0.10, 0.35, 0.80)),
    "black_share": Fact(
        "share", _ANY, "no light, or light in one channel only: scanner border, dark field", "black",
        _amounts(0.05, 0.2, 0.5),
    ),
    "grey_share": Fact("share", _ANY, "dark without colour: soot, dust, black ink", "grey", _amounts(0.05, 0.2, 0.5)),
    "brown_share": Fact("share", _ANY, "brown chromogen or pigment", "brown", _amounts(0.03, 0.15, 0.4)),
    "haematoxylin_share": Fact(
        "share", _ANY, "more haematoxylin than eosin", "haematoxylin", _amounts(0.05, 0.25, 0.55)
    ),
    "eosin_share": Fact("share", _ANY, "more eosin than haematoxylin", "eosin", _amounts(0.05, 0.25, 0.55)),
    "pen_share": Fact("share", _ANY, "smooth area with the colour of marker ink", "pen", _amounts(0.05, 0.2, 0.5)),
    "blur_um": Fact(
        "µm", _COUNT, "standard deviation of the defocus", "blur", ((1.2, ABSENT), (2.0, MODERATE), (_END, ABUNDANT))
    ),
    "blood_share": Fact("share", _BLOOD, "colour of red blood cells", "blood", _amounts(0.04, 0.15, 0.40)),
    "fat_share": Fact(
        "share", _BLOOD, "rounded empty spaces with thin walls between them", "fat", _amounts(0.10, 0.25, 0.5)
    ),
    "lumen_share": Fact("share", _SPACE, "empty spaces surrounded by thick tissue", "lumen", _amounts(0.05, 0.15, 0.4)),
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
        "density", _SHAPE, "median optical density (OD) of the nuclei, red channel", "chromatin",
        ((0.26, "pale"), (0.45, "medium dark"), (_END, "dark")),
    ),
    "spindle_share": Fact("share", _SHAPE, "fibres that run in parallel", "spindle_stroma", _amounts(0.10, 0.25, 0.5)),
    "necrosis_share": Fact(
        "share", _SHAPE, "stained, without fibres, far from any nucleus: necrosis-like, or oedema",
        "necrosis", _amounts(0.08, 0.25, 0.5),
    ),
    "fibrillary_share": Fact(
        "share", _FINE, "fine fibrils that run in all directions: neuropil-like", "neuropil", _amounts(0.11, 0.18, 0.3)
    ),
    "rosette_like": Fact(
        "count", _FINE, "rings of nuclei around fibrils that point to the centre", "rosettes",
        ((0.5, ABSENT), (_END, PRESENT)),
    ),
    "large_pale_nuclei_share": Fact(
        "share", _FINE, "of the nuclei, large and pale compared with the patch's dark ones: vesicular",
        "large_pale_nuclei",
        ((0.02, ABSENT), (0.06, SCANT), (0.2, MODERATE), (_END, ABUNDANT)),
    ),
    "ganglion_like_share": Fact(
        "share", _FINE, "of the nuclei, pale ones with a nucleolus, in pink cytoplasm", "ganglion_cells",
        ((0.015, ABSENT), (0.05, SCANT), (0.15, MODERATE), (_END, ABUNDANT)),
    ),
    "red_green_od_ratio": _color_texture(
        "mean OD in red over mean OD in green, stained pixels", "red_green_od_ratio",
        "salmon pink rose mauve lilac violet purple indigo", 0.316, 0.410, 0.516, 0.695, 0.839, 0.887, 0.931,
    ),
    "blue_green_od_ratio": _color_texture(
        "mean OD in blue over mean OD in green, stained pixels", "blue_green_od_ratio",
        "icy cold cool fresh neutral mild warm hot", 0.541, 0.551, 0.561, 0.576, 0.605, 0.645, 0.687,
    ),
    "red_green_od_ratio_sd": _color_texture(
        "standard deviation of the ratio of OD in red to OD in green, stained pixels", "red_green_od_ratio_sd",
        "plain simple tinged mixed varied motley dappled chequered", 0.079, 0.100, 0.120, 0.141, 0.158, 0.174, 0.196,
    ),
    "nuclear_stain": _color_texture(
        "90th percentile of the OD in red", "nuclear_stain",
        "blanched washed weak fair firm strong deep inky", 0.082, 0.138, 0.229, 0.369, 0.527, 0.645, 0.755,
    ),
    "od_p10": _color_texture(
        "10th percentile of the OD in green", "od_p10",
        "void airy open loose close compact tight solid", 0.028, 0.047, 0.092, 0.120, 0.143, 0.161, 0.193,
    ),
    "od_p50": _color_texture(
        "median OD in green", "od_p50",
        "thin light slight medium full rich dense heavy", 0.073, 0.178, 0.232, 0.262, 0.284, 0.315, 0.351,
    ),
    "od_p90": _color_texture(
        "90th percentile of the OD in green", "od_p90",
        "faint dim soft clear bold vivid stark harsh", 0.253, 0.347, 0.421, 0.494, 0.569, 0.637, 0.727,
    ),
    "nuclear_texture_sd": _color_texture(
        "standard deviation of the OD in red within areas of 20 µm", "nuclear_texture_sd",
        "bland dusty peppered speckled dotted stippled studded crowded",
        0.023, 0.037, 0.052, 0.083, 0.134, 0.159, 0.178,
    ),
    "fine_texture_sd": _color_texture(
        "standard deviation of the OD in green within areas of 20 µm", "fine_texture_sd",
        "smooth silky fine gritty granular coarse rough rugged", 0.052, 0.067, 0.081, 0.097, 0.117, 0.136, 0.154,
    ),
    "coarse_texture_sd": _color_texture(
        "standard deviation of the OD in green between areas of 20 µm", "coarse_texture_sd",
        "level flat rippled wavy uneven cloudy patchy blotchy", 0.042, 0.062, 0.079, 0.098, 0.114, 0.130, 0.154,
    ),
}  # fmt: skip
"""Every fact that a measuring captioner may state, in the order of the store's columns."""

STATED: dict[str, Fact] = {
    "mki_per_5000": Fact(
        "per 5,000", _COUNT,
        "mitoses and karyorrhectic cells per 5,000 neuroblastic cells: the mitosis-karyorrhexis index (MKI)", "mitoses",
        ((5.0, ABSENT), (100.0, SCANT), (200.0, MODERATE), (_END, ABUNDANT)),
    ),
}  # fmt: skip
"""Facts that captions may state, counted by an observer or found by a model, and that no captioner here measures. A
model reads them if `numbers.facts` names them."""

TONE = tuple(name for name, fact in FACTS.items() if fact.finest_mpp)
"""Facts of colour and texture, measured where pixels are too coarse for fibrils. Captions state them in one sentence,
"Tone: …"."""
