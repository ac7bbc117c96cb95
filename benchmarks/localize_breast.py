"""Maps of carcinoma of the breast by words: trained on captions without labels, measured on patients left out.

python benchmarks/localize_breast.py idc --data idc.zip -o OUT
python benchmarks/localize_breast.py her2st --data her2st.zip -o OUT

One training per fold (pipelines/configs/afloc_idc.yaml, afloc_her2st.yaml); every patient (her2st: section) is asked
about with the model of the fold in which it is neither trained on nor used to choose the epoch. Prompts, competitors
and phrases are in pipelines/configs/breast_words.yaml and in the configurations; they were fixed beforehand.

Thresholds without labels: 0.5; Otsu's on the map itself; Otsu's on the maps of the training patients; and that of two
normal distributions fitted to the log odds of the training patients' patches, which is the calibration that was fixed
beforehand. With labels: one chosen on the fold's validation patients. Floors: the measured fact behind the captions; a
logistic regression on colour histograms with labels of the training patients; random numbers; all positive.

Pooled over the folds, and fold by fold; "validation" says what each threshold without labels gives on the validation
patients of the folds, from which a choice between them can be made without the patients tested.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.training.afloc.evaluation import (
    MapWithTruth,
    best_threshold,
    evaluate_maps,
    otsu_threshold,
    points_inside,
    signed_cnr,
)
from wsikit.voting.text_map import mixture_threshold

CONFIGS = Path(__file__).parents[1] / "pipelines" / "configs"
WORDS = CONFIGS / "breast_words.yaml"
SQUARE = 5
"""Side of the squares that the bootstrap of one slide draws, patches."""
LEAST = 20
"""Patches of a patient of the cohort."""
DRAWS = 500
"""Of the bootstrap."""
LOG_ODDS = "log odds"
OTSU, MIXTURE = "Otsu, training patients", "mixture, training patients"
LABELS = "labels of validation patients"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Data:
    """One of the two collections."""

    config: str
    concept: str
    fact: str
    positive: tuple[str, ...]
    """Values of the label."""
    left_out: tuple[str, ...]
    """Labels that are not measured."""
    label: str
    group: str
    shown: str
    """The patient, or section, that is measured by itself."""
    cell: float
    """Distance of neighbouring patches, in the unit of their coordinates."""


IDC = Data("afloc_idc.yaml", "invasive carcinoma", "haematoxylin_share", ("1",), (), "label", "patient", "14082", 50.0)
HER2ST = Data(
    "afloc_her2st.yaml", "carcinoma cells", "nuclear_diameter_um", ("cancer 1", "cancer 2", "cancer 3"), ("unknown",),
    "annotation", "slide", "C2", 256.0,
)  # fmt: skip


@dataclass(frozen=True)
class Fold:
    """What one model gives: values (N,) of all patches per way, and rows of each part."""

    values: dict[str, Floats]
    parts: dict[str, npt.NDArray[np.int64]]
    log_odds: Floats
    """Of the words against all that competes, (N,): their map before the sigmoid, which leaves no room near 0 and 1."""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("data", choices=["idc", "her2st"])
    arguments.add_argument("--data", dest="images", required=True, help="The zip of the patches.")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--folds", type=int, nargs="*", help="Only these, in this order; default: all.")
    arguments.add_argument("-o", "--out", type=Path, required=True, help="Folder.")
    given = arguments.parse_args()
    import torch

    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    record = measure(IDC if given.data == "idc" else HER2ST, given.images, given.out, given.seed, given.folds)
    (given.out / "result.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(data: Data, images: str, out: Path, seed: int, only: Sequence[int] | None = None) -> dict[str, Any]:
    """Train what is not there yet, then measure all ways and thresholds on patients left out."""
    from wsikit.training.afloc.config import AflocTrainConfig
    from wsikit.training.config import CaptionsConfig
    from wsikit.training.datasets import Columns, read_table
    from wsikit.training.task import read_config

    config = read_config(CONFIGS / data.config, AflocTrainConfig, data=images)
    config = config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})
    patches = patches_of(config)
    facts = described(patches, data.fact, config.data.mpp or 1.0, out / "captions.csv")
    captions = CaptionsConfig(source="csv", csv=str(out / "captions.csv"))
    config = config.model_copy(update={"captions": captions})  # described once, not per fold
    columns = Columns(file="file", label=data.label, patient=None, slide=None, x=None, y=None, description=None)
    table = read_table(config.data.table.csv, images, columns=columns)  # type: ignore[union-attr]
    label = dict(zip(table.files, table.classes, strict=True))
    labels = np.array([label[one] for one in patches.ids])
    known, truth = ~np.isin(labels, data.left_out), np.isin(labels, data.positive)
    order = list(only or range(config.split.folds or 0))
    folds = [fold_of(data, config, patches, fold, out / f"fold-{fold}", facts, truth, known) for fold in order]
    splits = json.loads((out / f"fold-{order[0]}" / "splits.json").read_text(encoding="utf-8"))
    tested = [part["test"]["sha256"] for part in splits["folds"]]
    record: dict[str, Any] = {
        "data": data.config, "seed": seed, "folds": order,
        "data_sha256": splits["data_sha256"], "test_parts_sha256": tested, "ranking": [], "rows": [], "validation": [],
    }  # fmt: skip
    cells = np.floor(np.asarray(patches.coords) / data.cell + 0.5).astype(np.int64)
    of = {name: np.flatnonzero((patches.groups == name) & known) for name in np.unique(patches.groups)}
    fold_at = np.full(len(patches), -1)
    for number, fold in enumerate(folds):
        fold_at[fold.parts["test"]] = number
    of = {name: rows for name, rows in of.items() if fold_at[rows[0]] >= 0}
    slide_fold = {name: int(fold_at[rows[0]]) for name, rows in of.items()}
    others = [name for name, rows in of.items() if len(rows) >= LEAST and name != data.shown]
    cohorts = {"cohort": others} | {
        f"fold {fold}": [name for name in others if slide_fold[name] == number] for number, fold in enumerate(order)
    }
    drawn = {}
    for way in folds[0].values:
        maps = {
            name: map_of(name, folds[slide_fold[name]].values[way], cells, truth, rows) for name, rows in of.items()
        }
        ranking = {
            name: ranks_of_many([maps[one] for one in some], draws=DRAWS if name == "cohort" else 0)
            for name, some in cohorts.items()
        }
        if data.shown in maps:
            drawn[way] = maps[data.shown]
            ranking = {data.shown: ranks_of_one(maps[data.shown])} | ranking
        record["ranking"].append({"way": way, **ranking})
        show(way, "ranking", ranking)
        chosen = [thresholds(way, fold, truth, known) for fold in folds]
        own = {name: otsu_threshold(one.cells()[0]) for name, one in maps.items()}
        for threshold in ("Otsu, this slide", *chosen[0]):
            limits = own if threshold not in chosen[0] else {name: chosen[slide_fold[name]][threshold] for name in of}
            row = {name: dice_of([maps[one] for one in some], limits) for name, some in cohorts.items()}
            if data.shown in maps:
                one = dice_of(squares_of(maps[data.shown]), limits)
                row = {data.shown: {"threshold": limits[data.shown], **one}} | row
            record["rows"].append({"way": way, "threshold": threshold, **row})
            show(way, threshold, row)
        record["validation"] += validated(way, folds, chosen, patches.groups, truth, known, data.shown)
    everything = dict.fromkeys(of, -np.inf)
    record["all positive"] = {name: dice_of([maps[one] for one in some], everything) for name, some in cohorts.items()}
    if drawn:
        record["all positive"][data.shown] = dice_of(squares_of(maps[data.shown]), everything)
        draw(drawn, out / f"map-{data.shown}.png")
    record["patches"] = {name: len(of[name]) for name in others}
    return record


def fold_of(
    data: Data,
    config: Any,
    patches: Any,
    fold: int,
    folder: Path,
    facts: Floats,
    truth: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
) -> Fold:
    """The model of a fold, trained if it is not there, and what it and the floors give for all patches."""
    from scipy.special import expit

    from wsikit.encoders.prompts import plan_queries, read_concepts
    from wsikit.models.afloc_encoder import load_afloc_encoder
    from wsikit.models.text_encoders import places_of
    from wsikit.models.text_scores import log_odds, similarities
    from wsikit.training.afloc.run import AflocCallbacks, run_afloc_training
    from wsikit.training.baselines import colour_histogram, fit_on_histograms
    from wsikit.training.splits import read_splits

    kept = folder / "values.npz"
    if kept.exists():
        with np.load(kept) as found:
            values = dict(found)
        return Fold(values, read_splits(folder / "splits.json", patches)[fold], values.pop(LOG_ODDS))
    if not (folder / "model").exists():
        split = config.split.model_copy(update={"fold": fold})
        say(f"fold {fold}")
        run_afloc_training(
            config.model_copy(update={"split": split}), folder, device="cpu", resume=folder.exists(),
            callbacks=AflocCallbacks(message=say, epoch=lambda record: say(f"{record}")),
        )  # fmt: skip
    parts = read_splits(folder / "splits.json", patches)[fold]
    encoder = load_afloc_encoder(folder / "model", device="cpu")
    (query,) = plan_queries([data.concept], concepts=read_concepts(WORDS))
    places = places_of(encoder, [query.concept, *query.competitors])
    scores = similarities(encoder.encode_shared(patches.images).astype(np.float16), places)
    odds = log_odds(scores, encoder.logit_scale)[:, 0]
    histograms = colour_histogram(patches.images)
    rows = parts["train"][known[parts["train"]]]
    supervised = fit_on_histograms(histograms[rows], truth[rows].astype(np.int64))
    values = {
        f"words: {query.concept.title}": expit(odds),
        f"fact: {data.fact}": facts,
        "labels: colour histogram": np.asarray(supervised.predict_proba(histograms)[:, 1], np.float64),
        "random": np.random.default_rng(fold).random(len(patches)),
    }
    np.savez(kept, **values, **{LOG_ODDS: odds})  # type: ignore[arg-type]
    return Fold(values, parts, odds)


def patches_of(config: Any) -> Any:
    """All patches, without classes, as training has them."""
    from wsikit.training.data import patch_set
    from wsikit.training.datasets.configured import mpp_of, table_of

    table = table_of(config.data, needs_class=False)
    table = replace(table, classes=("",) * len(table))
    settings = {"patch_px": config.data.patch_px, "group": config.data.group, "odd_sizes": config.data.odd_sizes}
    return patch_set(table, ("",), mpp=mpp_of(table, config.data), **settings).patches


def described(patches: Any, fact: str, mpp: float, path: Path) -> Floats:
    """A measured fact of each patch, 0 where it is not stated; the captions are written to `path`, or read from it."""
    from wsikit.captions import load_captioner

    if not path.exists():
        captioner = load_captioner("morphometry")
        parts = [captioner.caption(patches.images[row : row + 64], mpp=mpp) for row in range(0, len(patches), 64)]
        found = [one for part in parts for one in part]
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "description", "fact"])
            table.writerows((name, one.text, one.facts.get(fact, 0.0)) for name, one in zip(patches.ids, found))
    with open(path, newline="", encoding="utf-8") as file:
        facts = {row["file_name"]: float(row["fact"]) for row in csv.DictReader(file)}
    return np.array([facts[one] for one in patches.ids])


def map_of(
    name: str, values: Floats, cells: npt.NDArray[np.int64], truth: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64]
) -> MapWithTruth:
    """One patient's patches on their grid."""
    places = cells[rows] - cells[rows].min(axis=0)
    shape = tuple(places.max(axis=0)[::-1] + 1)
    grid, mask = np.full(shape, np.nan), np.zeros(shape, bool)
    grid[places[:, 1], places[:, 0]], mask[places[:, 1], places[:, 0]] = values[rows], truth[rows]
    return MapWithTruth(name, grid, mask, bool(truth[rows].any()))


