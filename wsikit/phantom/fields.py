"""The lie of the land: which tissue is where on a synthetic slide, as smooth functions of place in µm.

`Fields.at` is all there is: rendering, cell placement and truth ask the same functions at their own places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsikit.phantom.noise import FloatArray, gradient_noise, key_of, smoothstep
from wsikit.phantom.recipe import OTHER_TISSUES, Band, Recipe

_TISSUE, _REGION, _POOL, _SEPTA, _SLOW = range(1, 6)
_SAMPLES = 150
_EDGE_UM = 7.0
"""Half-width of the transition between neighbouring tissues."""
_BERTH = 0.08
"""More than the outline function changes over 10 µm."""
_SEPTUM_UM = 5.0
"""Half-width of a fibrovascular septum."""


@dataclass(frozen=True)
class Ground:
    """What lies at some places; every array has the shape of the places asked for."""

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
    pen: FloatArray
    fold: FloatArray
    blur: FloatArray

    @property
    def kind(self) -> np.ndarray:
        """Index into `KINDS` of the tissue that prevails: the truth of a place."""
        parts = np.concatenate([self.others, self.septa[None], self.tumour[None]])
        index = np.argmax(parts, axis=0)
        matrix = (index == _TUMOUR) & (self.pool > 0.5)
        index = np.where(matrix, np.where(self.fibrillary > 0.5, NEUROPIL, MATRIX), index)
        return np.where(self.tissue > 0.5, index, GLASS)


KINDS = (*OTHER_TISSUES, "septa", "tumour_cells", "neuropil", "matrix", "glass")
"""Tissues of the truth. `matrix` is tumour stroma without fibrils (oedema), which is not neuropil."""
_TUMOUR, NEUROPIL, MATRIX, GLASS = (KINDS.index(kind) for kind in ("tumour_cells", "neuropil", "matrix", "glass"))


class Fields:
    """The tissues of one slide. Thresholds are set once so that the recipe's shares come out."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        seed = recipe.seed
        self._keys = {layer: key_of(seed, layer) for layer in (_TISSUE, _REGION, _POOL, _SEPTA, _SLOW)}
        rng = np.random.default_rng([seed, 31_337])
        n_pieces = int(rng.integers(1, 4))
        short = min(recipe.size_um)
        self._pieces = tuple(
            (
                float(rng.uniform(0.3, 0.7) * recipe.size_um[0]),
                float(rng.uniform(0.3, 0.7) * recipe.size_um[1]),
                float(rng.uniform(0.28, 0.5) * recipe.size_um[0]),
                float(rng.uniform(0.28, 0.5) * recipe.size_um[1]),
                float(rng.uniform(0, np.pi)),
            )
            for _ in range(n_pieces)
        )
        self._outline_um = float(np.clip(0.25 * short, 60.0, 4000.0))
        self._edge = 3.0 * (2.5 / short + 0.0028)
        self._calibrate()

    def _calibrate(self) -> None:
        width, height = self.recipe.size_um
        x, y = np.meshgrid(
            (np.arange(_SAMPLES) + 0.5) * (width / _SAMPLES), (np.arange(_SAMPLES) + 0.5) * (height / _SAMPLES)
        )
        outline = self._outline(x, y).ravel()
        fraction = self.recipe.tissue_fraction
        self._tissue_at = float(np.quantile(outline, 1 - fraction)) if 0 < fraction < 1 else (0.5 - fraction) * 1e6
        inside = outline > self._tissue_at
        regions = self._regions(x, y).reshape(len(OTHER_TISSUES) + 1, -1)[:, inside]
        self._others_at, free = [], np.ones(regions.shape[1], bool)
        for field, share in zip(regions, self.recipe.shares, strict=False):
            wanted = min(0.95, share * len(free) / max(1, free.sum()))
            self._others_at.append(_quantile(field[free], 1 - wanted))
            free &= field <= self._others_at[-1]
        maturity = regions[-1][free]
        self._fibrillary_at = _quantile(maturity, self.recipe.ud_share) if self.recipe.ud_share < 1 else 1e6
        self._differentiating_at = _quantile(maturity, 1 - self.recipe.d_share) if self.recipe.d_share > 0 else 1e6
        ramp = np.arange(200) * (self.recipe.pool_um * 0.37)
        pools = np.sort(self._pools(*np.meshgrid(ramp, ramp)).ravel())
        self._pool_levels = np.linspace(0, 1, 41)
        self._pool_values = np.quantile(pools, self._pool_levels)

    def tissue(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """1 on tissue, 0 on glass; the cheap part of `at`."""
        return smoothstep(self._outline(x, y) - self._tissue_at, -self._edge, self._edge)

    def far_from_tissue(self, x: FloatArray, y: FloatArray) -> bool:
        """Whether there is no tissue at, nor within some 10 µm of, any of the places; in doubt no."""
        return bool(np.max(self._outline(x, y)) < self._tissue_at - _BERTH)

    def at(self, x: FloatArray, y: FloatArray) -> Ground:
        """The ground at places `x`, `y` (µm; any one shape)."""
        recipe = self.recipe
        edge = _EDGE_UM * 1.8 / recipe.region_um
        regions = self._regions(x, y)
        slow, thickness = gradient_noise((key_of(self._keys[_SLOW], 0), key_of(self._keys[_SLOW], 1)), x, y, 210.0, 0.2)
        left = np.ones_like(x)
        others = np.empty((len(OTHER_TISSUES), *x.shape))
        for n, threshold in enumerate(self._others_at):
            others[n] = left * smoothstep(regions[n] - threshold, -edge, edge)
            left = left - others[n]
        ridge = gradient_noise((self._keys[_SEPTA],), x, y, 0.6 * recipe.region_um, 1.1)[0]
        width = _SEPTUM_UM * 1.9 / (0.6 * recipe.region_um)
        septa = left * (1 - smoothstep(np.abs(ridge), 0.55 * width, 1.3 * width))
        share = np.clip(recipe.pool_share * (1 + 0.35 * slow), 0.04, 0.75)
        level = np.interp(1 - share, self._pool_levels, self._pool_values)
        pool = smoothstep(self._pools(x, y) - level, -0.22, 0.22)
        band = edge * 1.5
        fold = _bands(recipe.folds, x, y, 4.0)
        return Ground(
            tissue=self.tissue(x, y),
            others=others,
            septa=septa,
            tumour=left - septa,
            pool=pool,
            fibrillary=smoothstep(regions[-1] - self._fibrillary_at, -band, band),
            differentiating=smoothstep(regions[-1] - self._differentiating_at, -band, band),
            thickness=np.clip(1 + 0.10 * thickness, 0.7, 1.35) * (1 + 0.9 * fold),
            crowding=slow,
            pen=_bands(recipe.pen, x, y, 12.0),
            fold=fold,
            blur=self._blur(x, y),
        )

    def _outline(self, x: FloatArray, y: FloatArray) -> FloatArray:
        best = np.full(x.shape, -1e9)
        for cx, cy, rx, ry, turn in self._pieces:
            c, s = float(np.cos(turn)), float(np.sin(turn))
            u, v = ((x - cx) * c + (y - cy) * s) / rx, ((y - cy) * c - (x - cx) * s) / ry
            best = np.maximum(best, 1 - np.sqrt(u * u + v * v))
        key = self._keys[_TISSUE]
        coarse = gradient_noise((key_of(key, 0),), x, y, self._outline_um, 0.3)[0]
        fine = gradient_noise((key_of(key, 1),), x, y, 75.0, 0.9)[0]
        finest = gradient_noise((key_of(key, 2),), x, y, 17.0, 0.1)[0]
        return best + 0.16 * coarse + 0.035 * fine + 0.006 * finest

    def _regions(self, x: FloatArray, y: FloatArray) -> FloatArray:
        key, scale = self._keys[_REGION], self.recipe.region_um
        layers = range(len(OTHER_TISSUES) + 1)
        coarse = gradient_noise(tuple(key_of(key, n, 0) for n in layers), x, y, scale, 0.6)
        fine = gradient_noise(tuple(key_of(key, n, 1) for n in layers), x, y, 0.31 * scale, 0.15)
        return coarse + 0.28 * fine

    def _pools(self, x: FloatArray, y: FloatArray) -> FloatArray:
        key, scale = self._keys[_POOL], self.recipe.pool_um
        coarse = gradient_noise((key_of(key, 0),), x, y, scale, 0.45)[0]
        fine = gradient_noise((key_of(key, 1),), x, y, 0.42 * scale, 1.2)[0]
        return coarse + 0.4 * fine

    def _blur(self, x: FloatArray, y: FloatArray) -> FloatArray:
        worst = np.zeros(x.shape)
        for disc in self.recipe.blurs:
            distance = np.sqrt((x - disc.x) ** 2 + (y - disc.y) ** 2)
            worst = np.maximum(worst, 1 - smoothstep(distance, 0.7 * disc.radius, disc.radius))
        return worst


def _bands(bands: tuple[Band, ...], x: FloatArray, y: FloatArray, soft_um: float) -> FloatArray:
    cover = np.zeros(x.shape)
    for band in bands:
        c, s = float(np.cos(band.angle)), float(np.sin(band.angle))
        along = (x - band.x) * c + (y - band.y) * s
        across = (y - band.y) * c - (x - band.x) * s + band.wave * _triangle(along / band.period)
        ends = smoothstep(np.abs(along), 0.9 * band.half_length, band.half_length)
        width = band.half_width * (1 - 0.8 * ends)
        inside = (1 - smoothstep(np.abs(across) - width, -soft_um, soft_um)) * (np.abs(along) < band.half_length)
        cover = np.maximum(cover, inside)
    return cover


def _triangle(t: FloatArray) -> FloatArray:
    """A smooth wave of period 1 from products and sums alone."""
    t = t - np.floor(t)
    return np.where(t < 0.5, 1.0, -1.0) * (4 * (t % 0.5) * (1 - 2 * (t % 0.5))) * 2


def _quantile(values: FloatArray, q: float) -> float:
    return float(np.quantile(values, np.clip(q, 0, 1))) if values.size else 0.0
