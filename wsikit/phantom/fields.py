"""Tissue layout of a synthetic slide: smooth functions of the position in µm that give the tissue at each place.

Rendering, cell placement and ground truth all use one lattice (`Fields.over`), so they always agree.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from wsikit.phantom.noise import Box, FloatArray, gradient_noise, interpolated, key_of, smoothstep
from wsikit.phantom.recipe import OTHER_TISSUES, Band, Recipe

_TISSUE, _REGION, _POOL, _SEPTA, _SLOW = range(1, 6)
_SAMPLES = 100
_ZOOMS = 3
_EDGE_UM = 7.0
"""Half-width of the transition between neighbouring tissues."""
_SEPTUM_UM = 5.0
"""Half-width of a fibrovascular septum."""
_BERTH = 0.08
"""Upper bound of the change of the outline function over 10 µm."""
_COARSE = 4
"""Slow fields are known on every fourth point of the lattice, and interpolated between."""

KINDS = (*OTHER_TISSUES, "septa", "tumour_cells", "neuropil", "matrix", "glass")
"""Tissues of the truth. `matrix` is tumour stroma without fibrils (oedema), which is not neuropil."""
_TUMOUR, NEUROPIL, MATRIX, GLASS = (KINDS.index(kind) for kind in ("tumour_cells", "neuropil", "matrix", "glass"))


@dataclass(frozen=True)
class Ground:
    """Tissue at some positions; every array has the shape of the requested positions."""

    tissue: FloatArray
    """1 tissue, 0 glass."""
    others: FloatArray
    """(5, ...) weights of `OTHER_TISSUES`; with `septa` and `tumour` they sum to 1."""
    septa: FloatArray
    tumour: FloatArray
    pool: FloatArray
    """Within tumour: 1 in a pool of matrix, 0 in a sheet of cells."""
    fibrillary: FloatArray
    """Within tumour: 1 where the matrix is neuropil, 0 where it has no structure."""
    differentiating: FloatArray
    """Within tumour: 1 where differentiating neuroblasts occur."""
    thickness: FloatArray
    """Section thickness, about 1; 2 in a fold."""
    crowding: FloatArray
    """Slow variation of cellularity, about 0 ± 1."""
    dye: FloatArray
    """Slow variation of the eosin, about 0 ± 1."""
    pen: FloatArray
    fold: FloatArray
    blur: FloatArray

    @property
    def kind(self) -> npt.NDArray[np.int64]:
        """Index into `KINDS` of the prevailing tissue: the ground truth of a position."""
        parts = np.concatenate([self.others, self.septa[None], self.tumour[None]])
        index = np.argmax(parts, axis=0)
        matrix = (index == _TUMOUR) & (self.pool > 0.5)
        index = np.where(matrix, np.where(self.fibrillary > 0.5, NEUROPIL, MATRIX), index)
        return np.where(self.tissue > 0.5, index, GLASS)

    def take(self, rows: npt.NDArray[np.int64] | slice, columns: npt.NDArray[np.int64] | slice) -> Ground:
        """The ground at some of the places of a two-dimensional lattice."""
        return Ground(*(getattr(self, field.name)[..., rows, columns] for field in fields(self)))


class Fields:
    """The tissues of one slide. Thresholds are set once to reach the recipe's fractions."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._keys = {layer: key_of(recipe.seed, layer) for layer in (_TISSUE, _REGION, _POOL, _SEPTA, _SLOW)}
        rng = np.random.default_rng([recipe.seed, 31_337])
        width, height = recipe.size_um
        self._pieces = tuple(
            (
                float(rng.uniform(0.3, 0.7) * width),
                float(rng.uniform(0.3, 0.7) * height),
                float(rng.uniform(0.28, 0.5) * width),
                float(rng.uniform(0.28, 0.5) * height),
                float(rng.uniform(0, np.pi)),
            )
            for _ in range(int(rng.integers(1, 4)))
        )
        short = min(recipe.size_um)
        self._outline_um = float(np.clip(0.25 * short, 60.0, 4000.0))
        self._edge = 3.0 * (2.5 / short + 0.0028)
        self._calibrate()

    def _calibrate(self) -> None:
        recipe = self.recipe
        x, y, outline = self._sampled((0.0, 0.0, *recipe.size_um))
        fraction = recipe.tissue_fraction
        self._tissue_at = float(np.quantile(outline, 1 - fraction)) if 0 < fraction < 1 else (0.5 - fraction) * 1e6
        for _ in range(_ZOOMS):
            inside = outline > self._tissue_at
            if not inside.any() or inside.mean() > 0.3:
                break
            # little tissue on a large slide: sample more densely, or the fractions below would depend on a few points
            step_x, step_y = x[0, 1] - x[0, 0], y[1, 0] - y[0, 0]
            x, y, outline = self._sampled(
                (x[inside].min() - step_x, y[inside].min() - step_y, x[inside].max() + step_x, y[inside].max() + step_y)
            )
        inside = outline > self._tissue_at
        regions = self._regions(x, y).reshape(len(OTHER_TISSUES) + 1, -1)[:, inside.ravel()]
        self._others_at, free = [], np.ones(regions.shape[1], bool)
        for field, share in zip(regions, recipe.shares, strict=False):
            wanted = min(0.95, share * len(free) / max(1, free.sum()))
            self._others_at.append(_quantile(field[free], 1 - wanted) if share > 0 else 1e6)
            free &= field <= self._others_at[-1]
        maturity = regions[-1][free]
        self._fibrillary_at = _quantile(maturity, recipe.ud_share) if recipe.ud_share < 1 else 1e6
        self._differentiating_at = _quantile(maturity, 1 - recipe.d_share) if recipe.d_share > 0 else 1e6

    def _sampled(self, box: Box) -> tuple[FloatArray, FloatArray, FloatArray]:
        """A grid of places (µm) over `box` and the outline function there, three square arrays."""
        part = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
        x, y = np.meshgrid(box[0] + part * (box[2] - box[0]), box[1] + part * (box[3] - box[1]))
        return x, y, self._pieces_at(x, y) + self._coast(x, y)[0] + self._finest(x, y)

    def far_from_tissue(self, x: FloatArray, y: FloatArray) -> bool:
        """True only if there is certainly no tissue within about 10 µm of any of the positions."""
        outline = self._pieces_at(x, y) + self._coast(x, y)[0] + self._finest(x, y)
        return bool(np.max(outline) < self._tissue_at - _BERTH)

    def at(self, x: FloatArray, y: FloatArray) -> Ground:
        """The ground at any places `x`, `y` (µm; equal shapes), to place objects. Rendering and truth use `over`."""
        return self._ground(x, y, self._slow(x, y))

    def over(self, first: tuple[int, int], shape: tuple[int, int], step_um: float) -> Ground:
        """The ground on lattice points (first row + i, first column + j) · step_um, for i, j < shape (h, w)."""
        row, column = first
        y, x = (np.arange(k, k + n) * step_um for k, n in zip(first, shape))
        coarse_y, coarse_x = (
            np.arange(k // _COARSE, -(-(k + n) // _COARSE) + 1) * (_COARSE * step_um) for k, n in zip(first, shape)
        )
        nodes = self._slow(*np.meshgrid(coarse_x, coarse_y))
        slow = interpolated(nodes, _COARSE, (row % _COARSE, column % _COARSE), shape)
        grid_x, grid_y = np.meshgrid(x, y)
        return self._ground(grid_x, grid_y, slow)

    def _slow(self, x: FloatArray, y: FloatArray) -> npt.NDArray[np.float32]:
        """All fields that change little over 16 µm: regions, septa, thickness, crowding, dye, outline."""
        scale, slow = self.recipe.region_um, self._keys[_SLOW]
        ridge = gradient_noise((self._keys[_SEPTA],), x, y, 0.6 * scale, 1.1)
        drift = gradient_noise(tuple(key_of(slow, n) for n in range(3)), x, y, 210.0, 0.2)
        return np.concatenate([self._regions(x, y), ridge, drift, self._coast(x, y)])

    def _coast(self, x: FloatArray, y: FloatArray) -> npt.NDArray[np.float32]:
        """(1, ...): deviation of the outline from its ellipses."""
        key = self._keys[_TISSUE]
        bays = 0.16 * gradient_noise((key_of(key, 0),), x, y, self._outline_um, 0.3)
        return bays + 0.035 * gradient_noise((key_of(key, 1),), x, y, 75.0, 0.9)

    def _ground(self, x: FloatArray, y: FloatArray, slow: npt.NDArray[np.float32]) -> Ground:
        recipe = self.recipe
        n = len(OTHER_TISSUES)
        regions, (maturity, ridge, thickness, crowding, dye, outline) = slow[:n], slow[n:]
        edge = _EDGE_UM * 1.8 / recipe.region_um
        left = np.ones(x.shape, np.float32)
        others = np.empty((n, *x.shape), np.float32)
        for k, threshold in enumerate(self._others_at):
            others[k] = left * smoothstep(regions[k] - threshold, -edge, edge)
            left = left - others[k]
        width = _SEPTUM_UM * 1.9 / (0.6 * recipe.region_um)
        septa = left * (1 - smoothstep(np.abs(ridge), 0.55 * width, 1.3 * width))
        share = np.clip(recipe.pool_share * (1 + 0.35 * crowding), 0.04, 0.75)
        level = np.interp(1 - share, *_pool_levels()).astype(np.float32)
        outline = self._pieces_at(x, y) + outline + self._finest(x, y)
        fold = _bands(recipe.folds, x, y, 4.0)
        return Ground(
            tissue=smoothstep(outline - self._tissue_at, -self._edge, self._edge),
            others=others,
            septa=septa,
            tumour=left - septa,
            pool=smoothstep(_pools(self._keys[_POOL], x, y, recipe.pool_um) - level, -0.22, 0.22),
            fibrillary=smoothstep(maturity - self._fibrillary_at, -1.5 * edge, 1.5 * edge),
            differentiating=smoothstep(maturity - self._differentiating_at, -1.5 * edge, 1.5 * edge),
            thickness=np.clip(1 + 0.10 * thickness, 0.7, 1.35) * (1 + 0.9 * fold),
            crowding=crowding,
            dye=dye,
            pen=_bands(recipe.pen, x, y, 12.0),
            fold=fold,
            blur=self._blur(x, y),
        )

    def _pieces_at(self, x: FloatArray, y: FloatArray) -> npt.NDArray[np.float32]:
        best = np.full(x.shape, -1e9)
        for cx, cy, rx, ry, turn in self._pieces:
            c, s = float(np.cos(turn)), float(np.sin(turn))
            u, v = ((x - cx) * c + (y - cy) * s) / rx, ((y - cy) * c - (x - cx) * s) / ry
            best = np.maximum(best, 1 - np.sqrt(u * u + v * v))
        return best.astype(np.float32)

    def _finest(self, x: FloatArray, y: FloatArray) -> npt.NDArray[np.float32]:
        noise: npt.NDArray[np.float32] = gradient_noise((key_of(self._keys[_TISSUE], 2),), x, y, 17.0, 0.1)[0]
        return 0.006 * noise

    def _regions(self, x: FloatArray, y: FloatArray) -> npt.NDArray[np.float32]:
        """(6, ...): one per other tissue, then maturity."""
        key, scale = self._keys[_REGION], self.recipe.region_um
        layers = range(len(OTHER_TISSUES) + 1)
        coarse = gradient_noise(tuple(key_of(key, n, 0) for n in layers), x, y, scale, 0.6)
        return coarse + 0.28 * gradient_noise(tuple(key_of(key, n, 1) for n in layers), x, y, 0.31 * scale, 0.15)

    def _blur(self, x: FloatArray, y: FloatArray) -> FloatArray:
        worst = np.zeros(x.shape, np.float32)
        for disc in self.recipe.blurs:
            if _touches(x, y, disc.x, disc.y, disc.radius):
                distance = np.sqrt((x - disc.x) ** 2 + (y - disc.y) ** 2).astype(np.float32)
                worst = np.maximum(worst, 1 - smoothstep(distance, 0.7 * disc.radius, disc.radius))
        return worst


def _pools(key: int, x: FloatArray, y: FloatArray, scale_um: float) -> npt.NDArray[np.float32]:
    coarse: npt.NDArray[np.float32] = gradient_noise((key_of(key, 0),), x, y, scale_um, 0.45)[0]
    fine: npt.NDArray[np.float32] = gradient_noise((key_of(key, 1),), x, y, 0.42 * scale_um, 1.2)[0]
    return coarse + 0.4 * fine


@lru_cache(maxsize=1)
def _pool_levels() -> tuple[FloatArray, FloatArray]:
    """Quantiles of `_pools`, which do not depend on key and scale: (41,) levels and values."""
    levels = np.linspace(0, 1, 41)
    axis = np.arange(300) * 0.37
    x, y = np.meshgrid(axis, axis)
    return levels, np.quantile(_pools(1, x, y, 1.0), levels)


def _touches(x: FloatArray, y: FloatArray, cx: float, cy: float, radius: float) -> bool:
    """Whether a disc can reach any of the positions."""
    if not x.size:
        return False
    return bool(x.min() < cx + radius and x.max() > cx - radius and y.min() < cy + radius and y.max() > cy - radius)


def _bands(bands: tuple[Band, ...], x: FloatArray, y: FloatArray, soft_um: float) -> FloatArray:
    cover = np.zeros(x.shape, np.float32)
    for band in bands:
        if not _touches(x, y, band.x, band.y, band.half_length + 2 * band.half_width + 2 * band.wave):
            continue
        c, s = float(np.cos(band.angle)), float(np.sin(band.angle))
        along = (x - band.x) * c + (y - band.y) * s
        across = (y - band.y) * c - (x - band.x) * s + band.wave * _ripple(along / band.period)
        ends = smoothstep(np.abs(along), 0.9 * band.half_length, band.half_length)
        width = band.half_width * (1 - 0.8 * ends)
        inside = (1 - smoothstep(np.abs(across) - width, -soft_um, soft_um)) * (np.abs(along) < band.half_length)
        cover = np.maximum(cover, inside.astype(np.float32))
    return cover


def _ripple(t: FloatArray) -> FloatArray:
    """A smooth wave of period 1 from products and sums alone."""
    t = t - np.floor(t)
    return np.where(t < 0.5, 1.0, -1.0) * (4 * (t % 0.5) * (1 - 2 * (t % 0.5))) * 2


def _quantile(values: FloatArray, q: float) -> float:
    return float(np.quantile(values, np.clip(q, 0, 1))) if values.size else 0.0