def thresholds(way: str, fold: Fold, truth: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Name of a choice to the threshold of a fold; all but the last are chosen without labels."""
    values, train = fold.values[way], fold.parts["train"]
    rows = fold.parts["validation"][known[fold.parts["validation"]]]
    found = {
        OTSU: otsu_threshold(values[train]),
        MIXTURE: mixture_of(way, values[train], fold.log_odds[train]),
        LABELS: best_threshold([MapWithTruth("validation", values[rows][None], truth[rows][None])]),
    }
    return found if way.startswith("fact") else {"0.5": 0.5} | found


def mixture_of(way: str, values: Floats, odds: Floats) -> float:
    """Threshold of a mixture: of probabilities by their log odds, of facts as they are."""
    from scipy.special import expit, logit

    if way.startswith("words"):
        return float(expit(mixture_threshold(odds)))
    return float(expit(mixture_threshold(logit(values)))) if way.startswith("labels") else mixture_threshold(values)


def validated(
    way: str,
    folds: Sequence[Fold],
    chosen: Sequence[dict[str, float]],
    groups: npt.NDArray[np.str_],
    truth: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    shown: str,
) -> list[dict[str, Any]]:
    """Dice of the thresholds without labels on the validation patients of all folds, without `shown`; and how much more
    it is than that of the first, paired by patient (of the folds together, a patient may be in two)."""
    found: list[dict[str, Any]] = []
    first: Floats | None = None
    for threshold in [name for name in chosen[0] if name != LABELS]:
        maps, limits = [], {}
        for number, (fold, of_fold) in enumerate(zip(folds, chosen, strict=True)):
            rows = fold.parts["validation"]
            rows = rows[known[rows] & (groups[rows] != shown)]
            for group in np.unique(groups[rows]):
                own = rows[groups[rows] == group]
                name = f"{number}:{group}"
                maps.append(MapWithTruth(name, fold.values[way][own][None], truth[own][None]))
                limits[name] = of_fold[threshold]
        row = {"way": way, "threshold": threshold, **dice_of(maps, limits)}
        counts = counted(maps, limits)
        if first is None:
            first = counts
        else:
            drawn = [dice(counts[rows]) - dice(first[rows]) for rows in draws_of(len(counts))]
            row["more than the first"] = interval(dice(counts) - dice(first), drawn)
        figures = {name: value for name, value in row.items() if name not in ("way", "threshold")}
        show(way, threshold, {"validation": figures})
        found.append(row)
    return found


def squares_of(one: MapWithTruth) -> list[MapWithTruth]:
    """A map in squares of 5 × 5 patches, which the bootstrap of one slide draws."""
    return [
        MapWithTruth(one.slide, one.values[part], one.truth[part])
        for top in range(0, one.values.shape[0], SQUARE)
        for left in range(0, one.values.shape[1], SQUARE)
        if np.isfinite(one.values[part := (slice(top, top + SQUARE), slice(left, left + SQUARE))]).any()
    ]


def ranks_of_one(one: MapWithTruth) -> dict[str, Any]:
    """Figures of one slide that need no threshold; 95 % intervals from draws of squares."""
    figures: dict[str, Callable[[Floats, npt.NDArray[np.bool_]], float]] = {
        "auroc": lambda values, truth: ranked("roc_auc_score", values, truth),
        "auprc": lambda values, truth: ranked("average_precision_score", values, truth),
        "cnr": signed_cnr,
    }
    parts = [square.cells() for square in squares_of(one)]
    drawn: dict[str, list[float]] = {name: [] for name in figures}
    for rows in draws_of(len(parts)):
        values, truth = (np.concatenate([parts[row][which] for row in rows]) for which in (0, 1))
        for name, figure in figures.items():
            drawn[name].append(figure(values, truth))
    record: dict[str, Any] = {name: interval(figure(*one.cells()), drawn[name]) for name, figure in figures.items()}
    return record | {"pointing": points_inside(one), "pointing_1": points_inside(one, tolerance=1)}


def ranks_of_many(maps: Sequence[MapWithTruth], *, draws: int) -> dict[str, Any]:
    """Figures over patients that need no threshold; intervals from draws of patients."""
    if not maps:
        return {}
    found = evaluate_maps(maps, threshold=0.0, draws=draws)
    return {name: value for name, value in found.items() if name not in ("dice", "iou", "slide_dice", "threshold")}


def counted(maps: Sequence[MapWithTruth], limits: dict[str, float]) -> Floats:
    """Cells of each map that are marked rightly, marked, and true, (n, 3); thresholds may differ between slides."""
    counts = []
    for one in maps:
        values, truth = one.cells()
        found = values >= limits[one.slide]
        counts.append([(found & truth).sum(), found.sum(), truth.sum()])
    return np.array(counts, dtype=np.float64)


def dice(counts: Floats) -> float:
    """Over all cells of the maps."""
    hits, marked, true = counts.sum(axis=0)
    return float(2 * hits / (marked + true)) if marked + true else float("nan")


def dice_of(maps: Sequence[MapWithTruth], limits: dict[str, float]) -> dict[str, Any]:
    """Dice and IoU over all cells, and number of cells that are marked."""
    if not maps:
        return {}
    counts = counted(maps, limits)
    of_dice = interval(dice(counts), [dice(counts[rows]) for rows in draws_of(len(counts))])
    iou = {name: value / (2 - value) for name, value in of_dice.items()}  # rises with Dice, so its quantiles follow
    return {"dice": of_dice, "iou": iou, "marked": int(counts[:, 1].sum())}


def draws_of(n: int) -> npt.NDArray[np.int64]:
    """Rows of each draw of the bootstrap, (DRAWS, n)."""
    return np.random.default_rng(0).integers(n, size=(DRAWS, n))


def interval(value: float, drawn: Sequence[float]) -> dict[str, float]:
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return {"value": value, "low": float(low), "high": float(high)}


def ranked(name: str, values: Floats, truth: npt.NDArray[np.bool_]) -> float:
    from sklearn import metrics

    return float(getattr(metrics, name)(truth, values)) if truth.any() and not truth.all() else float("nan")


def draw(maps: dict[str, MapWithTruth], path: Path) -> None:
    """Truth and the map of each way."""
    from matplotlib.figure import Figure

    shown = [
        ("labels", next(iter(maps.values())).truth.astype(float)),
        *((way, one.values) for way, one in maps.items()),
    ]
    figure = Figure(figsize=(4 * len(shown), 4.5), dpi=90, layout="constrained")
    known = np.isfinite(next(iter(maps.values())).values)
    for axes, (title, values) in zip(figure.subplots(1, len(shown)), shown, strict=True):
        image = axes.imshow(np.where(known, values, np.nan), cmap="cividis", interpolation="nearest")
        axes.set_title(title)
        figure.colorbar(image, ax=axes, shrink=0.6)
    figure.savefig(path)


def show(way: str, threshold: str, row: dict[str, Any]) -> None:
    from wsikit.training.afloc.card import shown as words

    for name, figures in row.items():
        said = [f"{key} {words(one)}" if isinstance(one, dict) else f"{key} {one}" for key, one in figures.items()]
        say(f"{way} | {threshold} | {name}: {'; '.join(said)}")


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
