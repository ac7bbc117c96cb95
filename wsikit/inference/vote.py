"""The vote stage: from a store's patch table to the slide's result, kept in the table under votes/<method>.

It reads the available columns and records which; `wsikit.voting` aggregates them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import StoreError
from wsikit.slides.store import StoreLike, open_store
from wsikit.store.receipts import Receipt
from wsikit.store.table import PatchTable, coords_digest
from wsikit.voting.parameters import NEEDS_FIT, VoteParameters, parameters_for
from wsikit.voting.prior import AUTO, ModelPrior, PriorShift, prior_shift
from wsikit.voting.result import RESULT_VERSION, SlideResult
from wsikit.voting.slide import SlidePatches, columns_for, vote_slide
from wsikit.voting.weights import key_tissue

logger = logging.getLogger(__name__)

VOTE_REVISION = 2

NEUROPIL_FACT, STROMA_FACT = "fibrillary_share", "spindle_share"
"""Facts that measure key tissue: neuropil-like fibrils and spindle stroma."""


def vote(store: StoreLike, *, parameters: VoteParameters | None = None, grid: str | None = None) -> SlideResult:
    """Aggregate a slide's patch predictions to one result, which is kept in the table under votes/<method>.

    Parameters
    ----------
    store
        A slide store, or its path.
    parameters
        Method, smoothing, weights, and thresholds for abstention; None: those that the model is made for
        (`ModelInfo.vote`), else the defaults. A result with the same parameters and the same columns is kept; a result
        of an older version is computed again.
    grid
        Name of the patch grid; not needed if the store has only one.

    Returns
    -------
    SlideResult
        Label or abstention with its reason; probabilities (C,) of the classes without background; areas in mm².

    Raises
    ------
    StoreError
        If the patches have no predictions yet, or the column that the method weights by is missing.

    Examples
    --------
    >>> import tempfile, wsikit
    >>> folder = tempfile.mkdtemp()
    >>> _ = wsikit.make_phantom(f"{folder}/slide.tiff", size_px=(448, 448))
    >>> store = wsikit.tile(f"{folder}/slide.tiff", f"{folder}/slide.zarr")
    >>> _ = wsikit.predict(store)
    >>> result = wsikit.vote(store, parameters=wsikit.VoteParameters("mean", min_patches=1))
    >>> result.probs.shape, round(float(result.probs.sum()), 6)
    ((3,), 1.0)
    """
    opened = open_store(store)
    table = opened.patches(grid)
    parameters = parameters or own_parameters(table)
    used = _columns_used(table, parameters)
    receipt = _receipt(table, parameters, used)
    known = table.vote_receipt(parameters.method)
    if known is not None and known.digest == receipt.digest:
        return stored_vote(table, parameters.method)
    _warn_unfitted(parameters)
    patches = _read(table, parameters, used)
    result = vote_slide(patches, parameters)
    codes = [code for code in patches.classes if code not in patches.background]
    table.write_vote(parameters.method, {**result.to_json(), "classes": codes}, receipt)
    return result


def stored_vote(table: PatchTable, method: str) -> SlideResult:
    """The slide result kept in a table; KeyError if there is none of `method`.

    A result of an older version of wsikit is computed again in memory, with its parameters; nothing is written.
    """
    record = table.votes()[method]
    if record.get("version") == RESULT_VERSION:
        return SlideResult.from_json(record)
    try:
        patches = slide_patches(table, _parameters_of(table, method))
    except StoreError:  # its columns are gone: the stored result is all that is left
        return SlideResult.from_json(record)
    return vote_slide(patches, _parameters_of(table, method))


def own_parameters(table: PatchTable) -> VoteParameters:
    """The vote that a table's model is made for (`ModelInfo.vote`); the defaults if it states none."""
    predicted = "probability" in table.columns()
    return parameters_for(None, table.attributes("probability")["model"].get("vote") if predicted else None)


def vote_receipt(table: PatchTable, parameters: VoteParameters) -> Receipt:
    """Receipt of the vote that `vote` would compute now.

    Raises
    ------
    StoreError
        If the patches have no predictions yet, or the column that the method weights by is missing.
    """
    return _receipt(table, parameters, _columns_used(table, parameters))


def slide_patches(table: PatchTable, parameters: VoteParameters | None = None) -> SlidePatches:
    """The columns of a table that a vote with `parameters` reads.

    Raises
    ------
    StoreError
        If the patches have no predictions yet, or the column that the method weights by is missing.
    """
    parameters = parameters or own_parameters(table)
    return _read(table, parameters, _columns_used(table, parameters))


