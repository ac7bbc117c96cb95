"""A synthetic diagnosis that needs the patch and its field's captions: python pipelines/needs_both.py -o OUT

Slides of `wsikit.phantom.two_scales`: a patch of 56 µm is favourable if it has neuropil and the mitosis-karyorrhexis
index (MKI) of its field of 1 mm is not high. Neuropil is seen in the patch, and no caption states it. Every patch of
the field has a caption of its own, with an observer's counts of its own few cells; the text branch reads their numbers,
those of the patch and their mean over the field (`numbers.field_um`). Branches and fusions are trained by wsikit's own
code, with captions of which some are another slide's or missing. The image branch reads the features of the packaged
model's image encoder, which was trained on other synthetic slides.

Writes OUT/results.json, OUT/results.md and OUT/patches.png (some patches and fields with their captions).
"""

from __future__ import annotations

import argparse
import copy
import gc
import logging
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import yaml
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field

from wsikit.models.config import FeatureBranchConfig, ModelConfig, NumbersConfig, PRMFConfig, TextEncoderConfig
from wsikit.models.io import load_model
from wsikit.models.mmlnb import MMLNB
from wsikit.models.prmf import PRMF
from wsikit.models.prmf_calibrated import CalibratedPRMF
from wsikit.models.stored_features import StoredFeatures
from wsikit.models.tokenizer import CaptionTokenizer
from wsikit.phantom.observer import OBSERVED, Observer, caption_of
from wsikit.phantom.two_scales import (
    CLASSES,
    MKI_GRADES,
    MPP,
    PATCH_PX,
    WITH,
    field_picture,
    mki_grade,
    two_scales,
)
from wsikit.store.atomic import write_json
from wsikit.training.bootstrap import Sample, draw_groups, quantiles
from wsikit.training.branches import train_branches
from wsikit.training.cross_fit import BranchOutputs, FusionFit, branch_outputs, fit_fusion, fit_surprise
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.data import PatchSet, class_weights, refuse_shared_groups
from wsikit.training.forward import image_features, outputs_of, softmax
from wsikit.training.fusion_variants import Arm, ArmName, ArmSettings, bank_of, fit_arm
from wsikit.training.heads.join import standardise
from wsikit.training.rivals import TITLES, Rival, Rivals, fit_boosting
from wsikit.training.settings import FitSettings, TrainingSettings
from wsikit.training.splits import TEST, folds
from wsikit.training.unimodal import image_probs, train_text_branch

logger = logging.getLogger("needs_both")

HERE = Path(__file__).parent
COMMAND = "python pipelines/needs_both.py -o OUT"
NOTICE = "DEMONSTRATION ONLY: trained on synthetic tissue, never on a patient's. Not for clinical use."
AREA_MM2 = (PATCH_PX * MPP / 1000) ** 2
DRAWS = 1000
SHOWN = 8
"""Number of fields on the contact sheet, and of patches per row."""
IMAGE, TEXT, MEAN, ROBUST = "image only", "text only", "mean of both", "PRMF robust"
OWN, NONE, SHUFFLED, OTHER_FIELDS = "own captions", "no captions", "shuffled captions", "captions of another field"
ARMS: tuple[ArmName, ...] = ("concatenation", "PRMF paper")
RIVALS: tuple[Rival, ...] = ("mean_of_logits", "facts", "facts_in_field", "image_and_facts_in_field")
MEASURES = ("auc", "balanced_accuracy")

Probs = npt.NDArray[np.floating]
Found = TypeVar("Found")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Level(_Strict):
    """How good the captions are, of training and test slides alike."""

    name: str
    of: Literal["patches", "fields"] = "patches"
    """Whether captions are wrong or missing patch by patch, or for whole fields."""
    wrong: float = Field(0.0, ge=0, le=1)
    """Share whose captions are another slide's."""
    missing: float = Field(0.0, ge=0, le=1)


class Errors(_Strict):
    """Of the observer: see `wsikit.phantom.observer.Observer`."""

    missed: float = Field(ge=0, lt=1)
    mistaken: float = Field(ge=0, lt=1)
    of_cells: float = Field(ge=0)
    of_slide: float = Field(ge=0)


