"""Tables of an ablation: metrics of each arm over all patches, difference to the image-only arm, mean gate.

Each patch is tested once per seed. Metrics are means over the seeds. Intervals are bootstrap intervals over patients
(or blocks of a slide); all arms and seeds share the draws, so differences are paired.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.store.atomic import write_json
from wsikit.training.ablation import (
    IMAGE_ONLY,
    MEAN,
    NONE,
    OWN,
    SHUFFLED,
    SPLITS_FILE,
    TEXT_ONLY,
    THROUGHOUT,
    AblationConfig,
    jobs,
    load_patches,
)
from wsikit.training.bootstrap import Sample, draw_groups, quantiles
from wsikit.training.data import PatchSet
from wsikit.training.fusion_variants import ARMS

DRAWS = 1000
MEASURES = ("auc", "balanced_accuracy")
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class ArmResult:
    """Result of one arm with one kind of captions."""

    arm: str
    captions: str
    """"" for arms without captions."""
    auc: Interval
    """Mean over the seeds, lower and upper end of its 95 % interval."""
    balanced_accuracy: Interval
    auc_gain: Interval | None
    """Difference to the image-only arm, paired."""
    balanced_accuracy_gain: Interval | None
    gate: float | None
    """Mean over patches and seeds."""
    auc_by_seed: tuple[float, ...]


def summarise(config: AblationConfig, out: Path) -> list[ArmResult]:
    """Summarise all arms from the predictions in `out`.

    Raises
    ------
    RequestError
        If a job's file is missing.
    """
    data, _ = load_patches(out)
    probs, gates = _gather(config, out, len(data))
    groups = drawn_units(config, data)
    n_units = len(np.unique(groups))
    weights = np.concatenate([np.ones((1, n_units)), draw_groups(n_units, draws=DRAWS, seed=0)])
    values = {
        name: np.stack([_figures(data, seed, groups, weights) for seed in of_seeds]) for name, of_seeds in probs.items()
    }  # (seeds, measures, draws + 1)
    image = values[IMAGE_ONLY].mean(axis=0)
    results = []
    for name in _order(list(values)):
        mean = values[name].mean(axis=0)
        arm, _, captions = name.partition("|")
        gain = None if name == IMAGE_ONLY else mean - image
        gate = gates.get(name)
        results.append(
            ArmResult(
                arm,
                captions,
                _interval(mean[0]),
                _interval(mean[1]),
                None if gain is None else _interval(gain[0]),
                None if gain is None else _interval(gain[1]),
                None if gate is None or np.isnan(gate).any() else float(gate.mean()),
                tuple(np.round(values[name][:, 0, 0], 5).tolist()),
            )
        )
    return results


def drawn_units(config: AblationConfig, data: PatchSet) -> npt.NDArray[np.int64]:
    """Bootstrap unit of each patch, (N,): its patient, or a square block of its slide if the configuration says so.

    Raises
    ------
    RequestError
        If blocks are requested and the patches have no coordinates.
    """
    names = data.groups
    if config.folds.block_px is not None:
        if data.coords is None:
            raise RequestError("folds.block_px: the patches have no coordinates; name the columns x and y.")
        squares = np.floor(data.coords / config.folds.block_px).astype(np.int64)
        names = np.array([f"{group} {x} {y}" for group, (x, y) in zip(data.groups, squares, strict=True)])
    return np.unique(names, return_inverse=True)[1]


def _gather(
    config: AblationConfig, out: Path, n: int
) -> tuple[dict[str, list[npt.NDArray[np.float32]]], dict[str, npt.NDArray[np.float32]]]:
    """Probabilities (N, C) per seed and gates (seeds, N), by name, all folds aggregated."""
    seeds = config.folds.training_seeds
    probs: dict[str, list[npt.NDArray[np.float32]]] = {}
    gates: dict[str, npt.NDArray[np.float32]] = {}
    for job in jobs(config):
        path, place = out / job.file, seeds.index(job.seed)
        if not path.is_file():
            raise RequestError(f"{path}: missing. Run wsikit ablate again; it computes only what is missing.")
        with np.load(path, allow_pickle=False) as found:
            for key in found.files:
                kind, _, name = key.partition("/")
                if kind == "probs":
                    empty = [np.full((n, len(config.codes)), np.nan, np.float32) for _ in seeds]
                    probs.setdefault(name, empty)[place][found["rows"]] = found[key]
                elif kind == "gate":
                    gates.setdefault(name, np.full((len(seeds), n), np.nan, np.float32))[place, found["rows"]] = found[
                        key
                    ]
    return probs, gates


def _figures(
    data: PatchSet, probs: npt.NDArray[np.float32], groups: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """(measures, draws + 1)"""
    if np.isnan(probs).any():
        raise RequestError("ablation: some patches are in no test fold; the folds do not cover the data.")
    found = Sample(data.labels, probs, groups, n_ordinal=0).figures(weights).values
    return np.stack([found[name] for name in MEASURES])


def _interval(values: npt.NDArray[np.float64]) -> Interval:
    low, high = quantiles(values[1:]) or (np.nan, np.nan)
    return float(values[0]), low, high


def _order(names: list[str]) -> list[str]:
    baselines = sorted(name for name in names if name.startswith("floor"))
    first = [IMAGE_ONLY, f"{TEXT_ONLY}|{OWN}", f"{MEAN}|{OWN}"]
    arms = [f"{arm}|{way}" for arm in ARMS for way in (OWN, NONE, SHUFFLED)]
    return [name for name in [*baselines, *first, *arms, f"{THROUGHOUT}|{SHUFFLED}"] if name in names]


def report_ablation(config: AblationConfig, out: Path) -> str:
    """Write results.json, results.md and results.png into `out`; return the table as Markdown."""
    data, splits = load_patches(out)
    results = summarise(config, out)
    record = json.loads((out / SPLITS_FILE).read_text(encoding="utf-8"))
    write_json(out / "results.json", _record(config, data, results, record))
    text = _page(config, data, results, record)
    (out / "results.md").write_text(text, encoding="utf-8")
    _figure(results, out / "results.png")
    return table(results)


def table(results: list[ArmResult]) -> str:
    """Results as a Markdown table; in brackets 95 % intervals, gains in points (hundredths)."""
    lines = [
        "| arm | captions | AUC | gain, points | balanced accuracy | gain, points | mean gate |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        cells = (
            r.arm,
            r.captions or "–",
            _shown(r.auc),
            _points(r.auc_gain),
            _shown(r.balanced_accuracy),
            _points(r.balanced_accuracy_gain),
            "–" if r.gate is None else f"{r.gate:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(value: Interval) -> str:
    return f"{value[0]:.4f} [{value[1]:.3f}, {value[2]:.3f}]"


def _points(value: Interval | None) -> str:
    return "–" if value is None else f"{100 * value[0]:+.2f} [{100 * value[1]:+.2f}, {100 * value[2]:+.2f}]"


def _record(config: AblationConfig, data: PatchSet, results: list[ArmResult], splits: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": config.name,
        "patches": len(data),
        "groups": len(np.unique(data.groups)),
        "per_class": np.bincount(data.labels, minlength=len(config.codes)).tolist(),
        "training_seeds": list(config.folds.training_seeds),
        "data_sha256": splits["data_sha256"],
        "test_sha256": [fold["test"]["sha256"] for fold in splits["folds"]],
        "results": [asdict(result) for result in results],
    }


def _page(config: AblationConfig, data: PatchSet, results: list[ArmResult], splits: dict[str, Any]) -> str:
    block = config.folds.block_px
    drawn = f"{config.data.group}s" if block is None else f"squares of {block:g} px of each slide"
    counts = ", ".join(
        f"{n} {code}" for code, n in zip(config.codes, np.bincount(data.labels, minlength=len(config.codes)))
    )
    hashes = ", ".join(fold["test"]["sha256"][:12] for fold in splits["folds"])
    return f"""# {config.name}: what the text adds

