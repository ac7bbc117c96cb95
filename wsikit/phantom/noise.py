"""Random fields and points as functions of the position: the same values in every requested box.

Positions are in µm from the slide's top-left corner. Everything is hashed from (key, lattice index); no state is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in µm, half-open."""

_MASK = (1 << 64) - 1
_DIRECTIONS = 256
_ANGLES = np.arange(_DIRECTIONS) * (2 * np.pi / _DIRECTIONS)
# A table rather than cos of a hash: the value of a node must not depend on how many nodes are computed at once.
_COS, _SIN = np.cos(_ANGLES).astype(np.float32), np.sin(_ANGLES).astype(np.float32)

_PERLIN_SCALE = 3.6
"""Factor that gives gradient noise a standard deviation of about 1."""


def key_of(seed: int, *parts: int) -> int:
    """A 64-bit key from a seed and layer numbers."""
    key = _mix(seed & _MASK)
    for part in parts:
        key = _mix(key ^ ((part + 1) * 0x9E3779B97F4A7C15 & _MASK))
    return key


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def hash_bits(key: int, i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """64 random bits for each lattice index (i, j), arrays of one shape (splitmix64's finaliser)."""
    bits = i.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits ^= j.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F) + np.uint64(key)
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return bits


def uniform(key: int, i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]) -> FloatArray:
    """A uniform number in [0, 1) for each lattice index."""
    return (hash_bits(key, i, j) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def gradient_noise(
    keys: tuple[int, ...], x: FloatArray, y: FloatArray, scale_um: float, turn: float
) -> npt.NDArray[np.float32]:
    """Smooth noise, mean 0 and standard deviation about 1, one per key: float32 (len(keys), *x.shape).

    `scale_um` is the lattice constant, so blobs measure about that; `turn` (radians) rotates the lattice away
    from the pixel axes and from the lattices of other scales.
    """
    out = np.zeros((len(keys), *x.shape), np.float32)
    if x.size == 0:
        return out
    c, s = float(np.cos(turn)) / scale_um, float(np.sin(turn)) / scale_um
    u, v = x * c + y * s, y * c - x * s
    iu, iv = np.floor(u), np.floor(v)
    fu, fv = (u - iu).astype(np.float32), (v - iv).astype(np.float32)
    u0, v0 = int(iu.min()), int(iv.min())
    n_u, n_v = int(iu.max()) - u0 + 2, int(iv.max()) - v0 + 2
    node = ((iv - v0) * n_u + (iu - u0)).astype(np.intp)
    wu, wv = fu * fu * (3 - 2 * fu), fv * fv * (3 - 2 * fv)
    gu, gv = fu - 1, fv - 1
    corners = ((node, fu, fv), (node + 1, gu, fv), (node + n_u, fu, gv), (node + n_u + 1, gu, gv))
    node_j, node_i = np.divmod(np.arange(n_u * n_v, dtype=np.int64), n_u)
    node_i, node_j = node_i + u0, node_j + v0
    for n, key in enumerate(keys):
        direction = (hash_bits(key, node_i, node_j) >> np.uint64(56)).astype(np.intp)
        gx, gy = _COS[direction], _SIN[direction]
        a, b, d, e = (gx[at] * dx + gy[at] * dy for at, dx, dy in corners)
        top, bottom = a + (b - a) * wu, d + (e - d) * wu
        out[n] = (top + (bottom - top) * wv) * np.float32(_PERLIN_SCALE)
    return out


def interpolated(nodes: npt.NDArray[np.float32], step: int, first: tuple[int, int], shape: tuple[int, int],
                 middle: bool = False) -> npt.NDArray[np.float32]:  # fmt: skip
    """Bilinear refinement of a lattice, `step` values per node, cut to `shape` (h, w) from `first` (row, column).

    `nodes` is (..., rows, columns); with `middle` the values lie in the middle of their cell (pixels), else on
    its corner (a finer lattice). A constant stays exactly itself.
    """
    w = ((np.arange(step) + (0.5 if middle else 0.0)) / step).astype(np.float32)
    lead = nodes.shape[:-2]
    rows = nodes[..., :-1, None, :] + np.diff(nodes, axis=-2)[..., None, :] * w[:, None]
    rows = rows.reshape(*lead, -1, nodes.shape[-1])[..., first[0] : first[0] + shape[0], :]
    full = rows[..., :-1, None] + np.diff(rows, axis=-1)[..., None] * w
    return full.reshape(*lead, shape[0], -1)[..., first[1] : first[1] + shape[1]]


@dataclass(frozen=True)
class Sites:
    """Points of a jittered hexagonal lattice, row by row: an order that does not depend on the box."""

    x: FloatArray
    """(N,) µm."""
    y: FloatArray
    i: npt.NDArray[np.int64]
    """(N,) lattice column; together with `j` the key of the site's random numbers."""
    j: npt.NDArray[np.int64]
    key: int

    def __len__(self) -> int:
        return len(self.x)

    def uniform(self, number: int) -> FloatArray:
        """The site's own random number `number`, uniform in [0, 1), (N,)."""
        return uniform(key_of(self.key, number), self.i, self.j)

    def where(self, keep: npt.NDArray[np.bool_]) -> Sites:
        return Sites(self.x[keep], self.y[keep], self.i[keep], self.j[keep], self.key)


def jittered_sites(key: int, box: Box, spacing_um: float, jitter: float) -> Sites:
    """All sites within `box`. `jitter` is the largest displacement per axis as a fraction of the spacing."""
    x0, y0, x1, y1 = box
    row_um = spacing_um * 3**0.5 / 2
    j = np.arange(int(np.floor(y0 / row_um)) - 2, int(np.ceil(y1 / row_um)) + 2, dtype=np.int64)
    i = np.arange(int(np.floor(x0 / spacing_um)) - 2, int(np.ceil(x1 / spacing_um)) + 2, dtype=np.int64)
    jj, ii = (a.ravel() for a in np.meshgrid(j, i, indexing="ij"))
    reach = 2 * jitter * spacing_um
    x = (ii + 0.5 * (jj & 1)) * spacing_um + (uniform(key_of(key, 901), ii, jj) - 0.5) * reach
    y = jj * row_um + (uniform(key_of(key, 902), ii, jj) - 0.5) * reach
    inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return Sites(x[inside], y[inside], ii[inside], jj[inside], key)


def smoothstep(value: FloatArray, low: float, high: float) -> FloatArray:
    """0 below `low`, 1 above `high`, a smooth ramp between."""
    t: FloatArray = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)


def grow(box: Box, margin_um: float) -> Box:
    """The box with `margin_um` more on each side."""
    return box[0] - margin_um, box[1] - margin_um, box[2] + margin_um, box[3] + margin_um
