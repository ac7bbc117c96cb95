"""From everything that is known of a slide's patches to its result: smooth, split off the background, weigh, vote.

Plain arrays in, `SlideResult` out: what reads them from a store is `wsikit.inference.vote`.
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
from wsikit.voting.regions import Places
from wsikit.voting.result import Floats, SlideResult
from wsikit.voting.smoothing import smooth
from wsikit.voting.vote import Evidence, vote

COLUMNS = ("tissue", "readable", "blur", "pen", "roi", "gate", "attention", "key_tissue", "ood_score")
"""What a vote may make use of beside the probabilities."""


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
    """What is known beside, by the names of `COLUMNS`: (N,), key_tissue (N, 3)."""


def columns_for(parameters: VoteParameters) -> tuple[str, ...]:
    """The `COLUMNS` that a vote with `parameters` looks at, where they exist."""
    wanted = {"ood_score"}
    wanted.update(name for name in ("tissue", "readable", "roi", "key_tissue") if name in parameters.weights)
    wanted.update({"blur", "pen"} if "quality" in parameters.weights else ())
    wanted.update({"soft_clinical": ("key_tissue",), "gate": ("gate",)}.get(parameters.method, ()))
    wanted.update(("attention",) if parameters.method == "attention" else ())
    return tuple(name for name in COLUMNS if name in wanted)


def voting_inputs(patches: SlidePatches, parameters: VoteParameters) -> VoteInputs:
    """The patches' probabilities over the voting classes after smoothing, their labels, and all weights multiplied."""
    return _prepare(patches, parameters)[0]


def vote_slide(patches: SlidePatches, parameters: VoteParameters | None = None) -> SlideResult:
    """The result of one slide.

    Raises
    ------
    RequestError
        If the method asks for a column that `patches` has not, or the patches contradict themselves.
    """
    parameters = parameters or VoteParameters()
    inputs, applied, n_smoothed = _prepare(patches, parameters)
    columns = patches.columns
    evidence = Evidence(**{name: columns.get(name) for name in ("gate", "attention", "key_tissue", "ood_score")})
    places = Places(patches.grid, patches.coords, inputs.certainty)
    result = vote(
        inputs.probs, parameters, weights=inputs.weights, evidence=evidence, places=places, classes=inputs.classes
    )
    return replace(result, smoothing=parameters.smooth, n_smoothed=n_smoothed, weighted_by=applied)


def _prepare(patches: SlidePatches, parameters: VoteParameters) -> tuple[VoteInputs, tuple[str, ...], int]:
    """Inputs with all weights, which weights were known, and how many patches the smoothing turned over."""
    probs = np.asarray(patches.probs)
    unknown = sorted(set(patches.columns) - set(COLUMNS))
    if unknown:
        raise RequestError(f"columns {unknown} are nothing that a vote makes use of: {', '.join(COLUMNS)}")
    for name, values in patches.columns.items():
        if len(values) != len(probs):
            raise RequestError(f"column {name} of {len(values)} rows for {len(probs)} patches")
    inputs = vote_inputs(probs, patches.classes, patches.background)
    n_smoothed = 0
    if parameters.smooth != "none":
        even = smooth(probs, patches.grid, patches.coords, method=parameters.smooth, coupling=parameters.coupling)
        before, inputs = inputs, vote_inputs(even, patches.classes, patches.background)
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
        # last: only those that vote share a place
        factor = weighing.overlap_weight(patches.grid, patches.coords, np.nan_to_num(total) > 0)
        total = np.where(np.isnan(total), np.nan, np.nan_to_num(total) * factor)
        applied.append("overlap")
    return replace(inputs, weights=total), tuple(applied), n_smoothed


def _weight(name: str, columns: Mapping[str, npt.NDArray[np.floating]], parameters: VoteParameters) -> Floats | None:
    """One of `wsikit.voting.parameters.WEIGHTS` for every patch; None where the slide does not know it."""
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
