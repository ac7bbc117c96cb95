"""Ground truth of a patch, counted from the scene's objects and tissues, never from pixels: facts, class, caption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from wsikit.phantom.cells import CODE, OBJECT_KINDS, Objects, rosette_radius
from wsikit.phantom.fields import GLASS, KINDS, MATRIX, NEUROPIL
from wsikit.phantom.noise import FloatArray
from wsikit.phantom.render import Plot, PxBox, Scene

CLASSES = ("UD", "PD", "D", "other")
UD, PD, D, OTHER = range(4)
ARTEFACTS = ("pen", "fold", "blur")
TUMOUR_KINDS = ("tumour_cells", "neuropil", "matrix")

MIN_TUMOUR = 0.5
"""Below this area fraction of tumour (cells, neuropil, matrix) a patch is `other`."""
MIN_NEUROPIL = 0.03
"""Below this area fraction there is no neuropil."""
MIN_DIFFERENTIATING = 0.05
"""Above this fraction of the neuroblastic cells a patch is D (INPC: more than 5 %)."""
_DOUBT = {"tumour": (0.35, 0.65), "neuropil": (0.005, 0.08), "differentiating": (0.03, 0.08)}
_ARTEFACT_DOUBT = 0.25
_SEPTA, _TUMOUR_CELLS = KINDS.index("septa"), KINDS.index("tumour_cells")


@dataclass(frozen=True)
class Facts:
    """Facts of N patches."""

    fractions: npt.NDArray[np.float32]
    """(N, len(KINDS)) area fractions, each row sums to 1."""
    counts: npt.NDArray[np.int32]
    """(N, len(OBJECT_KINDS)) number of objects with their centre in the patch."""
    artefacts: npt.NDArray[np.float32]
    """(N, len(ARTEFACTS)) covered area fractions."""

    def fraction(self, kind: str) -> npt.NDArray[np.float32]:
        return self.fractions[:, KINDS.index(kind)]

    def count(self, kind: str) -> npt.NDArray[np.int32]:
        return self.counts[:, CODE[kind]]

    @property
    def tumour(self) -> npt.NDArray[np.float32]:
        """(N,) area fraction of tumour: cells, neuropil and structureless matrix."""
        area: npt.NDArray[np.float32] = np.sum([self.fraction(kind) for kind in TUMOUR_KINDS], axis=0)
        return area

    @property
    def n_maturing(self) -> npt.NDArray[np.int32]:
        """(N,) differentiating neuroblasts and ganglion cells."""
        return self.count("differentiating") + self.count("ganglion")

    @property
    def n_neuroblastic(self) -> npt.NDArray[np.int32]:
        """(N,) all cells of the neuroblastic line."""
        return self.n_maturing + self.count("neuroblast") + self.count("mitosis") + self.count("karyorrhexis")

    @property
    def diff_fraction(self) -> npt.NDArray[np.float32]:
        """(N,) fraction of maturing cells among the neuroblastic cells; 0 if there are none."""
        return (self.n_maturing / np.maximum(1, self.n_neuroblastic)).astype(np.float32)

    @property
    def labels(self) -> npt.NDArray[np.int8]:
        """(N,) index into `CLASSES`.

        other: less than half tumour. Else D: more than 5 % maturing cells. Else UD: no neuropil. Else PD.
        """
        label = np.where(self.fraction("neuropil") < MIN_NEUROPIL, UD, PD)
        label = np.where(self.diff_fraction > MIN_DIFFERENTIATING, D, label)
        return np.where(self.tumour < MIN_TUMOUR, OTHER, label).astype(np.int8)

    @property
    def borderline(self) -> npt.NDArray[np.bool_]:
        """(N,) near a limit of the class rule, or a quarter covered by an artefact: may be excluded from evaluation."""

        def near(value: npt.NDArray[np.floating], name: str) -> npt.NDArray[np.bool_]:
            return (value > _DOUBT[name][0]) & (value < _DOUBT[name][1])

        tumour = self.tumour >= MIN_TUMOUR
        few = tumour & (self.n_neuroblastic < 12)
        unsure_type = near(self.diff_fraction, "differentiating") | (
            near(self.fraction("neuropil"), "neuropil") & (self.diff_fraction < _DOUBT["differentiating"][1])
        )
        hidden = (self.artefacts > _ARTEFACT_DOUBT).any(axis=1) & (self.fraction("glass") < 1)
        return near(self.tumour, "tumour") | (tumour & unsure_type) | few | hidden


@dataclass(frozen=True)
class Tally:
    """Counts per patch in one box, to be added up over boxes. Patches are numbered row-major."""

    patches: npt.NDArray[np.int64]
    """(n,) numbers of the patches touched."""
    points: npt.NDArray[np.int64]
    """(n, len(KINDS)) lattice points per tissue."""
    artefacts: npt.NDArray[np.float64]
    """(n, len(ARTEFACTS)) summed cover at the points."""
    counts: npt.NDArray[np.int64]
    """(n, len(OBJECT_KINDS)) objects."""
    tissue: npt.NDArray[np.bool_]
    """(rows, columns) whether lattice points are tissue."""


@dataclass(frozen=True)
class Survey:
    """The lattice points and objects of one box."""

    xs: npt.NDArray[np.int64]
    """(w,) level-0 px."""
    ys: npt.NDArray[np.int64]
    """(h,)"""
    kind: npt.NDArray[np.int64]
    """(h, w) index into `KINDS`."""
    artefacts: FloatArray
    """(len(ARTEFACTS), h, w)"""
    objects: Objects


def survey(scene: Scene, plot: Plot, box: PxBox, slide_px: tuple[int, int] | None) -> Survey:
    """Survey `box`, which `plot` must contain. Outside `slide_px` there is only glass (None: no edge)."""
    x, y, width, height = box
    s, mpp = scene.step_px, scene.mpp
    kx, ky = np.arange(-(-x // s), -(-(x + width) // s)), np.arange(-(-y // s), -(-(y + height) // s))
    rows, columns = (slice(k[0] - first, k[-1] + 1 - first) for k, first in zip((ky, kx), plot.first))
    ground = plot.ground.take(rows, columns)
    kind = ground.kind
    gx, gy = np.meshgrid(kx * s * mpp, ky * s * mpp)
    tumour = np.isin(kind, [KINDS.index(name) for name in TUMOUR_KINDS])
    places = np.stack([gx[tumour], gy[tumour]], axis=1)
    inside = kind[tumour]
    inside[_within(places, plot.objects, "rosette", rosette_radius)] = NEUROPIL
    inside[_within(places, plot.objects, "pseudorosette", rosette_radius)] = MATRIX
    for name in ("differentiating", "ganglion", "histiocyte"):
        inside[_within(places, plot.objects, name, lambda o: np.full(len(o), 9.0))] = _TUMOUR_CELLS
    inside[_within(places, plot.objects, "vessel", lambda o: np.full(len(o), 11.0))] = _SEPTA
    kind[tumour] = inside
    objects = plot.objects.inside((x * mpp, y * mpp, (x + width) * mpp, (y + height) * mpp))
    if slide_px is not None:
        kind[(ky * s >= slide_px[1])[:, None] | (kx * s >= slide_px[0])] = GLASS
        objects = objects.where((objects.x < slide_px[0] * mpp) & (objects.y < slide_px[1] * mpp))
    artefacts = np.stack([ground.pen, ground.fold * (kind != GLASS), ground.blur * (kind != GLASS)])
    return Survey(kx * s, ky * s, kind, artefacts, objects)


def _within(
    places: FloatArray, objects: Objects, kind: str, radius: Callable[[Objects], FloatArray]
) -> npt.NDArray[np.bool_]:
    chosen = objects.where(objects.kind == CODE[kind])
    if not len(chosen) or not len(places):
        return np.zeros(len(places), bool)
    distance, nearest = cKDTree(np.stack([chosen.x, chosen.y], axis=1)).query(places)
    within: npt.NDArray[np.bool_] = distance < radius(chosen)[nearest]
    return within


def tally(surveyed: Survey, mpp: float, stride: tuple[float, float], n_cols: int) -> Tally:
    """Count the contents of a survey by patches of `stride` level-0 px, `n_cols` to a row."""
    columns, rows = (
        np.floor(surveyed.xs / stride[0]).astype(np.int64),
        np.floor(surveyed.ys / stride[1]).astype(np.int64),
    )
    number = (rows[:, None] * n_cols + columns[None, :]).ravel()
    objects = surveyed.objects
    at = (np.floor(objects.y / mpp / stride[1]) * n_cols + np.floor(objects.x / mpp / stride[0])).astype(np.int64)
    patches = np.union1d(number, at)
    where, slot = np.searchsorted(patches, number), np.searchsorted(patches, at)
    n = len(patches)
    points = np.bincount(where * len(KINDS) + surveyed.kind.ravel(), minlength=n * len(KINDS)).reshape(n, -1)
    cover = np.zeros((n, len(ARTEFACTS)))
    for column, artefact in enumerate(surveyed.artefacts):
        cover[:, column] = np.bincount(where, weights=artefact.ravel(), minlength=n)
    counts = np.bincount(slot * len(OBJECT_KINDS) + objects.kind, minlength=n * len(OBJECT_KINDS)).reshape(n, -1)
    return Tally(patches, points, cover, counts, surveyed.kind != GLASS)


def facts_of(surveyed: Survey) -> Facts:
    """Facts of a survey as one patch: a `Facts` with N = 1."""
    points = np.bincount(surveyed.kind.ravel(), minlength=len(KINDS))
    return Facts(
        (points / points.sum()).astype(np.float32)[None],
        np.bincount(surveyed.objects.kind, minlength=len(OBJECT_KINDS)).astype(np.int32)[None],
        surveyed.artefacts.mean(axis=(1, 2)).astype(np.float32)[None],
    )


def captions(facts: Facts, area_mm2: float, chromatin: float) -> list[str]:
    """Reference captions of N patches of `area_mm2` each, in the project's vocabulary: facts in a fixed order."""
    return [_caption(facts, row, area_mm2, chromatin) for row in range(len(facts.fractions))]