{len(data)} patches ({counts}) of {len(np.unique(data.groups))} {config.data.group}s, {config.folds.k} folds by \
{config.data.group} (seed {config.folds.seed}), training seeds {", ".join(map(str, config.folds.training_seeds))}.
Data sha256 {splits["data_sha256"][:12]}; test ids of the folds {hashes}.

{table(results)}

Figures are means over the seeds, each patch tested once per seed by branches that saw no patch of its \
{config.data.group}. In brackets 95 % intervals: {DRAWS} draws of {drawn}, the same for all arms; gains are paired
against *image only*. All arms share the branches of their fold and seed. "Shuffled": another test patch's caption.
"""


def _figure(results: list[ArmResult], path: Path) -> None:
    """Gains in AUC over the image alone, with their intervals."""
    from matplotlib.figure import Figure

    rows = [r for r in results if r.auc_gain is not None and not r.arm.startswith("floor")]
    colours = {OWN: "#0072B2", NONE: "#999999", SHUFFLED: "#D55E00"}
    figure = Figure(figsize=(8.5, 0.36 * len(rows) + 1.1), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for place, r in enumerate(reversed(rows)):
        assert r.auc_gain is not None
        value, low, high = (100 * x for x in r.auc_gain)
        colour = colours.get(r.captions, "#444444")
        axes.plot([low, high], [place, place], color=colour, lw=2, solid_capstyle="butt")
        axes.plot(value, place, "o", color=colour, ms=6)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(rows)), [f"{r.arm}, {r.captions}" for r in reversed(rows)])
    figure.supxlabel("gain in AUC over the image alone, points (95 % interval, paired)", fontsize="medium")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path)
