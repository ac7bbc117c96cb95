"""Every learner on every fold of every seed; each result is written when it is there, so a run can be resumed."""

from __future__ import annotations

import io
import re
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.store.atomic import write_bytes
from wsikit.training.cohort.protocol import Learner, Part, Prediction
from wsikit.training.splits import TEST, TRAIN, VALIDATION, Split


@dataclass(frozen=True)
class FoldResult:
    """What one learner predicted for the test part of one fold."""

    learner: str
    seed: int
    fold: int
    ids: tuple[str, ...]
    """The tested patients, (n,)."""
    prediction: Prediction
    cut: float | None
    """Median risk of the training part, which divides the tested patients into two groups; None without risk."""
    seconds: float = 0.0


def cross_validate(
    part: Part,
    learners: Sequence[Learner],
    splits: Mapping[int, Sequence[Split]],
    *,
    folder: Path | None = None,
    on_done: Callable[[FoldResult], None] = lambda result: None,
) -> list[FoldResult]:
    """Fit and test every learner on every fold.

    Parameters
    ----------
    splits
        Folds by seed, as `wsikit.training.cohort.folds.make_folds` gives them; the seed is also that of the training.
    folder
        Where each result is written, and read instead of computed if it is there.

    Raises
    ------
    RequestError
        A prediction does not have the shape that the protocol asks for, or is not finite.
    """
    names = [learner.name for learner in learners]
    if len(set(names)) != len(names):
        raise RequestError(f"learners: {', '.join(names)}; names must differ.")
    found: list[FoldResult] = []
    for seed, folds in splits.items():
        for number, split in enumerate(folds):
            train, validation, test = (part.take(split[name]) for name in (TRAIN, VALIDATION, TEST))
            for learner in learners:
                path = None if folder is None else folder / f"{_file_name(learner.name)}_{seed}_{number}.npz"
                if path is not None and path.is_file():
                    result = read_fold(path, learner.name, seed, number, test.ids)
                else:
                    result = _fit_and_test(learner, train, validation, test, seed, number)
                    if path is not None:
                        write_fold(path, result)
                found.append(result)
                on_done(result)
    return found


def _fit_and_test(learner: Learner, train: Part, validation: Part, test: Part, seed: int, number: int) -> FoldResult:
    begun = time.perf_counter()
    fitted = learner.fit(train, validation, seed)
    prediction = fitted.predict(without_outcome(test))
    check_prediction(learner.name, prediction, test)
    cut = None
    if prediction.risk is not None:
        risk = fitted.predict(without_outcome(train)).risk
        assert risk is not None
        cut = float(np.median(risk))
    return FoldResult(learner.name, seed, number, test.ids, prediction, cut, time.perf_counter() - begun)


def without_outcome(part: Part) -> Part:
    """The same patients as a model meets them later: without follow-up and labels."""
    return Part(part.ids, part.columns, part.names, part.bags, classes=part.classes, ordered=part.ordered)


def check_prediction(name: str, prediction: Prediction, part: Part) -> None:
    """RequestError if shapes or values are not those of the protocol."""
    n = len(part)
    wanted: list[tuple[str, npt.NDArray[np.float64] | None, tuple[int, ...]]] = [("risk", prediction.risk, (n,))]
    if prediction.survival is not None:
        if prediction.times is None:
            raise RequestError(f"{name}: survival curves without their times.")
        wanted.append(("survival", prediction.survival, (n, len(prediction.times))))
    wanted.append(("probs", prediction.probs, (n, len(part.classes))))
    for what, values, shape in wanted:
        if values is None:
            continue
        if values.shape != shape:
            raise RequestError(f"{name}: {what} of shape {values.shape}; expected {shape}.")
        if not np.isfinite(values).all():
            raise RequestError(
                f"{name}: {what} is not finite for {part.ids[int(np.argwhere(~np.isfinite(values))[0][0])]}."
            )
    if part.time is not None and prediction.risk is None:
        raise RequestError(f"{name}: no risk, though the patients have follow-up.")
    if part.labels is not None and prediction.probs is None:
        raise RequestError(f"{name}: no class probabilities, though the patients have labels.")


def write_fold(path: Path, result: FoldResult) -> None:
    """Write one result as .npz, whole or not at all."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "ids": np.array(result.ids, dtype=np.str_),
        "seconds": np.array(result.seconds),
    }
    if result.cut is not None:
        arrays["cut"] = np.array(result.cut)
    for name in ("risk", "survival", "times", "probs"):
        values = getattr(result.prediction, name)
        if values is not None:
            arrays[name] = values
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def read_fold(path: Path, learner: str, seed: int, fold: int, ids: Sequence[str]) -> FoldResult:
    """Read what `write_fold` wrote.

    Raises
    ------
    RequestError
        The file is damaged, or of other patients.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RequestError(f"{path}: cannot be read ({error}). Delete it, then resume.") from error
    if tuple(arrays["ids"].tolist()) != tuple(ids):
        raise RequestError(f"{path}: made for other patients. Give another output folder.")
    prediction = Prediction(*(arrays.get(name) for name in ("risk", "survival", "times", "probs")))
    cut = float(arrays["cut"]) if "cut" in arrays else None
    return FoldResult(learner, seed, fold, tuple(ids), prediction, cut, float(arrays["seconds"]))


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
