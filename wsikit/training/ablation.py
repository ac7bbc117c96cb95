"""Ablation of the text by cross-validation: both branches are trained once per fold and seed and shared by all arms.

Each (seed, fold) is one job that writes one complete file; an interrupted run computes only what is missing. The test
patches of a fold are evaluated once: nothing is selected by them, and every part trains for a fixed number of epochs.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from threadpoolctl import threadpool_limits

from wsikit.captions.morphometry import Morphometry
from wsikit.errors import RequestError
from wsikit.models.io import save_model
from wsikit.models.mmlnb import MMLNB
from wsikit.models.prmf import PRMF
from wsikit.models.prmf_calibrated import CalibratedPRMF
from wsikit.store.atomic import write_json
from wsikit.training.ablation_config import (
    CONFIG_FILE,
    FACTS_FILE,
    NONE,
    PATCHES_FILE,
    READER_FILE,
    SHUFFLED,
    SPLITS_FILE,
    AblationConfig,
    FoldsConfig,
    Job,
    jobs,
    load_patches,
    untrained,
)
from wsikit.training.ablation_pairs import Pair, fit_robust, robust_arm, run_pair, unseen_pairs
from wsikit.training.ablation_rivals import OWN, add_rivals, lacking
from wsikit.training.cross_fit import fit_surprise
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.data import PatchSet, class_weights
from wsikit.training.evaluation import baseline_probs
from wsikit.training.factory import load_data
from wsikit.training.forward import image_features
from wsikit.training.fusion_variants import ARMS, Bank, bank_of, fit_arm, image_stage
from wsikit.training.ood import fit_ood_detector
from wsikit.training.patch_facts import measured_facts, read_facts, save_facts
from wsikit.training.priors import with_prior
from wsikit.training.rivals import ON_FACTS, Rival, Rivals, check_rivals
from wsikit.training.run_record import patients_of, without_places
from wsikit.training.splits import TEST, TRAIN, VALIDATION, Split, check_parts, folds, write_splits
from wsikit.training.text_pretraining import pretrain_text_encoder
from wsikit.training.texts import with_captions
from wsikit.training.unimodal import image_probs, train_image_branch, train_text_branch

__all__ = [
    "AblationConfig",
    "FoldsConfig",
    "Job",
    "Pair",
    "jobs",
    "load_patches",
    "run_ablation",
    "run_job",
    "run_pair",
    "wanted_rivals",
]

Facts = npt.NDArray[np.float32]

IMAGE_ONLY, TEXT_ONLY, MEAN = "image only", "text only", "mean of both"
THROUGHOUT = "PRMF robust, fitted on shuffled"
FIRST_REVISION = "PRMF robust, first revision"
"""Where the fusion is cross-fitted: the robust mode that mixes projected features, fitted on the training patches."""
_TEXT_PROBS = "probs of the text branch"
SECOND_SEED = 500
"""Added to a job's seed for the second image branch: no other job has this seed."""