def _caption(facts: Facts, row: int, area_mm2: float, chromatin: float) -> str:
    share = {kind: float(facts.fractions[row, n]) for n, kind in enumerate(KINDS)}
    count = {kind: int(facts.counts[row, n]) for n, kind in enumerate(OBJECT_KINDS)}
    tumour = sum(share[kind] for kind in TUMOUR_KINDS)
    if share["glass"] > 0.98:
        return "Bare glass; no tissue."
    also = _also(share, count)
    if tumour < 0.05:
        main = max((kind for kind in share if kind != "glass"), key=lambda kind: share[kind])
        return f"{_OTHER_WORDS.get(main, 'Fibrovascular tissue')}; no neuroblasts; neuropil absent; {also}."
    density = int(facts.n_neuroblastic[row]) / (area_mm2 * tumour)
    cellularity = "Sparse" if density < 3500 else "Moderately cellular" if density < 7000 else "Densely cellular"
    words = ("pale", "salt-and-pepper", "dark salt-and-pepper")[min(2, int(chromatin * 3))]
    active = (count["mitosis"] + count["karyorrhexis"]) / max(1, int(facts.n_neuroblastic[row]))
    return (
        f"{cellularity} small round neuroblasts with {words} chromatin; "
        f"neuropil {_amount(share['neuropil'] / tumour)}; "
        f"{'Homer Wright rosettes' if count['rosette'] else 'no Homer Wright rosettes'}; "
        f"differentiating neuroblasts {_maturing(float(facts.diff_fraction[row]))}; "
        f"ganglion cells {'immature' if count['ganglion'] else 'none'}; "
        f"Schwannian stroma {_schwannian(share)}; "
        f"mitoses/karyorrhexis {'few' if active < 0.02 else 'some' if active <= 0.04 else 'many'}; {also}."
    )


