"""Parts of `wsikit evaluate`: what rivals are fitted on, paired differences, and errors of the shares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.models.config import METRICS_FILE
from wsikit.training.comparison import drawn_figures, gains_of, gains_over
from wsikit.training.config import FeatureTrainConfig, TrainConfig
from wsikit.training.data import PatchSet
from wsikit.training.evaluation import FUSED, IMAGE_ALONE
from wsikit.training.factory import load_data
from wsikit.training.heads.config import read_training_config
from wsikit.training.patch_facts import measured_facts
from wsikit.training.run_record import CONFIG_COPY, SPLITS_FILE
from wsikit.training.share_errors import Scale, share_report
from wsikit.training.splits import TRAIN, VALIDATION, read_splits
from wsikit.training.texts import with_captions
from wsikit.voting.fitted_parameters import FittedVote
from wsikit.voting.parameters import VoteParameters
from wsikit.voting.prior import PriorShift

NOT_RIVALS = ("fused, calibrated", "without captions", "with others' captions", "floor: words, as written")
"""Conditions that are the fusion itself, or not compared with it."""


@dataclass(frozen=True)
class RivalData:
    """Patches of the training, with captions, and their facts: what rivals and baselines are fitted on."""

    patches: PatchSet
    facts: npt.NDArray[np.floating] | None


def rival_data(model: str | Path, fold: int | None = None) -> RivalData:
    """The training and validation patches of the run that made a model.

    Parameters
    ----------
    model
        Folder of the model; the configuration and the split of the run lie next to it.
    fold
        Of the split; default: that of the configuration.

    Raises
    ------
    RequestError
        If they are missing, or the data have changed.
    """
    place = Path(model).absolute().parent
    for name in (CONFIG_COPY, SPLITS_FILE):
        if not (place / name).is_file():
            raise RequestError(
                f"{place / name}: missing, so the rivals' training patches are unknown. --rivals needs the output "
                "folder of wsikit train as it was written."
            )
    config = read_training_config(place / CONFIG_COPY)
    if not isinstance(config, TrainConfig) or isinstance(config, FeatureTrainConfig):
        raise RequestError(f"{place / CONFIG_COPY}: a model on stored features; --rivals is for MMLNB on pixels.")
    loaded = load_data(config)
    patches, mpp = loaded.prepared.patches, loaded.prepared.mpp
    parts = read_splits(place / SPLITS_FILE, patches)[config.split.fold if fold is None else fold]
    rows = np.sort(np.concatenate([parts[TRAIN], parts[VALIDATION]]))
    numbers = config.numbers is not None
    training = with_captions(patches.select(rows), config.captions, mpp=mpp, numbers=numbers)
    return RivalData(training, measured_facts(training, config.captions, mpp=mpp))


def fitted_on(rivals: RivalData | None, data: PatchSet, config: TrainConfig, *, mpp: float) -> dict[str, Any]:
    """The arguments `training` and `facts` of `evaluate_model`."""
    if rivals is None:
        return {}
    asked = None if rivals.facts is None else measured_facts(data, config.captions, mpp=mpp)
    return {"training": rivals.patches, "facts": None if asked is None else (rivals.facts, asked)}


def check_vote(fitted: FittedVote | None, *, classes: Sequence[str], fingerprint: str | None, prior: str) -> None:
    """Refuse fitted voting parameters of another model, of other classes or of another prior.

    Raises
    ------
    RequestError
        Naming what differs.
    """
    if fitted is None:
        return
    if fitted.classes != tuple(classes) or (fitted.model and fingerprint and fitted.model != fingerprint):
        raise RequestError(
            f"voting parameters: fitted for {', '.join(fitted.classes)} of the model {fitted.model[:12]}…, this one "
            f"has {', '.join(classes)} and is {(fingerprint or '')[:12]}…. Fit them for this model: --fit-vote."
        )
    if fitted.parameters.prior != prior:
        raise RequestError(
            f"voting parameters: fitted with --prior {fitted.parameters.prior}, here it is {prior}. Give the same."
        )


def temperature_of(folder: Path | None) -> float | None:
    """The temperature that was fitted on the validation part, as the model's metrics state; None if they do not."""
    path = None if folder is None else folder / METRICS_FILE
    if path is None or not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8")).get("temperature")
    return float(found) if isinstance(found, (int, float)) else None


def further_results(
    config: TrainConfig,
    background: Sequence[str],
    data: PatchSet,
    ways: Mapping[str, npt.NDArray[np.floating]],
    gate: npt.NDArray[np.floating],
    shift: PriorShift | None,
    *,
    mpp: float,
    vote: VoteParameters | None = None,
) -> dict[str, Any]:
    """Paired differences (`gains_over_image`, `fused_over`) and errors of the shares (`shares`) of the fusion.

    Parameters
    ----------
    ways
        Probabilities (N, C) by condition; with the image alone, if there are to be differences.
    gate
        (N,), zero for models without one.
    shift
        Correction to other class frequencies, which votes apply.
    vote
        Fitted parameters, which are measured as well.
    """
    found: dict[str, Any] = {}
    if IMAGE_ALONE in ways:
        drawn = drawn_figures(data, ways)
        found["gains_over_image"] = gains_over(IMAGE_ALONE, drawn)
        found["fused_over"] = gains_of(FUSED, {way: drawn[way] for way in drawn if way not in NOT_RIVALS})
    found["shares"] = share_report(
        data,
        ways[FUSED] if shift is None else shift.apply(ways[FUSED]),
        classes=config.codes,
        background=background,
        scale=Scale(config.data.patch_px, mpp, config.data.mpp),
        gate=gate if np.any(gate) else None,
        fitted=vote,
    )
    return found
