"""Which measurements of a patch may be stated: a fact that looks like its rivals needs further evidence.

The pixels of keratin, folded membranes and mucus exceed the threshold of nuclei, but their outlines are ragged.
Collagen and smooth muscle are as fibrillary as neuropil, but their nuclei are long. Squamous and glandular epithelium
has pale nuclei with nucleoli in pink cytoplasm as ganglion cells have, but no fibrils around them. Values that are
absent by their grade are always kept: nothing is claimed then.
"""

from __future__ import annotations

import numpy as np

from wsikit.captions.nuclei import Nuclei
from wsikit.facts import ABSENT, ABUNDANT, FACTS

_RAGGED = (0.8, 0.75)  # area over that of the ellipse with the same moments; most nuclei have 0.85 to 1
_MOST_RAGGED = 0.33  # sum of the shares of the complete nuclei below either; 0.04 to 0.3 in tissue, keratin has 0.34
_ENOUGH = 8  # complete nuclei, to judge by their shares
_MOST_ELONGATED = 0.18  # share; of neuroblasts at most 0.1, in stroma, muscle and epithelium 0.19 and more
_LEAST_FIBRILS = 0.05  # share of the patch


def are_nuclei(nuclei: Nuclei) -> bool:
    """Whether what was segmented has the outlines of nuclei. True if it is too little to judge."""
    fill = nuclei.fill[~nuclei.cut]
    if len(fill) < _ENOUGH:
        return True
    ragged, very_ragged = (np.count_nonzero(fill < limit) for limit in _RAGGED)
    return bool(ragged + very_ragged <= _MOST_RAGGED * len(fill))


def leave_out_unsure(facts: dict[str, float]) -> None:
    """Remove facts that are not absent and cannot be distinguished from their rivals; in place.

    Examples
    --------
    >>> facts = {"nuclei": 90.0, "elongated_nuclei_share": 0.5, "fibrillary_share": 0.3, "ganglion_like_share": 0.0}
    >>> leave_out_unsure(facts)
    >>> "fibrillary_share" in facts, "ganglion_like_share" in facts
    (False, True)
    """
    rounded = "nuclei" in facts and facts.get("elongated_nuclei_share", 0.0) <= _MOST_ELONGATED
    among_fibrils = facts.get("fibrillary_share", 0.0) >= _LEAST_FIBRILS
    for name, needs_fibrils in (("fibrillary_share", False), ("rosette_like", False), ("ganglion_like_share", True)):
        grade = FACTS[name].grade(facts.get(name, 0.0))
        sure = rounded and (not needs_fibrils or among_fibrils or grade == ABUNDANT)
        if grade != ABSENT and not sure:
            del facts[name]
