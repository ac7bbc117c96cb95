"""The INPC rule on a store's patch table; its result is kept in the table, with the votes, under votes/inpc_rule.

Stroma comes from the captions' facts; neuropil and differentiation from the model's classes, if these are INPC classes.
A model with the class GNB-I says where tissue is stroma-rich with foci.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError, StoreError
from wsikit.inference.vote import table_prior
from wsikit.slides.store import StoreLike, open_store
from wsikit.store.receipts import Receipt, digest_of
from wsikit.store.table import PatchTable, coords_digest
from wsikit.voting.fitted_parameters import FittedVote
from wsikit.voting.inpc import CATEGORIES, STROMA_POOR, InpcResult, Rules, disagreement, inpc
from wsikit.voting.inpc_facts import STROMA, PatchFacts, facts_from_captions, facts_from_classes, has_inpc_classes
from wsikit.voting.inputs import vote_inputs
from wsikit.voting.parameters import VoteParameters
from wsikit.voting.prior import AUTO
from wsikit.voting.prognosis import Clinical
from wsikit.voting.result import SlideResult

INPC_REVISION = 2
VOTE_NAME = "inpc_rule"
"""Name of the result among the votes of a table."""

Source = Literal["auto", "classes", "facts"]
SOURCES: tuple[str, ...] = get_args(Source)

_FACTS, _PROBABILITY = "caption_facts", "probability"
_CAPTION_CHARS = 160


def apply_inpc(
    store: StoreLike,
    *,
    grid: str | None = None,
    source: str = "auto",
    clinical: Clinical | None = None,
    rules: Rules | None = None,
    prior: str = AUTO,
) -> InpcResult:
    """Apply the INPC rule to the patches of a store, and keep its result in the patch table.

    Parameters
    ----------
    store
        A slide store, or its path.
    grid
        Name of the patch grid; not needed if the store has only one.
    source
        Source of neuropil and differentiation: "classes", the areas predicted UD, PD, D and GNB-I; "facts", measured by
        captions; "auto", the former if a model with these classes has predicted, else the latter. Stroma comes from
        facts; without facts from the area predicted GNB-I, and from a model without that class it is unknown.
    clinical
        Age, MKI, treatment, as far as known. The result is stored, these data are not.
    rules
        Thresholds of the rule.
    prior
        Class frequencies that the predictions are corrected to, as for the vote; see `wsikit.voting.prior`.

    Returns
    -------
    InpcResult
        Category with its evidence; areas in mm².

    Raises
    ------
    StoreError
        If the table has neither predictions of such a model nor facts, or not those that `source` requires.
    RequestError
        If `source` is unknown.

    Examples
    --------
    >>> import tempfile, wsikit
    >>> folder = tempfile.mkdtemp()
    >>> _ = wsikit.make_phantom(f"{folder}/slide.tiff", size_px=(448, 448))
    >>> store = wsikit.tile(f"{folder}/slide.tiff", f"{folder}/slide.zarr")
    >>> _ = wsikit.caption(store)
    >>> result = apply_inpc(store)
    >>> result == stored_inpc(store.patches())
    True
    """
    opened = open_store(store)
    table = opened.patches(grid)
    used = _columns(table, source)
    clinical, rules = clinical or Clinical(), rules or Rules()
    receipt = _receipt(table, used, source, clinical, rules, prior)
    known = table.vote_receipt(VOTE_NAME)
    if known is not None and known.digest == receipt.digest:
        return _read(table)
    result = inpc(patch_facts(table, source=source, prior=prior), clinical=clinical, rules=rules)
    index = None if result.category is None else CATEGORIES.index(result.category)
    table.write_vote(VOTE_NAME, {**result.to_json(), "label": index, "classes": list(CATEGORIES)}, receipt)
    return result


def stored_inpc(table: PatchTable) -> InpcResult | None:
    """The INPC result kept in a table, or None."""
    return _read(table) if table.vote_receipt(VOTE_NAME) is not None else None


def patch_facts(table: PatchTable, *, source: str = "auto", prior: str = AUTO) -> PatchFacts:
    """The facts of a table's patches that the INPC rule reads; see `apply_inpc`."""
    used = _columns(table, source)
    cells = np.stack(table.grid.index_of(table.coords), axis=1)
    pitch_mm = float(np.sqrt(table.grid.cell_area_mm2))
    of_classes, tumour = None, None
    if _PROBABILITY in used:
        attributes = table.attributes(_PROBABILITY)
        probs, codes = table.read(_PROBABILITY), attributes["names"]
        if (shift := table_prior(table, prior)) is not None:
            probs = shift.apply(probs)
        background = attributes["model"]["background"]
        tumour = vote_inputs(probs, codes, background).weights
        if _has_inpc_classes(table):
            of_classes = facts_from_classes(probs, codes, background, cells=cells, pitch_mm=pitch_mm)
    if _FACTS not in used:
        assert of_classes is not None
        return of_classes
    names = table.attributes(_FACTS)["names"]
    found = facts_from_captions(table.read(_FACTS), names, cells=cells, pitch_mm=pitch_mm, tumour=tumour)
    return found if of_classes is None or source == "facts" else _joined(found, of_classes)


