"""Draw the pictures of docs/ideas.md from one synthetic slide: python docs/images/ideas.py [FOLDER].

FOLDER (default: the folder of this script) gets store.png, grid.png, mpp.png, captions.png, prmf.png, voting.png and
abstention.png. The slide and its results are made in a temporary folder.
"""

from __future__ import annotations

import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import zarr

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

import wsikit

PATCH_PX = 224
COLOURS = {"UD": "#d55e00", "PD": "#f0e442", "D": "#0072b2", "other": "#999999"}
"""The class colours of the packaged model (Okabe and Ito)."""
INK = "#222222"
plt.rcParams.update({"font.size": 10, "font.family": "DejaVu Sans", "text.color": INK, "axes.edgecolor": "#888888"})


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "slide.tif"
        wsikit.make_phantom(path, size_px=(2600, 2200), seed=4)
        results = wsikit.run(path, Path(scratch) / "out")
        if results.exit_status:
            raise SystemExit("the run of the synthetic slide failed")
        store = wsikit.SlideStore(Path(scratch) / "out" / "slides" / "slide.zarr")
        table = store.patches().frame()
        whole = store.read_region(0, 0, 2600, 2200, level=0)
        for name, draw in DRAWINGS.items():
            figure = draw(store, whole, table)
            figure.savefig(folder / f"{name}.png", dpi=100, bbox_inches="tight", pad_inches=0.1, facecolor="white")
            plt.close(figure)
            _smaller(folder / f"{name}.png")


def _smaller(path: Path) -> None:
    from PIL import Image

    Image.open(path).convert("RGB").quantize(192, method=Image.Quantize.MEDIANCUT).save(path, optimize=True)


def _bare(axes: Any, title: str = "") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, loc="left", fontsize=10)


def _crop(whole: np.ndarray, x: int, y: int, side: int = PATCH_PX) -> np.ndarray:
    return whole[y : y + side, x : x + side]


def _leading(table: pd.DataFrame) -> pd.Series:
    return table[[f"probability:{code}" for code in COLOURS]].idxmax(axis=1).str.split(":").str[1]


def draw_store(store: Any, whole: np.ndarray, table: pd.DataFrame) -> Any:
    """Four layers of the same place: pixels, tissue, patches, results."""
    figure, panels = plt.subplots(1, 4, figsize=(10, 2.6))
    titles = ("0/ 1/ 2/  pixels", "labels/tissue", "patches/…/coords", "patches/…/probability")
    for axes, title in zip(panels, titles, strict=True):
        axes.imshow(whole[::4, ::4] if title != titles[1] else np.full_like(whole[::4, ::4], 255))
        _bare(axes, title)
        axes.title.set_family("monospace")
    tissue = np.asarray(zarr.open_array(Path(store.path) / "labels" / "tissue" / "0", mode="r"))
    panels[1].imshow(np.squeeze(tissue) == 1, cmap="Greys", vmin=0, vmax=1.6, extent=(0, 650, 550, 0))
    for row, code in zip(table.itertuples(), _leading(table), strict=True):
        place, side = (row.x / 4, row.y / 4), PATCH_PX / 4
        panels[2].add_patch(Rectangle(place, side, side, fill=False, edgecolor=INK, lw=0.8))
        panels[3].add_patch(
            Rectangle(place, side, side, facecolor=COLOURS[code], edgecolor="white", lw=0.4, alpha=0.85)
        )
    return figure


def draw_grid(store: Any, whole: np.ndarray, table: pd.DataFrame) -> Any:
    """Every position of the grid; those with enough tissue are kept."""
    figure, axes = plt.subplots(figsize=(6.4, 5.4))
    axes.imshow(whole[::2, ::2], extent=(0, 2600, 2200, 0))
    kept = set(zip(table.x, table.y, strict=True))
    for y in range(0, 2200, PATCH_PX):
        for x in range(0, 2600, PATCH_PX):
            inside = (x, y) in kept
            style = {"edgecolor": "#0072b2", "lw": 1.6, "zorder": 3} if inside else {"edgecolor": "#bbbbbb", "lw": 0.6}
            axes.add_patch(Rectangle((x, y), PATCH_PX, PATCH_PX, fill=False, **style))
    axes.plot([0], [0], "o", color="#d55e00", ms=8, clip_on=False, zorder=5)
    axes.annotate("(0, 0)", (0, 0), (40, -50), color="#d55e00", annotation_clip=False)
    axes.set_xlabel("x, level-0 px")
    axes.set_ylabel("y, level-0 px")
    axes.set_title(f"{len(kept)} patches with tissue (blue) of all positions of the grid (grey)", fontsize=10, pad=22)
    return figure


