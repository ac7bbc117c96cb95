"""Periodic textures, pre-computed once per µm/px: fibrils, grains, wavy fibres, red cells.

All but the red cells have exactly the same distribution of values (standard normal), so neuropil and
structureless matrix differ in form and not in colour.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft as sfft
from scipy import ndimage, special

SIDE = 1024
"""Period, px."""
_ORIENTATIONS = 12

Texture = npt.NDArray[np.float32]


@lru_cache(maxsize=4)
def textures(mpp: float) -> dict[str, Texture]:
    """Textures (SIDE, SIDE) float32 for `mpp` µm per pixel: fibrils, grains, fibres, clumps, red_cells."""
    rng = np.random.default_rng(7_041)
    px = 1.0 / mpp
    thin = max(0.42 * px, 0.55)
    fibrils = _gaussianised(
        _oriented(rng, long_px=7.0 * px, short_px=thin, bend_px=60 * px, turns=1.6) + 0.45 * _wave(rng, 3.0 * px)
    )
    return {
        "fibrils": fibrils,
        "grains": _formless(rng, fibrils),
        "fibres": _gaussianised(
            _oriented(rng, long_px=16.0 * px, short_px=max(0.75 * px, 0.6), bend_px=80 * px, turns=0.9)
            + 0.5 * _wave(rng, 4.0 * px)
            + 0.25 * _wave(rng, 0.6 * px)
        ),
        "clumps": _isotropic(rng, (1.2 * px, 0.6), (5 * px, 0.8)),
        "red_cells": _red_cells(rng, mpp),
    }


@lru_cache(maxsize=4)
def fibre_angle(mpp: float) -> Texture:
    """Direction of `textures(mpp)["fibres"]`, radians, (SIDE, SIDE): spindle nuclei lie along it."""
    return _angles(80 / mpp, 0.9)


def _wave(rng: np.random.Generator, sigma_px: float) -> Texture:
    field = _filtered(rng, lambda fy, fx: np.exp(-2 * (np.pi * sigma_px) ** 2 * (fx**2 + fy**2)))
    standardised: Texture = (field / field.std()).astype(np.float32)
    return standardised


def _filtered(rng: np.random.Generator, response: Callable[[Texture, Texture], Texture]) -> Texture:
    fy = sfft.fftfreq(SIDE).astype(np.float32)[:, None]
    fx = sfft.rfftfreq(SIDE).astype(np.float32)[None, :]
    spectrum = sfft.rfft2(rng.standard_normal((SIDE, SIDE)).astype(np.float32))
    filtered: Texture = sfft.irfft2(spectrum * response(fy, fx), s=(SIDE, SIDE))
    return filtered


def _angles(bend_px: float, turns: float) -> Texture:
    # its own generator, so that `fibre_angle` does not need the textures
    rng = np.random.default_rng([99, int(round(bend_px * 16))])
    return (_wave(rng, min(bend_px, SIDE / 4) / 2.5) * turns + 0.5 * _wave(rng, bend_px / 9) * turns).astype(np.float32)


def _oriented(rng: np.random.Generator, *, long_px: float, short_px: float, bend_px: float, turns: float) -> Texture:
    """Noise smeared along a winding direction field."""
    angle = _angles(bend_px, turns) / (np.pi / _ORIENTATIONS)
    out = np.zeros((SIDE, SIDE), np.float32)
    noise = sfft.rfft2(rng.standard_normal((SIDE, SIDE)).astype(np.float32))
    fy = sfft.fftfreq(SIDE).astype(np.float32)[:, None]
    fx = sfft.rfftfreq(SIDE).astype(np.float32)[None, :]
    for k in range(_ORIENTATIONS):
        c, s = np.cos(k * np.pi / _ORIENTATIONS), np.sin(k * np.pi / _ORIENTATIONS)
        along, across = fx * c + fy * s, fy * c - fx * s
        # a band across the fibre, so that bright and dark fibrils alternate, and no slow drift
        band = across**2 * np.exp(-2 * (np.pi * short_px * across) ** 2)
        layer = sfft.irfft2(noise * (np.exp(-2 * (np.pi * long_px * along) ** 2) * band), s=(SIDE, SIDE))
        off = np.abs((angle - k + _ORIENTATIONS / 2) % _ORIENTATIONS - _ORIENTATIONS / 2)
        out += (layer / layer.std()).astype(np.float32) * np.maximum(0, 1 - off).astype(np.float32)
    return _gaussianised(out)


def _formless(rng: np.random.Generator, model: Texture) -> Texture:
    """Noise with the coarseness of `model` (its power by spatial frequency) and no direction at all.

    JPEG and blur then affect it as they affect the model, and its contrast carries no information.
    """
    power = np.abs(sfft.rfft2(model)) ** 2
    radius = np.hypot(sfft.fftfreq(SIDE)[:, None], sfft.rfftfreq(SIDE)[None, :])
    ring = np.minimum((radius * SIDE).astype(np.int64), SIDE)
    total = np.bincount(ring.ravel(), weights=power.ravel())
    amplitude = np.sqrt(total / np.maximum(1, np.bincount(ring.ravel())))[ring].astype(np.float32)
    return _gaussianised(_filtered(rng, lambda fy, fx: amplitude))


def _isotropic(rng: np.random.Generator, *octaves: tuple[float, float]) -> Texture:
    out = np.zeros((SIDE, SIDE), np.float32)
    for sigma, weight in octaves:
        out += weight * _wave(rng, sigma)
    return _gaussianised(out)


def _gaussianised(field: Texture) -> Texture:
    order = np.argsort(field, axis=None, kind="stable")
    ranks = np.empty(order.size, np.float64)
    ranks[order] = (np.arange(order.size) + 0.5) / order.size
    normal: Texture = special.ndtri(ranks).reshape(field.shape).astype(np.float32)
    return normal


def _red_cells(rng: np.random.Generator, mpp: float) -> Texture:
    """Packed discs of 6.5 µm with a paler centre, 0 (plasma) to 1."""
    side = SIDE // 2
    out = np.zeros((side, side), np.float32)
    n = int(side / (5.6 / mpp)) // 2 * 2  # even, so that the staggered rows close up
    step = side / n
    reach = int(np.ceil(5 / mpp))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    for row in range(n):
        for col in range(n):
            if rng.random() < 0.12:
                continue
            cx, cy = (col + 0.5 + 0.5 * (row & 1) + rng.uniform(-0.3, 0.3)) * step, (row + rng.uniform(0.2, 0.8)) * step
            turn, squash = rng.uniform(0, np.pi), rng.uniform(0.7, 1.0)
            u = (dx * np.cos(turn) + dy * np.sin(turn)) * mpp
            v = (dy * np.cos(turn) - dx * np.sin(turn)) * mpp / squash
            r = np.sqrt(u * u + v * v)
            disc = np.clip((3.2 - r) / 0.6 + 0.5, 0, 1) * (rng.uniform(0.7, 1.0) - 0.25 * np.exp(-((r / 1.4) ** 2)))
            yy = (int(cy) + np.arange(-reach, reach + 1)) % side
            xx = (int(cx) + np.arange(-reach, reach + 1)) % side
            view = np.ix_(yy, xx)
            out[view] = np.maximum(out[view], disc)
    blurred: Texture = ndimage.gaussian_filter(out, 0.25 / mpp, mode="wrap").astype(np.float32)
    return blurred