def inpc_summary(
    table: PatchTable, vote: SlideResult | None = None, classes: tuple[str, ...] = STROMA_POOR
) -> list[str]:
    """The INPC result kept in a table as lines of text: the result, its strongest patches with their captions, and how
    it differs from `vote`, whose `label` is an index into `classes`.

    Empty if there is no result; one line if most of the tissue is out-of-distribution.
    """
    result = stored_inpc(table)
    if result is None:
        return []
    if vote is not None and (vote.ood_fraction or 0.0) > VoteParameters.max_ood:
        # its areas are those of classes that the model cannot judge here
        percent = f"{100 * (vote.ood_fraction or 0.0):.1f} %"
        return [f"INPC rule: not stated, as {percent} of the voting tissue is out-of-distribution for the model"]
    lines = result.words()
    if vote is not None and has_inpc_classes(classes):
        called = None if vote.label is None else classes[vote.label]
        difference = disagreement(result, called, reason=vote.reason)
        lines += [f"  {difference}"] if difference else []
    coords = table.coords
    texts = table.read("caption") if "caption" in table.columns() else np.full(len(table), "", dtype=object)
    for name, rows in result.top_rows.items():
        for row in rows[:1]:
            x, y = coords[row].tolist()
            text = "".join(one if one.isprintable() else " " for one in str(texts[row]))
            text = text if len(text) <= _CAPTION_CHARS else text[: _CAPTION_CHARS - 1] + "…"
            lines.append(f"  most {name}: patch at {x}, {y} px" + (f": {text}" if text else ""))
    return lines


def check_same_model(fitted: FittedVote, table: PatchTable) -> None:
    """Check that voting parameters were fitted for the model that made a table's predictions.

    Raises
    ------
    RequestError
        They were fitted for another model; the message names both.
    """
    if _PROBABILITY not in table.columns():
        return
    model = table.attributes(_PROBABILITY)["model"]
    if fitted.model and model["fingerprint"] != fitted.model:
        raise RequestError(
            f"{table.folder}: predictions by {model['name']} ({model['fingerprint'][:12]}), the voting parameters were "
            f"fitted for model {fitted.model[:12]}. Fit them for this model, or vote without them."
        )


def _joined(measured: PatchFacts, of_classes: PatchFacts) -> PatchFacts:
    """Stroma (if measured) and tumour as measured; neuropil and differentiation by the classes, over that area."""
    share: npt.NDArray[np.float64] = np.divide(
        measured.neuroblastic_mm2,
        of_classes.neuroblastic_mm2,
        out=np.zeros(len(measured)),
        where=of_classes.neuroblastic_mm2 > 0,
    )
    assert of_classes.differentiating is not None
    if measured.stroma_mm2 is None and of_classes.stroma_mm2 is not None:
        # a patch called GNB-I is then stroma as a whole, and no neuroblastic area as well
        poor = np.where(of_classes.stroma_mm2 > 0, 0.0, measured.neuroblastic_mm2)
        proxies = {**measured.proxies, STROMA: of_classes.proxies[STROMA]}
        measured = replace(measured, stroma_mm2=of_classes.stroma_mm2, neuroblastic_mm2=poor, proxies=proxies)
    return replace(
        measured,
        neuropil=of_classes.neuropil,
        differentiating=of_classes.differentiating * share,
        neuroblasts=measured.neuroblastic_mm2,
        ranking={name: values for name, values in of_classes.ranking.items() if name != STROMA},
        intermixed_mm2=of_classes.intermixed_mm2,
        assumptions=of_classes.assumptions,
        proxies={**of_classes.proxies, **{k: v for k, v in measured.proxies.items() if k in ("stroma", "tumour")}},
    )


def _columns(table: PatchTable, source: str) -> tuple[str, ...]:
    """The columns that the rule reads."""
    if source not in SOURCES:
        raise RequestError(f"INPC source {source!r}: expected one of {', '.join(SOURCES)}")
    there = set(table.columns())
    by_classes = _PROBABILITY in there and _has_inpc_classes(table)
    if source == "classes" and not by_classes:
        raise StoreError(f"{table.folder}: no predictions of UD, PD and D. Run wsikit predict with such a model first.")
    if not by_classes and _FACTS not in there:
        raise StoreError(
            f"{table.folder}: neither predictions of UD, PD and D nor measured facts. Run wsikit caption first."
        )
    if source == "facts" and _FACTS not in there:
        raise StoreError(f"{table.folder}: no measured facts. Run wsikit caption --captioner morphometry first.")
    return tuple(name for name in (_PROBABILITY, _FACTS) if name in there)


def _has_inpc_classes(table: PatchTable) -> bool:
    attributes = table.attributes(_PROBABILITY)
    background = set(attributes["model"]["background"])
    return has_inpc_classes(set(attributes["names"]) - background)


def _receipt(
    table: PatchTable, used: tuple[str, ...], source: str, clinical: Clinical, rules: Rules, prior: str
) -> Receipt:
    inputs = {"patches": coords_digest(table)}
    for name in used:
        found = table.receipt(name)
        assert found is not None
        inputs[name] = found.digest
    # only a digest of a patient's age and treatment is kept, as stores are shared
    parameters: dict[str, Any] = {"source": source, "rules": asdict(rules), "clinical": digest_of(clinical.to_json())}
    shift = table_prior(table, prior) if _PROBABILITY in used else None
    if shift is not None:
        parameters["prior_shift"] = shift.to_json()
    return Receipt("inpc", INPC_REVISION, parameters, inputs)


def _read(table: PatchTable) -> InpcResult:
    record = dict(table.votes()[VOTE_NAME])
    for name in ("label", "classes"):
        record.pop(name)
    return InpcResult.from_json(record)