class Settings(_Strict):
    """The YAML file."""

    threads: int = Field(gt=0)
    training_slides: tuple[int, int]
    test_slides: tuple[int, int]
    patches: int = Field(gt=1)
    """Of each field, with pixels and label; captions are of all patches of the field."""
    per_side: int = Field(gt=1)
    """Side of a field in patches of 56 µm."""
    observer: Errors
    levels: tuple[Level, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    image_of: str
    """Model whose image encoder, which is not trained further, gives the features of the patches."""
    image: FeatureBranchConfig
    numbers: NumbersConfig
    prmf: PRMFConfig
    training: TrainingSettings
    text_training: FitSettings
    folds: int = Field(ge=3)
    """Of the training slides: so many further pairs of branches are trained, for the cross-fitted fusion."""
    fusion: ArmSettings
    """Of the other fusions."""


@dataclass(frozen=True)
class Slide:
    """What is kept of one slide: a field of M patches, of which N have pixels and a label."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    """(N,)"""
    rows: npt.NDArray[np.int64]
    """(N,), their numbers in the field."""
    counted: npt.NDArray[np.float32]
    """(M, 2), what the observer counts in each patch of the field, in the order of `OBSERVED`."""
    centres_um: npt.NDArray[np.float64]
    """(M, 2)"""
    planted: npt.NDArray[np.float64]
    """(N, 3): neuropil as fraction of the patch, its events, its neuroblastic cells."""
    mki: float
    """As planted, events over cells of the field."""
    cells: int
    """Neuroblastic cells of the field."""
    seed: int


@dataclass(frozen=True)
class Slides:
    """All slides of a part; row i of `patches` belongs to slide `of[i]`."""

    patches: PatchSet
    """The patches with pixels, without captions."""
    features: PatchSet
    """The same with image features, float32 (N, D), in place of pixels."""
    of: npt.NDArray[np.int64]
    slides: tuple[Slide, ...]

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """(N,), numbers of the patches with pixels among the patches of all fields."""
        first = np.cumsum([0, *(len(slide.counted) for slide in self.slides)])
        return np.concatenate([start + slide.rows for start, slide in zip(first[:-1], self.slides, strict=True)])

    def captioned(self, source: npt.NDArray[np.int64], field_um: float | None) -> PatchSet:
        """The patches with features and captions, when patch i of all fields has the caption of patch `source[i]`, or
        none where it is -1. What is read of the field and of the slide comes from these captions."""
        counted = np.concatenate([slide.counted for slide in self.slides])
        values = np.where(source[:, None] >= 0, counted[source], np.nan)
        n = len(values)
        slides = np.repeat(np.arange(len(self.slides)), [len(slide.counted) for slide in self.slides])
        whole = PatchSet(
            images=np.zeros((n, 0), np.uint8),  # most patches of a field are counted and never rendered
            labels=np.zeros(n, np.int64),
            groups=slides.astype(np.str_),
            captions=("",) * n,
            places_um=np.concatenate([slide.centres_um for slide in self.slides]),
        ).with_facts(OBSERVED, values)
        whole = whole if field_um is None else whole.with_field(field_um)
        known = whole.select(self.rows)
        words = tuple(caption_of(values[row]) if source[row] >= 0 else "" for row in self.rows)
        return replace(
            known,
            images=self.features.images,
            labels=self.features.labels,
            groups=self.features.groups,
            captions=words,
            classes=CLASSES,
        )


# ---- slides and captions --------------------------------------------------------------------------------------------


def make_slide(seed: int, settings: Settings) -> Slide:
    """One slide, and what the observer counts in every patch of its field."""
    made = two_scales(seed, settings.patches, per_side=settings.per_side)
    observer = Observer(**settings.observer.model_dump())
    facts = made.facts
    planted = (facts.fraction("neuropil"), made.patch_events, facts.n_neuroblastic)
    return Slide(
        images=made.images,
        labels=made.labels,
        rows=made.rows,
        counted=observer.count(made.whole, AREA_MM2, np.random.default_rng([seed, 1112])),
        centres_um=made.centres_um,
        planted=np.stack(planted, axis=1).astype(np.float64),
        mki=made.mki,
        cells=made.cells,
        seed=seed,
    )


def make_slides(seeds: tuple[int, int], settings: Settings) -> Slides:
    """All slides from one seed to another."""
    numbers = range(*seeds)
    slides = in_parallel(partial(make_slide, settings=settings), numbers, settings.threads)
    counts = [len(slide.labels) for slide in slides]
    patches = PatchSet(
        images=np.concatenate([slide.images for slide in slides]),
        labels=np.concatenate([slide.labels for slide in slides]),
        groups=np.repeat([f"slide-{seed}" for seed in numbers], counts),
        captions=("",) * sum(counts),
        classes=CLASSES,
    )
    encoder = load_model(settings.image_of)
    features = replace(patches, images=image_features(encoder, patches.images))
    return Slides(patches, features, np.repeat(np.arange(len(slides)), counts), tuple(slides))


def in_parallel(call: Callable[[int], Found], numbers: Sequence[int], workers: int) -> list[Found]:
    """`call` of each number, in order, by as many processes."""
    if workers == 1:
        return [call(number) for number in numbers]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(call, numbers))


def assigned(part: Slides, level: Level, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Whose caption each patch of all fields has: its own, that of a patch of another slide, or none (-1), int64 (n,).

    By fields, all patches of a field have the captions of the patches at the same places of another slide.
    """
    sizes = np.array([len(slide.counted) for slide in part.slides])
    n_fields, per_field = len(sizes), int(sizes[0])
    n = n_fields * per_field
    units = n_fields if level.of == "fields" else n
    order = rng.permutation(units)
    n_wrong, n_missing = round(level.wrong * units), round(level.missing * units)
    wrong, missing = order[:n_wrong], order[n_wrong : n_wrong + n_missing]
    source = np.arange(units)
    if level.of == "fields":
        source[wrong] = (wrong + rng.integers(1, n_fields, size=n_wrong)) % n_fields
        source[missing] = -1
        of_patch = source[:, None] * per_field + np.arange(per_field)
        return np.where(source[:, None] >= 0, of_patch, -1).ravel()
    other = (wrong // per_field + rng.integers(1, n_fields, size=n_wrong)) % n_fields
    source[wrong] = other * per_field + rng.integers(per_field, size=n_wrong)
    source[missing] = -1
    return source


# ---- training -------------------------------------------------------------------------------------------------------


def build(settings: Settings, seed: int) -> MMLNB:
    """The untrained model."""
    tokenizer = CaptionTokenizer.train([caption_of(np.array([7000.0, 150.0]))], vocabulary=60, max_tokens=64)
    torch.manual_seed(seed)
    config = ModelConfig(
        name="needs-both",
        version="1",
        classes=CLASSES,
        class_names=CLASSES,
        colors=("#0072b2", "#d55e00"),
        mpp=MPP,
        patch_px=PATCH_PX,
        stain="H&E",
        captioner="observer",
        text_max_tokens=64,
        prmf=settings.prmf,
        image=settings.image,
        text=TextEncoderConfig(model_type="distilbert", options={"vocab_size": tokenizer.vocabulary}),  # not built
        numbers=settings.numbers,
        notice=NOTICE,
    )
    return MMLNB(config, tokenizer)


@dataclass(frozen=True)
class Predicted:
    """Test probabilities and gates of one training seed, by (level, arm, captions)."""

    probs: dict[tuple[str, str, str], Probs]
    gates: dict[tuple[str, str, str], npt.NDArray[np.float32]]
    kept: dict[str, str]
    """By level: what the robust fusion is, of gate, mean and image."""


def run_seed(settings: Settings, training: Slides, test: Slides, seed: int) -> Predicted:
    """Train the image branches, then text branches and fusions for each level of captions; predict the test patches.

    One image branch is trained on all training slides, and one on all but each fold of them, for the robust fusion.
    """
    torch.set_num_threads(1)
    gc.freeze()  # every fit below collects garbage, and need not search the slides again
    logging.getLogger("wsikit.training").setLevel(logging.WARNING)  # else one line per epoch of every branch
    known = training.features
    fold = np.empty(len(known), np.int64)
    for index, parts in enumerate(folds(known.labels, known.groups, settings.folds, seed=seed)):
        fold[parts[TEST]] = index
    branches = []
    for left_out in (None, *range(settings.folds)):
        rows = np.arange(len(known)) if left_out is None else np.flatnonzero(fold != left_out)
        of_seed = seed if left_out is None else 1000 * (seed + 1) + left_out
        model = build(settings, of_seed)
        assert isinstance(model.image, StoredFeatures)
        standardise(model.image, known.select(rows))
        # without captions only the image branch is trained
        train_branches(model, known.select(rows), settings.training, settings.text_training, seed=of_seed)
        branches.append(Branch(model, rows, of_seed))
    image = image_probs(branches[0].model, test.features)
    logger.info("seed %d: image branches trained", seed)
    found = Predicted({}, {}, {})
    for level in settings.levels:
        _run_level(settings, training, test, branches, fold, level, image, seed, found)
        logger.info("seed %d: %s: the fusion is %s", seed, level.name, found.kept[level.name])
    return found


@dataclass(frozen=True)
class Branch:
    """A model with a trained image branch, and the rows of the training patches that it was trained on."""

    model: MMLNB
    rows: npt.NDArray[np.int64]
    seed: int


def _run_level(
    settings: Settings,
    training: Slides,
    test: Slides,
    branches: Sequence[Branch],
    fold: npt.NDArray[np.int64],
    level: Level,
    image: Probs,
    seed: int,
    found: Predicted,
) -> None:
    """Text branches and fusions with captions of this level; the predictions are added to `found`."""
    place = [one.name for one in settings.levels].index(level.name)
    rng = np.random.default_rng([seed, place, 1111])
    known = training.captioned(assigned(training, level, rng), settings.numbers.field_um)
    model, fitted = cross_fit(settings, branches, known, fold, seed)
    found.kept[level.name] = fitted.kept
    arms = fit_arms(settings, model, known, seed)
    for way, patches in asked_in(settings, test, level, rng).items():
        output, bank = outputs_of(model, patches), bank_of(model, patches, views=1)
        present = bank.present.numpy()
        text = np.full_like(image, np.nan)
        text[present] = softmax(output.logits_text[present])
        alone = np.where(present[:, None], text, 1 / len(CLASSES))
        predicted: dict[str, Probs] = {IMAGE: image, TEXT: alone}
        predicted[MEAN] = np.where(present[:, None], (image + text) / 2, image)
        if way == OWN:
            assert known.facts is not None
            assert patches.facts is not None
            made = Rivals(known, patches, len(CLASSES), seed, image, text, facts=(known.facts, patches.facts))
            predicted |= {TITLES[name]: made.probs(name) for name in RIVALS}
        for name, arm in arms.items():
            of_arm = arm.predict(bank)
            predicted[name], found.gates[level.name, name, way] = of_arm.probs, of_arm.gate
        predicted[ROBUST], found.gates[level.name, ROBUST, way] = output.probs, output.gate
        found.probs.update({(level.name, arm, way): probs for arm, probs in predicted.items()})


def asked_in(settings: Settings, test: Slides, level: Level, rng: np.random.Generator) -> dict[str, PatchSet]:
    """The test patches in each way of captioning."""
    field_um = settings.numbers.field_um
    of_patches, of_fields = Level(name="", wrong=1), Level(name="", of="fields", wrong=1)
    return {
        OWN: test.captioned(assigned(test, level, rng), field_um),
        SHUFFLED: test.captioned(assigned(test, of_patches, rng), field_um),
        OTHER_FIELDS: test.captioned(assigned(test, of_fields, rng), field_um),
        NONE: test.features,
    }


def cross_fit(
    settings: Settings, branches: Sequence[Branch], known: PatchSet, fold: npt.NDArray[np.int64], seed: int
) -> tuple[MMLNB, FusionFit]:
    """The first model with a text branch, and with a fusion fitted on slides that its branches have not seen."""
    weight = class_weights(known.labels, len(CLASSES))
    final: MMLNB | None = None
    outputs, held = [], []
    for index, branch in enumerate(branches):
        model, mine = copy.deepcopy(branch.model), known.select(branch.rows)
        rate = settings.text_training.lr
        train_text_branch(
            model, mine, mine.select([0]), settings.text_training, weight=weight, seed=branch.seed, head_lr=rate
        )
        fit_surprise(model, mine)
        if final is None:
            final = model
            continue
        rows = np.flatnonzero(fold == index - 1)
        outputs.append(branch_outputs(model, known.select(rows)))
        held.append(rows)
    assert final is not None
    assert isinstance(final.fusion, CalibratedPRMF)
    order = np.concatenate(held)
    joined = BranchOutputs.joined(outputs)
    fitted = fit_fusion(final.fusion, joined, known.select(order), fold[order], weight=weight, seed=seed)
    return final.eval(), fitted


def fit_arms(settings: Settings, model: MMLNB, known: PatchSet, seed: int) -> dict[str, Arm]:
    """The other fusions, fitted on the features of the same branches."""
    bank = bank_of(model, known, views=1)
    return {
        name: fit_arm(
            name,
            bank,
            settings.fusion,
            image_stage=PRMF(model.d_text, model.image.width, settings.prmf.d, mode="robust"),
            curriculum=CurriculumSchedule.over(settings.fusion.epochs),
            weight=class_weights(known.labels, len(CLASSES)),
            seed=seed,
        )
        for name in ARMS
    }


# ---- figures --------------------------------------------------------------------------------------------------------

Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Row:
    """Figures of one arm, means over the seeds, with 95 % intervals by slide."""

    level: str
    captions: str
    arm: str
    auc: Interval
    balanced_accuracy: Interval
    gain: dict[str, Interval]
    """Difference in balanced accuracy to other arms on the same captions, paired."""
    auc_gain: dict[str, Interval]
    by_seed: tuple[float, ...]
    """Balanced accuracy of each seed."""
    gate: float | None


def figures(found: Sequence[Predicted], test: Slides) -> list[Row]:
    """Figures of all arms, on all levels and ways of captioning."""
    patches = test.patches
    n_groups = len(np.unique(patches.groups))
    weights = np.concatenate([np.ones((1, n_groups)), draw_groups(n_groups, draws=DRAWS, seed=0)])
    values: dict[tuple[str, str, str], npt.NDArray[np.float64]] = {}
    for key in found[0].probs:
        of_seeds = [
            Sample(patches.labels, one.probs[key], patches.groups, n_ordinal=0).figures(weights).values for one in found
        ]
        values[key] = np.stack([[one[name] for name in MEASURES] for one in of_seeds])  # (seeds, measures, draws + 1)
    rows = []
    for (level, arm, way), one in values.items():
        rivals = {name: values[level, name, way] for name in (IMAGE, TEXT, MEAN) if name != arm}
        gains = {name: (one - rival).mean(axis=0) for name, rival in rivals.items()}
        gates = [found_.gates[level, arm, way] for found_ in found if (level, arm, way) in found_.gates]
        auc, accuracy = one.mean(axis=0)
        rows.append(
            Row(
                level,
                way,
                arm,
                _interval(auc),
                _interval(accuracy),
                {name: _interval(gain[1]) for name, gain in gains.items()},
                {name: _interval(gain[0]) for name, gain in gains.items()},
                tuple(float(v) for v in one[:, 1, 0]),
                None if not gates or np.isnan(gates).all() else float(np.mean(gates)),
            )
        )
    return rows


def _interval(values: npt.NDArray[np.float64]) -> Interval:
    low, high = quantiles(values[1:]) or (np.nan, np.nan)
    return float(values[0]), low, high


def limits(settings: Settings, training: Slides, test: Slides) -> dict[str, tuple[Interval, Interval]]:
    """AUC and balanced accuracy without any branch, from planted truth: what limits them."""
    known, asked = (np.concatenate([slide.planted for slide in part.slides]) for part in (training, test))
    labels, has = test.patches.labels, asked[:, 0] >= WITH
    counting = fit_boosting(_patch_alone(known), training.patches.labels, seed=0)
    right = test.captioned(np.arange(sum(len(slide.counted) for slide in test.slides)), settings.numbers.field_um)
    assert right.around is not None
    high_at = 5000 * np.array([slide.mki for slide in test.slides])[test.of]
    ways: dict[str, Probs] = {
        "planted truth of the patch alone: neuropil, its events, its cells": counting.predict_proba(
            _patch_alone(asked)
        ),
        "neuropil as planted, mean of the right captions over the field": _by_rule(has, right.around[:, 1]),
        "neuropil and MKI as planted": _by_rule(has, high_at),
    }
    n_groups = len(np.unique(test.patches.groups))
    weights = np.concatenate([np.ones((1, n_groups)), draw_groups(n_groups, draws=DRAWS, seed=0)])
    found = {}
    for name, probs in ways.items():
        one = Sample(labels, probs, test.patches.groups, n_ordinal=0).figures(weights).values
        found[name] = _interval(one["auc"]), _interval(one["balanced_accuracy"])
    return found


def _patch_alone(planted: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Neuropil (yes or no), and share of events among the patch's cells."""
    return np.stack([planted[:, 0] >= WITH, planted[:, 1] / np.maximum(1, planted[:, 2])], axis=1).astype(np.float64)


def _by_rule(has: npt.NDArray[np.bool_], index: npt.NDArray[np.floating]) -> Probs:
    """Probabilities that follow the rule of the class, from an index per 5,000 cells: 1/2 at its limit."""
    unfavourable = np.where(has, index / (index + 200.0), 1.0)
    return np.stack([1 - unfavourable, unfavourable], axis=1)


# ---- what is written ------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row], way: str) -> str:
    """Markdown: one row per level and arm, for one way of captioning."""
    lines = [
        f"| captions | arm | AUC | balanced accuracy | AUC, gain on {IMAGE} | on {TEXT} | balanced accuracy, gain on "
        f"{IMAGE} | on {TEXT} | on {MEAN} | gate |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.captions != way:
            continue
        gains = [_points(row.auc_gain.get(name)) for name in (IMAGE, TEXT)]
        gains += [_points(row.gain.get(name)) for name in (IMAGE, TEXT, MEAN)]
        gate = "–" if row.gate is None else f"{row.gate:.2f}"
        cells = [row.level, row.arm, _figure(row.auc), _figure(row.balanced_accuracy), *gains, gate]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(value: Interval) -> str:
    return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"


def _points(gain: Interval | None) -> str:
    if gain is None:
        return "–"
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * v for v in gain))


def page(
    settings: Settings,
    rows: Sequence[Row],
    bounds: dict[str, tuple[Interval, Interval]],
    training: Slides,
    test: Slides,
) -> str:
    """results.md"""
    of_truth = "\n".join(f"| {name} | {_figure(auc)} | {_figure(value)} |" for name, (auc, value) in bounds.items())
    ways = {
        OWN: "Test captions as good as those of the training",
        SHUFFLED: "Control: every patch has the caption of a patch of another slide",
        OTHER_FIELDS: "Control: every field has the captions of another field",
        NONE: "Control: no test captions",
    }
    cells = float(np.mean([slide.cells for slide in test.slides]))
    in_patch = float(np.mean(np.concatenate([slide.planted for slide in test.slides])[:, 2]))
    tables = "\n\n".join(f"### {heading}\n\n{table(rows, way)}" for way, heading in ways.items())
    errors, side = settings.observer, settings.per_side
    return f"""## A synthetic class that needs both

`{COMMAND}`

Truth is known and divided between patch and captions. The class follows the rule of the INPC below 18 months:
favourable if there is neuropil and the mitosis-karyorrhexis index (MKI) is not high (below 4 % of the cells), else
unfavourable. Neuropil is seen in the patch ({PATCH_PX} px, {PATCH_PX * MPP:.0f} µm) and stated by no caption. The MKI
is that of the field around it ({side * PATCH_PX * MPP:.0f} µm, {cells:.0f} cells; a patch has {in_patch:.0f}). Each of
the {side**2} patches of a field has a caption of its own: an observer's counts of its cells (per patch, standard
deviation of the logarithm {errors.of_cells:g}) and of its mitoses and karyorrhexis ({errors.missed:.0%} missed,
{errors.mistaken:.1%} of the other cells taken for one; per slide a factor of standard deviation {errors.of_slide:g}).
The text branch reads these numbers, and their mean over the field. "Wrong": the caption is that of a patch of another
slide, in training and test alike. The image branch reads the frozen features of `{settings.image_of}`.

{len(training.slides)} training and {len(test.slides)} test slides, {len(test.patches)} test patches; training seeds \
{", ".join(map(str, settings.seeds))}. Means over the seeds; gains in points; 95 % intervals: {DRAWS} draws of slides, \
paired.

### What limits the branches

| | AUC | balanced accuracy |
|---|---|---|
{of_truth}

{tables}
"""


def contact_sheet(slides: Slides, path: Path, *, most: int = SHOWN) -> None:
    """Patches of each class by neuropil and MKI, and some fields with some of their captions, to be looked at."""
    patches, px = slides.patches, 2 * PATCH_PX
    has = np.concatenate([slide.planted for slide in slides.slides])[:, 0] >= WITH
    grade = np.array([mki_grade(slide.mki) for slide in slides.slides])[slides.of]
    groups = [
        (f"{'with' if wanted else 'without'} neuropil, MKI {name}", np.flatnonzero((has == wanted) & (grade == name)))
        for wanted in (True, False)
        for name in MKI_GRADES
    ]
    fields = slides.slides[:most]
    per_side = round(len(fields[0].counted) ** 0.5)
    width, heading = most * (px + 6), 18
    field_px = width // 4 - 6
    height = len(groups) * (px + heading) + -(-len(fields) // 4) * (field_px + 110)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for title, rows in groups:
        shown = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)] if len(rows) else rows
        classes = ", ".join(sorted({CLASSES[patches.labels[row]] for row in shown}))
        draw.text((4, top + 3), f"{title}: {classes} ({len(rows)} patches)", fill="black")
        for column, row in enumerate(shown):
            sheet.paste(Image.fromarray(patches.images[row]).resize((px, px)), (column * (px + 6), top + heading))
        top += px + heading
    for number, slide in enumerate(fields):
        x, y = number % 4 * (field_px + 6), top + number // 4 * (field_px + 110)
        picture = Image.fromarray(field_picture(slide.seed, per_side))
        sheet.paste(picture.resize((field_px, field_px)), (x, y))
        counted = np.nanmean(slide.counted[:, 1]) / 50
        lines = [f"MKI {100 * slide.mki:.1f} %; mean of the captions {counted:.1f} %. Captions of some of its patches:"]
        lines += [caption_of(slide.counted[row]).replace("²", "2") for row in slide.rows[:5]]  # the font lacks it
        draw.text((x + 2, y + field_px + 2), "\n".join(lines), fill="black")
    sheet.save(path)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--config", type=Path, default=HERE / "configs" / "needs_both.yaml")
    arguments.add_argument("-o", "--out", type=Path, required=True, help="Output folder.")
    given = arguments.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    settings = Settings.model_validate(yaml.safe_load(given.config.read_text(encoding="utf-8")))
    given.out.mkdir(parents=True, exist_ok=True)

    begun = time.perf_counter()
    training, test = (make_slides(seeds, settings) for seeds in (settings.training_slides, settings.test_slides))
    refuse_shared_groups(training.patches, test.patches)
    logger.info("%d training and %d test patches", len(training.patches), len(test.patches))
    contact_sheet(training, given.out / "patches.png")
    found = in_parallel(partial(run_seed, settings, training, test), settings.seeds, settings.threads)
    rows, bounds = figures(found, test), limits(settings, training, test)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    record = {
        "command": COMMAND,
        "settings": settings.model_dump(mode="json"),
        "patches": {"training": len(training.patches), "test": len(test.patches)},
        "per_class": {
            name: np.bincount(part.patches.labels, minlength=len(CLASSES)).tolist()
            for name, part in (("training", training), ("test", test))
        },
        "seconds": round(time.perf_counter() - begun),
        "processor_seconds": round(sum(one.ru_utime + one.ru_stime for one in used)),
        "kept": [one.kept for one in found],
        "limits": {name: dict(zip(MEASURES, pair, strict=True)) for name, pair in bounds.items()},
        "results": [asdict(row) for row in rows],
    }
    write_json(given.out / "results.json", record)
    text = page(settings, rows, bounds, training, test)
    (given.out / "results.md").write_text(text, encoding="utf-8")
    logger.info("%s\n%s", given.out / "results.md", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