def run_ablation(
    config: AblationConfig, out: Path, *, workers: int = 1, notify: Callable[[str], None] = lambda text: None
) -> None:
    """Train all arms on all folds and seeds; predictions under OUT/predictions, models of the first seed under
    OUT/models. Existing files are kept.

    Raises
    ------
    RequestError
        If `out` holds an ablation of another configuration or of other data.
    """
    out.mkdir(parents=True, exist_ok=True)
    _keep_configuration(config, out)
    threads = max(1, (os.cpu_count() or 1) // workers)
    torch.set_num_threads(threads)
    _prepare(config, out, notify)
    rivals = wanted_rivals(config, out)
    missing = [job for job in jobs(config) if not (out / job.file).is_file() or lacking(out / job.rivals, rivals)]
    total = sum(1 for _ in jobs(config))
    notify(f"{total - len(missing)} of {total} jobs are already done" if len(missing) < total else f"{total} jobs")
    for name in ("branches", "predictions", "rivals", "models", "unseen"):
        (out / name).mkdir(exist_ok=True)
    pairs = unseen_pairs(config, out, missing)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            unseen = [pool.submit(partial(run_pair, config, out, pair, threads)) for pair in pairs]
            for done, future in enumerate(as_completed(unseen), start=1):
                notify(f"branches for the fusion, {done} of {len(pairs)}: {future.result()}")
            running = [pool.submit(partial(run_job, config, out, job, threads)) for job in missing]
            for done, future in enumerate(as_completed(running), start=total - len(missing) + 1):
                notify(f"{done} of {total}: {future.result()}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # an error is shown now, not after all other jobs
            raise


def _keep_configuration(config: AblationConfig, out: Path) -> None:
    # the data's hashes are in splits.json; split and stages are used by `wsikit train` only; rivals may be added
    record = config.model_dump(mode="json", exclude={"data", "split", "stages", "rivals"})
    path = out / CONFIG_FILE
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(record)):
        raise RequestError(f"{out}: holds an ablation with other settings; give another folder.")
    write_json(path, record)


def _prepare(config: AblationConfig, out: Path, notify: Callable[[str], None]) -> None:
    """Write patches with captions, folds, and the pretrained text encoder."""
    if not (out / SPLITS_FILE).is_file():
        loaded = load_data(config)
        notify(loaded.words())
        mpp, numbers = loaded.prepared.mpp, config.numbers is not None
        data = with_captions(loaded.prepared.patches, config.captions, mpp=mpp, numbers=numbers)
        if config.numbers is not None and config.numbers.field_um is not None:
            data = data.with_field(config.numbers.field_um)
        data.save(out / PATCHES_FILE)
        write_splits(out / SPLITS_FILE, data, two_parts(config, data), seed=config.folds.seed)
    if ON_FACTS & set(config.rivals) and not (out / FACTS_FILE).is_file():
        _prepare_facts(config, out, notify)
    if config.reading is not None and not (out / READER_FILE).is_file():
        model = untrained(config, seed=0)
        share = pretrain_text_encoder(
            model.text,
            model.tokenizer,
            mpp=model.config.mpp,
            n=config.reading.captions,
            settings=config.reading,
            seed=0,
            in_slide=config.captions.in_slide,
        )
        notify(
            f"text pretraining: the encoder explains {100 * share:.0f} % of the facts' variance on held-out captions"
        )
        partial_file = out / f"{READER_FILE}.partial"
        save_file(model.text.state_dict(), partial_file, metadata={"r2": f"{share:.4f}"})
        os.replace(partial_file, out / READER_FILE)


def _prepare_facts(config: AblationConfig, out: Path, notify: Callable[[str], None]) -> None:
    """Write the facts of all patches, in their order."""
    data, _ = load_patches(out)
    mpp = math.nan if data.facts is not None else load_data(config).prepared.mpp  # a file of before has no facts
    facts = measured_facts(data, config.captions, mpp=mpp)
    _, line = check_rivals(
        config.rivals,
        facts=facts is not None,
        explicit="rivals" in config.model_fields_set,
        field=reads_field(config),
    )
    if facts is None:
        notify(line)
    else:
        save_facts(out / FACTS_FILE, facts, data.fact_names or Morphometry.fact_names)


def reads_field(config: AblationConfig) -> bool:
    """Whether the numbers of the field around each patch are measured."""
    return config.numbers is not None and config.numbers.field_um is not None


def wanted_rivals(config: AblationConfig, out: Path) -> tuple[Rival, ...]:
    """The rivals of an ablation: those of its configuration, without those on facts if its captions have none."""
    return check_rivals(config.rivals, facts=(out / FACTS_FILE).is_file(), explicit=False, field=reads_field(config))[0]


def two_parts(config: AblationConfig, data: PatchSet) -> list[Split]:
    """Folds of train and test; nothing is selected, so the validation part is used for training."""
    found = []
    for parts in folds(data.labels, data.groups, config.folds.k, seed=config.folds.seed):
        merged = {TRAIN: np.sort(np.concatenate([parts[TRAIN], parts[VALIDATION]])), TEST: parts[TEST]}
        check_parts(data.labels, data.groups, merged)
        found.append(merged)
    return found


def run_job(config: AblationConfig, out: Path, job: Job, threads: int) -> str:
    """Train branches and arms of one fold and seed; write the predictions of its test patches to the job's file."""
    torch.set_num_threads(threads)
    data, splits = load_patches(out)
    parts = splits[job.fold]
    training, test = data.select(parts[TRAIN]), data.select(parts[TEST])
    seed = 1000 * job.seed + job.fold
    weight = class_weights(training.labels, len(config.codes))

    model, probs = _branches(config, out, job, training, test, weight)
    if names := lacking(out / job.rivals, wanted_rivals(config, out)):
        made = _rivals(config, (training, test), _facts_of(out, parts), seed, model, probs)
        with threadpool_limits(threads):
            add_rivals(out / job.rivals, names, made, parts[TEST])
    if (out / job.file).is_file():
        return f"seed {job.seed}, fold {job.fold}: {len(names)} rivals added"
    probs[f"{MEAN}|{OWN}"] = (probs[IMAGE_ONLY] + probs[f"{TEXT_ONLY}|{OWN}"]) / 2
    probs |= baseline_probs(training, test, len(config.codes))

    of_arms, gates, robust = _run_arms(config, model, training, test, weight, seed)
    if config.cross_fit is not None:
        fit_robust(config, out, job, model, training, parts[TRAIN])
        added = robust_arm(model, test, seed)
        of_arms |= {name: output.probs for name, output in added.items()}
        gates |= {name: output.gate for name, output in added.items()}
        robust = model.fusion
    _write_predictions(out / job.file, parts[TEST], probs | of_arms, gates)
    if job.seed == config.folds.training_seeds[0]:
        fit_ood_detector(model, training, test)
        model.config = with_prior(model.config, training.labels, balanced=True)
        _keep_model(config, model, robust, out / "models" / f"fold{job.fold}", job, training)
    return f"seed {job.seed}, fold {job.fold}"


def _facts_of(out: Path, parts: Split) -> tuple[Facts, Facts] | None:
    """Facts of the training and of the test patches of a fold."""
    facts = read_facts(out / FACTS_FILE)
    return None if facts is None else (facts[parts[TRAIN]], facts[parts[TEST]])


def _rivals(
    config: AblationConfig,
    patches: tuple[PatchSet, PatchSet],
    facts: tuple[Facts, Facts] | None,
    seed: int,
    model: MMLNB,
    probs: dict[str, npt.NDArray[Any]],
) -> Rivals:
    """What the rivals of a fold are made of."""
    training, test = patches

    def second_image() -> npt.NDArray[np.float64]:
        other = seed + SECOND_SEED
        second = untrained(config, seed=other)
        train_image_branch(second, training, config.training.model_copy(update={"seed": other}))
        return image_probs(second, test)

    def other_image() -> npt.NDArray[np.float64]:
        assert config.other_image is not None
        other = untrained(config.model_copy(update={"image": config.other_image}), seed=seed)
        train_image_branch(other, training, config.training.model_copy(update={"seed": seed}))
        return image_probs(other, test)

    return Rivals(
        training,
        test,
        len(config.codes),
        seed,
        image=probs[IMAGE_ONLY],
        text=probs[f"{TEXT_ONLY}|{OWN}"],
        facts=facts,
        features=lambda some: image_features(model, some.images),
        second_image=second_image,
        other_image=other_image,
    )


def _branches(
    config: AblationConfig,
    out: Path,
    job: Job,
    training: PatchSet,
    test: PatchSet,
    weight: npt.NDArray[np.float32],
) -> tuple[MMLNB, dict[str, npt.NDArray[Any]]]:
    """The model with both branches trained, and their predictions on the test patches; saved for further arms."""
    seed = 1000 * job.seed + job.fold
    model = untrained(config, seed=seed)
    path = out / job.branches
    if not path.is_file():
        if config.reading is not None:
            model.text.load_state_dict(load_file(out / READER_FILE))
        settings = config.training.model_copy(update={"seed": seed})
        train_image_branch(model, training, settings)
        rate = {} if config.cross_fit is None else {"head_lr": config.of_text.lr}
        text_probs = train_text_branch(model, training, test, config.of_text, weight=weight, seed=seed, **rate)
        if isinstance(model.fusion, CalibratedPRMF):
            fit_surprise(model, training)
        staging = path.with_suffix(".partial")
        save_file(model.state_dict() | {_TEXT_PROBS: torch.from_numpy(text_probs)}, staging)
        os.replace(staging, path)
    state = load_file(path)
    text_probs = state.pop(_TEXT_PROBS).numpy()
    model.load_state_dict(state)
    return model.eval(), {IMAGE_ONLY: image_probs(model, test), f"{TEXT_ONLY}|{OWN}": text_probs}


def _run_arms(
    config: AblationConfig,
    model: MMLNB,
    training: PatchSet,
    test: PatchSet,
    weight: npt.NDArray[np.float32],
    seed: int,
) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, npt.NDArray[np.float32]], PRMF | CalibratedPRMF]:
    """Probabilities and gates of all arms by name, and the fusion of the robust arm."""
    known = bank_of(model, training, views=config.fusion.views)
    asked = bank_of(model, test, views=1)
    curriculum = CurriculumSchedule.over(config.fusion.epochs, rise=config.rise, start=config.start)
    fit_variant = partial(
        fit_arm,
        settings=config.fusion,
        image_stage=image_stage(model),
        curriculum=curriculum,
        weight=weight,
        seed=seed,
    )
    fitted = {name: fit_variant(name, known) for name in ARMS}
    ways: dict[str, Bank] = {OWN: asked, NONE: asked.without_captions(), SHUFFLED: asked.shuffled(seed)}
    titles = {name: name for name in ARMS} | ({} if config.cross_fit is None else {"PRMF robust": FIRST_REVISION})
    outputs = {f"{titles[name]}|{way}": arm.predict(bank) for name, arm in fitted.items() for way, bank in ways.items()}
    if config.cross_fit is None:
        outputs[f"{THROUGHOUT}|{SHUFFLED}"] = fit_variant("PRMF robust", known.shuffled(seed)).predict(ways[SHUFFLED])
    probs = {name: output.probs for name, output in outputs.items()}
    gates = {name: output.gate for name, output in outputs.items()}
    robust = fitted["PRMF robust"].fusion
    assert isinstance(robust, PRMF)
    return probs, gates, robust


