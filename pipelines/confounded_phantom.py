"""Audit for spurious correlation: does a model through concepts hold where a confounder no longer follows the class?

python pipelines/confounded_phantom.py -o OUT.json

Synthetic patches of three classes (UD, PD, D). In the training slides a pen mark (on D), or the tone of the scanner
(one of three, by class), follows the class in 95 % or in all of the slides; in the test slides it is drawn at random.
Compared on equal test patches and equal classes of training:

- a linear model on image features;
- concepts learned from the same features of the same patches, with planted concept labels;
- the same, but with concepts learned on other slides, which have concept labels, no classes and no confounder;
- concepts scored by the texts of an encoder of images and texts, without concept labels;
- concepts from measured facts.

Each seed is another split of the slides; intervals are from draws of slides, of the differences paired.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from concept_phantom import AXES, true_options
from threadpoolctl import threadpool_limits

from wsikit.captions import load_captioner
from wsikit.encoders.protocol import TextImageEncoder
from wsikit.encoders.registry import load_encoder
from wsikit.models.concept_criteria import UNKNOWN, Criteria, read_criteria
from wsikit.models.concept_head import ConceptHead
from wsikit.models.model_folder import EncoderRecord
from wsikit.models.protocol import PROBABILITY
from wsikit.phantom.patches import PhantomPatch, phantom_patches
from wsikit.training.concepts.config import ConceptTrainConfig, LinearLayer
from wsikit.training.concepts.data import ConceptData
from wsikit.training.concepts.fit import fit_head, scores_of
from wsikit.training.concepts.linear import fit_layer
from wsikit.training.concepts.predictors import fit_predictors
from wsikit.training.concepts.run import one_hot
from wsikit.training.data import PatchSet
from wsikit.training.heads.config import LinearSettings
from wsikit.training.heads.linear import fit_linear

CLASSES = ("UD", "PD", "D")
MPP = 0.5
TONES = ((1.0, 1.0, 1.0, 1.0), (1.05, 1.0, 0.9, 0.92), (0.92, 1.0, 1.06, 1.08))
"""Of three scanners: factors of red, green and blue, and gamma."""
CONFOUNDERS = {"pen": 2, "tone": 3}
"""Levels of each; level 0 of both is the patch as it was made."""
FOLLOWS = (0.95, 1.0)
IMAGE, FACTS, BY_TEXT = "image features, linear", "concepts from measured facts", "concepts by texts"
LEARNED, ELSEWHERE = "concepts learned on these slides", "concepts learned on other slides"
WAYS = (IMAGE, LEARNED, ELSEWHERE, BY_TEXT, FACTS)

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Seen:
    """Patches under each level of a confounder: features (L, N, D), places in the space of texts (L, N, E), facts (L,
    N, F)."""

    features: Floats
    shared: Floats
    facts: Floats

    def of(self, way: str) -> Floats:
        """The inputs of a model."""
        return {FACTS: self.facts, BY_TEXT: self.shared}.get(way, self.features)


def with_pen(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The patch with a stroke of blue marker across it."""
    side = image.shape[0]
    y, x = np.mgrid[:side, :side]
    angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.3, 0.3) * side
    distance = np.abs((x - side / 2) * np.sin(angle) - (y - side / 2) * np.cos(angle) - offset)
    cover = np.clip((0.09 * side - distance) / 3, 0, 1)[..., None] * 0.75
    return (image * (1 - cover) + np.array([35, 70, 180]) * cover).astype(np.uint8)


def with_tone(image: npt.NDArray[np.uint8], tone: Sequence[float]) -> npt.NDArray[np.uint8]:
    """The patch as a scanner of this tone gives it."""
    scaled = (image / 255.0) ** tone[3] * np.array(tone[:3])
    return (scaled.clip(0, 1) * 255).astype(np.uint8)


def levels_of(patches: Sequence[PhantomPatch], confounder: str) -> list[npt.NDArray[np.uint8]]:
    """The images (N, P, P, 3) at each level of a confounder."""
    images = [patch.image for patch in patches]
    if confounder == "tone":
        return [np.stack([with_tone(image, tone) for image in images]) for tone in TONES]
    rng = np.random.default_rng(7)
    return [np.stack(images), np.stack([with_pen(image, rng) for image in images])]


