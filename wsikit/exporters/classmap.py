"""The class of each patch of a slide, at the patch table's coordinates: the input of all maps, outlines and reports.

Coordinates are level-0 pixels; areas are patch areas, with overlaps counted once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.exporters.palette import RGB, UNPREDICTED_COLOR, UNPREDICTED_NAME, muted
from wsikit.geometry import PatchGrid
from wsikit.partition import Partition, partition_slide
from wsikit.voting.result import SlideResult

UNPREDICTED = "no_prediction"
"""Code of the class of patches without prediction; see `ClassMap.with_unpredicted`."""
APART_SIDES = 3.0
"""Minimum distance of two example patches, in patch sides."""
APART_SHARE = 0.07
"""Minimum distance of two example patches, as a fraction of the map's longer side."""


@dataclass(frozen=True, eq=False)
class ClassMap:
    """The classes of a slide's patches. Without predictions every label is -1 and `probs` is None."""

    slide_id: str
    grid: PatchGrid
    """Grid of the patch table: slide size, µm/px, side and stride of the patches."""
    mpp_source: str
    """Source of the slide's pixel size, such as "vendor property aperio.MPP" or "option"."""
    coords: npt.NDArray[np.int64]
    """(N, 2) x, y of the patches' top-left corners, level-0 px, as in the patch table."""
    labels: npt.NDArray[np.int64]
    """(N,) index into `classes`, -1 = no prediction."""
    probs: npt.NDArray[np.floating] | None
    """(N, C) probabilities over all `classes`, or None if no model was run."""
    classes: tuple[str, ...]
    """C codes, in the model's order."""
    class_names: tuple[str, ...]
    """C names for display."""
    colors: tuple[RGB, ...]
    """C colours; `wsikit.exporters.palette.class_colors` gives colours that are safe for colour-deficient eyes."""
    background: tuple[str, ...] = ()
    """Codes that do not vote; drawn faintly."""
    notice: str = ""
    """Notice from the model card for every output, such as "demonstration model, synthetic tissue"."""
    muted: bool = False
    """Whether the colours are muted, because the vote abstained; see `as_voted`."""
    regions_only: bool = False
    """Whether there are patches in given regions only, so that tissue without a patch may lie outside of them."""

    def __post_init__(self) -> None:
        n, c = len(self.coords), len(self.classes)
        where = f"class map of {self.slide_id}"
        if np.shape(self.coords) != (n, 2) or not np.issubdtype(np.asarray(self.coords).dtype, np.integer):
            raise RequestError(f"{where}: coords must be integers of shape (N, 2), level-0 px")
        if np.shape(self.labels) != (n,):
            raise RequestError(f"{where}: labels of shape {np.shape(self.labels)} for {n} patches")
        if self.probs is not None and np.shape(self.probs) != (n, c):
            raise RequestError(f"{where}: probabilities of shape {np.shape(self.probs)}, expected {(n, c)}")
        if not len(self.class_names) == len(self.colors) == c or len(set(self.classes)) != c:
            raise RequestError(f"{where}: {c} classes need as many different codes, names and colours")
        if not set(self.background) <= set(self.classes):
            raise RequestError(f"{where}: background {self.background} is not among the classes {self.classes}")
        if n and not -1 <= self.labels.min() <= self.labels.max() < c:
            raise RequestError(f"{where}: labels must lie between -1 and {c - 1}")
        fault = self.grid.fault(self.coords)
        if fault:
            raise RequestError(f"{where}: {fault}")

    def as_voted(self, result: SlideResult | None) -> ClassMap:
        """The map for display with a vote: in muted colours if the vote abstained, so that no class seems to be the
        slide's."""
        if self.muted or result is None or result.label is not None:
            return self
        made = replace(self, colors=tuple(muted(color) for color in self.colors), muted=True)
        for name in ("top_probs", "partition", "cell_labels", "composition"):  # the same, and slow on large slides
            if name in self.__dict__:
                made.__dict__[name] = self.__dict__[name]
        return made

    def with_unpredicted(self) -> ClassMap:
        """The map for files that hold classes only: patches without prediction have a class of their own, which does
        not vote. The map itself where there are none, or no predictions at all."""
        rows = self.labels < 0
        if not rows.any() or rows.all():
            return self
        unknown = np.full((len(self.labels), 1), np.nan, dtype=np.float32)
        made = replace(
            self,
            labels=np.where(rows, len(self.classes), self.labels),
            probs=None if self.probs is None else np.hstack([self.probs, unknown]),
            classes=(*self.classes, UNPREDICTED),
            class_names=(*self.class_names, UNPREDICTED_NAME),
            colors=(*self.colors, UNPREDICTED_COLOR),
            background=(*self.background, UNPREDICTED),
        )
        made.__dict__["partition"] = self.partition  # where patches overlap, predicted ones come first
        return made

    @property
    def voting(self) -> tuple[int, ...]:
        """Indices of the voting classes, in order; `SlideResult.label` is an index into these."""
        return tuple(index for index, code in enumerate(self.classes) if code not in self.background)

    @cached_property
    def top_probs(self) -> npt.NDArray[np.float64]:
        """(N,) probability of each patch's class; NaN without prediction or probabilities."""
        top = np.full(len(self.labels), np.nan)
        if self.probs is not None:
            rows = np.flatnonzero(self.labels >= 0)
            top[rows] = self.probs[rows, self.labels[rows]]
        return top

    @cached_property
    def partition(self) -> Partition:
        """Cells, each assigned to one patch: where patches overlap, to the most probable predicted one."""
        priority = np.where(self.labels >= 0, np.nan_to_num(self.top_probs, nan=0.0), -1.0)
        return partition_slide(self.grid, self.coords, priority)

    @cached_property
    def cell_labels(self) -> npt.NDArray[np.int64]:
        """(n_rows, n_cols) class of each cell of `partition`; -1 = no prediction, -2 = no patch."""
        return self.partition.spread(np.asarray(self.labels, dtype=np.int64), -2)

    @cached_property
    def composition(self) -> tuple[ClassShare, ...]:
        """See `composition`."""
        return _composition(self)

    @property
    def mm2_per_px(self) -> float:
        """mm² per level-0 px²."""
        return self.grid.slide_mpp[0] * self.grid.slide_mpp[1] / 1e6


