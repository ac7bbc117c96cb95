"""Comparison of voting methods with paired intervals: on patients of an ablation, and on phantoms with truth.

    python pipelines/vote_table.py patients ABLATION_OUT -o FILE.md    # OUT of wsikit ablate
    python pipelines/vote_table.py phantoms FOLDER -o FILE.md          # makes the slides if they are missing

The parameters of every method, the threshold that calls a class, and the model's error for the interval are fitted on
folds other than the test fold. Attention weights are learnt from slide labels of the other folds: a pool with one
hidden layer over the model's predictions. Patients are voted with the probabilities as the model gives them, and again
with those corrected to the class frequencies of its training patches.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from wsikit.geometry import PatchGrid
from wsikit.store.atomic import write_json
from wsikit.training.bootstrap import draw_groups, quantiles
from wsikit.training.fit_vote import GRIDS, VoteSlide, answer, fit_parameters, fit_rules
from wsikit.training.learn_vote import calls, fit_thresholds, learned_of, shares_of
from wsikit.training.priors import prevalence
from wsikit.training.splits import TRAIN
from wsikit.voting import Evidence, Places, VoteParameters, vote
from wsikit.voting.prior import TRAINING, ModelPrior, prior_shift

logger = logging.getLogger("vote_table")

Floats = npt.NDArray[np.float64]
DRAWS = 2000
LEAST_PATCHES = 20
METHODS = (
    "hard",
    "mean",
    "log",
    "soft_clinical",
    "confidence",
    "gate",
    "attention",
    "topk",
    "quantile",
    "noisy_or",
)
LEVELS, SHOWN = (0.8, 0.9, 0.95), 0.9
RESAMPLES = 400
REFERENCE, PREVALENCE = "mean", "prevalence of the other folds"
HIDDEN, STEPS = 8, 300
_PLACE = re.compile(r"_x(\d+)_y(\d+)")
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
    details: Mapping[str, Mapping[str, Floats]] = field(default_factory=dict)
    """Method to, each (R, S): "natural" and "fitted", 1 where the class with the largest share is called; "covered
    LEVEL", whether the interval with the model's error holds the true share of the last class; "width", of that of
    `SHOWN`; "sampled", whether the within-slide sampling interval of `SHOWN` holds it. NaN where there is none."""


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


def ask_all(
    slides: Sequence[VoteSlide],
    folds: npt.NDArray[np.int64],
    methods: Sequence[str],
    *,
    seed: int,
    places: Sequence[Places | None] = (),
) -> Asked:
    """Every method, fitted on the other folds; compared with its default parameters and with the prevalence.

    `places` of the slides' patches are needed for the within-slide sampling interval only.
    """
    truth = np.stack([slide.truth for slide in slides])
    answers = {name: np.zeros_like(truth) for name in (*methods, *_plain(methods), PREVALENCE)}
    chosen: dict[str, list[str]] = {name: [] for name in methods}
    details = {name: _no_details(len(slides)) for name in (*methods, *_plain(methods))}
    for fold in np.unique(folds):
        known, asked = [slides[i] for i in np.flatnonzero(folds != fold)], np.flatnonzero(folds == fold)
        answers[PREVALENCE][asked] = truth[folds != fold].mean(axis=0)
        attend = fit_attention(known, seed=seed) if "attention" in methods else None
        for method in methods:
            start = VoteParameters(method, min_patches=0, min_margin=0)
            of = attend if method == "attention" and attend is not None else (lambda slide: slide)
            fitted = fit_parameters([of(slide) for slide in known], start)
            chosen[method].append(", ".join(f"{name} {getattr(fitted, name):g}" for name in GRIDS[method]))
            for name, parameters in ((method, fitted), (f"{method}, as it is", start)):
                for row in asked:
                    answers[name][row] = answer(of(slides[row]), parameters)
                tested = [(row, of(slides[row]), places[row] if places else None) for row in asked.tolist()]
                _measure(details[name], [of(slide) for slide in known], tested, parameters)
    apart = {name: {key: values[None] for key, values in of.items()} for name, of in details.items()}
    return Asked(truth, {name: values[None] for name, values in answers.items()}, chosen, apart)


def _no_details(n_slides: int) -> dict[str, Floats]:
    names = ("natural", "fitted", "width", "sampled", *(f"covered {level:g}" for level in LEVELS))
    return {name: np.full(n_slides, np.nan) for name in names}


def _measure(
    details: Mapping[str, Floats],
    known: Sequence[VoteSlide],
    tested: Sequence[tuple[int, VoteSlide, Places | None]],
    parameters: VoteParameters,
) -> None:
    """Set the details of the tested slides, by a threshold and errors learned from the known ones."""
    found = shares_of(known, parameters)
    codes = tuple(str(index) for index in range(found.truth.shape[1]))
    learned = learned_of(found, parameters, codes, thresholds=fit_thresholds(found))
    of_tested = shares_of([slide for _, slide, _ in tested], parameters)
    called = calls(of_tested.shares, learned.thresholds)
    for at, (row, slide, where) in enumerate(tested):
        share, truth = of_tested.shares[at], slide.truth
        details["natural"][row] = share.argmax() == truth.argmax()
        details["fitted"][row] = called[at] == truth.argmax()
        for level in LEVELS:
            ends = learned.interval(share, float(of_tested.n_effective[at]), level)
            if ends is not None:
                details[f"covered {level:g}"][row] = _holds(ends[0][-1], truth[-1], ends[1][-1])
                if level == SHOWN:
                    details["width"][row] = ends[1][-1] - ends[0][-1]
        if where is not None:
            details["sampled"][row] = _in_sampling_interval(slide, where, parameters)


def _in_sampling_interval(slide: VoteSlide, where: Places, parameters: VoteParameters) -> float:
    rule = replace(parameters, level=SHOWN, resamples=RESAMPLES)
    interval = vote(slide.probs, rule, weights=slide.weights, evidence=slide.evidence, places=where).interval
    return np.nan if interval is None else _holds(interval.low[-1], slide.truth[-1], interval.high[-1])


def _holds(low: float, value: float, high: float) -> float:
    return float(low - 1e-9 <= value <= high + 1e-9)


def _plain(methods: Sequence[str]) -> list[str]:
    return [f"{method}, as it is" for method in methods]


def together(runs: Sequence[Asked]) -> Asked:
    """Join repetitions."""
    answers = {name: np.concatenate([run.answers[name] for run in runs]) for name in runs[0].answers}
    chosen = {name: [words for run in runs for words in run.chosen[name]] for name in runs[0].chosen}
    details = {
        name: {key: np.concatenate([run.details[name][key] for run in runs]) for key in of}
        for name, of in runs[0].details.items()
    }
    return Asked(runs[0].truth, answers, chosen, details)


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


def detail_figures(asked: Asked) -> dict[str, dict[str, list[float]]]:
    """Of each method: balanced accuracy at both thresholds, how many intervals hold the true share, and their width;
    each with its 95 % interval, bootstrap over slides."""
    n, label = len(asked.truth), asked.truth.argmax(axis=1)
    weights = np.concatenate([np.ones((1, n)), draw_groups(n, draws=DRAWS, seed=0)])
    found: dict[str, dict[str, list[float]]] = {}
    for name, details in asked.details.items():
        of = found[name] = {}
        for key, values in details.items():
            known = np.isfinite(values).all(axis=0)
            if not known.any():
                continue
            mean, drawn = values[:, known].mean(axis=0), weights[:, known]
            if key in ("natural", "fitted"):
                classes = [label[known] == c for c in np.unique(label[known])]
                with np.errstate(invalid="ignore"):
                    recalls = [drawn[:, own] @ mean[own] / drawn[:, own].sum(axis=1) for own in classes]
                figure = np.mean(recalls, axis=0)
            else:
                figure = drawn @ mean / drawn.sum(axis=1)
            low, high = quantiles(figure[1:]) or (np.nan, np.nan)
            of[key] = [float(figure[0]), low, high]
    return found


def share_error(answers: Floats, truth: Floats) -> Floats:
    """Half the summed absolute difference of fractions: with two classes that of one class's share."""
    return np.abs(answers - truth).sum(axis=-1) / 2


