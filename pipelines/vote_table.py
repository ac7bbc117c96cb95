"""Comparison of voting methods with paired intervals: on patients of an ablation, and on phantoms with truth.

    python pipelines/vote_table.py patients ABLATION_OUT -o FILE.md    # OUT of wsikit ablate
    python pipelines/vote_table.py phantoms FOLDER -o FILE.md          # makes the slides if they are missing

The parameters of every method are fitted on folds other than the test fold. Attention weights are learnt from slide
labels of the other folds: a pool with one hidden layer over the model's predictions.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from wsikit.store.atomic import write_json
from wsikit.training.bootstrap import draw_groups, quantiles
from wsikit.training.fit_vote import GRIDS, VoteSlide, answer, fit_parameters, fit_rules
from wsikit.voting import Evidence, VoteParameters

logger = logging.getLogger("vote_table")

Floats = npt.NDArray[np.float64]
DRAWS = 2000
LEAST_PATCHES = 20
METHODS = ("hard", "mean", "log", "soft_clinical", "confidence", "gate", "attention")
REFERENCE, PREVALENCE = "mean", "prevalence of the other folds"
HIDDEN, STEPS = 8, 300
PHANTOM_SEEDS, PHANTOM_FOLDS = range(910_000, 910_012), 3


@dataclass(frozen=True, eq=False)
class Asked:
    """Predictions of each voting method: one row per slide, in the same order."""

    truth: Floats
    """(S, C)"""
    answers: Mapping[str, Floats]
    """Method to (R, S, C): R repetitions (training seeds)."""
    chosen: Mapping[str, list[str]]
    """Method to the parameters of each fit, as text."""


class Attention(torch.nn.Module):
    """Attention pooling, Ilse et al. 2018, over probabilities: softmax over the patches of w·tanh(V z)."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(n_features, HIDDEN)
        self.score = torch.nn.Linear(HIDDEN, 1, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(M, F) to (M,), sum 1."""
        return torch.softmax(self.score(torch.tanh(self.hidden(features)))[:, 0], dim=0)


def features_of(slide: VoteSlide) -> Floats:
    """(M, F) input of the pool: log probabilities and the gate."""
    logs = np.log(np.clip(slide.probs, 1e-4, 1))
    return np.column_stack([logs - logs.mean(axis=1, keepdims=True), np.asarray(slide.evidence.gate)])


def voting(slide: VoteSlide) -> npt.NDArray[np.bool_]:
    """(M,) patches that have a prediction and a weight."""
    return np.nan_to_num(slide.weights) > 0


def fit_attention(slides: Sequence[VoteSlide], *, seed: int) -> Callable[[VoteSlide], VoteSlide]:
    """Learn attention from the truth of `slides` (Brier); return a function that sets the weights of a slide."""
    torch.manual_seed(seed)
    voting_features = np.concatenate([features_of(slide)[voting(slide)] for slide in slides])
    middle, spread = voting_features.mean(axis=0), voting_features.std(axis=0) + 1e-6

    def tensors(slide: VoteSlide) -> tuple[torch.Tensor, ...]:
        rows = voting(slide)
        scaled = (features_of(slide)[rows] - middle) / spread
        arrays = (scaled, slide.probs[rows], slide.weights[rows], slide.truth)
        return tuple(torch.tensor(array, dtype=torch.float32) for array in arrays)

    pool = Attention(voting_features.shape[1])
    optimiser = torch.optim.AdamW(pool.parameters(), lr=1e-2, weight_decay=1e-2)
    bags = [tensors(slide) for slide in slides if voting(slide).any()]
    for _ in range(STEPS):
        loss = torch.zeros(())
        for features, probs, weights, truth in bags:
            weight = pool(features) * weights
            loss = loss + ((weight @ probs / weight.sum() - truth) ** 2).sum() / len(bags)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def attend(slide: VoteSlide) -> VoteSlide:
        weights = np.zeros(len(slide.probs))
        with torch.inference_mode():
            rows = voting(slide)
            if rows.any():
                weights[rows] = pool(tensors(slide)[0]).numpy()
        return replace(slide, evidence=replace(slide.evidence, attention=weights))

    return attend


def ask_all(slides: Sequence[VoteSlide], folds: npt.NDArray[np.int64], methods: Sequence[str], *, seed: int) -> Asked:
    """Every method, fitted on the other folds; compared with its default parameters and with the prevalence."""
    truth = np.stack([slide.truth for slide in slides])
    answers = {name: np.zeros_like(truth) for name in (*methods, *_plain(methods), PREVALENCE)}
    chosen: dict[str, list[str]] = {name: [] for name in methods}
    for fold in np.unique(folds):
        known, asked = [slides[i] for i in np.flatnonzero(folds != fold)], np.flatnonzero(folds == fold)
        answers[PREVALENCE][asked] = truth[folds != fold].mean(axis=0)
        attend = fit_attention(known, seed=seed) if "attention" in methods else None
        for method in methods:
            start = VoteParameters(method, min_patches=0, min_margin=0)
            of = attend if method == "attention" and attend is not None else (lambda slide: slide)
            fitted = fit_parameters([of(slide) for slide in known], start)
            chosen[method].append(", ".join(f"{name} {getattr(fitted, name):g}" for name in GRIDS[method]))
            for row in asked:
                answers[method][row] = answer(of(slides[row]), fitted)
                answers[f"{method}, as it is"][row] = answer(of(slides[row]), start)
    return Asked(truth, {name: values[None] for name, values in answers.items()}, chosen)


def _plain(methods: Sequence[str]) -> list[str]:
    return [f"{method}, as it is" for method in methods]


def together(runs: Sequence[Asked]) -> Asked:
    """Join repetitions."""
    answers = {name: np.concatenate([run.answers[name] for run in runs]) for name in runs[0].answers}
    chosen = {name: [words for run in runs for words in run.chosen[name]] for name in runs[0].chosen}
    return Asked(runs[0].truth, answers, chosen)


def figures(asked: Asked, error: Callable[[Floats, Floats], Floats]) -> dict[str, dict[str, list[float]]]:
    """Mean error of each method and its difference to `REFERENCE`, with 95 % intervals: bootstrap over slides, the same
    draws for all methods. `error` takes answers (R, S, C) and truth (S, C) to (R, S)."""
    per_slide = {name: error(values, asked.truth).mean(axis=0) for name, values in asked.answers.items()}
    n = len(asked.truth)
    weights = draw_groups(n, draws=DRAWS, seed=0) / n

    def span(values: Floats) -> list[float]:
        low, high = quantiles(weights @ values) or (np.nan, np.nan)
        return [float(values.mean()), low, high]

    return {
        name: {"error": span(values), "difference": span(values - per_slide[REFERENCE])}
        for name, values in per_slide.items()
    }


def share_error(answers: Floats, truth: Floats) -> Floats:
    """Half the summed absolute difference of fractions: with two classes that of one class's share."""
    return np.abs(answers - truth).sum(axis=-1) / 2


def label_error(answers: Floats, truth: Floats) -> Floats:
    """1 if the leading class is not that of the slide."""
    return (answers.argmax(axis=-1) != truth.argmax(axis=-1)).astype(np.float64)


def brier_error(answers: Floats, truth: Floats) -> Floats:
    """Summed squared difference."""
    return ((answers - truth) ** 2).sum(axis=-1)


def patients_of(out: Path, arm: str) -> tuple[Asked, list[str]]:
    """The patients of an ablation, and a description of the data."""
    from wsikit.training.ablation import load_patches

    data, _ = load_patches(out)
    record = json.loads((out / "splits.json").read_text(encoding="utf-8"))
    seeds = sorted({path.name.split("_")[0] for path in (out / "predictions").glob("seed*_fold*.npz")})
    runs, kept = [], np.array([])
    for number, seed in enumerate(seeds):
        probs, gate = np.full((len(data), len(data.classes)), np.nan), np.full(len(data), np.nan)
        fold_of = np.full(len(data), -1)
        for path in sorted((out / "predictions").glob(f"{seed}_fold*.npz")):
            with np.load(path) as saved:
                rows = saved["rows"]
                probs[rows], gate[rows] = saved[f"probs/{arm}"], saved[f"gate/{arm}"]
                fold_of[rows] = int(path.stem.rpartition("fold")[2])
        names, counts = np.unique(data.groups[fold_of >= 0], return_counts=True)
        kept = names[counts >= LEAST_PATCHES]
        one_hot = np.eye(len(data.classes))[data.labels]
        slides, folds = [], []
        for name in kept:
            rows = np.flatnonzero(data.groups == name)
            clean = probs[rows] / probs[rows].sum(axis=1, keepdims=True)
            evidence = Evidence(gate=gate[rows])
            slides.append(VoteSlide(name, name, clean, np.ones(len(rows)), one_hot[rows].mean(axis=0), evidence))
            folds.append(int(fold_of[rows[0]]))
        # at 4 µm/px neither neuropil nor spindle stroma can be measured, and breast has no INPC
        runs.append(ask_all(slides, np.array(folds), [m for m in METHODS if m != "soft_clinical"], seed=number))
    tests = ", ".join(fold["test"]["sha256"][:12] for fold in record["folds"])
    said = [
        f"{len(kept)} patients with {LEAST_PATCHES} patches or more, of {len(np.unique(data.groups))}; "
        f"{len(record['folds'])} folds by patient (seed {record['seed']}), training seeds "
        f"{', '.join(seed.removeprefix('seed') for seed in seeds)}; patches by {arm!r}, each by a model that saw "
        f"none of its patient.",
        f"Data sha256 {record['data_sha256'][:12]}; test ids of the folds {tests}.",
    ]
    return together(runs), said


def make_phantoms(folder: Path) -> None:
    """Make the missing slides of each subtype and seed, and run wsikit on them."""
    from wsikit import run
    from wsikit.phantom import SUBTYPES, make_phantom
    from wsikit.phantom.truth import truth_paths

    for seed in PHANTOM_SEEDS:
        for subtype in SUBTYPES:
            path = folder / "slides" / f"{subtype}_{seed}.tiff"
            if not truth_paths(path)[0].exists():
                make_phantom(path, size_px=(2560, 2560), subtype=subtype, seed=seed)
    run(folder / "slides", folder / "run", device="cpu")


def phantoms_of(folder: Path) -> tuple[Asked, list[str]]:
    """The phantoms in `folder`, made if missing, and a description."""
    from wsikit.inference.inpc import apply_inpc
    from wsikit.inference.vote import slide_patches
    from wsikit.phantom import SUBTYPES
    from wsikit.slides.store import SlideStore
    from wsikit.voting import voting_inputs

    make_phantoms(folder)
    parameters = VoteParameters("soft_clinical")
    slides, folds, stated = [], [], []
    for path in sorted((folder / "run" / "slides").glob("*.zarr")):
        subtype, _, seed = path.stem.rpartition("_")
        with SlideStore(path) as store:
            table = store.patches()
            patches = slide_patches(table, parameters)
            inputs = voting_inputs(patches, parameters)
            stated.append(apply_inpc(store).evidence)
            evidence = Evidence(gate=table.read("gate"), key_tissue=patches.columns["key_tissue"])
        truth = np.eye(len(SUBTYPES))[SUBTYPES.index(subtype)]
        slides.append(VoteSlide(path.stem, path.stem, inputs.probs, inputs.weights, truth, evidence))
        folds.append(int(seed) % PHANTOM_FOLDS)
    asked = ask_all(slides, np.array(folds), METHODS, seed=0)
    rules = inpc_answers(stated, np.array(folds), [SUBTYPES[int(s.truth.argmax())] for s in slides], SUBTYPES)
    seeds = f"{PHANTOM_SEEDS.start} to {PHANTOM_SEEDS.stop - 1}"
    said = [
        f"{len(slides)} phantoms of 2560 × 2560 px at 0.5 µm/px, seeds {seeds}, a third of each subtype; "
        f"{np.mean([voting(slide).sum() for slide in slides]):.0f} patches that vote on average; {PHANTOM_FOLDS} folds "
        "by seed; patches by the packaged model phantom-mmlnb, which saw none of them. Nothing in them is tissue."
    ]
    return replace(asked, answers={**asked.answers, **rules}), said


def inpc_answers(
    stated: Sequence[Mapping[str, object]], folds: npt.NDArray[np.int64], truth: Sequence[str], codes: Sequence[str]
) -> dict[str, Floats]:
    """Results of INPC's rules, with default limits and with proxy limits fitted on other folds."""
    from wsikit.voting.inpc import Rules, decide_poor

    found = {name: np.zeros((1, len(truth), len(codes))) for name in ("INPC rule", "INPC rule, as it is")}
    for row, fold in enumerate(folds):
        known = np.flatnonzero(folds != fold)
        fitted = fit_rules([stated[i] for i in known], [truth[i] for i in known])  # type: ignore[misc]
        for name, rules in (("INPC rule", fitted), ("INPC rule, as it is", Rules())):
            category, _ = decide_poor(stated[row], rules)  # type: ignore[arg-type]
            found[name][0, row] = np.eye(len(codes))[codes.index(category)] if category else 1 / len(codes)
    return found


def table(asked: Asked, errors: Mapping[str, Callable[[Floats, Floats], Floats]]) -> tuple[list[str], dict]:
    """Lines of Markdown, and the metrics."""
    found = {title: figures(asked, error) for title, error in errors.items()}
    titles = list(errors)
    head = ["way", *(part for title in titles for part in (title, "difference to the mean")), "fitted, by fold"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in asked.answers:
        cells = [name]
        for title in titles:
            of = found[title][name]
            cells.append("{:.4f} [{:.4f}, {:.4f}]".format(*of["error"]))
            cells.append("–" if name == REFERENCE else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*of["difference"]))
        cells.append("; ".join(dict.fromkeys(word for word in asked.chosen.get(name, []) if word)) or "–")
        lines.append("| " + " | ".join(cells) + " |")
    return lines, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["patients", "phantoms"])
    parser.add_argument("folder", type=Path, help="OUT of wsikit ablate, or the folder of phantoms.")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="Markdown; metrics are written next to it as .json."
    )
    parser.add_argument("--arm", default="PRMF robust|measured captions", help="Which of the ablation's predictions.")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    if given.what == "patients":
        asked, said = patients_of(given.folder, given.arm)
        errors = {"error of the shares": share_error}
    else:
        asked, said = phantoms_of(given.folder)
        errors = {"slides called wrong": label_error, "Brier": brier_error}
    lines, found = table(asked, errors)
    text = "\n".join([*said, "", *lines, ""])
    given.out.write_text(text, encoding="utf-8")
    write_json(given.out.with_suffix(".json"), {"said": said, "figures": found, "fitted": asked.chosen})
    logger.info("%s", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
