"""The networks of a training on slide labels, fold by fold, and the model that is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.models.mil import MilModel
from wsikit.store.atomic import atomic_write
from wsikit.training.mil.cohort import Bag, Cohort
from wsikit.training.mil.config import MilTrainConfig
from wsikit.training.mil.ensemble import ensemble
from wsikit.training.mil.fit import Fitted, MilEpoch, Targets, fit_member
from wsikit.training.splits import TRAIN, VALIDATION, Split

MEMBERS = "members"


@dataclass(frozen=True)
class MilCallbacks:
    """Functions that a run calls to report its progress."""

    message: Callable[[str], None] = lambda text: None
    """Called with one line of text."""
    epoch: Callable[[MilEpoch], None] = lambda record: None


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training gives."""

    model: MilModel
    fitted: list[Fitted]
    image: dict[str, npt.NDArray[np.floating]] | None = None
    """Weights of the image encoder, where one was trained."""


def train_networks(
    config: MilTrainConfig,
    cohort: Cohort,
    folds: Sequence[Split],
    targets: Targets,
    seen: Sequence[Bag],
    out: Path,
    *,
    device: str,
    callbacks: MilCallbacks,
) -> Trained:
    """One network per fold on features; on pixels one network with its encoder, stopped by the first fold."""
    if config.image is None:
        fitted = _members(config, cohort, folds, targets, out, device, callbacks)
        return Trained(ensemble(fitted, config, cohort, seen, targets), fitted)
    from wsikit.models.mil_image import encode_by
    from wsikit.training.mil.end_to_end import fit_end_to_end

    training, validation = ([cohort.bags[row] for row in folds[0][name]] for name in (TRAIN, VALIDATION))
    one, encoder = fit_end_to_end(
        training, validation, config, targets, patch_px=cohort.patch_px, device=device, on_epoch=callbacks.epoch
    )
    image = {name: value.detach().cpu().contiguous().numpy() for name, value in encoder.state_dict().items()}
    model = ensemble([one], config, cohort, seen, targets, encode=encode_by(encoder, device=device))
    return Trained(model, [one], image)


def encoded_bag(model: MilModel, bag: Bag) -> Bag:
    """The bag with the features of all its patches by the model's own encoder."""
    from wsikit.training.mil.end_to_end import encoded

    assert model.encode is not None
    return encoded(bag, model.encode)


def _members(
    config: MilTrainConfig,
    cohort: Cohort,
    folds: Sequence[Split],
    targets: Targets,
    out: Path,
    device: str,
    callbacks: MilCallbacks,
) -> list[Fitted]:
    """One network per fold; those that a run before left in `out` are read."""
    found = []
    for index, parts in enumerate(folds):
        path = out / MEMBERS / f"fold{index}.npz"
        if path.is_file():
            found.append(_read_member(path))
            continue
        training, validation = ([cohort.bags[row] for row in parts[name]] for name in (TRAIN, VALIDATION))
        one = fit_member(training, validation, config, targets, fold=index, device=device, on_epoch=callbacks.epoch)
        path.parent.mkdir(exist_ok=True)
        about = json.dumps({"epoch": one.epoch, "validation": one.validation, "seconds": one.seconds})
        with atomic_write(path) as partial, open(partial, "wb") as file:
            arrays: dict[str, Any] = {"about": np.array(about), **one.arrays}
            np.savez(file, **arrays)
        callbacks.message(f"fold {index + 1}/{len(folds)}: epoch {one.epoch + 1}, validation loss {one.validation:.3f}")
        found.append(one)
    return found


def _read_member(path: Path) -> Fitted:
    try:
        with np.load(path, allow_pickle=False) as saved:
            about = json.loads(str(saved["about"]))
            return Fitted({name: saved[name] for name in saved.files if name != "about"}, **about)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise RequestError(f"{path}: damaged ({error}). Remove it and resume again.") from error
