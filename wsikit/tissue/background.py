"""What the slide looks like where there is nothing: the colour of its glass, and whether it is light or dark.

Works on the overview at mask resolution, uint8 (h, w, 3). Optical density (OD) is the natural logarithm throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.tissue.regions import erode, extremes, row_strips

_BLOCK = 4  # px: flatness is judged on blocks of this side
_FLAT_SD = 3.0  # grey levels within a block; stained tissue at 8 µm/px has 5 and more
_DARKEST_GLASS = 150  # least channel; a dimmer field is not glass but a dark slide
_MAX_TINT = 0.2  # OD between channels: beyond it a flat field is tissue, not tinted glass
_DEFAULT_GLASS = (243.0, 243.0, 243.0)  # where no glass is on the slide: what most scanners give
_GREY_TINT = 0.03  # OD between channels, below which two fields differ in brightness only

_UNLIT = 30  # brightest channel of a pixel without signal
_DIM = 100  # brightest channel; stained tissue at 8 µm/px seldom falls below: 3 % of a slide
_ONE_SHADE = 16  # grey levels: a grey border or a pen has one shade, within this
_DIM_SHARE = 0.12  # of what is lit, but for the commonest shade; fluorescence fades evenly into the dark
_SCATTERED_SHARE = 0.25  # of what is lit, lying next to what is not
_DARK_SHARE = 0.3  # of all
_ONE_COLOUR = 25.0  # median darkest channel of what is lit; stained tissue has 90 and more


@dataclass(frozen=True, slots=True)
class Glass:
    """The empty field of a brightfield slide."""

    rgb: tuple[float, float, float]
    """Its colour, tint included."""
    grey_od: float
    """How much darker it gets without a stain: shading, seams between fields, the fill of unscanned area."""


def is_fluorescence(rgb: npt.NDArray[np.uint8]) -> bool:
    """Whether signal glows on a dark field, rather than stain on a light one with, perhaps, black borders.

    A black border ends sharply, and what it leaves of the slide is bright and of one piece. Fluorescence fades into the
    dark, or is scattered over it; where it is bright it glows in one colour while the other channels stay dark.
    """
    brightest, darkest = extremes(rgb[:: max(1, rgb.shape[0] // 1000), :: max(1, rgb.shape[1] // 1000)])
    lit, dim = brightest > _UNLIT, brightest <= _DIM
    n_lit = np.count_nonzero(lit)
    if n_lit < 0.001 * lit.size or float(np.median(darkest[lit])) < _ONE_COLOUR:
        return True
    shades = np.bincount(brightest[dim & lit], minlength=_DIM + 1)
    fading = shades.sum() - np.convolve(shades, np.ones(_ONE_SHADE, int)).max()
    scattered = np.count_nonzero(lit & ~erode(lit, 1))
    return bool(dim.mean() >= _DARK_SHARE and (fading > _DIM_SHARE * n_lit or scattered > _SCATTERED_SHARE * n_lit))


def find_glass(rgb: npt.NDArray[np.uint8]) -> Glass:
    """The commonest flat, bright, barely tinted colour; a default white where no such field is on the slide."""
    means, constant = _flat_blocks(rgb)
    varied = means[~constant]
    # What is constant to the last bit is as a rule the fill of area that was never scanned, whatever the glass is
    chosen = varied if len(varied) * _BLOCK**2 >= 0.01 * rgb.shape[0] * rgb.shape[1] else means
    if not len(chosen):
        return Glass(_DEFAULT_GLASS, _GREY_TINT)
    glass = _commonest(chosen)
    od = -np.log((means + 1.0) / (glass + 1.0))
    grey = od[np.ptp(od, axis=1) < _GREY_TINT].mean(axis=1)
    grey_od = float(np.clip(np.quantile(grey, 0.98) + 0.02, _GREY_TINT, 0.15)) if len(grey) else _GREY_TINT
    return Glass((float(glass[0]), float(glass[1]), float(glass[2])), grey_od)


def _flat_blocks(rgb: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Mean colour, float32 (N, 3), of the blocks that may be glass, and (N,) whether all their pixels are equal."""
    means, constants = [np.empty((0, 3), np.float32)], [np.empty(0, bool)]
    height, width = (n // _BLOCK * _BLOCK for n in rgb.shape[:2])
    for top, bottom in row_strips(height, width, _BLOCK):
        mean, sd, constant = block_statistics(rgb[top:bottom, :width])
        brightest, darkest = extremes(mean)
        flat = (sd < _FLAT_SD) & (darkest >= _DARKEST_GLASS) & (np.log((brightest + 1) / (darkest + 1)) < _MAX_TINT)
        means.append(mean[flat])
        constants.append(constant[flat])
    return np.concatenate(means), np.concatenate(constants)


def block_statistics(
    rgb: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Of blocks of 4 × 4 px: mean colour (n, m, 3), deviation of grey (n, m), whether all pixels are equal (n, m)."""
    n = _BLOCK**2
    first = rgb[::_BLOCK, ::_BLOCK]
    total, square = np.zeros(first.shape, np.float32), np.zeros(first.shape[:2], np.float32)
    constant = np.ones(first.shape[:2], bool)
    for place in range(n):  # a few strided planes: reductions over axes of 4 are several times slower
        pixels = rgb[place // _BLOCK :: _BLOCK, place % _BLOCK :: _BLOCK]
        for channel in range(3):
            constant &= pixels[..., channel] == first[..., channel]
        values = pixels.astype(np.float32)
        total += values
        grey = values[..., 0] + values[..., 1] + values[..., 2]
        square += (grey / 3) ** 2
    mean = total / np.float32(n)
    variance = square / n - mean.mean(axis=-1) ** 2
    return mean, np.sqrt(np.maximum(variance, 0)), constant


def _commonest(colours: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Mean of the colours (N, 3) around the densest place, at 4 grey levels."""
    bins = (colours // 4).astype(np.int64)
    keys, counts = np.unique((bins[:, 0] * 64 + bins[:, 1]) * 64 + bins[:, 2], return_counts=True)
    key = keys[np.argmax(counts)]
    centre = np.array([key // 4096, key // 64 % 64, key % 64]) * 4 + 2
    near = np.abs(colours - centre).max(axis=1) <= 6
    mean: npt.NDArray[np.float64] = colours[near].mean(axis=0, dtype=np.float64)
    return mean