def label_error(answers: Floats, truth: Floats) -> Floats:
    """1 if the leading class is not that of the slide."""
    return (answers.argmax(axis=-1) != truth.argmax(axis=-1)).astype(np.float64)


def brier_error(answers: Floats, truth: Floats) -> Floats:
    """Summed squared difference."""
    return ((answers - truth) ** 2).sum(axis=-1)


def patients_of(out: Path, arm: str, *, corrected: bool = False, mpp: float | None = None) -> tuple[Asked, list[str]]:
    """The patients of an ablation, and a description of the data.

    Parameters
    ----------
    corrected
        Correct the probabilities from equal class frequencies to those of each fold's training patches.
    mpp
        µm/px of the patches whose names hold their places (`_x1051_y501`); for the within-slide sampling interval.
    """
    from wsikit.training.ablation import load_patches

    data, splits = load_patches(out)
    record = json.loads((out / "splits.json").read_text(encoding="utf-8"))
    seeds = sorted({path.name.split("_")[0] for path in (out / "predictions").glob("seed*_fold*.npz")})
    runs, kept = [], np.array([])
    for number, seed in enumerate(seeds):
        probs, gate = np.full((len(data), len(data.classes)), np.nan), np.full(len(data), np.nan)
        fold_of = np.full(len(data), -1)
        for path in sorted((out / "predictions").glob(f"{seed}_fold*.npz")):
            fold = int(path.stem.rpartition("fold")[2])
            with np.load(path) as saved:
                rows = saved["rows"]
                values = saved[f"probs/{arm}"].astype(np.float64)
                if f"gate/{arm}" in saved:
                    gate[rows] = saved[f"gate/{arm}"]
            values = values / values.sum(axis=1, keepdims=True)
            frequency = prevalence(data.labels[splits[fold][TRAIN]], len(data.classes))
            shift = prior_shift(TRAINING, data.classes, ModelPrior(frequency, balanced=True)) if corrected else None
            probs[rows], fold_of[rows] = values if shift is None else shift.apply(values), fold
        names, counts = np.unique(data.groups[fold_of >= 0], return_counts=True)
        kept = names[counts >= LEAST_PATCHES]
        one_hot = np.eye(len(data.classes))[data.labels]
        slides, folds, places = [], [], []
        for name in kept:
            rows = np.flatnonzero(data.groups == name)
            evidence = Evidence(gate=gate[rows])
            slides.append(VoteSlide(name, name, probs[rows], np.ones(len(rows)), one_hot[rows].mean(axis=0), evidence))
            folds.append(int(fold_of[rows[0]]))
            side = data.images.shape[1]
            places.append(None if mpp is None else places_of([data.ids[row] for row in rows], side, mpp))
        # at 4 µm/px neither neuropil nor spindle stroma can be measured, and breast has no INPC
        needs_gate = () if np.isfinite(gate[fold_of >= 0]).all() else ("gate", "attention")
        methods = [m for m in METHODS if m not in ("soft_clinical", *needs_gate)]
        runs.append(ask_all(slides, np.array(folds), methods, seed=number, places=places))
    tests = ", ".join(fold["test"]["sha256"][:12] for fold in record["folds"])
    said = [
        f"{len(kept)} patients with {LEAST_PATCHES} patches or more, of {len(np.unique(data.groups))}; "
        f"{len(record['folds'])} folds by patient (seed {record['seed']}), training seeds "
        f"{', '.join(seed.removeprefix('seed') for seed in seeds)}; patches by {arm!r}, each by a model that saw "
        f"none of its patient.",
        f"Data sha256 {record['data_sha256'][:12]}; test ids of the folds {tests}.",
    ]
    return together(runs), said