@dataclass(frozen=True)
class ClassShare:
    """Area and number of the patches of one class."""

    index: int
    """Into `ClassMap.classes`; -1 for patches without prediction."""
    area_mm2: float
    share: float
    """Share of the area of all predicted patches, 0 to 1; NaN for patches without prediction."""
    n_patches: int
    mean_prob: float
    """Mean probability of this class in these patches; NaN if unknown."""


def composition(class_map: ClassMap) -> tuple[ClassShare, ...]:
    """One entry per class in order, then one for patches without prediction.

    Areas are those of the patches within the slide, including glass between the tissue.
    """
    return class_map.composition


def _composition(class_map: ClassMap) -> tuple[ClassShare, ...]:
    areas = _areas_mm2(class_map)
    n_classes = len(class_map.classes)
    counts = np.bincount(class_map.labels + 1, minlength=n_classes + 1)
    predicted_mm2 = areas[1:].sum()
    shares = []
    for index in [*range(n_classes), -1]:
        own = class_map.top_probs[class_map.labels == index] if index >= 0 else np.empty(0)
        shares.append(
            ClassShare(
                index=index,
                area_mm2=float(areas[index + 1]),
                share=float(areas[index + 1] / predicted_mm2) if index >= 0 and predicted_mm2 > 0 else float("nan"),
                n_patches=int(counts[index + 1]),
                mean_prob=float(own.mean()) if len(own) else float("nan"),
            )
        )
    return tuple(shares)


def _areas_mm2(class_map: ClassMap) -> npt.NDArray[np.float64]:
    """(C + 1,) mm² without prediction, then per class."""
    cells = class_map.cell_labels
    taken = cells > -2
    weights = class_map.partition.area_px[taken].astype(np.float64)
    px = np.bincount(cells[taken] + 1, weights, minlength=len(class_map.classes) + 1)
    return np.asarray(px * class_map.mm2_per_px, dtype=np.float64)


def strongest_patches(class_map: ClassMap, class_index: int, count: int) -> list[int]:
    """Table rows of up to `count` patches of a class with the highest probability of it, highest first.

    They show different parts of the slide: along x or along y their corners are at least `APART_SIDES` patch sides and
    `APART_SHARE` of the map's longer side apart. Equally probable patches are in table order.
    """
    rows = np.flatnonzero(class_map.labels == class_index)
    return _apart(class_map, rows[np.argsort(-class_map.top_probs[rows], kind="stable")], count)


def opposing_patches(class_map: ClassMap, leading: int, count: int) -> list[int]:
    """Table rows of up to `count` patches of voting classes that contradict class `leading` most.

    They are ranked by how much more probable another voting class is; distances as in `strongest_patches`.
    """
    others = [index for index in class_map.voting if index != leading]
    if class_map.probs is None or not others:
        return []
    rows = np.flatnonzero(np.isin(class_map.labels, class_map.voting))
    against = class_map.probs[rows][:, others].max(axis=1) - class_map.probs[rows, leading]
    return _apart(class_map, rows[np.argsort(-against, kind="stable")], count)


def attended_patches(class_map: ClassMap, attention: npt.NDArray[np.floating], count: int) -> list[int]:
    """Table rows of up to `count` patches with the highest `attention` (N,), highest first; distances as in
    `strongest_patches`. Patches without attention are left out."""
    rows = np.flatnonzero((class_map.labels >= 0) & (np.nan_to_num(attention) > 0))
    return _apart(class_map, rows[np.argsort(-attention[rows], kind="stable")], count)


def _apart(class_map: ClassMap, rows: npt.NDArray[np.int64], count: int) -> list[int]:
    """The first `count` of `rows`, in their order, that are far enough apart."""
    if not len(rows):
        return []
    um = class_map.coords * np.asarray(class_map.grid.slide_mpp)
    side_um = class_map.grid.patch_px * class_map.grid.target_mpp
    # half a pixel of tolerance: coordinates are rounded, sides are not
    apart = max(APART_SIDES * side_um - max(class_map.grid.slide_mpp), APART_SHARE * float(np.ptp(um, axis=0).max()))
    free = np.ones(len(rows), dtype=bool)
    chosen: list[int] = []
    while len(chosen) < count and free.any():
        strongest = rows[free.argmax()]
        chosen.append(int(strongest))
        free &= (np.abs(um[rows] - um[strongest]) >= apart).any(axis=1)
    return chosen
