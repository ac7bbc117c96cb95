"""Report of an ablation: metrics of each arm over all patches, difference to the image-only arm, mean gate; and the
robust fusion minus each rival.

Each patch is tested once per seed. Metrics are means over the seeds. Intervals are bootstrap intervals over patients
(or blocks of a slide); all arms and seeds share the draws, so differences are paired.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.store.atomic import write_json
from wsikit.training.ablation import IMAGE_ONLY, MEAN, TEXT_ONLY, THROUGHOUT, wanted_rivals
from wsikit.training.ablation_config import NONE, SHUFFLED, SPLITS_FILE, AblationConfig, jobs, load_patches
from wsikit.training.ablation_rivals import OWN, arm_of
from wsikit.training.ablation_tables import ArmResult, Interval, Lead, figure, lead_table, table
from wsikit.training.bootstrap import Sample, draw_groups, quantiles
from wsikit.training.data import PatchSet
from wsikit.training.fusion_variants import ARMS
from wsikit.training.rivals import TITLES

__all__ = ["ArmResult", "Lead", "drawn_units", "leads_of", "report_ablation", "summarise", "table"]

DRAWS = 1000
MEASURES = ("auc", "balanced_accuracy", "ece")
ROBUST = f"PRMF robust|{OWN}"
COLOURS = {OWN: "#0072B2", NONE: "#999999", SHUFFLED: "#D55E00"}


@dataclass(frozen=True)
class Drawn:
    """Metrics of all arms for all draws."""

    values: dict[str, npt.NDArray[np.float64]]
    """By arm, (seeds, measures, draws + 1); the first of the draws is the value itself."""
    gates: dict[str, npt.NDArray[np.float32]]
    """By arm, (seeds, N)."""

    def mean(self, name: str) -> npt.NDArray[np.float64]:
        """(measures, draws + 1), mean over the seeds."""
        return np.asarray(self.values[name].mean(axis=0))


def draw(config: AblationConfig, out: Path) -> Drawn:
    """Metrics of all arms from the predictions in `out`.

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
    }
    return Drawn(values, gates)


def summarise(config: AblationConfig, out: Path, drawn: Drawn | None = None) -> list[ArmResult]:
    """Summarise all arms from the predictions in `out`, or from what was drawn from them.

    Raises
    ------
    RequestError
        If a job's file is missing.
    """
    drawn = drawn or draw(config, out)
    image = drawn.mean(IMAGE_ONLY)
    results = []
    for name in _order(list(drawn.values)):
        mean = drawn.mean(name)
        arm, _, captions = name.partition("|")
        gain = None if name == IMAGE_ONLY else mean - image
        gate = drawn.gates.get(name)
        results.append(
            ArmResult(
                arm,
                captions,
                _interval(mean[0]),
                _interval(mean[1]),
                _interval(mean[2]),
                None if gain is None else _interval(gain[0]),
                None if gain is None else _interval(gain[1]),
                None if gate is None or np.isnan(gate).any() else float(gate.mean()),
                tuple(np.round(drawn.values[name][:, 0, 0], 5).tolist()),
            )
        )
    return results


def leads_of(drawn: Drawn) -> list[Lead]:
    """The robust fusion minus every arm that reads the patches' own captions or none."""
    ahead = drawn.mean(ROBUST)
    found = []
    for name in _order(list(drawn.values)):
        arm, _, captions = name.partition("|")
        if name == ROBUST or captions not in ("", OWN):
            continue
        difference = ahead - drawn.mean(name)
        found.append(Lead(arm, captions, *(_interval(row) for row in difference)))
    return found


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
    rivals = [f"probs/{arm_of(name)}" for name in wanted_rivals(config, out)]
    probs: dict[str, list[npt.NDArray[np.float32]]] = {}
    gates: dict[str, npt.NDArray[np.float32]] = {}
    for job in jobs(config):
        place = seeds.index(job.seed)
        for path, keys in ((out / job.file, None), (out / job.rivals, rivals)):
            if keys == []:
                continue
            for key, rows, values in _read(path, keys):
                kind, _, name = key.partition("/")
                if kind == "probs":
                    empty = [np.full((n, len(config.codes)), np.nan, np.float32) for _ in seeds]
                    probs.setdefault(name, empty)[place][rows] = values
                elif kind == "gate":
                    gates.setdefault(name, np.full((len(seeds), n), np.nan, np.float32))[place, rows] = values
    return probs, gates


def _read(path: Path, keys: Sequence[str] | None) -> list[tuple[str, npt.NDArray[np.int64], npt.NDArray[Any]]]:
    """Name, rows and values of some or all arrays of a job's file."""
    again = "Run wsikit ablate again; it computes only what is missing."
    if not path.is_file():
        raise RequestError(f"{path}: missing. {again}")
    with np.load(path, allow_pickle=False) as found:
        for key in keys or ():
            if key not in found.files:
                raise RequestError(f"{path}: has no {key.removeprefix('probs/')}. {again}")
        names = [key for key in (found.files if keys is None else keys) if key != "rows"]
        return [(key, found["rows"], found[key]) for key in names]


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
    first = [IMAGE_ONLY, f"{TEXT_ONLY}|{OWN}", f"{MEAN}|{OWN}", *(arm_of(name) for name in TITLES)]
    arms = [f"{arm}|{way}" for arm in ARMS for way in (OWN, NONE, SHUFFLED)]
    known = [name for name in [*baselines, *first, *arms, f"{THROUGHOUT}|{SHUFFLED}"] if name in names]
    return known + [name for name in names if name not in known]


def report_ablation(config: AblationConfig, out: Path) -> str:
    """Write results.json, results.md and results.png into `out`; return both tables as Markdown."""
    data, _ = load_patches(out)
    drawn = draw(config, out)
    results, leads = summarise(config, out, drawn), leads_of(drawn)
    record = json.loads((out / SPLITS_FILE).read_text(encoding="utf-8"))
    write_json(out / "results.json", _record(config, data, results, leads, record))
    text = _page(config, data, results, leads, record)
    (out / "results.md").write_text(text, encoding="utf-8")
    figure(results, out / "results.png", COLOURS)
    return f"{table(results)}\n\n{lead_table(leads)}"


def _record(
    config: AblationConfig,
    data: PatchSet,
    results: Sequence[ArmResult],
    leads: Sequence[Lead],
    splits: dict[str, Any],
) -> dict[str, Any]:
    return {
        "name": config.name,
        "patches": len(data),
        "groups": len(np.unique(data.groups)),
        "per_class": np.bincount(data.labels, minlength=len(config.codes)).tolist(),
        "training_seeds": list(config.folds.training_seeds),
        "data_sha256": splits["data_sha256"],
        "test_sha256": [fold["test"]["sha256"] for fold in splits["folds"]],
        "results": [asdict(result) for result in results],
        "robust_minus": [asdict(lead) for lead in leads],
    }


def _page(
    config: AblationConfig,
    data: PatchSet,
    results: Sequence[ArmResult],
    leads: Sequence[Lead],
    splits: dict[str, Any],
) -> str:
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
"+" and "logits": mean of the log-probabilities. "Slide context": facts, or features of the image branch, together with
their z within the slide and their mean over it; no labels are used.

## The robust fusion minus each rival

{lead_table(leads)}

Paired on the same draws; above zero in AUC: the fusion is better.
"""
