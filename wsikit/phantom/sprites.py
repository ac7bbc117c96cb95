"""Small pictures of cells in stain amounts, drawn once per µm/px and stamped many times.

A stamp is a pair (keep, add), each (3, s, s) float32 over (haematoxylin, eosin, red): amounts = amounts · keep + add.
Cells are drawn at three to six times the resolution and averaged down, so that edges are smooth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Stack = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating]
ANGLES = 12
COARSE_ANGLES = 8
"""Fewer for the large kinds, whose drawings are more expensive."""
SIZES = 7
SIZE_STEP = 1.065
"""Factor between neighbouring sizes; the middle size is the kind's own."""
FINEST_UM = 0.17
COARSE_UM = 0.3
_SPARE = 192
LEVELS = 4
"""Variants of the large cells, by their eosin."""


@dataclass(frozen=True)
class Bank:
    """Sprites of one kind: `keep` and `add` are (n_sizes, n_angles, n_variants, 3, s, s)."""

    keep: Stack
    add: Stack

    @property
    def half(self) -> int:
        return int(self.keep.shape[-1]) // 2

    def index(self, size: Floats, angle: Floats, variant: Floats) -> tuple[npt.NDArray[np.int64], ...]:
        """Indices from a size (in steps from the middle), an angle (radians) and a uniform number, (N,) each."""
        n_sizes, n_angles, n_variants = self.keep.shape[:3]
        return (
            np.clip(np.rint(size + n_sizes // 2), 0, n_sizes - 1).astype(np.int64),
            np.rint(angle / np.pi * n_angles).astype(np.int64) % n_angles,
            np.minimum((variant * n_variants).astype(np.int64), n_variants - 1),
        )


class Canvas:
    """A batch of n drawings, finely sampled; places in µm from the centre."""

    def __init__(self, n: int, reach_um: float, mpp: float, seed: int, finest_um: float = FINEST_UM) -> None:
        self.factor = int(np.ceil(mpp / finest_um))
        self.half = int(np.ceil(reach_um / mpp))
        side = (2 * self.half + 1) * self.factor
        self.um = mpp / self.factor
        axis = ((np.arange(side) + 0.5) * self.um - side * self.um / 2).astype(np.float32)
        self.x, self.y = axis[None, None, :], axis[None, :, None]
        self.n, self.side = n, side
        self.rng = np.random.default_rng([seed, 5])
        self.keep = np.ones((n, 3, side, side), np.float32)
        self.add = np.zeros((n, 3, side, side), np.float32)

    def draw(self, low: float, high: float) -> Stack:
        """(n, 1, 1) uniform numbers."""
        return self.rng.uniform(low, high, (self.n, 1, 1)).astype(np.float32)

    def noise(self, sigma_um: float) -> Stack:
        """(n, side, side) smooth noise of standard deviation 1: windows of one larger field."""
        white = self.rng.standard_normal((self.side + _SPARE, self.side + _SPARE)).astype(np.float32)
        smooth = ndimage.gaussian_filter(white, sigma_um / self.um, mode="wrap")
        smooth = np.asarray(smooth / smooth.std(), np.float32)
        corners = self.rng.integers(0, _SPARE, (self.n, 2))
        return np.stack([smooth[r : r + self.side, c : c + self.side] for r, c in corners])

    def blob(self, diameter: Stack, aspect: Stack, angle: Stack, *, rough: float, x: Stack | float = 0.0,
             y: Stack | float = 0.0, bend: Stack | float = 0.0) -> Stack:  # fmt: skip
        """Signed depth in µm below the outline of an uneven ellipse (positive inside)."""
        c, s = np.cos(angle), np.sin(angle)
        u = (self.x - x) * c + (self.y - y) * s
        v = (self.y - y) * c - (self.x - x) * s
        v = v - bend * u * u
        a, b = diameter / 2 / np.sqrt(aspect), diameter / 2 * np.sqrt(aspect)
        r = np.sqrt((u / a) ** 2 + (v / b) ** 2) + 1e-6
        # cos and sin of multiples of the polar angle by recurrence: many times faster than calling them
        c1, s1 = u / (a * r), v / (b * r)
        ck, sk = c1, s1
        edge = np.ones_like(r)
        for k in (2, 3, 4, 5):
            ck, sk = ck * c1 - sk * s1, sk * c1 + ck * s1
            size, phase = rough / k * self.draw(-1, 1), self.draw(0, 6.28)
            edge += size * np.cos(phase) * ck - size * np.sin(phase) * sk
        return np.asarray((edge - r) * np.minimum(a, b), np.float32)

    def paint(self, cover: Stack, haematoxylin: Stack | float, eosin: Stack | float, red: Stack | float = 0.0) -> None:
        """Lay an opaque film of the given stain amounts over `cover` (n, side, side), 0-1."""
        left = 1 - cover
        for channel, amount in enumerate((haematoxylin, eosin, red)):
            self.add[:, channel] = self.add[:, channel] * left + cover * amount
            self.keep[:, channel] *= left

    def reduced(self, shape: tuple[int, int, int]) -> Bank:
        """Average down to pixels; the n drawings in the order sizes, angles, variants."""
        f, px = self.factor, 2 * self.half + 1

        def average(a: Stack) -> Stack:
            small = a.reshape(self.n, 3, px, f, px, f).mean((3, 5))
            return np.ascontiguousarray(small.reshape(*shape, 3, px, px))

        return Bank(average(self.keep), average(self.add))


def _soft(depth: Stack, width_um: float) -> Stack:
    edge: Stack = np.clip(depth / width_um + 0.5, 0, 1)
    return edge


def _layout(variants: int, sizes: int = SIZES, angles: int = ANGLES) -> tuple[int, Stack, Stack, tuple[int, int, int]]:
    """n, size factors (n, 1, 1), angles (n, 1, 1) and the bank's shape."""
    shape = (sizes, angles, variants)
    size, angle, _ = np.meshgrid(np.arange(sizes) - sizes // 2, np.arange(angles), np.arange(variants), indexing="ij")
    factor = (SIZE_STEP ** size.ravel()).astype(np.float32)[:, None, None]
    return size.size, factor, (angle.ravel() * np.pi / angles).astype(np.float32)[:, None, None], shape


def _nucleus(c: Canvas, depth: Stack, *, body: Stack | float, grain: float, grain_um: float, rim: float) -> None:
    """Paint a nucleus: chromatin of haematoxylin in clumps, a darker membrane."""
    chromatin = body * (1 + grain * c.noise(grain_um)) + rim * np.exp(-((depth - 0.35) ** 2) / (2 * 0.32**2))
    c.paint(_soft(depth, 0.55), np.clip(chromatin, 0.12, 3.2), 0.12 + 0.05 * chromatin)


def _blast(mpp: float, variant: int) -> Bank:
    """Small round nucleus, salt-and-pepper chromatin, a thin rim of cytoplasm. `variant`: 0 pale … 2 dark."""
    n, factor, angle, shape = _layout(5)
    c = Canvas(n, 7.6, mpp, 10 + variant)
    depth = c.blob(7.4 * factor, c.draw(0.72, 1.0), angle, rough=0.10)
    c.paint(0.55 * _soft(depth + c.draw(0.3, 1.3), 0.8), 0.16, 0.34)
    body = (0.80, 1.05, 1.32)[variant] * c.draw(0.82, 1.18)
    _nucleus(c, depth, body=body, grain=(0.24, 0.28, 0.26)[variant], grain_um=0.42, rim=(0.42, 0.38, 0.3)[variant])
    return c.reduced(shape)


def _differentiating(mpp: float, ganglion: bool) -> Bank:
    """Eccentric vesicular nucleus with a nucleolus; eosinophilic cytoplasm more than twice as wide, one neurite."""
    n, factor, angle, shape = _layout(LEVELS, sizes=1 if ganglion else 3, angles=COARSE_ANGLES)
    c = Canvas(n, 24.0 if ganglion else 18.0, mpp, 20 + ganglion, COARSE_UM)
    turn = angle + np.pi * (c.draw(0, 1) > 0.5)
    cell = (29.0 if ganglion else 21.5) * factor
    nucleus = (12.6 if ganglion else 9.6) * factor
    ux, uy = np.cos(turn), np.sin(turn)
    depth = c.blob(cell, c.draw(0.68, 0.92), turn, rough=0.13)
    u, v = c.x * ux + c.y * uy, c.y * ux - c.x * uy
    tail = 0.115 * cell * np.clip(1.25 - u / (0.8 * cell), 0, 1) - np.abs(v + 0.8 * np.sin(u / 5 + c.draw(0, 6.28)))
    depth = np.maximum(depth, np.where((u > 0.2 * cell) & (u < 0.78 * cell), tail, -9))
    eosin = _cytoplasm(n) * (1 + 0.10 * c.noise(0.7)) + 0.06 * np.exp(-((depth - 0.3) ** 2))
    nissl = (0.20 if ganglion else 0.09) * np.clip(1 + 0.8 * c.noise(0.8), 0, 3)
    c.paint(0.94 * _soft(depth, 0.9), nissl, eosin)
    shift = -(0.24 if ganglion else 0.21) * cell
    nx, ny = shift * ux, shift * uy
    inner = c.blob(nucleus, c.draw(0.82, 1.0), turn, rough=0.05, x=nx, y=ny)
    _nucleus(c, inner, body=c.draw(0.34, 0.52), grain=0.30, grain_um=0.55, rim=0.75)
    off = 0.12 * nucleus
    dot = c.blob((2.9 if ganglion else 2.3) * factor, c.draw(0.8, 1.0), turn, rough=0.05,
                 x=nx + off * c.draw(-1, 1), y=ny + off * c.draw(-1, 1))  # fmt: skip
    c.paint(_soft(dot, 0.5), 1.75, 0.55)
    return c.reduced(shape)


def _histiocyte(mpp: float) -> Bank:
    """As large and as pink as a differentiating neuroblast, but with an even, bean-like nucleus and no nucleolus."""
    n, factor, angle, shape = _layout(LEVELS, sizes=3, angles=COARSE_ANGLES)
    c = Canvas(n, 16.0, mpp, 25, COARSE_UM)
    cell = 20.0 * factor
    depth = c.blob(cell, c.draw(0.68, 0.95), angle, rough=0.16)
    eosin = _cytoplasm(n) * (1 + 0.12 * c.noise(1.1)) + 0.05 * np.exp(-((depth - 0.3) ** 2))
    c.paint(0.92 * _soft(depth, 1.0), 0.09 * np.clip(1 + 0.9 * c.noise(0.9), 0, 3), eosin)
    shift = c.draw(-0.24, 0.24) * cell
    inner = c.blob(8.6 * factor, c.draw(0.6, 0.85), angle, rough=0.10, x=shift * np.cos(angle),
                   y=shift * np.sin(angle), bend=c.draw(-0.05, 0.05))  # fmt: skip
    _nucleus(c, inner, body=c.draw(0.36, 0.62), grain=0.18, grain_um=0.8, rim=0.22)
    return c.reduced(shape)


def _cytoplasm(n: int) -> Stack:
    """Eosin of the large cells, (n, 1, 1): pale to strong with the variant, so that a slide can choose its level."""
    return np.resize(np.linspace(0.46, 0.84, LEVELS), n).astype(np.float32)[:, None, None]


def _lymphocyte(mpp: float) -> Bank:
    n, factor, angle, shape = _layout(4, sizes=3)
    c = Canvas(n, 5.0, mpp, 30)
    depth = c.blob(5.6 * factor, c.draw(0.85, 1.0), angle, rough=0.06)
    _nucleus(c, depth, body=c.draw(1.35, 1.75), grain=0.2, grain_um=0.7, rim=0.1)
    return c.reduced(shape)


def _spindle(mpp: float, endothelial: bool) -> Bank:
    """Wavy, tapered nucleus along `angle`."""
    n, factor, angle, shape = _layout(5, sizes=3)
    c = Canvas(n, 11.0, mpp, 40 + endothelial)
    depth = c.blob(
        (6.0 if endothelial else 7.4) * factor, c.draw(0.2, 0.34), angle, rough=0.07, bend=c.draw(-0.035, 0.035)
    )
    _nucleus(c, depth, body=c.draw(0.85, 1.25), grain=0.2, grain_um=0.45, rim=0.25)
    return c.reduced(shape)


def _mitosis(mpp: float) -> Bank:
    """A plate of chromosomes with hairy edges in a cleared cell."""
    n, factor, angle, shape = _layout(3, sizes=3)
    c = Canvas(n, 8.0, mpp, 50)
    c.paint(0.8 * _soft(c.blob(10.5 * factor, c.draw(0.85, 1.0), angle, rough=0.06), 0.8), 0.10, 0.30)
    plate = c.blob(5.6 * factor, c.draw(0.3, 0.55), angle, rough=0.2) + 0.22 * c.noise(0.3)
    c.paint(_soft(plate, 0.7), 1.9, 0.25)
    return c.reduced(shape)


def _karyorrhexis(mpp: float) -> Bank:
    """Dark fragments in a shrunken, dense pink cell."""
    n, factor, angle, shape = _layout(4, sizes=3)
    c = Canvas(n, 7.0, mpp, 51)
    c.paint(0.85 * _soft(c.blob(7.6 * factor, c.draw(0.8, 1.0), angle, rough=0.12), 0.7), 0.12, 0.85)
    for _ in range(5):
        a, r = c.draw(0, 6.28), c.draw(0.2, 2.6)
        grain = c.blob(c.draw(0.9, 2.5), c.draw(0.7, 1), angle, rough=0.1, x=r * np.cos(a), y=r * np.sin(a))
        c.paint(_soft(grain, 0.5), 2.2, 0.3)
    return c.reduced(shape)


def _ghost(mpp: float) -> Bank:
    """Outline of a dead cell: hardly any haematoxylin left."""
    n, factor, angle, shape = _layout(3, sizes=3)
    c = Canvas(n, 6.5, mpp, 60)
    depth = c.blob(7.6 * factor, c.draw(0.7, 1.0), angle, rough=0.14)
    c.paint(0.7 * _soft(depth, 1.6), c.draw(0.08, 0.34), 0.55)
    return c.reduced(shape)


def _debris(mpp: float) -> Bank:
    """Nuclear dust and pyknotic nuclei."""
    n, factor, angle, shape = _layout(5, sizes=3)
    c = Canvas(n, 6.0, mpp, 61)
    for k in range(4):
        a, r = c.draw(0, 6.28), c.draw(0.0, 4.0)
        size = c.draw(0.7, 1.6) if k else c.draw(1.2, 3.8)
        grain = c.blob(size, c.draw(0.6, 1), angle, rough=0.15, x=r * np.cos(a), y=r * np.sin(a))
        c.paint(0.9 * _soft(grain, 0.6), 1.8, 0.3)
    return c.reduced(shape)


def _rosette(mpp: float, fibrillary: bool) -> Bank:
    """The round centre of a ring of nuclei, without lumen.

    Fibrillary, it is a Homer Wright rosette: neurites run from the ring inwards. If not, it is a drop of the same
    colour without structure: the two differ only in form.
    """
    n, factor, angle, shape = _layout(2 * LEVELS, sizes=5, angles=1)
    c = Canvas(n, 17.0, mpp, 70, COARSE_UM)
    radius = 11.0 * factor
    r = np.sqrt(c.x**2 + c.y**2)
    theta = np.arctan2(c.y, c.x) + 0.35 * c.noise(3.0)
    if fibrillary:
        form = np.zeros((n, c.side, c.side), np.float32)
        for k, weight in ((19, 0.8), (31, 0.8), (47, 0.5)):
            form += weight * np.cos(k * theta + c.draw(0, 6.28) + 0.9 * c.noise(1.6))
        mix = np.clip(r / (0.55 * radius), 0, 1)
        form = mix * form + (1.2 - mix) * c.noise(0.6)
    else:
        form = 0.9 * (c.noise(0.5) - c.noise(1.2)) + 0.4 * c.noise(2.0)
    # variants by level of eosin, pale to strong, two drawings each
    level = np.resize(np.repeat(np.linspace(0.34, 0.64, LEVELS), 2), n).astype(np.float32)[:, None, None]
    inside = np.broadcast_to(r < radius, form.shape)
    eosin = level * (1 + 0.26 * (form - form[inside].mean()) / form[inside].std())
    c.paint(np.clip((radius * 1.12 - r) / 3.0, 0, 1), 0.05, np.clip(eosin, 0.1, None))
    return c.reduced(shape)


def _vessel(mpp: float) -> Bank:
    """A capillary or venule: pink wall with flat nuclei, lumen empty, with plasma or with red cells."""
    n, factor, angle, shape = _layout(3, sizes=2, angles=COARSE_ANGLES)
    c = Canvas(n, 26.0, mpp, 80, COARSE_UM)
    aspect = c.draw(0.42, 0.95)
    depth = c.blob(22.0 * factor, aspect, angle, rough=0.14)
    wall = c.draw(1.4, 4.0)
    c.paint(_soft(depth + wall, 1.2), 0.08, c.draw(0.45, 0.75) * (1 + 0.14 * c.noise(0.8)))
    lumen = _soft(depth, 0.8)
    c.paint(lumen, 0.0, np.where(c.draw(0, 1) < 0.4, 0.25, 0.03))
    a, b = 11.0 * factor / np.sqrt(aspect), 11.0 * factor * np.sqrt(aspect)
    full = c.draw(0, 1)
    for _ in range(10):
        t, r = c.draw(0, 6.28), np.sqrt(c.draw(0, 0.8))
        u, v = r * a * np.cos(t), r * b * np.sin(t)
        x, y = u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)
        cell = c.blob(6.0 * factor, c.draw(0.6, 1), angle, rough=0.08, x=x, y=y)
        c.paint(lumen * _soft(cell, 0.7) * (c.draw(0, 1) < full), 0.0, 0.1, c.draw(0.6, 0.85))
    for _ in range(3):
        t = c.draw(0, 6.28)
        u, v = a * np.cos(t), b * np.sin(t)
        x, y = u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)
        along = angle + np.arctan2(b * np.cos(t), -a * np.sin(t))
        nucleus = c.blob(5.2 * factor, c.draw(0.25, 0.4), along, rough=0.06, x=x, y=y)
        c.paint(_soft(nucleus, 0.6), c.draw(0.9, 1.3), 0.15)
    return c.reduced(shape)


def _calcification(mpp: float) -> Bank:
    """A dark violet, cracked grain."""
    n, factor, angle, shape = _layout(2, sizes=3, angles=COARSE_ANGLES)
    c = Canvas(n, 14.0, mpp, 90)
    depth = c.blob(15.0 * factor, c.draw(0.6, 1.0), angle, rough=0.25)
    rings = 1 + 0.25 * np.cos(depth * 2.4)
    c.paint(_soft(depth, 0.6), np.clip(1.7 * rings + 0.5 * c.noise(0.6), 0.3, 3), 0.45)
    return c.reduced(shape)


_MAKERS = {
    "blast_pale": lambda mpp: _blast(mpp, 0),
    "blast": lambda mpp: _blast(mpp, 1),
    "blast_dark": lambda mpp: _blast(mpp, 2),
    "differentiating": lambda mpp: _differentiating(mpp, False),
    "ganglion": lambda mpp: _differentiating(mpp, True),
    "histiocyte": _histiocyte,
    "lymphocyte": _lymphocyte,
    "spindle": lambda mpp: _spindle(mpp, False),
    "endothelial": lambda mpp: _spindle(mpp, True),
    "mitosis": _mitosis,
    "karyorrhexis": _karyorrhexis,
    "ghost": _ghost,
    "debris": _debris,
    "rosette": lambda mpp: _rosette(mpp, True),
    "pseudorosette": lambda mpp: _rosette(mpp, False),
    "vessel": _vessel,
    "calcification": _calcification,
}


KINDS = tuple(_MAKERS)
"""All kinds of object that `bank` draws."""


@lru_cache(maxsize=64)
def bank(kind: str, mpp: float) -> Bank:
    """The sprites of `kind`, one of `KINDS`, at `mpp` µm per pixel, drawn at first use."""
    return _MAKERS[kind](mpp)
