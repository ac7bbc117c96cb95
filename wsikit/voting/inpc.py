"""INPC rules (International Neuroblastoma Pathology Classification) on per-patch facts: category, evidence, borderline
and missing items.

NumPy only. INPC is not a majority vote of patches: a slide with 8 % differentiating neuroblasts is D although most of
its patches are PD, so the rules are reported in addition to the vote. For research only; INPC needs untreated tissue
and a pathologist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.voting.area_fractions import Share, block_patches, connected, share_of
from wsikit.voting.inpc_facts import DIFFERENTIATING, NEUROPIL, STROMA, Floats, PatchFacts
from wsikit.voting.prognosis import Clinical, Mki, neuroblastoma_group

UD, PD, D = STROMA_POOR = ("UD", "PD", "D")
GNB_I, GN = "GNB-I", "GN"
"""Ganglioneuroblastoma, intermixed; ganglioneuroma, maturing or mature."""
GNB_N, MAYBE_GNB_N = "GNB-N", "GNB-N?"
"""With "?" where no macroscopic nodule was outlined: a section alone can only raise the suspicion."""
CATEGORIES = (*STROMA_POOR, GNB_I, GN, GNB_N, MAYBE_GNB_N)
ORDER = (*STROMA_POOR, GNB_I, GN)
"""Order for ordinal statistics; nodular ganglioneuroblastoma is not on that scale."""
NOTICE = "Research use only. INPC needs untreated tissue, several sections, age, MKI and a pathologist."
_TOP = 5


@dataclass(frozen=True)
class Rules:
    """Limits of the rules. INPC's own limits are fixed by its sources. The limits for proxies (how much of a proxy is
    enough) are not, and may be fitted on validation slides."""

    stroma_rich: float = 0.50
    """Fraction of Schwannian stroma in the tumour area above which the tumour is stroma-rich."""
    differentiating: float = 0.05
    """Fraction of differentiating neuroblasts above which the tumour is D. Sources differ on exactly 5 %. INPC counts
    cells; for areas used as a proxy INPC has no limit."""
    neuropil_grade: int = 1
    """Minimum grade at which a patch shows neuropil: 1 scant, 2 moderate, 3 abundant."""
    neuropil_share: float = 0.01
    """Fraction of the neuroblastic area in such patches above which the slide has neuropil. Our limit, not INPC's: it
    allows one patch in a hundred to be wrong."""
    nodule_mm2: float = 4.0
    """Minimum area of a stroma-poor region in stroma-rich tumour for a suspected nodule: 2 mm are visible to the naked
    eye. Our limit."""
    focus_mm2: float = 0.02
    """Minimum area of stroma-poor patches for neuroblastic foci. Our limit."""
    tumour_mm2: float = 0.25
    """Minimum tumour area for a category. Our limit."""
    block_mm: float = 0.5
    """Side of the bootstrap blocks, as in the vote."""

    def __post_init__(self) -> None:
        shares = (self.stroma_rich, self.differentiating, self.neuropil_share)
        if not all(0 <= share <= 1 for share in shares):
            raise RequestError(f"INPC rules: a share outside 0 … 1 in {self}")
        if self.neuropil_grade not in (1, 2, 3) or not self.block_mm > 0:
            raise RequestError(f"INPC rules: neuropil grade {self.neuropil_grade}, blocks of {self.block_mm} mm")


@dataclass(frozen=True)
class Nodule:
    """A stroma-poor region in stroma-rich tumour."""

    area_mm2: float
    category: str | None
    """UD, PD or D of this region alone; None if not decidable."""
    first_row: int
    """First row of the patch table within it."""


@dataclass(frozen=True)
class InpcResult:
    """The outcome of the rules for one slide."""

    category: str | None
    """One of `CATEGORIES`; None if the facts do not allow one."""
    reason: str
    """Why there is no category; empty if there is one."""
    tumour_mm2: float
    """Area of neuroblastic tissue and Schwannian stroma."""
    evidence: Mapping[str, Share]
    """Fractions by `STROMA` (of the tumour), `NEUROPIL` (of the neuroblastic area, in patches that show it) and
    `DIFFERENTIATING` (of the neuroblasts); only those that were measured."""
    top_rows: Mapping[str, tuple[int, ...]]
    """Rows of the patch table with the strongest evidence for each of them, strongest first."""
    nodules: tuple[Nodule, ...]
    """Largest first."""
    borderline: tuple[str, ...]
    """Items near a limit, in words."""
    missing: tuple[str, ...]
    """Items that are unknown, in words."""
    assumptions: tuple[str, ...]
    """Assumptions behind the category, in words."""
    proxies: Mapping[str, str]
    """Quantity to the proxy that was used for it."""
    mki: str | None
    """low, intermediate or high, as given."""
    group: str | None
    """FH or UH; only if category (without assumption), age and MKI are all known and the tumour was untreated."""
    notice: str = NOTICE

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON and Zarr attributes."""
        return {
            "category": self.category,
            "reason": self.reason,
            "tumour_mm2": self.tumour_mm2,
            "evidence": {name: share.to_json() for name, share in self.evidence.items()},
            "top_rows": {name: list(rows) for name, rows in self.top_rows.items()},
            "nodules": [
                {"area_mm2": n.area_mm2, "category": n.category, "first_row": n.first_row} for n in self.nodules
            ],
            "borderline": list(self.borderline),
            "missing": list(self.missing),
            "assumptions": list(self.assumptions),
            "proxies": dict(self.proxies),
            "mki": self.mki,
            "group": self.group,
            "notice": self.notice,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> InpcResult:
        """The inverse of `to_json`."""
        fields = dict(record)
        fields["evidence"] = {name: Share(**share) for name, share in record["evidence"].items()}
        fields["top_rows"] = {name: tuple(rows) for name, rows in record["top_rows"].items()}
        fields["nodules"] = tuple(Nodule(**nodule) for nodule in record["nodules"])
        for name in ("borderline", "missing", "assumptions"):
            fields[name] = tuple(record[name])
        return cls(**fields)

    def words(self) -> list[str]:
        """The result as lines of text."""
        head = f"INPC rule: {self.category}" if self.category else f"INPC rule: no category, {self.reason}"
        lines = [head + (f", {self.group}" if self.group else "") + f" (tumour {self.tumour_mm2:.2f} mm²)"]
        for name, share in self.evidence.items():
            proxy = self.proxies.get(name)
            lines.append(f"  {_NAMES[name]} {share}" + (f" ({proxy})" if proxy else ""))
        for nodule in self.nodules:
            lines.append(f"  stroma-poor region of {nodule.area_mm2:.1f} mm²: {nodule.category or 'not decidable'}")
        for title, items in (("borderline", self.borderline), ("assumed", self.assumptions), ("missing", self.missing)):
            if items:
                lines.append(f"  {title}: {'; '.join(items)}")
        return [*lines, f"  {self.notice}"]


_NAMES = {STROMA: "Schwannian stroma", NEUROPIL: "neuropil in", DIFFERENTIATING: "differentiating neuroblasts"}


def inpc(facts: PatchFacts, *, clinical: Clinical | None = None, rules: Rules | None = None) -> InpcResult:
    """Apply the INPC rules to a slide.

    Parameters
    ----------
    facts
        Facts per patch; see `wsikit.voting.inpc_facts`.
    clinical
        Age, MKI and treatment, as far as known.
    rules
        Limits; by default those of INPC's sources.

    Returns
    -------
    InpcResult
        Stroma above 50 % of the tumour: GN without neuroblastic foci, else GNB-I, or GNB-N with a nodule. Otherwise
        UD without neuropil, D with more than 5 % differentiating neuroblasts, or PD (Shimada et al. 1999).

    >>> cells = np.stack([np.arange(100), np.zeros(100, int)], axis=1)
    >>> area = np.full(100, 0.01)  # mm² per patch
    >>> facts = PatchFacts(cells, 0.1, area, neuropil=np.ones(100), differentiating=0.02 * area, neuroblasts=area)
    >>> inpc(facts).category
    'PD'
    """
    clinical, rules = clinical or Clinical(), rules or Rules()
    sums = _SlideSums(facts, rules)
    decision = _decide(sums, rules)
    if sums.tumour_mm2 < rules.tumour_mm2:
        reason = f"{sums.tumour_mm2:.2f} mm² of tumour, less than {rules.tumour_mm2:g}"
        decision = _Decision(None, reason)
    elif clinical.treated:
        decision = _Decision(None, "treated before the tissue was taken; INPC holds for untreated tumours only")
    category, borderline = decision.category, list(sums.borderline(rules, decision))
    if isinstance(clinical.mki, Mki) and clinical.mki.borderline:
        borderline.append(clinical.mki.borderline)
    return InpcResult(
        category=category,
        reason=decision.reason,
        tumour_mm2=sums.tumour_mm2,
        evidence=sums.shares,
        top_rows=sums.top_rows(rules),
        nodules=decision.nodules,
        borderline=tuple(borderline),
        missing=(*sums.missing, *clinical.missing),
        assumptions=decision.assumptions if category else (),
        proxies=dict(facts.proxies),
        mki=clinical.mki_reading,
        group=_group(decision, clinical),
    )


def disagreement(result: InpcResult, vote: str | None, *, reason: str = "") -> str:
    """How vote and INPC rule differ, in a sentence; empty where they agree.

    `vote` is the class code of the vote; None if it abstained, for `reason`.
    """
    rule = result.category
    if rule == vote:
        return "" if rule else "Neither vote nor INPC rule gives a category."
    if rule is None:
        return f"The vote says {vote}, the INPC rule gives no category: {result.reason}."
    if vote is None:
        return f"The INPC rule says {rule}, the vote abstained{': ' + reason if reason else ''}."
    shares = ", ".join(f"{_NAMES[name]} {share}" for name, share in result.evidence.items())
    return f"The vote says {vote}, the INPC rule says {rule} ({shares}). A majority of patches is not the criterion."


@dataclass(frozen=True)
class _Decision:
    category: str | None
    reason: str = ""
    assumptions: tuple[str, ...] = ()
    nodules: tuple[Nodule, ...] = ()


class _SlideSums:
    """Sums over a slide's facts."""

    def __init__(self, facts: PatchFacts, rules: Rules) -> None:
        self.facts = facts
        stroma = facts.stroma_mm2
        self.stroma = np.zeros(len(facts)) if stroma is None else np.asarray(stroma, dtype=np.float64)
        self.poor = np.asarray(facts.neuroblastic_mm2, dtype=np.float64)
        self.tumour = np.nan_to_num(self.stroma) + np.nan_to_num(self.poor)
        self.tumour_mm2 = float(self.tumour.sum())
        block = block_patches(rules.block_mm, facts.pitch_mm)
        parts: dict[str, tuple[Floats, Floats]] = {}
        if stroma is not None:
            parts[STROMA] = self.stroma, self.stroma + self.poor
        if facts.neuropil is not None:
            shown = np.where(facts.neuropil >= rules.neuropil_grade, self.poor, 0.0)
            parts[NEUROPIL] = np.where(np.isnan(facts.neuropil), np.nan, shown), self.poor
        if facts.differentiating is not None and facts.neuroblasts is not None:
            parts[DIFFERENTIATING] = facts.differentiating, facts.neuroblasts
        found = {name: share_of(*pair, facts.cells, block=block) for name, pair in parts.items()}
        self.shares = {name: share for name, share in found.items() if share is not None}
        self.missing = tuple(_UNMEASURED[name] for name in _UNMEASURED if name not in self.shares)

    def stroma_rich(self, rules: Rules) -> bool:
        return STROMA in self.shares and _above(self.shares[STROMA], rules.stroma_rich)

    def top_rows(self, rules: Rules) -> dict[str, tuple[int, ...]]:
        facts = self.facts
        neuropil = (
            None if facts.neuropil is None else np.where(facts.neuropil >= rules.neuropil_grade, facts.neuropil, 0)
        )
        weights = {STROMA: facts.stroma_mm2, NEUROPIL: neuropil, DIFFERENTIATING: facts.differentiating}
        weights |= facts.ranking
        return {name: _strongest(np.asarray(weights[name]) * (self.tumour > 0)) for name in self.shares}

    def borderline(self, rules: Rules, decision: _Decision) -> list[str]:
        """Shares near the limits that decide this slide."""
        limits = {STROMA: (rules.stroma_rich, _STROMA_BAND, "stroma-poor or stroma-rich")}
        if not self.stroma_rich(rules) or decision.nodules:
            limits[NEUROPIL] = (rules.neuropil_share, _NEUROPIL_BAND, f"{UD} or {PD}")
            limits[DIFFERENTIATING] = (rules.differentiating, _DIFFERENTIATING_BAND, f"{PD} or {D}")
        found = []
        for name, (limit, band, undecided) in limits.items():
            share, (low, high) = self.shares.get(name), (round(limit * factor, 9) for factor in band)
            if share is None:
                continue
            if low <= round(share.value, 9) <= high:
                found.append(f"{_NAMES[name]} {share} lies within {100 * low:g}–{100 * high:g} %: {undecided}")
            elif share.interval_contains(limit):
                found.append(f"{_NAMES[name]} {share} has {100 * limit:g} % within its interval: {undecided}")
        if decision.category == MAYBE_GNB_N:
            found.append(f"a stroma-poor region, no macroscopic nodule outlined: {GNB_I} or {GNB_N}")
        return found


_STROMA_BAND, _DIFFERENTIATING_BAND, _NEUROPIL_BAND = (0.9, 1.1), (0.8, 1.2), (0.5, 2.0)
"""Borderline ranges as multiples of the limits: stroma 45 to 55 %, differentiating 4 to 6 %."""
_UNMEASURED = {
    STROMA: "Schwannian stroma (not measured)",
    NEUROPIL: "neuropil (not measured)",
    DIFFERENTIATING: "differentiating neuroblasts (not measured)",
}


def _decide(sums: _SlideSums, rules: Rules) -> _Decision:
    if sums.stroma_rich(rules):
        return _decide_rich(sums, rules)
    category, reason = decide_poor(sums.shares, rules)
    assumed = () if STROMA in sums.shares else ("stroma-poor (Schwannian stroma below 50 %)",)
    return _Decision(category, reason, (*assumed, *sums.facts.assumptions))


def decide_poor(shares: Mapping[str, Share], rules: Rules) -> tuple[str | None, str]:
    """UD, PD or D; or None and why."""
    if NEUROPIL not in shares:
        return None, f"neuropil was not measured, so {UD} and {PD} cannot be distinguished"
    if not _above(shares[NEUROPIL], rules.neuropil_share):
        return UD, ""
    if DIFFERENTIATING not in shares:
        return None, f"differentiating neuroblasts were not measured, so {PD} and {D} cannot be distinguished"
    return (D if _above(shares[DIFFERENTIATING], rules.differentiating) else PD), ""


def _above(share: Share, limit: float) -> bool:
    """More than the limit; exactly the limit is not more, whatever the rounding of a sum of areas."""
    return share.value > limit + 1e-9


def _decide_rich(sums: _SlideSums, rules: Rules) -> _Decision:
    with np.errstate(invalid="ignore"):
        poor = (sums.tumour > 0) & ~(sums.stroma > rules.stroma_rich * sums.tumour) & np.isfinite(sums.stroma)
    outlined = sums.facts.nodules
    number = connected(sums.facts.cells, poor) if outlined is None else np.asarray(outlined)
    areas = np.bincount(number[number >= 0], sums.tumour[number >= 0])
    # by rounding, 400 patches of 0.01 mm² sum to slightly less than 4
    least = rules.nodule_mm2 * (1 - 1e-9) if outlined is None else 1e-12
    nodules = []
    for one in np.flatnonzero(areas >= least):
        inside = number == one
        shares = _SlideSums(_only(sums.facts, inside), rules).shares
        nodules.append(Nodule(float(areas[one]), decide_poor(shares, rules)[0], int(np.flatnonzero(inside)[0])))
    if nodules:
        nodules.sort(key=lambda nodule: -nodule.area_mm2)
        category = MAYBE_GNB_N if outlined is None else GNB_N
        return _Decision(category, assumptions=sums.facts.assumptions, nodules=tuple(nodules))
    foci = float(sums.tumour[poor].sum())
    if sums.facts.intermixed_mm2 is not None:
        foci += float(np.nansum(sums.facts.intermixed_mm2))
    return _Decision(GNB_I if foci >= rules.focus_mm2 else GN)


def _only(facts: PatchFacts, rows: npt.NDArray[np.bool_]) -> PatchFacts:
    """The facts of these rows without their stroma."""

    def of(values: Floats | None) -> Floats | None:
        return None if values is None else values[rows]

    return PatchFacts(
        cells=facts.cells[rows],
        pitch_mm=facts.pitch_mm,
        neuroblastic_mm2=facts.neuroblastic_mm2[rows],
        neuropil=of(facts.neuropil),
        differentiating=of(facts.differentiating),
        neuroblasts=of(facts.neuroblasts),
        proxies=facts.proxies,
    )


def _group(decision: _Decision, clinical: Clinical) -> str | None:
    """FH or UH if category, age and MKI are all known; for GNB-N by its least favourable nodule."""
    category, age, mki = decision.category, clinical.age_months, clinical.mki_reading
    if category is None or decision.assumptions or age is None or mki is None or category == MAYBE_GNB_N:
        return None
    if category in (GNB_I, GN):
        return "FH"
    if category == GNB_N:
        grades = [nodule.category for nodule in decision.nodules]
        groups = [neuroblastoma_group(grade, age, mki) for grade in grades if grade is not None]
        if "UH" in groups:
            return "UH"
        return "FH" if groups and None not in grades else None
    return neuroblastoma_group(category, age, mki)


def _strongest(values: Floats) -> tuple[int, ...]:
    order = np.argsort(-np.nan_to_num(values), kind="stable")[:_TOP]
    return tuple(int(row) for row in order if np.nan_to_num(values[row]) > 0)
