"""Positions of all cells, rosettes and vessels of a synthetic slide, as a function of the requested box.

An object belongs to the box that contains its centre; two halves of a box give the same objects as the whole box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from wsikit.phantom.fields import Ground
from wsikit.phantom.noise import Box, FloatArray, Sites, grow, jittered_sites, key_of, uniform
from wsikit.phantom.recipe import OTHER_TISSUES, Recipe

OBJECT_KINDS = (
    "rosette", "pseudorosette", "vessel", "calcification", "histiocyte", "differentiating", "ganglion", "neuroblast",
    "mitosis", "karyorrhexis",
    "lymphocyte", "spindle", "endothelial", "ghost", "debris",
)  # fmt: skip
"""In drawing order, the large ones first."""
CODE = {kind: n for n, kind in enumerate(OBJECT_KINDS)}

ROSETTE_UM = 11.0
"""Radius of a rosette's fibrillary centre at size 0."""
ROSETTE_STEP = 1.065
_RING_SLOTS = 20
_VESSELS, _ROSETTES, _LARGE, _SMALL, _SPINDLES, _CALCIUM = range(11, 17)
_REACH_UM = 45.0
"""Maximum distance over which one object excludes another."""
_STROMA, _NECROSIS, _LYMPHOID = (OTHER_TISSUES.index(name) for name in ("stroma", "necrosis", "lymphoid"))


@dataclass(frozen=True)
class Objects:
    """N objects of the scene."""

    x: FloatArray
    """(N,) µm from the slide's left edge."""
    y: FloatArray
    kind: npt.NDArray[np.int64]
    """(N,) index into `OBJECT_KINDS`."""
    size: FloatArray
    """(N,) in steps of the sprites from the kind's middle size."""
    angle: FloatArray
    """(N,) radians."""
    variant: FloatArray
    """(N,) in [0, 1): which drawing of the kind."""

    def __len__(self) -> int:
        return len(self.x)

    def where(self, keep: npt.NDArray[np.bool_]) -> Objects:
        return Objects(
            self.x[keep], self.y[keep], self.kind[keep], self.size[keep], self.angle[keep], self.variant[keep]
        )

    def inside(self, box: Box) -> Objects:
        return self.where((self.x >= box[0]) & (self.x < box[2]) & (self.y >= box[1]) & (self.y < box[3]))

    @classmethod
    def none(cls) -> Objects:
        nothing = np.zeros(0)
        return cls(nothing, nothing, np.zeros(0, np.int64), nothing, nothing, nothing)

    @classmethod
    def joined(cls, parts: list[Objects]) -> Objects:
        names = ("x", "y", "kind", "size", "angle", "variant")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


Place = Callable[[FloatArray, FloatArray], FloatArray]
MARGIN_UM = 2 * _REACH_UM
"""Margin around a box in which the ground must be known to place the objects in the box."""


