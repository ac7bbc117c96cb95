"""Audit for spurious correlation: does a model through concepts hold where a confounder no longer follows the class?

python pipelines/confounded_phantom.py -o OUT.json

Synthetic patches of three classes (UD, PD, D). In the training slides a pen mark (on D), or the tone of the scanner
(one of three, by class), follows the class in 95 % of the slides; in the test slides it is drawn at random. Compared on
equal patches: a linear model on image features; concepts learned from the same features, with planted concept labels;
concepts from measured facts. Each seed is another split of the slides; intervals are from draws of slides, of the
differences paired.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from concept_phantom import AXES, true_options
from threadpoolctl import threadpool_limits

from wsikit.captions import load_captioner
from wsikit.encoders.registry import load_encoder
from wsikit.models.concept_criteria import UNKNOWN, read_criteria
from wsikit.models.concept_head import ConceptHead
from wsikit.models.head_config import EncoderRecord
from wsikit.models.protocol import PROBABILITY
from wsikit.phantom.patches import PhantomPatch, phantom_patches
from wsikit.training.concepts.config import ConceptTrainConfig
from wsikit.training.concepts.data import ConceptData
from wsikit.training.concepts.fit import fit_head, scores_of
from wsikit.training.data import PatchSet
from wsikit.training.heads.config import LinearSettings
from wsikit.training.heads.linear import fit_linear

CLASSES = ("UD", "PD", "D")
MPP = 0.5
TONES = ((1.0, 1.0, 1.0, 1.0), (1.05, 1.0, 0.9, 0.92), (0.92, 1.0, 1.06, 1.08))
"""Of three scanners: factors of red, green and blue, and gamma."""
CONFOUNDERS = {"pen": 2, "tone": 3}
"""Levels of each; level 0 of both is the patch as it was made."""
FOLLOWS = 0.95
IMAGE, LEARNED, FACTS = "image features, linear", "concepts learned from image features", "concepts from measured facts"

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Seen:
    """Patches under each level of a confounder: features (L, N, D) and facts (L, N, F)."""

    features: Floats
    facts: Floats


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
    features = [model.encode(images) for images in levels]
    facts = [
        np.array([[one.facts.get(name, np.nan) for name in names] for one in captioner.caption(images, mpp=MPP)])
        for images in levels
    ]
    return Seen(np.stack(features), np.stack(facts).astype(np.float32))


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


def settings(scores: str) -> ConceptTrainConfig:
    """The configuration of a concept head on these patches."""
    record = {
        "architecture": "concepts",
        "name": "audit",
        "data": {"names": {"images": ".", "pattern": "x"}, "mpp": MPP, "patch_px": 224},
        "classes": [{"code": code} for code in CLASSES],
        "concepts": {"scores": scores, "labels": {"source": "table"}},
        "ood": False,
    } | ({} if scores == "facts" else {"image": {"features": "x"}})
    return ConceptTrainConfig.model_validate(record)


def concept_data(
    inputs: Floats, labels: Labels, groups: npt.NDArray[np.str_], concepts: Labels, facts: bool
) -> ConceptData:
    patches = PatchSet(np.zeros((len(labels), 0, 0, 3), np.uint8), labels, groups, ("",) * len(labels))
    encoder = None if facts else EncoderRecord(name="x", width=inputs.shape[1])
    spread = np.zeros_like(inputs) if facts else None
    return ConceptData(patches, inputs, spread, concepts, None, encoder, MPP, "")


def right(head: ConceptHead, data: ConceptData) -> npt.NDArray[np.bool_]:
    """Which patches are classified correctly, (N,)."""
    return head.columns_of(scores_of(head, data))[PROBABILITY].argmax(axis=1) == data.patches.labels


def one_seed(
    seed: int, seen: Seen, labels: Labels, groups: npt.NDArray[np.str_], concepts: Labels, n_levels: int
) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """By test condition and model: 1 for a correct test patch, 0 for a wrong one, NaN for training patches."""
    rng = np.random.default_rng([seed, 99])
    names = rng.permutation(np.unique(groups))
    test = np.isin(groups, names[: len(names) // 3])
    train = np.flatnonzero(~test)
    train_level = levels_drawn(labels, groups, n_levels, FOLLOWS, rng)
    conditions = {
        "as in training": levels_drawn(labels, groups, n_levels, FOLLOWS, rng),
        "confounder at random": rng.integers(n_levels, size=len(labels)),
    }
    rows = np.arange(len(labels))
    found: dict[str, dict[str, npt.NDArray[np.float64]]] = {name: {} for name in conditions}
    all_axes = read_criteria("inpc").only(AXES)
    for way in (IMAGE, LEARNED, FACTS):
        source = seen.facts if way == FACTS else seen.features
        criteria = all_axes.only([k for k, a in all_axes.axes.items() if a.fact]) if way == FACTS else all_axes
        kept = [list(all_axes.axes).index(key) for key in criteria.axes]
        x = source[train_level, rows][train]
        if way == IMAGE:
            fitted = fit_linear(
                x, labels[train], groups[train], n_classes=3, settings=LinearSettings(), seed=seed
            ).arrays
        else:
            config = settings("facts" if way == FACTS else "learned")
            data = concept_data(x, labels[train], groups[train], concepts[train][:, kept], way == FACTS)
            head = fit_head(config, criteria, data, data).head
        for condition, level in conditions.items():
            asked = source[level, rows][test]
            if way == IMAGE:
                logits = (asked - fitted["mean"]) / fitted["scale"] @ fitted["weight"] + fitted["bias"]
                correct = logits.argmax(axis=1) == labels[test]
            else:
                correct = right(
                    head, concept_data(asked, labels[test], groups[test], concepts[test][:, kept], way == FACTS)
                )
            values = np.full(len(labels), np.nan)
            values[test] = correct
            found[condition][way] = values
    return found


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
    arguments.add_argument("--slides", type=int, default=60)
    arguments.add_argument("--per-slide", type=int, default=10)
    arguments.add_argument("--seeds", type=int, default=5)
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
    names = read_criteria("inpc").only(AXES).facts
    record = {
        "command": f"python pipelines/confounded_phantom.py --slides {given.slides} --per-slide {given.per_slide} "
        f"--seeds {given.seeds} --encoder {given.encoder}",
        "patches": len(patches),
        "slides": len(np.unique(groups)),
        "results": {},
    }
    for confounder, n_levels in CONFOUNDERS.items():
        seen = see(levels_of(patches, confounder), given.encoder, names)
        runs = [one_seed(seed, seen, labels, groups, concepts, n_levels) for seed in range(given.seeds)]
        of_confounder: dict[str, dict[str, dict[str, float]]] = {}
        for condition in runs[0]:
            by_way = {way: np.stack([run[condition][way] for run in runs]) for way in runs[0][condition]}
            figures = {way: summary(values, groups) for way, values in by_way.items()}
            figures |= {f"{way}, minus image": summary(by_way[way] - by_way[IMAGE], groups) for way in (LEARNED, FACTS)}
            of_confounder[condition] = figures
            for way, one in figures.items():
                interval = f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"
                print(f"{confounder:5s} {condition:22s} {way:52s} {interval}")
        record["results"][confounder] = of_confounder
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    with threadpool_limits(1):
        sys.exit(main())
