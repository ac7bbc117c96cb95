"""`wsikit evaluate --fit-vote` as a function: fit voting parameters on validation slides and write OUT/vote.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.captions import load_captioner
from wsikit.errors import RequestError
from wsikit.facts import FACTS
from wsikit.models.config import METRICS_FILE
from wsikit.models.mmlnb import MMLNB
from wsikit.store.atomic import write_json
from wsikit.training.captioner.patients import patient_id
from wsikit.training.config import FeatureBranch, TrainConfig
from wsikit.training.data import PatchSet
from wsikit.training.factory import load_data
from wsikit.training.fit_vote import VoteSlide, brier, fit_margin, fit_rules, refuse_tested
from wsikit.training.forward import Outputs, outputs_of
from wsikit.training.learn_vote import learn
from wsikit.training.priors import shift_of
from wsikit.training.splits import TEST, TRAIN, VALIDATION, read_splits
from wsikit.training.texts import with_captions
from wsikit.voting.fitted_parameters import FittedVote
from wsikit.voting.inpc import STROMA_POOR, Rules, inpc
from wsikit.voting.inpc_facts import facts_from_classes
from wsikit.voting.inputs import vote_inputs
from wsikit.voting.parameters import VoteParameters
from wsikit.voting.prior import AUTO
from wsikit.voting.vote import Evidence
from wsikit.voting.weights import key_tissue

FILE = "vote.json"
METHODS = ("mean", "hard", "log", "soft_clinical", "confidence", "gate", "topk", "quantile", "noisy_or")
"""Methods that need only patch predictions. A rule needs a given class, and attention needs its own model."""
_NEUROPIL, _STROMA = "fibrillary_share", "spindle_share"


def run_vote_fit(
    model: MMLNB,
    config: TrainConfig,
    out: Path,
    *,
    split_file: Path,
    fold: int = 0,
    method: str = "mean",
    prior: str = AUTO,
    notify: Callable[[str], None] = lambda text: None,
) -> FittedVote:
    """Fit a voting method on the validation part of a split; the result is also written to OUT/vote.json.

    Parameters
    ----------
    model
        On the device where it runs.
    split_file, fold
        As `wsikit train` wrote it. The test part is used only to check that it shares no slide and no patient with
        the validation part.
    method, prior
        As of `VoteParameters`.

    Raises
    ------
    RequestError
        If a validation slide or patient is also in the test part, or was trained on; if there are too few slides, the
        file exists, or the captions do not measure what `method` needs.
    """
    path = out / FILE
    if path.exists():
        raise RequestError(f"{path}: exists; give a new folder, nothing is overwritten.")
    if model.config.classes != config.codes:
        raise RequestError(f"model {model.config.name}: classes {model.config.classes}, the data's {config.codes}.")
    loaded = load_data(config)
    patches, mpp = loaded.prepared.patches, loaded.prepared.mpp
    found = read_splits(split_file, patches)
    if fold >= len(found) or VALIDATION not in found[fold]:
        raise RequestError(
            f"{split_file}: no validation part in fold {fold} of {len(found)}; a vote is fitted on the validation part."
        )
    parts = found[fold]
    validation = patches.select(parts[VALIDATION])
    refuse_tested(_names(validation), _names(patches.select(parts[TEST])))
    _refuse_trained(model, validation)
    validation = with_captions(validation, config.captions, mpp=mpp)
    if isinstance(config.image, FeatureBranch):
        raise RequestError(f"model {model.config.name}: reads features; a vote is fitted for models on pixels only.")
    notify(f"{len(validation)} validation patches of {len(set(_names(validation)))} slides")
    start = VoteParameters(method=method, prior=prior)
    shift_of(model.config, prior)  # a prior that cannot be applied is refused before the model runs
    slides, codes = vote_slides(model, validation, outputs_of(model, validation), mpp=mpp, method=method, prior=prior)
    fitted = fit(slides, start, codes=codes, model=model.fingerprint or "")
    fitted = _with_split(fitted, split_file, fold)
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, fitted.to_json())
    return fitted


def fit(slides: list[VoteSlide], start: VoteParameters, *, codes: tuple[str, ...], model: str) -> FittedVote:
    """Fit parameters, thresholds, errors, margin and, for UD, PD and D, the limits of INPC's proxies on `slides`."""
    learned, measured = learn(slides, start, classes=codes)
    parameters, abstains = fit_margin(slides, learned)
    everywhere = np.mean([slide.truth for slide in slides], axis=0)
    scores = {
        "fitted": brier(slides, parameters),
        "as by default": brier(slides, start),
        "prevalence": float(np.mean([((everywhere - slide.truth) ** 2).sum() for slide in slides])),
    }
    rules = _inpc_rules(slides, codes) if set(codes) == set(STROMA_POOR) else None
    patients = tuple(sorted({patient_id(slide.patient) for slide in slides}))
    return FittedVote(parameters, codes, model, len(slides), patients, "", 0, scores, abstains, rules, measured)