def is_balanced(out: Path) -> bool:
    """Whether the models of an ablation were trained with balanced class weights, by its config.json."""
    path = out / "config.json"
    if not path.is_file():
        return False
    return json.loads(path.read_text(encoding="utf-8"))["training"]["class_weights"] == "balanced"


def places_of(ids: Sequence[str], side_px: int, mpp: float) -> Places | None:
    """Where patches lie, by their names; None if a name does not say it."""
    found = [_PLACE.search(name) for name in ids]
    if not all(found):
        return None
    coords = np.array([[int(match[1]), int(match[2])] for match in found if match], dtype=np.int64)
    coords = coords - coords.min(axis=0)
    width, height = (int(value) + side_px for value in coords.max(axis=0))
    grid = PatchGrid((width, height), (mpp, mpp), side_px, mpp)
    return Places(grid, coords, np.ones(len(coords)))


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


def detail_table(asked: Asked) -> tuple[list[str], dict]:
    """Lines of Markdown: share error, balanced accuracy at both thresholds, how many intervals hold the true share."""
    errors, found = figures(asked, share_error), detail_figures(asked)
    head = ["way", "error of the shares", "balanced accuracy", "at the fitted threshold"]
    head += [f"{100 * level:g} % interval holds" for level in LEVELS]
    head += [f"width of {100 * SHOWN:g} %", f"{100 * SHOWN:g} % within-slide sampling interval holds"]
    keys = ["natural", "fitted", *(f"covered {level:g}" for level in LEVELS), "width", "sampled"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, of in found.items():
        cells = [name, _figure(errors[name]["error"])]
        cells += [_figure(of[key]) if key in of else "–" for key in keys]
        lines.append("| " + " | ".join(cells) + " |")
    return lines, found


def _figure(values: Sequence[float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*values)


def patient_tables(given: argparse.Namespace) -> tuple[list[str], dict]:
    """All lines of Markdown on the patients of an ablation, and the metrics."""
    asked, said = patients_of(given.folder, given.arm, mpp=given.mpp)
    lines, found = table(asked, {"error of the shares": share_error})
    details, figures_of = detail_table(asked)
    text = [*said, "", "As the model gives the probabilities:", "", *lines, "", *details]
    record = {"said": said, "figures": found, "details": figures_of, "fitted": asked.chosen}
    if not is_balanced(given.folder):
        return text, record
    asked, _ = patients_of(given.folder, given.arm, corrected=True, mpp=given.mpp)
    lines, found = table(asked, {"error of the shares": share_error})
    details, figures_of = detail_table(asked)
    text += ["", "Corrected to the class frequencies of the training patches:", "", *lines, "", *details]
    record["corrected"] = {"figures": found, "details": figures_of, "fitted": asked.chosen}
    return text, record


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["patients", "phantoms"])
    parser.add_argument("folder", type=Path, help="OUT of wsikit ablate, or the folder of phantoms.")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="Markdown; metrics are written next to it as .json."
    )
    parser.add_argument("--arm", default="PRMF robust|measured captions", help="Which of the ablation's predictions.")
    parser.add_argument("--mpp", type=float, default=4.0, help="µm/px of the patches.")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    if given.what == "patients":
        lines, record = patient_tables(given)
    else:
        asked, said = phantoms_of(given.folder)
        rows, found = table(asked, {"slides called wrong": label_error, "Brier": brier_error})
        lines, record = [*said, "", *rows], {"said": said, "figures": found, "fitted": asked.chosen}
    text = "\n".join([*lines, ""])
    given.out.write_text(text, encoding="utf-8")
    write_json(given.out.with_suffix(".json"), record)
    logger.info("%s", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
