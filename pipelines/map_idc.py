"""A patient's labelled patches stitched into a slide, run through `wsikit run`, and the map scored against the labels.

python pipelines/map_idc.py ABLATION --images idc.zip --patient 14082 -o OUT

ABLATION is the output of `wsikit ablate pipelines/configs/ablate_idc.yaml`; the model is that of the fold in which the
patient is tested, so it was not trained on these patches. Places without a patch are white.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tifffile
from matplotlib.figure import Figure

from wsikit import run
from wsikit.slides.store import SlideStore
from wsikit.training.bootstrap import Sample, draw_groups, quantiles
from wsikit.training.datasets import Columns, read_table
from wsikit.training.datasets.table import ImageTable
from wsikit.training.metrics import balanced_accuracy

logger = logging.getLogger("map_idc")

PATCH_PX, MPP = 50, 4.0
POSITIVE = "IDC"
WHITE = 245


@dataclass(frozen=True)
class MapScore:
    """The map compared with the labels of the patches."""

    patches: int
    mapped: int
    """Number of patches with enough tissue for `wsikit run`."""
    positive: int
    balanced_accuracy: float
    """Of the mapped patches."""
    interval: tuple[float, float]
    """95 % interval, bootstrap over squares of 5 × 5 patches."""
    dice: float
    """Dice of the positive class over all patches; unmapped patches count as negative."""
    dice_of_all_positive: float
    """Baseline: all patches positive."""


def stitch(table: ImageTable, path: Path) -> np.ndarray:
    """Write the patches at their positions as a tiled TIFF; return their cells, int64 (N, 2), column then row."""
    assert table.coords is not None
    cells = ((table.coords - table.coords.min(axis=0)) / PATCH_PX).round().astype(np.int64)
    n_cols, n_rows = cells.max(axis=0) + 1
    slide = np.full((n_rows * PATCH_PX, n_cols * PATCH_PX, 3), WHITE, np.uint8)
    for (col, row), image in zip(cells, table.images(range(len(table))), strict=True):
        height, width = image.shape[:2]
        slide[row * PATCH_PX : row * PATCH_PX + height, col * PATCH_PX : col * PATCH_PX + width] = image
    tifffile.imwrite(
        path,
        slide,
        tile=(256, 256),
        compression="deflate",
        photometric="rgb",
        resolution=(1e4 / MPP, 1e4 / MPP),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return cells


def fold_of(ablation: Path, files: set[str]) -> int:
    """The fold whose test part contains all these patches."""
    folds = json.loads((ablation / "splits.json").read_text(encoding="utf-8"))["folds"]
    return next(i for i, fold in enumerate(folds) if files <= set(fold["test"]["ids"]))


def score(probs: np.ndarray, truth: np.ndarray, cells: np.ndarray) -> MapScore:
    """`probs` (N,) of the positive class, NaN where not mapped; `truth` bool (N,); `cells` (N, 2)."""
    mapped = np.isfinite(probs)
    called = np.nan_to_num(probs) > 0.5
    squares = np.unique(cells[mapped] // 5, axis=0, return_inverse=True)[1].ravel()
    labels = truth[mapped].astype(np.int64)
    sample = Sample(labels, np.eye(2)[called[mapped].astype(int)], squares, n_ordinal=0)
    drawn = sample.figures(draw_groups(len(np.unique(squares)), draws=1000, seed=0)).values["balanced_accuracy"]
    interval = quantiles(drawn)
    assert interval is not None
    return MapScore(
        patches=len(truth),
        mapped=int(mapped.sum()),
        positive=int(truth.sum()),
        balanced_accuracy=balanced_accuracy(labels, called[mapped].astype(np.int64)),
        interval=interval,
        dice=2 * float((called & truth).sum()) / float(called.sum() + truth.sum()),
        dice_of_all_positive=2 * float(truth.sum()) / float(len(truth) + truth.sum()),
    )


def draw(slide: np.ndarray, truth: np.ndarray, probs: np.ndarray, cells: np.ndarray, path: Path) -> None:
    """Slide, labels and map side by side."""
    shape = (slide.shape[0] // PATCH_PX, slide.shape[1] // PATCH_PX)
    figure = Figure(figsize=(13, 13 / 3 * shape[0] / shape[1] + 0.6), dpi=110, layout="constrained")
    panels = figure.subplots(1, 3)
    extent = (0, slide.shape[1] * MPP / 1000, slide.shape[0] * MPP / 1000, 0)
    for axes, values, title in zip(
        panels, (None, truth.astype(float), probs), ("patches", "labels", f"probability of {POSITIVE}"), strict=True
    ):
        axes.imshow(slide, extent=extent)
        if values is not None:
            grid = np.full(shape, np.nan)
            grid[cells[:, 1], cells[:, 0]] = values
            shown = axes.imshow(grid, extent=extent, cmap="cividis", vmin=0, vmax=1, alpha=0.8, interpolation="nearest")
        axes.set_title(title)
        axes.set_xlabel("mm")
    figure.colorbar(shown, ax=panels[2], shrink=0.7)
    figure.savefig(path)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("ablation", type=Path, help="Folder of a finished ablation.")
    arguments.add_argument("--images", required=True, help="The zip of the patches.")
    arguments.add_argument("--patient", default="14082")
    arguments.add_argument("-o", "--out", type=Path, required=True)
    given = arguments.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given.out.mkdir(parents=True, exist_ok=True)

    columns = Columns(file="file", label="label", description=None)
    whole = read_table("index.csv", given.images, columns=columns)
    table = whole.select([row for row, patient in enumerate(whole.patients) if patient == given.patient])
    path = given.out / f"patient_{given.patient}.tiff"
    cells = stitch(table, path)
    fold = fold_of(given.ablation, set(table.files))

    # with the captioner that the model was trained with, as by default
    (row,) = run(path, given.out / "run", model=given.ablation / f"models/fold{fold}")
    logger.info("%s: %s %s", row.slide_id, row.status, row.subtype or row.reason or row.error)
    patches = SlideStore(given.out / "run" / "slides" / f"{row.slide_id}.zarr").patches(None)
    of_cell = {tuple(cell): place for place, cell in enumerate(np.asarray(patches.coords) // PATCH_PX)}
    column = list(patches.attributes("probability")["names"]).index(POSITIVE)
    found = patches.read("probability")[:, column]
    probs = np.array([found[of_cell[tuple(cell)]] if tuple(cell) in of_cell else np.nan for cell in cells])
    truth = np.array([label == "1" for label in table.classes])

    result = score(probs, truth, cells)
    record = {"patient": given.patient, "fold": fold} | asdict(result)
    (given.out / "score.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    draw(tifffile.imread(path), truth, probs, cells, given.out / "map.png")
    logger.info("%s", json.dumps(record, indent=2))
    return 0 if row.status == "done" else 1


if __name__ == "__main__":
    sys.exit(main())