def vote_slides(
    model: MMLNB, data: PatchSet, outputs: Outputs, *, mpp: float, method: str, prior: str = AUTO
) -> tuple[list[VoteSlide], tuple[str, ...]]:
    """The slides of a patch set as input of a vote, corrected to the class frequencies `prior`, and the codes of the
    voting classes.

    The truth of a slide is the fraction of each voting class among its patches that are not background; slides without
    such patches are left out.
    """
    shift = shift_of(model.config, prior)
    probs = outputs.probs if shift is None else shift.apply(outputs.probs)
    inputs = vote_inputs(probs, model.config.classes, model.config.background)
    tissue = _measured_tissue(data, mpp) if method == "soft_clinical" else None
    of_patch = np.array([slide for slide, _ in _names(data)])
    truth = np.eye(len(model.config.classes))[data.labels][:, list(inputs.columns)]
    found = []
    for slide in np.unique(of_patch):
        rows = np.flatnonzero(of_patch == slide)
        total = truth[rows].sum()
        if total == 0:
            continue
        evidence = Evidence(gate=outputs.gate[rows], key_tissue=None if tissue is None else tissue[rows])
        share = truth[rows].sum(axis=0) / total
        patient = str(data.groups[rows[0]])
        found.append(VoteSlide(str(slide), patient, inputs.probs[rows], inputs.weights[rows], share, evidence))
    return found, inputs.classes


def _inpc_rules(slides: list[VoteSlide], codes: tuple[str, ...]) -> Rules:
    shares = []
    for slide in slides:
        # background has a weight: the rest of the patch is tumour
        probs = np.column_stack([slide.probs * slide.weights[:, None], 1 - slide.weights])
        cells = np.stack([np.arange(len(probs)), np.zeros(len(probs), np.int64)], axis=1)
        facts = facts_from_classes(probs, (*codes, "background"), ("background",), cells=cells, pitch_mm=1.0)
        shares.append(inpc(facts).evidence)
    return fit_rules(shares, [codes[int(slide.truth.argmax())] for slide in slides])


def _names(data: PatchSet) -> list[tuple[str, str]]:
    """Slide and patient of each patch; without slide names, the patches of a patient are one slide."""
    slides = data.groups if data.slides is None else data.slides
    return [(str(slide), str(group)) for slide, group in zip(slides.tolist(), data.groups.tolist(), strict=True)]


def _refuse_trained(model: MMLNB, validation: PatchSet) -> None:
    """Raise if the model was trained on one of the patients, according to its folder."""
    path = None if model.folder is None else model.folder / METRICS_FILE
    if path is None or not path.is_file():
        return
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")).get("patients", {})
    trained = set(known.get(TRAIN, ())) & {patient_id(group) for group in set(validation.groups.tolist())}
    if trained:
        raise RequestError(
            f"model {model.config.name} was trained on {len(trained)} of the validation patients, so its "
            "predictions on them are overconfident. Give the split and the fold of its training."
        )


def _measured_tissue(data: PatchSet, mpp: float) -> npt.NDArray[np.float64]:
    """Fractions of the key tissues, (N, 3), of patches, measured by the default captioner."""
    captioner = load_captioner("morphometry")
    shares = np.full((2, len(data)), np.nan)
    for row, image in enumerate(data.images):
        facts = captioner.caption(image[None], mpp=mpp)[0].facts
        shares[:, row] = [facts.get(name, np.nan) for name in (_NEUROPIL, _STROMA)]
    if np.isnan(shares).all():
        raise RequestError(
            f"soft_clinical weighs by neuropil and spindle stroma, which cannot be measured at {mpp:g} µm/px: "
            "use another method"
        )
    neuropil, stroma = (tuple(limit for limit, _ in FACTS[name].grades[:3]) for name in (_NEUROPIL, _STROMA))
    return key_tissue(shares[0], shares[1], neuropil_grades=neuropil, stroma_grades=stroma)  # type: ignore[arg-type]


def _with_split(fitted: FittedVote, split_file: Path, fold: int) -> FittedVote:
    digest = hashlib.sha256(split_file.read_bytes()).hexdigest()
    return FittedVote(**{**vars(fitted), "split_sha256": digest, "fold": fold})