def _write_predictions(
    path: Path,
    rows: npt.NDArray[np.int64],
    probs: dict[str, npt.NDArray[Any]],
    gates: dict[str, npt.NDArray[np.float32]],
) -> None:
    arrays: dict[str, Any] = {f"probs/{name}": value.astype(np.float32) for name, value in probs.items()}
    arrays |= {f"gate/{name}": value for name, value in gates.items()}
    staging = path.with_suffix(".partial")
    with open(staging, "wb") as file:
        np.savez(file, rows=rows, **arrays)
    os.replace(staging, path)


def _keep_model(
    config: AblationConfig, model: MMLNB, fusion: PRMF | CalibratedPRMF, folder: Path, job: Job, training: PatchSet
) -> None:
    if folder.exists():
        return
    model.fusion = fusion
    card = (
        f"# {config.name}, fold {job.fold} of an ablation\n\n> **{config.notice}**\n\nMMLNB with PRMF robust, trained "
        f"on all folds but {job.fold} under seed {job.seed}. Its metrics are those of the whole ablation.\n"
    )
    metrics = {
        "settings": without_places(config),
        "fold": job.fold,
        "seed": job.seed,
        "patients": {TRAIN: patients_of(training, np.arange(len(training))), VALIDATION: []},
    }
    save_model(model, folder, card=card, metrics=metrics)
