"""Figures of a model as PNG: ROC, reliability, confusion, gates. Colours are safe for colour-blind readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.training.calibration import reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""Okabe & Ito 2008 without the palest; line styles distinguish further classes."""

_STYLES = ("-", "--", ":", "-.")
_SIDE = 4.2
"""Inches."""

_FEWEST = 10
"""Minimum number of patches in a confidence bin whose accuracy is drawn; with fewer it is noise."""


def save_figures(
    folder: Path,
    truth: npt.NDArray[np.int64],
    probs: npt.NDArray[np.floating],
    gate: npt.NDArray[np.floating] | None,
    *,
    classes: Sequence[str],
    calibrated: npt.NDArray[np.floating] | None = None,
) -> list[Path]:
    """Draw roc.png, reliability.png, confusion.png and, for a model with a gate, gate.png into `folder`.

    Parameters
    ----------
    truth : int64 (N,)
    probs : (N, C)
    gate : (N,) in [0, 1], or None
    calibrated : (N, C), optional
        The probabilities at the fitted temperature, drawn in addition.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {
        "roc.png": _roc(truth, probs, classes),
        "reliability.png": _reliability(truth, probs, calibrated),
        "confusion.png": _confusion(truth, probs, classes),
    }
    if gate is not None:
        drawn["gate.png"] = _gates(truth, gate, classes)
    for name, figure in drawn.items():
        figure.savefig(folder / name, dpi=130)
    return [folder / name for name in drawn]


def _new(width: float = _SIDE, height: float = _SIDE) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _style(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": _STYLES[index % len(_STYLES)]}


def _roc(truth: npt.NDArray[np.int64], probs: npt.NDArray[np.floating], classes: Sequence[str]) -> Figure:
    from sklearn.metrics import auc, roc_curve

    figure, axes = _new()
    shown = range(1, 2) if len(classes) == 2 else range(len(classes))  # for two classes one curve is enough
    for index in shown:
        ours = truth == index
        if not ours.any() or ours.all():
            continue
        false_positive, true_positive, _ = roc_curve(ours, probs[:, index])
        axes.plot(
            false_positive,
            true_positive,
            label=f"{classes[index]}: {auc(false_positive, true_positive):.3f}",
            **_style(index),
        )
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.005))
    axes.set_aspect("equal")
    axes.legend(title="AUC", loc="lower right", frameon=False)
    return figure


def _reliability(
    truth: npt.NDArray[np.int64], probs: npt.NDArray[np.floating], calibrated: npt.NDArray[np.floating] | None
) -> Figure:
    from matplotlib.ticker import PercentFormatter

    figure, axes = _new()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, label="perfect calibration")
    counts_axes = axes.twinx()
    series = [("as given", probs, "o")] + ([("calibrated", calibrated, "s")] if calibrated is not None else [])
    for index, (name, values, marker) in enumerate(series):
        mean, share, counts = reliability(truth, values)
        mean[counts < _FEWEST] = np.nan
        axes.plot(mean, share, marker=marker, markersize=4, label=name, **_style(index))
        if index == 0:
            edges = np.linspace(0, 1, len(counts) + 1)
            counts_axes.bar(edges[:-1], counts / counts.sum(), 1 / len(counts), align="edge", color="#dddddd", zorder=0)
    counts_axes.set(ylim=(0, 4), yticks=[])  # the bars use the lowest quarter
    counts_axes.spines[["top", "right"]].set_visible(False)
    axes.set_zorder(counts_axes.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.set(xlabel="confidence (grey: number of patches)", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc="upper left", frameon=False)
    return figure


def _confusion(truth: npt.NDArray[np.int64], probs: npt.NDArray[np.floating], classes: Sequence[str]) -> Figure:
    c = len(classes)
    counts = np.zeros((c, c), dtype=np.int64)
    np.add.at(counts, (truth, probs.argmax(axis=1)), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(_SIDE, 0.8 * c + 1.6)
    figure, axes = _new(side, side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(c):
        for column in range(c):
            ink = "white" if shares[row, column] > 0.55 else "black"
            text = f"{counts[row, column]}\n{shares[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=9)
    axes.set(xlabel="prediction", ylabel="truth", xticks=range(c), yticks=range(c))
    long = max(map(len, classes)) > 6
    axes.set_xticklabels(classes, rotation=30 if long else 0, ha="right" if long else "center")
    axes.set_yticklabels(classes)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def _gates(truth: npt.NDArray[np.int64], gate: npt.NDArray[np.floating], classes: Sequence[str]) -> Figure:
    figure, axes = _new(_SIDE * 1.25, _SIDE * 0.8)
    bins = np.linspace(0, 1, 26).tolist()
    for index, code in enumerate(classes):
        ours = gate[truth == index]
        if len(ours):
            share = np.full(len(ours), 1 / len(ours))
            axes.hist(ours, bins, weights=share.tolist(), histtype="step", label=code, linewidth=1.4, **_style(index))
    axes.set(xlabel="gate: 0 image only … 1 text only", ylabel="fraction of the class's patches", xlim=(0, 1))
    axes.legend(title="truth", loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure
