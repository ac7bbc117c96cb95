"""A synthetic diagnosis that needs the patch and its field's caption: python pipelines/needs_both.py -o OUT

Slides of `wsikit.phantom.two_scales`: a patch of 56 µm is favourable if it has neuropil and the mitosis-karyorrhexis
index of its field of 1 mm is not high. A patch has too few cells for the index; the caption is measured on the field at
1 µm per pixel, where fibrils cannot be seen, and states a count of mitoses and karyorrhexis with an observer's error.
Branches and fusions are trained by wsikit's own code, with captions of which some are another slide's or missing. The
image branch reads the features of the packaged model's image encoder, which was trained on other synthetic slides.

Writes OUT/results.json, OUT/results.md and OUT/patches.png (some patches and fields with their captions).
"""

from __future__ import annotations

import argparse
import copy
import logging
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import yaml
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field

from wsikit.captions import load_captioner
from wsikit.captions.fields import position_in_field, with_position
from wsikit.models.config import FeatureBranchConfig, ModelConfig, PRMFConfig, TextEncoderConfig
from wsikit.models.io import load_model
from wsikit.models.mmlnb import MMLNB
from wsikit.models.prmf import PRMF
from wsikit.models.prmf_calibrated import CalibratedPRMF
from wsikit.models.stored_features import StoredFeatures
from wsikit.models.tokenizer import CaptionTokenizer
from wsikit.phantom.two_scales import (
    CLASSES,
    MKI_GRADES,
    MPP,
    PATCH_PX,
    PICTURE_MPP,
    WITH,
    TwoScales,
    mki_grade,
    two_scales,
)
from wsikit.scrub import scrub
from wsikit.store.atomic import write_json
from wsikit.training.batches import Texts
from wsikit.training.bootstrap import Sample, draw_groups, quantiles
from wsikit.training.cross_fit import BranchOutputs, FusionFit, branch_outputs, fit_fusion, fit_surprise
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.data import PatchSet, class_weights, refuse_shared_groups
from wsikit.training.evaluation import baseline_probs
from wsikit.training.forward import image_features, outputs_of, softmax
from wsikit.training.fusion_variants import Arm, ArmName, ArmSettings, Bank, fit_arm
from wsikit.training.heads.join import standardise
from wsikit.training.settings import FitSettings, TrainingSettings
from wsikit.training.splits import TEST, folds
from wsikit.training.unimodal import image_probs, train_image_branch, train_text_branch

logger = logging.getLogger("needs_both")

HERE = Path(__file__).parent
CAPTIONER = "morphometry"
COMMAND = "python pipelines/needs_both.py -o OUT"
NOTICE = "DEMONSTRATION ONLY: trained on synthetic tissue, never on a patient's. Not for clinical use."
DRAWS = 1000
SHOWN = 8
"""Number of fields on the contact sheet, and of patches per row."""
IMAGE, TEXT, MEAN, ROBUST = "image only", "text only", "mean of both", "PRMF robust"
OWN, NONE, SHUFFLED = "own captions", "no captions", "shuffled captions"
RIVALS: tuple[ArmName, ...] = ("concatenation", "PRMF paper")
MEASURES = ("auc", "balanced_accuracy")

Probs = npt.NDArray[np.floating]
Found = TypeVar("Found")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Level(_Strict):
    """How good the captions are, of training and test slides alike."""

    name: str
    wrong: float = Field(ge=0, le=1)
    """Share of the fields whose caption is another slide's."""
    missing: float = Field(ge=0, le=1)


class Text(_Strict):
    """The text branch before its vocabulary is known."""

    model_type: str
    vocabulary: int
    max_tokens: int
    options: dict[str, Any]


