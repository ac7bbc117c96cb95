"""Facts per patch for the INPC rules, in areas and cell counts, from caption facts or from class probabilities.

Class probabilities are only a proxy ("area proxy"). NumPy only; positions are columns and rows of the patch grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.facts import ABSENT, ABUNDANT, FACTS, MODERATE, SCANT
from wsikit.voting.inputs import vote_inputs

Floats = npt.NDArray[np.float64]

NEUROPIL_GRADES = (ABSENT, SCANT, MODERATE, ABUNDANT)
"""Grades of neuropil in words; a grade is an index into them."""
STROMA, NEUROPIL, DIFFERENTIATING = "stroma", "neuropil", "differentiating"

_UD, _PD, _D, _GNB_I = PATCH_CLASSES = ("UD", "PD", "D", "GNB-I")
"""Classes of a patch that the rules read. PD and D are needed; UD and GNB-I may be absent from a model."""
NO_UD = f"not undifferentiated (the model has no class {_UD})"
_NOT_TUMOUR = ("necrosis_share", "blood_share", "fat_share")


@dataclass(frozen=True, eq=False)
class PatchFacts:
    """Facts of N patches. NaN: unknown for this patch; None: unknown for all."""

    cells: npt.NDArray[np.int64]
    """(N, 2), column and row in the patch grid."""
    pitch_mm: float
    """Distance of neighbouring patches, mm."""
    neuroblastic_mm2: Floats
    """(N,), area of neuroblastic tissue (cells and neuropil) of the patch; 0 outside of tumour. Where patches overlap,
    each counts only its share, so that no tissue counts twice."""
    stroma_mm2: Floats | None = None
    """(N,), area of Schwannian stroma. Stroma is part of the tumour; neuropil is not part of stroma."""
    neuropil: Floats | None = None
    """(N,), grade: index into `NEUROPIL_GRADES`."""
    differentiating: Floats | None = None
    """(N,), differentiating neuroblasts, in the unit of `neuroblasts`."""
    neuroblasts: Floats | None = None
    """(N,), all neuroblasts: cells, or mm² where area is used as a proxy for cells."""
    nodules: npt.NDArray[np.int64] | None = None
    """(N,), number of the outlined macroscopic nodule, -1 outside. None: nodules were not outlined; stroma-poor
    regions are then searched and reported as suspected."""
    proxies: Mapping[str, str] = field(default_factory=dict)
    """Quantity (`STROMA`, `NEUROPIL`, `DIFFERENTIATING`, or "tumour") to its proxy, in words; absent where the
    quantity itself was counted."""
    ranking: Mapping[str, Floats] = field(default_factory=dict)
    """Quantity to (N,) values by which to rank patches, where that is not the quantity itself."""
    intermixed_mm2: Floats | None = None
    """(N,), area of stroma-rich tissue that holds microscopic neuroblastic foci of unknown area: evidence of foci,
    and no further area of the tumour."""
    assumptions: tuple[str, ...] = ()
    """What a grade of stroma-poor tissue by these facts assumes, in words."""

    def __post_init__(self) -> None:
        n = len(self.cells)
        if np.shape(self.cells) != (n, 2) or not self.pitch_mm > 0:
            raise RequestError(
                f"patch facts: cells of shape {np.shape(self.cells)} at {self.pitch_mm} mm; expected (N, 2) columns "
                "and rows, and a positive distance"
            )
        if (self.differentiating is None) != (self.neuroblasts is None):
            raise RequestError("patch facts: give differentiating neuroblasts together with all neuroblasts")
        areas = ("neuroblastic_mm2", "stroma_mm2", "intermixed_mm2")
        for name in (*areas, "neuropil", "differentiating", "neuroblasts", "nodules"):
            values = getattr(self, name)
            if values is not None and np.shape(values) != (n,):
                raise RequestError(f"patch facts: {name} of shape {np.shape(values)} for {n} patches, expected ({n},)")
            if values is not None and name != "nodules" and (np.asarray(values) < 0).any():
                raise RequestError(f"patch facts: {name} below 0; areas, grades and counts are 0 or more")
        if self.neuropil is not None and (self.neuropil >= len(NEUROPIL_GRADES)).any():
            raise RequestError(f"patch facts: a neuropil grade above {len(NEUROPIL_GRADES) - 1} ({ABUNDANT})")

    def __len__(self) -> int:
        return len(self.cells)


def has_inpc_classes(codes: Iterable[str]) -> bool:
    """Whether voting classes are those of INPC: PD and D, perhaps UD, perhaps GNB-I.

    >>> has_inpc_classes(["PD", "D", "GNB-I"]), has_inpc_classes(["UD", "PD"])
    (True, False)
    """
    found = set(codes)
    return {_PD, _D} <= found <= set(PATCH_CLASSES)


def facts_from_classes(
    probs: npt.ArrayLike,
    classes: Sequence[str],
    background: Sequence[str] = (),
    *,
    cells: npt.NDArray[np.int64],
    pitch_mm: float,
) -> PatchFacts:
    """Class probabilities of a model of INPC classes as a proxy for facts.

    A model without GNB-I gives nothing about Schwannian stroma.

    Parameters
    ----------
    probs
        (N, C); a row with a NaN is a patch without prediction and has no area.
    classes, background
        C codes, and those among them that are not tumour.
    cells, pitch_mm
        As in `PatchFacts`.

    Notes
    -----
    A patch called PD or D counts as showing neuropil. The whole tumour area of a patch called D counts as
    differentiating, although 5 % of such cells make a D patch: the fraction of differentiating *area* is therefore
    larger than the fraction of cells, and a slide near the limit is called D too often.

    GNB-I (ganglioneuroblastoma, intermixed) is Schwannian stroma of more than half with microscopic foci: a patch of
    that class counts as stroma that holds foci, and gives nothing about neuropil and differentiation.

    Raises
    ------
    RequestError
        If the voting classes are not INPC's; see `has_inpc_classes`.
    """
    inputs = vote_inputs(probs, classes, background)
    if not has_inpc_classes(inputs.classes):
        raise RequestError(
            f"classes {list(inputs.classes)} are not INPC's: the rules need a model with the classes {_UD}, {_PD}, "
            f"{_D} and perhaps {_GNB_I}; {_UD} may be absent"
        )
    label = np.array(["", *classes])[inputs.labels + 1]

    def of(codes: tuple[str, ...]) -> Floats:
        chosen = [index for index, code in enumerate(inputs.classes) if code in codes]
        return np.where(np.isin(label, codes), inputs.weights * inputs.probs[:, chosen].sum(axis=1), 0.0)

    whole = pitch_mm**2 * np.nan_to_num(np.asarray(inputs.weights, dtype=np.float64))
    rich = np.where(label == _GNB_I, whole, 0.0)
    area = whole - rich
    tumour = area > 0
    knows_stroma = _GNB_I in inputs.classes
    stroma = {STROMA: f"area of patches called {_GNB_I}"} if knows_stroma else {}
    return PatchFacts(
        cells=cells,
        pitch_mm=pitch_mm,
        neuroblastic_mm2=area,
        stroma_mm2=rich if knows_stroma else None,
        intermixed_mm2=rich if knows_stroma else None,
        neuropil=np.where(tumour, np.where(np.isin(label, (_PD, _D)), NEUROPIL_GRADES.index(MODERATE), 0.0), np.nan),
        differentiating=np.where(rich > 0, np.nan, np.where(label == _D, area, 0.0)),
        neuroblasts=area,
        assumptions=() if _UD in inputs.classes else (NO_UD,),
        proxies={
            **stroma,
            NEUROPIL: "area of patches called PD or D",
            DIFFERENTIATING: "area proxy: area of patches called D, not cells counted; larger than the share of cells",
            "tumour": "area of patches by the model, less its background classes",
        },
        ranking={NEUROPIL: of((_PD, _D)), DIFFERENTIATING: of((_D,))} | ({STROMA: of((_GNB_I,))} if stroma else {}),
    )


def facts_from_captions(
    values: npt.ArrayLike,
    names: Sequence[str],
    *,
    cells: npt.NDArray[np.int64],
    pitch_mm: float,
    tumour: npt.ArrayLike | None = None,
) -> PatchFacts:
    """Facts that captions measured. A fact that was measured on no patch stays unknown.

    Parameters
    ----------
    values
        (N, F) facts as in `wsikit.facts.FACTS`; NaN where not measured.
    names
        F names of facts.
    tumour
        (N,), fraction of the patch's tissue that a model predicts as tumour, 0 to 1. Default: all tissue except
        necrosis, blood and fat counts as tumour, including lymph nodes and adrenal cortex.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape != (len(cells), len(names)):
        raise RequestError(f"facts of shape {matrix.shape}; expected ({len(cells)}, {len(names)})")
    known = {name: matrix[:, index] for index, name in enumerate(names)}
    tissue = np.nan_to_num(known.get("tissue_share", np.ones(len(cells))))
    for name in _NOT_TUMOUR:
        tissue = tissue - np.nan_to_num(known.get(name, np.zeros(len(cells))))
    tissue = np.clip(tissue, 0, 1)
    proxies = {}
    stroma = _measured(known, "spindle_share")
    if stroma is not None:
        stroma = np.minimum(stroma, np.where(np.isnan(stroma), np.nan, tissue))
        proxies[STROMA] = "spindle stroma by texture, not S100; capsule, septa and scars count as well"
    share = np.ones(len(cells)) if tumour is None else np.nan_to_num(np.asarray(tumour, dtype=np.float64))
    neuroblastic = share * (tissue - (0.0 if stroma is None else np.nan_to_num(stroma)))
    proxies["tumour"] = "tissue without necrosis, blood and fat" + (
        ", as far as the model calls it tumour" * (tumour is not None)
    )
    fibrils = _measured(known, "fibrillary_share")
    if fibrils is not None:
        proxies[NEUROPIL] = "fibrillary matrix by texture"
    nuclei, ganglion = _measured(known, "nuclei"), _measured(known, "ganglion_like_share")
    cells_of, differentiating = None, None
    if nuclei is not None and ganglion is not None:
        cells_of = np.where(np.isnan(ganglion), np.nan, nuclei) * share
        differentiating = cells_of * ganglion
        proxies[DIFFERENTIATING] = "ganglion-like of all nuclei, by shape; lymphocytes and stroma are among the nuclei"
    area = pitch_mm**2
    return PatchFacts(
        cells=cells,
        pitch_mm=pitch_mm,
        neuroblastic_mm2=np.clip(neuroblastic, 0, 1) * area,
        stroma_mm2=None if stroma is None else stroma * area,
        neuropil=None if fibrils is None else _graded("fibrillary_share", fibrils),
        differentiating=differentiating,
        neuroblasts=cells_of,
        proxies=proxies,
    )


def _measured(known: Mapping[str, Floats], name: str) -> Floats | None:
    """(N,), or None if no patch has a value."""
    values = known.get(name)
    return None if values is None or np.isnan(values).all() else values


def _graded(name: str, values: Floats) -> Floats:
    """(N,) grade of each value; NaN where the value is NaN."""
    limits = [limit for limit, _ in FACTS[name].grades]
    return np.where(np.isnan(values), np.nan, np.searchsorted(limits, np.nan_to_num(values), side="right"))