def see(levels: Sequence[npt.NDArray[np.uint8]], encoder: str, names: Sequence[str]) -> Seen:
    """Features and facts at each level."""
    model, captioner = load_encoder(encoder, device="cpu"), load_captioner("morphometry")
    if not isinstance(model, TextImageEncoder):
        raise SystemExit(f"{encoder}: has no texts; name an encoder of images and texts (wsikit encoders).")
    features = [model.encode(images) for images in levels]
    shared = [model.encode_shared(images) for images in levels]
    facts = [
        np.array([[one.facts.get(name, np.nan) for name in names] for one in captioner.caption(images, mpp=MPP)])
        for images in levels
    ]
    return Seen(np.stack(features), np.stack(shared), np.stack(facts).astype(np.float32))


def levels_drawn(
    labels: Labels, groups: npt.NDArray[np.str_], n_levels: int, follows: float, rng: np.random.Generator
) -> Labels:
    """Level of each patch (N,): of a share `follows` of the slides as the class says, of the others at random."""
    found = np.zeros(len(labels), np.int64)
    for group in np.unique(groups):
        rows = groups == group
        of_class = labels[rows] if n_levels == 3 else (labels[rows] == 2).astype(np.int64)
        found[rows] = of_class if rng.random() < follows else rng.integers(n_levels, size=rows.sum())
    return found


@dataclass(frozen=True)
class Patches:
    """Labelled patches, without pixels."""

    labels: Labels
    groups: npt.NDArray[np.str_]
    concepts: Labels
    """(N, K), index of the true option."""
    criteria: Criteria
    encoder: str

    def data(self, inputs: Floats, rows: npt.NDArray[np.int64], way: str) -> ConceptData:
        """Some patches with what a model reads of them, (n, D)."""
        criteria = axes_of(self.criteria, way)
        kept = [list(self.criteria.axes).index(key) for key in criteria.axes]
        n = len(rows)
        patches = PatchSet(np.zeros((n, 0, 0, 3), np.uint8), self.labels[rows], self.groups[rows], ("",) * n)
        encoder = None if way == FACTS else EncoderRecord(name=self.encoder, width=inputs.shape[1])
        spread = np.zeros_like(inputs) if way == FACTS else None
        return ConceptData(patches, inputs, spread, self.concepts[rows][:, kept], None, encoder, MPP, "")


def axes_of(criteria: Criteria, way: str) -> Criteria:
    """The axes that a model has: by facts only those that a fact scores."""
    return criteria.only([key for key, axis in criteria.axes.items() if axis.fact]) if way == FACTS else criteria


def settings(way: str, encoder: str) -> ConceptTrainConfig:
    """The configuration of a concept head on these patches."""
    scores = {FACTS: "facts", BY_TEXT: "text"}.get(way, "learned")
    record = {
        "architecture": "concepts",
        "name": "audit",
        "data": {"names": {"images": ".", "pattern": "x"}, "mpp": MPP, "patch_px": 224},
        "classes": [{"code": code} for code in CLASSES],
        "concepts": {"scores": scores, "labels": {"source": "table"}},
        "ood": False,
    }
    return ConceptTrainConfig.model_validate(record | ({} if way == FACTS else {"image": {"features": encoder}}))


def elsewhere(
    training: ConceptData, other: ConceptData, criteria: Criteria, head: ConceptHead, seed: int
) -> ConceptHead:
    """A head whose concepts are learned on `other`, and whose layer is fitted on the true concepts of `training`."""
    arrays, _, _ = fit_predictors(other.inputs, other.concepts, other.patches.groups, criteria, seed=seed)
    truth = one_hot(training.concepts, criteria)
    layer = fit_layer(
        truth, truth, training.patches.labels, training.patches.groups,
        n_classes=len(CLASSES), settings=LinearLayer(fit_on="truth"), seed=seed,
    )  # fmt: skip
    arrays |= {
        "weight": layer.weight,
        "bias": layer.bias,
        "centre": truth.mean(axis=0),
        "set_to": np.eye(truth.shape[1]),
    }
    return ConceptHead(head.config, arrays)


def one_seed(
    seed: int, follows: float, seen: Seen, patches: Patches, n_levels: int
) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """By test condition and model: 1 for a correct test patch, 0 for a wrong one, NaN for the other patches."""
    rng = np.random.default_rng([seed, 99])
    labels, groups = patches.labels, patches.groups
    names = np.array_split(rng.permutation(np.unique(groups)), 3)
    test, train, other = (np.flatnonzero(np.isin(groups, part)) for part in names)
    level = levels_drawn(labels, groups, n_levels, follows, rng)
    at_random = rng.integers(n_levels, size=len(labels))
    conditions = {"as in training": levels_drawn(labels, groups, n_levels, follows, rng), "at random": at_random}
    found: dict[str, dict[str, npt.NDArray[np.float64]]] = {name: {} for name in conditions}
    learned: ConceptHead | None = None
    for way in WAYS:
        inputs, criteria = seen.of(way), axes_of(patches.criteria, way)
        training = patches.data(inputs[level[train], train], train, way)
        called: Callable[[ConceptData], Labels]
        if way == IMAGE:
            called = image_model(training, seed)
        elif way == ELSEWHERE:
            assert learned is not None
            bank = patches.data(inputs[at_random[other], other], other, way)
            called = classes_of(elsewhere(training, bank, criteria, learned, seed))
        else:
            head = fit_head(settings(way, patches.encoder), criteria, training, training, device="cpu").head
            learned = head if way == LEARNED else learned
            called = classes_of(head)
        for condition, drawn in conditions.items():
            values = np.full(len(labels), np.nan)
            values[test] = called(patches.data(inputs[drawn[test], test], test, way)) == labels[test]
            found[condition][way] = values
    return found