_OTHER_WORDS = {
    "stroma": "Schwannian stroma of wavy spindle cells",
    "necrosis": "Necrosis with ghost cells and nuclear debris",
    "blood": "Haemorrhage",
    "fat": "Fat",
    "lymphoid": "Lymphoid infiltrate of small dark lymphocytes",
    "septa": "Fibrovascular septum",
}


def _amount(neuropil: float) -> str:
    if neuropil < MIN_NEUROPIL:
        return "absent"
    return "scant" if neuropil < 0.12 else "moderate" if neuropil < 0.35 else "abundant"


def _maturing(fraction: float) -> str:
    return "none" if fraction == 0 else "<5 %" if fraction <= MIN_DIFFERENTIATING else ">5 %"


def _schwannian(share: dict[str, float]) -> str:
    if share["stroma"] < 0.02:
        return "septa only" if share["septa"] > 0.01 else "absent"
    return "<50 %" if share["stroma"] < 0.5 else ">50 %"


def _also(share: dict[str, float], count: dict[str, int]) -> str:
    words = {"necrosis": "necrosis", "blood": "haemorrhage", "lymphoid": "lymphoid infiltrate", "fat": "fat"}
    found = [word for kind, word in words.items() if share[kind] > 0.05]
    if count["calcification"]:
        found.append("calcification")
    return ", ".join(found) if found else "no necrosis or haemorrhage"