class Settings(_Strict):
    """The YAML file."""

    threads: int = Field(gt=0)
    training_slides: tuple[int, int]
    test_slides: tuple[int, int]
    patches: int = Field(gt=1)
    """Of each field."""
    per_side: int = Field(gt=1)
    """Side of a field in patches of 56 µm."""
    count_error: float = Field(ge=0)
    levels: tuple[Level, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    image_of: str
    """Model whose image encoder, which is not trained further, gives the features of the patches."""
    image: FeatureBranchConfig
    text: Text
    prmf: PRMFConfig
    training: TrainingSettings
    text_training: FitSettings
    folds: int = Field(ge=3)
    """Of the training slides: so many further pairs of branches are trained, for the cross-fitted fusion."""
    fusion: ArmSettings
    """Of the rivals."""


@dataclass(frozen=True)
class Slide:
    """What is kept of one slide."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    positions: tuple[str, ...]
    """Where each patch is in its field."""
    caption: str
    """Of the field, with the observer's count."""
    stated_grade: str
    """Grade of the MKI as the caption states it."""
    planted: npt.NDArray[np.float64]
    """(N, 4): neuropil and tumour as fractions of the patch, its events, its neuroblastic cells."""
    mki: float
    cells: int
    """Neuroblastic cells of the field."""
    picture: npt.NDArray[np.uint8]
    """Of the middle of the field."""


@dataclass(frozen=True)
class Slides:
    """All slides of a part; row i of `patches` belongs to slide `of[i]`."""

    patches: PatchSet
    """Without captions."""
    features: PatchSet
    """The same with image features, float32 (N, D), in place of pixels."""
    of: npt.NDArray[np.int64]
    slides: tuple[Slide, ...]

    @property
    def own_captions(self) -> tuple[str, ...]:
        """The caption of its own field for each patch."""
        return self.captions(np.arange(len(self.slides)))

    def captions(self, source: npt.NDArray[np.int64]) -> tuple[str, ...]:
        """A caption for each patch: field i has that of slide `source[i]`, or none where it is -1."""
        positions = [position for slide in self.slides for position in slide.positions]
        return tuple(
            with_position(self.slides[source[slide]].caption, position) if source[slide] >= 0 else ""
            for slide, position in zip(self.of, positions, strict=True)
        )


# ---- slides and captions --------------------------------------------------------------------------------------------


def make_slide(seed: int, *, patches: int, per_side: int, count_error: float) -> Slide:
    """One slide, and the caption of its field: measured at low power, with a count of mitoses and karyorrhexis."""
    made = two_scales(seed, patches, per_side=per_side)
    measured = load_captioner(CAPTIONER).caption(made.picture[None], mpp=PICTURE_MPP)[0].text
    sentence, grade = count_sentence(made, count_error)
    side = per_side * PATCH_PX
    return Slide(
        images=made.images,
        labels=made.labels,
        positions=tuple(position_in_field(*(float(v) for v in (xy + PATCH_PX / 2) / side)) for xy in made.coords),
        caption=f"{measured} {sentence}",
        stated_grade=grade,
        planted=np.stack(
            [made.facts.fraction("neuropil"), made.facts.tumour, made.patch_events, made.facts.n_neuroblastic], axis=1
        ).astype(np.float64),
        mki=made.mki,
        cells=made.cells,
        picture=made.picture,
    )


def count_sentence(made: TwoScales, error: float) -> tuple[str, str]:
    """An observer's count in words, and its grade; `error` is the standard deviation of the count's logarithm."""
    rng = np.random.default_rng([made.seed, 1110])
    events = round(made.events * float(np.exp(rng.normal(0, error))))
    share = events / made.cells
    grade = mki_grade(share)
    return f"Mitoses and karyorrhexis {grade}: {events} of {made.cells} cells ({100 * share:.1f} %).", grade


def make_slides(seeds: tuple[int, int], settings: Settings) -> Slides:
    """All slides from one seed to another."""
    numbers = range(*seeds)
    make = partial(make_slide, patches=settings.patches, per_side=settings.per_side, count_error=settings.count_error)
    slides = in_parallel(make, numbers, settings.threads)
    # pictures are looked at only, and are sent to every process
    slides = [slide if row < SHOWN else replace(slide, picture=slide.picture[:0]) for row, slide in enumerate(slides)]
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


def assigned(n: int, level: Level, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Whose caption each of `n` fields has: its own, another's, or none (-1), int64 (n,)."""
    order = rng.permutation(n)
    n_wrong, n_missing = round(level.wrong * n), round(level.missing * n)
    wrong, missing = order[:n_wrong], order[n_wrong : n_wrong + n_missing]
    source = np.arange(n)
    source[wrong] = (wrong + rng.integers(1, n, size=n_wrong)) % n
    source[missing] = -1
    return source


# ---- training -------------------------------------------------------------------------------------------------------


def build(settings: Settings, captions: Sequence[str], seed: int) -> MMLNB:
    """The untrained model; its vocabulary comes from the training captions."""
    text = settings.text
    tokenizer = CaptionTokenizer.train(map(scrub, captions), vocabulary=text.vocabulary, max_tokens=text.max_tokens)
    options = text.options | {"vocab_size": tokenizer.vocabulary, "max_position_embeddings": text.max_tokens}
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
        captioner=CAPTIONER,
        text_max_tokens=text.max_tokens,
        prmf=settings.prmf,
        image=settings.image,
        text=TextEncoderConfig(model_type=text.model_type, options=options),
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
    known, asked = training.features, test.features
    fold = np.empty(len(known), np.int64)
    for index, parts in enumerate(folds(known.labels, known.groups, settings.folds, seed=seed)):
        fold[parts[TEST]] = index
    branches = []
    for left_out in (None, *range(settings.folds)):
        rows = np.arange(len(known)) if left_out is None else np.flatnonzero(fold != left_out)
        of_seed = seed if left_out is None else 1000 * (seed + 1) + left_out
        model = build(settings, training.own_captions, of_seed)
        assert isinstance(model.image, StoredFeatures)
        standardise(model.image, known.select(rows))
        train_image_branch(model, known.select(rows), settings.training.model_copy(update={"seed": of_seed}))
        branches.append(Branch(model, rows, of_seed))
    image = image_probs(branches[0].model, asked)
    logger.info("seed %d: image branches trained", seed)
    found = Predicted({}, {}, {})
    for level in settings.levels:
        _run_level(settings, training, test, branches, fold, level, image, seed, found)
        logger.info("seed %d: %s: the fusion is %s", seed, level.name, found.kept[level.name])
    return found


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
    rng = np.random.default_rng([seed, round(1000 * level.wrong), round(1000 * level.missing), 1111])
    said = training.captions(assigned(len(training.slides), level, rng))
    model, fitted = cross_fit(settings, branches, training.features.with_captions(said), fold, seed)
    found.kept[level.name] = fitted.kept
    arms = fit_arms(settings, model, training.features.with_captions(said), seed)
    for way, captions in asked_in(test, level, rng).items():
        patches = test.features.with_captions(captions)
        output, bank = outputs_of(model, patches), features_of(model, patches)
        present = bank.present.numpy()
        text = np.full_like(image, 1 / len(CLASSES))
        text[present] = softmax(output.logits_text[present])
        found.probs[level.name, IMAGE, way] = image
        found.probs[level.name, TEXT, way] = text
        found.probs[level.name, MEAN, way] = np.where(present[:, None], (image + text) / 2, image)
        for name, arm in arms.items():
            predicted = arm.predict(bank)
            found.probs[level.name, name, way], found.gates[level.name, name, way] = predicted.probs, predicted.gate
        found.probs[level.name, ROBUST, way], found.gates[level.name, ROBUST, way] = output.probs, output.gate


@dataclass(frozen=True)
class Branch:
    """A model with a trained image branch, and the rows of the training patches that it was trained on."""

    model: MMLNB
    rows: npt.NDArray[np.int64]
    seed: int


def asked_in(test: Slides, level: Level, rng: np.random.Generator) -> dict[str, tuple[str, ...]]:
    """Captions of the test patches, in each way of captioning."""
    n = len(test.slides)
    return {
        OWN: test.captions(assigned(n, level, rng)),
        SHUFFLED: test.captions(assigned(n, Level(name="", wrong=1, missing=0), rng)),
        NONE: ("",) * len(test.patches),
    }


def cross_fit(
    settings: Settings, branches: Sequence[Branch], known: PatchSet, fold: npt.NDArray[np.int64], seed: int
) -> tuple[MMLNB, FusionFit]:
    """The first model with a text branch, and with a fusion fitted on slides that its branches have not seen."""
    has = np.array([bool(caption) for caption in known.captions])
    weight = class_weights(known.labels, len(CLASSES))
    final: MMLNB | None = None
    outputs, held = [], []
    for index, branch in enumerate(branches):
        model = copy.deepcopy(branch.model)
        captioned = known.select(branch.rows[has[branch.rows]])
        train_text_branch(
            model, captioned, captioned.select([0]), settings.text_training, weight=weight, seed=branch.seed
        )
        fit_surprise(model, captioned)
        if final is None:
            final = model
            continue
        rows = np.flatnonzero((fold == index - 1) & has)
        outputs.append(branch_outputs(model, known.select(rows)))
        held.append(rows)
    assert final is not None
    assert isinstance(final.fusion, CalibratedPRMF)
    order = np.concatenate(held)
    joined = BranchOutputs.joined(outputs)
    fitted = fit_fusion(final.fusion, joined, known.select(order), fold[order], weight=weight, seed=seed)
    return final.eval(), fitted


def fit_arms(settings: Settings, model: MMLNB, known: PatchSet, seed: int) -> dict[str, Arm]:
    """The rivals of the robust fusion, fitted on the features of the same branches."""
    bank = features_of(model, known)
    return {
        name: fit_arm(
            name,
            bank,
            settings.fusion,
            image_stage=PRMF(model.text.width, model.image.width, settings.prmf.d, mode="robust"),
            curriculum=CurriculumSchedule.over(settings.fusion.epochs),
            weight=class_weights(known.labels, len(CLASSES)),
            seed=seed,
        )
        for name in RIVALS
    }


@torch.inference_mode()
def features_of(model: MMLNB, patches: PatchSet) -> Bank:
    """Features of both branches of a model that reads stored features."""
    model.eval()
    texts = Texts(model, patches.captions)
    parts = [texts(rows) for rows in np.array_split(np.arange(len(patches)), -(-len(patches) // 256))]
    text = torch.cat([model.text(torch.from_numpy(part.ids), torch.from_numpy(part.mask)) for part in parts])
    image = model.image(torch.from_numpy(patches.images))
    # clones: tensors made in inference mode cannot take part in training
    return Bank(image[:, None].clone(), text.clone(), torch.from_numpy(texts.present), torch.from_numpy(patches.labels))


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


def floors(training: Slides, test: Slides) -> dict[str, tuple[Interval, Interval]]:
    """AUC and balanced accuracy without any training of a branch: what limits them."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known, asked = (np.concatenate([slide.planted for slide in part.slides]) for part in (training, test))
    labels = test.patches.labels
    counting = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    counting.fit(_both_planted(known), training.patches.labels)
    high = MKI_GRADES[-1]
    stated = np.array([slide.stated_grade == high for slide in test.slides])[test.of]
    has = asked[:, 0] >= WITH
    ways: dict[str, Probs] = {
        "planted facts of the patch alone: neuropil, its count of events": counting.predict_proba(_both_planted(asked)),
        "neuropil as planted, MKI as stated in the right caption": np.eye(2)[(stated | ~has).astype(int)],
    }
    own = training.captions(np.arange(len(training.slides)))
    ways |= baseline_probs(
        training.patches.with_captions(own), test.patches.with_captions(test.captions(np.arange(len(test.slides)))), 2
    )
    n_groups = len(np.unique(test.patches.groups))
    weights = np.concatenate([np.ones((1, n_groups)), draw_groups(n_groups, draws=DRAWS, seed=0)])
    found = {}
    for name, probs in ways.items():
        one = Sample(labels, probs, test.patches.groups, n_ordinal=0).figures(weights).values
        found[name] = _interval(one["auc"]), _interval(one["balanced_accuracy"])
    return found


def _both_planted(planted: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Neuropil (yes or no), share of events among the patch's cells, and both together."""
    has = (planted[:, 0] >= WITH).astype(np.float64)
    share = planted[:, 2] / np.maximum(1, planted[:, 3])
    return np.stack([has, share, has * share], axis=1)


# ---- what is written ------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row], way: str) -> str:
    """Markdown: one row per level and arm, for one way of captioning."""
    lines = [
        f"| captions | arm | AUC | balanced accuracy | gain on {IMAGE} | on {TEXT} | on {MEAN} | gate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.captions != way:
            continue
        gains = " | ".join(_points(row.gain.get(name)) for name in (IMAGE, TEXT, MEAN))
        gate = "–" if row.gate is None else f"{row.gate:.2f}"
        lines.append(
            f"| {row.level} | {row.arm} | {_figure(row.auc)} | {_figure(row.balanced_accuracy)} | {gains} | {gate} |"
        )
    return "\n".join(lines)


def _figure(value: Interval) -> str:
    return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"


def _points(gain: Interval | None) -> str:
    if gain is None:
        return "–"
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * v for v in gain))


def page(settings: Settings, rows: Sequence[Row], limits: Mapping[str, tuple[Interval, Interval]], test: Slides) -> str:
    """results.md"""
    bounds = "\n".join(f"| {name} | {_figure(auc)} | {_figure(accuracy)} |" for name, (auc, accuracy) in limits.items())
    n_training = settings.training_slides[1] - settings.training_slides[0]
    ways = {
        OWN: "Test captions as good as those of the training",
        SHUFFLED: "Control: every test caption is another slide's",
        NONE: "Control: no test captions",
    }
    cells = float(np.mean([slide.cells for slide in test.slides]))
    in_patch = float(np.mean(np.concatenate([slide.planted for slide in test.slides])[:, 3]))
    tables = "\n\n".join(f"### {heading}\n\n{table(rows, way)}" for way, heading in ways.items())
    return f"""## A synthetic class that needs both

`{COMMAND}`

Truth is known and divided between patch and caption. The class follows the rule of the INPC below 18 months:
favourable if there is neuropil and the mitosis-karyorrhexis index (MKI) is not high (below 4 % of the cells), else
unfavourable. Neuropil is seen only in the patch ({PATCH_PX} px, {PATCH_PX * MPP:.0f} µm). The MKI is counted over the
field around it ({settings.per_side * PATCH_PX * MPP:.0f} µm, {cells:.0f} cells; a patch has {in_patch:.0f}). The
caption is measured (`{CAPTIONER}`) on the field at {PICTURE_MPP:g} µm/px, where fibrils cannot be seen, and states an
observer's count (standard deviation of its logarithm {settings.count_error:g}). "Wrong": the caption of the field is
another slide's, in training and test alike. The image branch reads the frozen features of `{settings.image_of}`.

{n_training} training and {len(test.slides)} test slides, {len(test.patches)} test patches; training seeds \
{", ".join(map(str, settings.seeds))}. Means over the seeds; gains are differences in balanced accuracy, in points;
95 % intervals: {DRAWS} draws of slides, paired.

### What limits the branches

| | AUC | balanced accuracy |
|---|---|---|
{bounds}

{tables}
"""


def contact_sheet(slides: Slides, path: Path, *, most: int = SHOWN) -> None:
    """Patches of each class by neuropil and MKI, and some fields with their captions, to be looked at."""
    patches, px = slides.patches, 2 * PATCH_PX
    has = np.concatenate([slide.planted for slide in slides.slides])[:, 0] >= WITH
    grade = np.array([mki_grade(slide.mki) for slide in slides.slides])[slides.of]
    groups = [
        (f"{'with' if wanted else 'without'} neuropil, MKI {name}", np.flatnonzero((has == wanted) & (grade == name)))
        for wanted in (True, False)
        for name in MKI_GRADES
    ]
    fields = slides.slides[:most]
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
        sheet.paste(Image.fromarray(slide.picture).resize((field_px, field_px)), (x, y))
        lines = [f"MKI {100 * slide.mki:.1f} %"]
        text = slide.caption.replace("²", "2").replace("µ", "u")  # the default font lacks them
        lines += [text[at : at + 72] for at in range(0, len(text), 72)]
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
    rows, limits = figures(found, test), floors(training, test)
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
        "limits": {name: dict(zip(MEASURES, pair, strict=True)) for name, pair in limits.items()},
        "results": [asdict(row) for row in rows],
    }
    write_json(given.out / "results.json", record)
    text = page(settings, rows, limits, test)
    (given.out / "results.md").write_text(text, encoding="utf-8")
    logger.info("%s\n%s", given.out / "results.md", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