class Cells:
    """The objects of one slide.

    `ground_at` gives the ground, `fibre_angle` the direction (radians) of the fibres, at places x, y (µm).
    """

    def __init__(
        self, recipe: Recipe, ground_at: Callable[[FloatArray, FloatArray], Ground], fibre_angle: Place
    ) -> None:
        self.recipe = recipe
        self._ground_at = ground_at
        self._fibre_angle = fibre_angle

    def within(self, box: Box) -> Objects:
        """All objects whose centre lies in `box` (µm), in drawing order."""
        far = grow(box, 2 * _REACH_UM)
        near = grow(box, _REACH_UM)
        vessels = self._vessels(far)
        rosettes = self._rosettes(far, vessels)
        large = self._large(near, vessels, rosettes)
        ring = self._rings(rosettes, vessels)
        calcium = self._calcified(near)
        small = self._small(box, vessels, rosettes, large, calcium)
        parts = [rosettes, vessels, calcium, large, ring, small, self._spindles(box)]
        return Objects.joined([part.inside(box) for part in parts])

    def _sites(self, layer: int, box: Box, spacing_um: float, jitter: float) -> Sites:
        return jittered_sites(key_of(self.recipe.seed, layer), box, spacing_um, jitter)

    def _vessels(self, box: Box) -> Objects:
        sites = self._sites(_VESSELS, box, 130.0, 0.4)
        sites = sites.where(sites.uniform(0) < 0.30)
        ground = self._ground_at(sites.x, sites.y)
        host = ground.tumour + ground.others[_STROMA] + ground.septa
        return _objects("vessel", sites, (ground.tissue > 0.95) & (host > 0.9), size_spread=1.0)

    def _rosettes(self, box: Box, vessels: Objects) -> Objects:
        sites = self._sites(_ROSETTES, box, 58.0, 0.3)
        sites = sites.where(sites.uniform(0) < self.recipe.rosette_keep)
        ground = self._ground_at(sites.x, sites.y)
        decided = (ground.fibrillary > 0.9) | (ground.fibrillary < 0.1)
        fit = (ground.tissue > 0.95) & (ground.tumour > 0.97) & decided & ~_covered(sites, vessels, 34.0)
        out = _objects("rosette", sites, fit, size_spread=2.0)
        kind = np.where(ground.fibrillary[fit] > 0.5, CODE["rosette"], CODE["pseudorosette"])
        # choose drawings as pink as the slide's matrix
        level = (self.recipe.matrix_eosin - 0.34) / 0.30
        variant = np.clip(level + 0.25 * (out.variant - 0.5), 0, 0.999)
        return Objects(out.x, out.y, kind, out.size, out.angle, variant)

    def _calcified(self, box: Box) -> Objects:
        sites = self._sites(_CALCIUM, box, 60.0, 0.4)
        sites = sites.where(sites.uniform(0) < 0.5 * self.recipe.calcified)
        ground = self._ground_at(sites.x, sites.y)
        patchy = (ground.crowding > 1.0) | (ground.others[_NECROSIS] > 0.5)
        fit = (ground.tissue > 0.95) & patchy & (ground.tumour + ground.others[_NECROSIS] > 0.9)
        return _objects("calcification", sites, fit, size_spread=1.0)

    def _large(self, box: Box, vessels: Objects, rosettes: Objects) -> Objects:
        """Differentiating neuroblasts (rarely a single one outside their areas), ganglion cells, histiocytes."""
        sites = self._sites(_LARGE, box, 22.5, 0.2)
        ground = self._ground_at(sites.x, sites.y)
        stray = 0.006 * (ground.fibrillary > 0.9)
        chance = np.where(ground.differentiating > 0.5, self.recipe.diff_keep, stray)
        hindered = _covered(sites, vessels, 24.0) | _covered(sites, rosettes, 22.5)
        fit = (sites.uniform(0) < chance) & (ground.tissue > 0.95) & (ground.tumour > 0.9) & ~hindered
        # without maturing areas, histiocytes form groups, as many and as pink as the maturing cells elsewhere
        host = (ground.differentiating < 0.5) & (ground.tumour > 0.9) & (ground.tissue > 0.95) & ~hindered
        crowd = self.recipe.histiocytes * np.clip(0.6 + 0.6 * ground.crowding, 0, 1)
        visitor = host & ~fit & (sites.uniform(2) < crowd)
        out = _objects("differentiating", sites, fit | visitor, size_spread=1.0)
        kind = np.where(sites.uniform(1) < self.recipe.ganglion_share, CODE["ganglion"], CODE["differentiating"])
        kind = np.where(visitor, CODE["histiocyte"], kind)[fit | visitor]
        # their pinkness follows the slide's eosin, with a spread between cells
        pink = np.clip(self.recipe.large_eosin + 0.5 * (out.variant - 0.5), 0, 0.999)
        return Objects(out.x, out.y, kind, out.size, out.angle, pink)

    def _rings(self, rosettes: Objects, vessels: Objects) -> Objects:
        """The neuroblasts around each rosette, wedge-like towards its centre; a second ring with gaps."""
        n = len(rosettes)
        slot = np.arange(2 * _RING_SLOTS)
        outer = slot >= _RING_SLOTS
        # the rosette's position, unique, is its key for the hash
        i = np.rint(rosettes.x * 16).astype(np.int64)[:, None] + np.zeros_like(slot)
        j = np.rint(rosettes.y * 16).astype(np.int64)[:, None] * 64 + slot
        u = [uniform(key_of(self.recipe.seed, _ROSETTES, number), i, j) for number in range(5)]
        scale = self.recipe.nucleus_scale
        radius = rosette_radius(rosettes)[:, None] + np.where(outer, 10.3, 3.6) * scale + (u[0] - 0.5) * 2.2
        count = np.minimum(_RING_SLOTS, np.floor(2 * np.pi * radius / (7.0 * scale))).astype(np.int64)
        turn = 2 * np.pi * ((slot % _RING_SLOTS) + 0.5 * outer + 0.5 * (u[1] - 0.5)) / count + rosettes.angle[:, None]
        keep = ((slot % _RING_SLOTS) < count) & (u[2] < np.where(outer, 0.6, 0.94))
        x, y = rosettes.x[:, None] + radius * np.cos(turn), rosettes.y[:, None] + radius * np.sin(turn)
        size = _blast_size(self.recipe.nucleus_scale, u[3])
        kind = np.full((n, 2 * _RING_SLOTS), CODE["neuroblast"])
        return Objects(x[keep], y[keep], kind[keep], size[keep], turn[keep], u[4][keep])

    def _small(self, box: Box, vessels: Objects, rosettes: Objects, large: Objects, calcium: Objects) -> Objects:
        """Neuroblasts and all other round cells: one lattice; the ground decides the kind at each site."""
        recipe = self.recipe
        sites = self._sites(_SMALL, box, recipe.spacing_um, 0.36)
        ground = self._ground_at(sites.x, sites.y)
        kind, chance = self._small_kind(sites, ground)
        fit = (sites.uniform(0) < chance) & (ground.tissue > 0.5)
        fit &= ~_covered(sites, vessels, 13.0, ROSETTE_STEP)
        fit &= ~_covered(sites, rosettes, ROSETTE_UM + 15.5 * recipe.nucleus_scale, ROSETTE_STEP)
        fit &= ~_covered(sites, large, 11.5) & ~_covered(sites, calcium, 8.0)
        return Objects(
            sites.x[fit], sites.y[fit], kind[fit], _blast_size(recipe.nucleus_scale, sites.uniform(3))[fit],
            (np.pi * sites.uniform(4))[fit], sites.uniform(5)[fit],
        )  # fmt: skip

    def _small_kind(self, sites: Sites, ground: Ground) -> tuple[npt.NDArray[np.int64], FloatArray]:
        recipe = self.recipe
        u = sites.uniform(1)
        in_sheet = 0.93 - 0.09 * np.clip(ground.crowding, -1, 2) * (ground.crowding < 0)
        chance = in_sheet + (0.09 - in_sheet) * ground.pool
        kind = np.full(len(sites), CODE["neuroblast"])
        kind[u < recipe.mki] = CODE["karyorrhexis"]
        kind[u < 0.3 * recipe.mki] = CODE["mitosis"]
        kind[u > 0.985] = CODE["lymphocyte"]
        tissue = ground.kind
        necrotic, lymphoid = tissue == _NECROSIS, tissue == _LYMPHOID
        kind[necrotic] = np.where(u[necrotic] < 0.55, CODE["ghost"], CODE["debris"])
        chance[necrotic] = 0.5
        kind[lymphoid] = np.where(u[lymphoid] < 0.93, CODE["lymphocyte"], CODE["neuroblast"])
        kind[lymphoid & (u >= 0.93)] = CODE["endothelial"]
        chance[lymphoid] = 0.86
        sparse = (tissue == _STROMA) | (tissue == len(OTHER_TISSUES))
        kind[sparse] = CODE["lymphocyte"]
        chance[sparse] = 0.025
        empty = (tissue == OTHER_TISSUES.index("blood")) | (tissue == OTHER_TISSUES.index("fat"))
        kind[empty] = CODE["lymphocyte"]
        chance[empty] = 0.006
        return kind, chance

    def _spindles(self, box: Box) -> Objects:
        """Schwann cells and fibroblasts along the fibres."""
        sites = self._sites(_SPINDLES, box, 15.5, 0.4)
        ground = self._ground_at(sites.x, sites.y)
        host = ground.others[_STROMA] + ground.septa
        fit = (sites.uniform(0) < 0.62 * host) & (host > 0.35) & (ground.tissue > 0.7)
        out = _objects("spindle", sites, fit, size_spread=1.0)
        angle = self._fibre_angle(out.x, out.y) + 0.5 * (sites.uniform(4)[fit] - 0.5)
        return Objects(out.x, out.y, out.kind, out.size, angle, out.variant)


