"""From all columns of a slide's patches to its result: correct to the class frequencies, smooth, split off the
background, weight, vote.

Plain arrays in, `SlideResult` out; `wsikit.inference.vote` reads the arrays from a store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.geometry import PatchGrid
from wsikit.voting import weights as weighing
from wsikit.voting.inputs import VoteInputs, vote_inputs
from wsikit.voting.methods import clinical_weights
from wsikit.voting.parameters import VoteParameters
from wsikit.voting.prior import ModelPrior, PriorShift, prior_shift
from wsikit.voting.regions import Places
from wsikit.voting.result import Floats, SlideResult
from wsikit.voting.smoothing import smooth
from wsikit.voting.vote import Evidence, vote

COLUMNS = ("tissue", "readable", "blur", "pen", "roi", "gate", "attention", "key_tissue", "ood_score")
"""Columns that a vote may use in addition to the probabilities."""


@dataclass(frozen=True, eq=False)
class SlidePatches:
    """The patches of one slide, N rows."""

    probs: npt.NDArray[np.floating]
    """(N, C) over all classes of the model; a row with a NaN is a patch without prediction."""
    classes: tuple[str, ...]
    background: tuple[str, ...]
    """Codes among `classes` that do not vote."""
    grid: PatchGrid
    coords: npt.NDArray[np.int64]
    """(N, 2) top-left corners, level-0 px."""
    columns: Mapping[str, npt.NDArray[np.floating]] = field(default_factory=dict)
    """Further columns, named as in `COLUMNS`: (N,), key_tissue (N, 3)."""
    prior: ModelPrior = ModelPrior()
    """The class frequencies that `probs` assume, as the model records them."""


def columns_for(parameters: VoteParameters) -> tuple[str, ...]:
    """The `COLUMNS` that a vote with `parameters` uses, if they exist.

    >>> columns_for(VoteParameters("gate", weights=("tissue",)))
    ('tissue', 'gate', 'ood_score')
    """
    wanted = {"ood_score"}
    wanted.update(name for name in ("tissue", "readable", "roi", "key_tissue") if name in parameters.weights)
    wanted.update({"blur", "pen"} if "quality" in parameters.weights else ())
    wanted.update({"soft_clinical": ("key_tissue",), "gate": ("gate",)}.get(parameters.method, ()))
    wanted.update(("attention",) if parameters.method == "attention" else ())
    return tuple(name for name in COLUMNS if name in wanted)


def voting_inputs(patches: SlidePatches, parameters: VoteParameters) -> VoteInputs:
    """The patches' probabilities over the voting classes after correction to the prior and smoothing, their labels, and
    the product of weights."""
    return _prepare(patches, parameters, prior_shift(parameters.prior, patches.classes, patches.prior))[0]


def vote_slide(patches: SlidePatches, parameters: VoteParameters | None = None) -> SlideResult:
    """The result of one slide.

    Raises
    ------
    RequestError
        If the method needs a column that `patches` lacks, or lengths and classes do not match.

    >>> grid = PatchGrid((2240, 2240), (0.5, 0.5), 224, 0.5)
    >>> coords = grid.all_coords()
    >>> probs = np.tile([0.9, 0.05, 0.05], (len(coords), 1))
    >>> vote_slide(SlidePatches(probs, ("PD", "D", "other"), ("other",), grid, coords)).subtype
    'PD'
    """
    parameters = parameters or VoteParameters()
    shift = prior_shift(parameters.prior, patches.classes, patches.prior)
    inputs, applied, n_smoothed = _prepare(patches, parameters, shift)
    columns = patches.columns
    evidence = Evidence(**{name: columns.get(name) for name in ("gate", "attention", "key_tissue", "ood_score")})
    places = Places(patches.grid, patches.coords, inputs.certainty)
    result = vote(
        inputs.probs, parameters, weights=inputs.weights, evidence=evidence, places=places, classes=inputs.classes
    )
    return replace(result, smoothing=parameters.smooth, n_smoothed=n_smoothed, weighted_by=applied, prior=shift)


def _prepare(
    patches: SlidePatches, parameters: VoteParameters, shift: PriorShift | None
) -> tuple[VoteInputs, tuple[str, ...], int]:
    """Inputs with all weights, the names of the weights that were known, and how many patches changed class by
    smoothing."""
    probs = np.asarray(patches.probs)
    unknown = sorted(set(patches.columns) - set(COLUMNS))
    if unknown:
        raise RequestError(f"a vote does not use the columns {unknown}; it uses {', '.join(COLUMNS)}")
    for name, values in patches.columns.items():
        if len(values) != len(probs):
            raise RequestError(f"column {name} of {len(values)} rows for {len(probs)} patches")
    probs = probs if shift is None else shift.apply(probs)
    inputs = vote_inputs(probs, patches.classes, patches.background)
    n_smoothed = 0
    if parameters.smooth != "none":
        smoothed = smooth(probs, patches.grid, patches.coords, method=parameters.smooth, coupling=parameters.coupling)
        before, inputs = inputs, vote_inputs(smoothed, patches.classes, patches.background)
        n_smoothed = int((before.labels != inputs.labels).sum())
    total = inputs.weights
    applied = []
    for name in parameters.weights:
        if name == "overlap":
            continue
        factor = _weight(name, patches.columns, parameters)
        if factor is not None:
            total = total * factor
            applied.append(name)
    if "overlap" in parameters.weights and (patches.grid.overlap_px or not patches.grid.anchored):
        # last: only voting patches share an overlap
        factor = weighing.overlap_weight(patches.grid, patches.coords, np.nan_to_num(total) > 0)
        total = np.where(np.isnan(total), np.nan, np.nan_to_num(total) * factor)
        applied.append("overlap")
    return replace(inputs, weights=total), tuple(applied), n_smoothed


def _weight(name: str, columns: Mapping[str, npt.NDArray[np.floating]], parameters: VoteParameters) -> Floats | None:
    """One of `wsikit.voting.parameters.WEIGHTS` for every patch; None where the slide lacks its column."""
    if name == "quality":
        blur, pen = columns.get("blur"), columns.get("pen")
        return None if blur is None and pen is None else weighing.quality_weight(blur, pen)
    if name not in columns:
        return None
    if name == "tissue":
        return weighing.tissue_weight(columns["tissue"])
    if name == "roi":
        return weighing.roi_weight(columns["roi"])
    if name == "readable":
        return weighing.readable_weight(columns["readable"])
    return clinical_weights(
        columns["key_tissue"],
        alpha=parameters.alpha,
        beta=parameters.beta,
        gamma=parameters.gamma,
        double_softmax=parameters.double_softmax,
    )