def image_model(training: ConceptData, seed: int) -> Callable[[ConceptData], Labels]:
    """A linear model on features, its penalty chosen on held-out slides."""
    labels, groups = training.patches.labels, training.patches.groups
    arrays = fit_linear(training.inputs, labels, groups, n_classes=3, settings=LinearSettings(), seed=seed).arrays

    def called(data: ConceptData) -> Labels:
        logits = (data.inputs - arrays["mean"]) / arrays["scale"] @ arrays["weight"] + arrays["bias"]
        return logits.argmax(axis=1)

    return called


def classes_of(head: ConceptHead) -> Callable[[ConceptData], Labels]:
    """From patches to classes."""
    return lambda data: head.columns_of(scores_of(head, data))[PROBABILITY].argmax(axis=1)


def summary(values: npt.NDArray[np.float64], groups: npt.NDArray[np.str_]) -> dict[str, float]:
    """Mean of values (seeds, N), NaN where not tested, over slides, with a 95 % interval from 2,000 draws of slides."""
    tested = [values[:, groups == name] for name in np.unique(groups)]
    means = np.array([np.nanmean(part) for part in tested if np.isfinite(part).any()])
    draws = means[np.random.default_rng(0).integers(len(means), size=(2000, len(means)))].mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"value": round(float(means.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("-o", "--out", type=Path, required=True)
    arguments.add_argument("--slides", type=int, default=75)
    arguments.add_argument("--per-slide", type=int, default=10)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--encoder", default="phantom-afloc", help="As in wsikit features --encoder.")
    given = arguments.parse_args()
    patches = [p for p in phantom_patches(range(22_000, 22_000 + given.slides), given.per_slide) if p.label < 3]
    labels = np.array([patch.label for patch in patches], np.int64)
    groups = np.array([f"phantom-{patch.seed}" for patch in patches])
    axes = read_criteria("inpc").only(AXES).axes
    concepts = np.full((len(patches), len(axes)), UNKNOWN, np.int64)
    for row, patch in enumerate(patches):
        options = true_options(patch.facts)
        for axis, (key, one) in enumerate(axes.items()):
            if key in options:
                concepts[row, axis] = list(one.options).index(options[key])
    criteria = read_criteria("inpc").only(AXES)
    about = Patches(labels, groups, concepts, criteria, given.encoder)
    record: dict[str, Any] = {
        "command": f"python pipelines/confounded_phantom.py --slides {given.slides} --per-slide {given.per_slide} "
        f"--seeds {given.seeds} --encoder {given.encoder}",
        "patches": len(patches),
        "slides": len(np.unique(groups)),
        "results": [],
    }
    for confounder, n_levels in CONFOUNDERS.items():
        seen = see(levels_of(patches, confounder), given.encoder, criteria.facts)
        for follows in FOLLOWS:
            runs = [one_seed(seed, follows, seen, about, n_levels) for seed in range(given.seeds)]
            for condition in runs[0]:
                by_way = {way: np.stack([run[condition][way] for run in runs]) for way in WAYS}
                for way, values in by_way.items():
                    accuracy, gain = summary(values, groups), summary(values - by_way[IMAGE], groups)
                    key = {"confounder": confounder, "follows": follows, "test": condition, "model": way}
                    record["results"].append(key | {"accuracy": accuracy, "minus_image": gain})
                    print(f"{confounder:5s}{follows:5.2f} {condition:15s} {way:34s} {words(accuracy)}  {words(gain)}")
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def words(figure: dict[str, float]) -> str:
    """A value with its interval.

    >>> words({"value": 0.5, "low": 0.25, "high": 0.75})
    '+0.500 [+0.250, +0.750]'
    """
    return f"{figure['value']:+.3f} [{figure['low']:+.3f}, {figure['high']:+.3f}]"


if __name__ == "__main__":
    with threadpool_limits(1):
        sys.exit(main())