def rosette_radius(rosettes: Objects) -> FloatArray:
    """(N,) radius of the fibrillary centres, µm."""
    return ROSETTE_UM * ROSETTE_STEP**rosettes.size


def _blast_size(scale: float, u: FloatArray) -> FloatArray:
    """Size in sprite steps: the slide's scale, and a spread of about ±10 % between cells."""
    size: FloatArray = np.log(scale) / np.log(1.065) + 3.2 * (u - 0.5)
    return size


def _objects(kind: str, sites: Sites, keep: npt.NDArray[np.bool_], *, size_spread: float) -> Objects:
    size = (sites.uniform(3) - 0.5) * 2 * size_spread
    code = np.full(len(sites), CODE[kind])
    everything = Objects(sites.x, sites.y, code, size, np.pi * sites.uniform(4), sites.uniform(5))
    return everything.where(keep)


def _covered(sites: Sites, obstacle: Objects, radius_um: float, step: float = 1.0) -> npt.NDArray[np.bool_]:
    """True for each site within `radius_um` (times `step` to the power of the size) of its nearest obstacle."""
    if not len(sites) or not len(obstacle):
        return np.zeros(len(sites), bool)
    tree = cKDTree(np.stack([obstacle.x, obstacle.y], axis=1))
    distance, nearest = tree.query(np.stack([sites.x, sites.y], axis=1))
    covered: npt.NDArray[np.bool_] = distance < radius_um * step ** obstacle.size[nearest]
    return covered