def draw_mpp(store: Any, whole: np.ndarray, table: pd.DataFrame) -> Any:
    """The same 224 px at three scales: the same count of pixels, three areas of tissue."""
    figure, panels = plt.subplots(1, 4, figsize=(10, 2.9))
    x, y = 1300, 800
    colours = {0.5: "#0072b2", 1.0: "#d55e00", 2.0: "#009e73"}
    panels[0].imshow(whole[::2, ::2], extent=(0, 2600, 2200, 0))
    _bare(panels[0], "slide, 1.30 mm wide")
    for axes, (mpp, colour) in zip(panels[1:], colours.items(), strict=True):
        side = round(PATCH_PX * mpp / 0.5)
        corner = x - side // 2, y - side // 2
        axes.imshow(store.read_region(*corner, PATCH_PX, PATCH_PX, mpp=mpp))
        _bare(axes, f"{mpp:g} µm/px: {PATCH_PX * mpp:.0f} µm wide")
        axes.plot([14, 14 + 50 / mpp], [208, 208], color=INK, lw=3, solid_capstyle="butt")
        axes.text(14, 200, "50 µm", fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        for spine in axes.spines.values():
            spine.set(edgecolor=colour, linewidth=3)
        panels[0].add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, lw=2))
    return figure


def draw_captions(store: Any, whole: np.ndarray, table: pd.DataFrame) -> Any:
    """Three patches, three of their facts, and the sentence made from them."""
    usable = table[(table.tissue > 0.9) & (table.blur < 2)]
    usable = usable.dropna(subset=["caption_facts:fibrillary_share", "caption_facts:nuclear_diameter_um"])
    order = usable.sort_values("caption_facts:fibrillary_share")
    rows = [order.iloc[0], order.iloc[len(order) // 2], order.iloc[-1]]
    figure, panels = plt.subplots(1, 3, figsize=(10, 5.0))
    for axes, row in zip(panels, rows, strict=True):
        axes.imshow(_crop(whole, int(row.x), int(row.y)))
        _bare(axes)
        facts = (
            f"nuclei_per_mm2    {row['caption_facts:nuclei_per_mm2']:8.0f}\n"
            f"nuclear_diameter  {row['caption_facts:nuclear_diameter_um']:8.1f} µm\n"
            f"fibrillary_share  {row['caption_facts:fibrillary_share']:8.2f}"
        )
        below = {"transform": axes.transAxes, "va": "top"}
        axes.text(0, -0.04, facts, family="monospace", fontsize=9, color="#0072b2", **below)
        axes.text(0, -0.27, textwrap.fill(row.caption, 40), fontsize=8.5, **below)
    return figure


def draw_prmf(store: Any, whole: np.ndarray, table: pd.DataFrame) -> Any:
    """One patch: probabilities of the image, of the text, and of both, with the gate."""
    image, text = (
        table[[f"{kind}:{code}" for code in COLOURS]].to_numpy() for kind in ("probability_image", "probability_text")
    )
    differ = np.abs(image - text).sum(axis=1) * (table.tissue.to_numpy() > 0.9) * (table.blur.to_numpy() < 2)
    row = table.iloc[int(np.argmax(differ))]
    figure, panels = plt.subplots(1, 4, figsize=(10, 2.7), width_ratios=(1.1, 1, 1, 1))
    panels[0].imshow(_crop(whole, int(row.x), int(row.y)))
    _bare(panels[0], "patch")
    shown = (("probability_image", "image alone"), ("probability_text", "caption alone"), ("probability", "PRMF: both"))
    for axes, (kind, title) in zip(panels[1:], shown, strict=True):
        values = [row[f"{kind}:{code}"] for code in COLOURS]
        axes.barh(list(COLOURS), values, color=list(COLOURS.values()), edgecolor=INK, lw=0.5)
        for place, value in enumerate(values):
            axes.text(min(value + 0.03, 0.8), place, f"{value:.2f}", va="center", fontsize=9)
        axes.set(xlim=(0, 1), xticks=(0, 0.5, 1))
        axes.invert_yaxis()
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[3].set_xlabel(f"gate (weight of the caption): {row.gate:.2f}", color="#0072b2")
    figure.tight_layout()
    return figure


def draw_voting(store: Any, whole: np.ndarray, table: pd.DataFrame) -> Any:
    """From patches to shares: the map, and the vote with its intervals."""
    vote = wsikit.vote(store)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(1.2, 1))
    left.imshow(
        np.repeat(whole.mean(axis=2, keepdims=True), 3, axis=2)[::4, ::4].astype(np.uint8), extent=(0, 2600, 2200, 0)
    )
    for row, code in zip(table.itertuples(), _leading(table), strict=True):
        opacity = 0.25 + 0.6 * float(table.loc[row.Index, f"probability:{code}"])
        left.add_patch(Rectangle((row.x, row.y), PATCH_PX, PATCH_PX, facecolor=COLOURS[code], alpha=opacity, lw=0))
    _bare(left, "class of each patch; grey does not vote")
    codes = list(vote.classes)
    probs, low, high = np.asarray(vote.probs), np.asarray(vote.interval.low), np.asarray(vote.interval.high)
    right.barh(codes, probs, color=[COLOURS[code] for code in codes], edgecolor=INK, lw=0.5)
    right.errorbar(probs, codes, xerr=[probs - low, high - probs], fmt="none", ecolor=INK, capsize=4)
    right.set(xlim=(0, 1), xlabel="share of the vote")
    right.invert_yaxis()
    right.set_title(
        f"{codes[vote.leading]}: margin {vote.margin:.2f}, {vote.n_effective:.0f} effective patches",
        loc="left",
        fontsize=10,
    )
    right.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def draw_abstention(store: Any, whole: np.ndarray, table: pd.DataFrame) -> Any:
    """Three votes: one calls a subtype, two abstain and state why."""
    with tempfile.TemporaryDirectory() as scratch:
        wsikit.make_phantom(f"{scratch}/small.tif", size_px=(1200, 1200))
        wsikit.run(f"{scratch}/small.tif", f"{scratch}/out")
        small = wsikit.vote(wsikit.SlideStore(f"{scratch}/out/slides/small.zarr"))
    cases = {
        "the slide": wsikit.vote(store),
        "the slide,\n--min-margin 0.6": wsikit.vote(store, parameters=wsikit.VoteParameters(min_margin=0.6)),
        "a biopsy of 22 patches": small,
    }
    figure, axes = plt.subplots(figsize=(6, 2.4))
    for place, vote in enumerate(cases.values()):
        left = np.r_[0, np.cumsum(vote.probs)[:-1]]
        colours = [COLOURS[code] for code in vote.classes]
        axes.barh(
            place, vote.probs, left=left, color=colours, alpha=0.35 if vote.abstained else 1, edgecolor=INK, lw=0.5
        )
        outcome = (
            f"no subtype: {vote.reason}"
            if vote.abstained
            else f"{vote.classes[vote.leading]}, margin {vote.margin:.2f}"
        )
        axes.text(1.03, place, textwrap.fill(outcome, 34), va="center")
    axes.set(
        yticks=range(3), yticklabels=list(cases), xlim=(0, 1), xlabel="share of the vote: UD orange, PD yellow, D blue"
    )
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


DRAWINGS = {
    "store": draw_store,
    "grid": draw_grid,
    "mpp": draw_mpp,
    "captions": draw_captions,
    "prmf": draw_prmf,
    "voting": draw_voting,
    "abstention": draw_abstention,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