def table_prior(table: PatchTable, asked: str = AUTO) -> PriorShift | None:
    """How a table's probabilities are corrected to the class frequencies `asked` for; None where nothing changes.

    Raises
    ------
    RequestError
        As for `wsikit.voting.prior.prior_shift`.
    """
    attributes = table.attributes("probability")
    return prior_shift(asked, attributes["names"], ModelPrior.of_record(attributes["model"]))


@cache
def _warn_once(method: str) -> None:
    logger.warning(
        "voting method %s needs a fit: its score is no estimate of the share, and the threshold that calls a class was "
        "not fitted. Fit it on validation patients (wsikit evaluate --fit-vote %s) and give --parameters.",
        method,
        method,
    )


def _warn_unfitted(parameters: VoteParameters) -> None:
    """Warn, once per method, where a method is used without the fit that it needs."""
    learned = parameters.method == "attention" and parameters.pool != "mean"  # with the attention, from slides
    if parameters.method in NEEDS_FIT and not learned and parameters.applicable() is None:
        _warn_once(parameters.method)


def _parameters_of(table: PatchTable, method: str) -> VoteParameters:
    receipt = table.vote_receipt(method)
    stored: Mapping[str, Any] = receipt.parameters if receipt is not None else {}
    return VoteParameters.from_json({**stored, "method": method})


def _columns_used(table: PatchTable, parameters: VoteParameters) -> dict[str, str]:
    """Inputs of the vote, and the column of the table that holds each."""
    there = set(table.columns())
    if "probability" not in there:
        store = table.folder.parent.parent
        raise StoreError(f"{table.folder}: no predictions to vote with. Run wsikit predict {store} first.")
    used = {"probability": "probability"}
    for name in columns_for(parameters):
        if name in there:
            used[name] = name
        elif name == "key_tissue" and "caption_facts" in there:
            used[name] = "caption_facts"
    needed = {"soft_clinical": "key_tissue", "gate": "gate", "attention": "attention"}.get(parameters.method)
    if needed is not None and needed not in used:
        raise StoreError(_missing_column(table, parameters.method, needed))
    return used


def _missing_column(table: PatchTable, method: str, needed: str) -> str:
    advice = {
        "key_tissue": "Run wsikit caption --captioner morphometry first, which measures neuropil and spindle stroma",
        "gate": "Predict with a model that reads captions",
        "attention": "Write a column attention, one weight per patch, or choose another method",
    }[needed]
    return f"{table.folder}: voting method {method} weights by {needed}, which is missing here. {advice}."


def _receipt(table: PatchTable, parameters: VoteParameters, used: Mapping[str, str]) -> Receipt:
    """Receipt of a vote: every parameter, every column read, the patches' coordinates, the correction to a prior."""
    inputs = {"patches": coords_digest(table)}
    for column in sorted(set(used.values())):
        found = table.receipt(column)
        if found is None:
            raise StoreError(f"{table.folder}: column {column} has no receipt; run the stage that makes it again.")
        inputs[column] = found.digest
    shift = table_prior(table, parameters.prior)
    corrected = {} if shift is None else {"prior_shift": shift.to_json()}
    return Receipt("vote", VOTE_REVISION, {**parameters.to_json(), **corrected}, inputs)


def _read(table: PatchTable, parameters: VoteParameters, used: Mapping[str, str]) -> SlidePatches:
    attributes = table.attributes("probability")
    columns = {}
    for name, column in used.items():
        if name == "key_tissue" and column == "caption_facts":
            columns[name] = _measured_tissue(table, required=parameters.method == "soft_clinical")
        elif name != "probability":
            columns[name] = table.read(column)
    return SlidePatches(
        probs=table.read("probability"),
        classes=tuple(attributes["names"]),
        background=tuple(attributes["model"]["background"]),
        grid=table.grid,
        coords=table.coords,
        columns=columns,
        prior=ModelPrior.of_record(attributes["model"]),
    )


def _measured_tissue(table: PatchTable, *, required: bool) -> npt.NDArray[np.float64]:
    """Key tissue (N, 3) from the captions' facts, on the scale of the lexicon's grades."""
    from wsikit.facts import FACTS

    names = list(table.attributes("caption_facts")["names"])
    facts = table.read("caption_facts")
    unknown = np.full(len(table), np.nan)
    shares, grades = [], []
    for fact in (NEUROPIL_FACT, STROMA_FACT):
        shares.append(facts[:, names.index(fact)] if fact in names else unknown)
        absent, scant, moderate = (limit for limit, _ in FACTS[fact].grades[:3])
        grades.append((absent, scant, moderate))
    found = key_tissue(*shares, neuropil_grades=grades[0], stroma_grades=grades[1])
    if required and len(table) and np.isnan(found).all():
        raise StoreError(_missing_column(table, "soft_clinical", "key_tissue"))
    return found
