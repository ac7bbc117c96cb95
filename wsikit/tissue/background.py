"""The background of a slide: the colour of its glass, and whether the field is bright or dark.

Input is the overview at mask resolution, uint8 (h, w, 3). Optical density (OD) always uses the natural logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.tissue.regions import erode, extremes, row_strips

_BLOCK = 4  # px: flatness is judged on blocks of this side
_FLAT_SD = 3.0  # grey levels within a block; stained tissue at 8 µm/px has 5 and more
_DARKEST_GLASS = 150  # lowest channel; a darker field is not glass but a dark slide
_MAX_TINT = 0.2  # OD between channels: beyond it a flat field is tissue, not tinted glass
_DEFAULT_GLASS = (243.0, 243.0, 243.0)  # for slides without visible glass: typical of most scanners
_GREY_TINT = 0.03  # OD between channels, below which two fields differ only in brightness

_UNLIT = 30  # brightest channel of a pixel without signal
_DIM = 100  # brightest channel; stained tissue at 8 µm/px is rarely darker: 3 % of a slide
_ONE_SHADE = 16  # grey levels: a grey border or a pen has one shade, within this
_DIM_SHARE = 0.12  # of lit pixels, without the most frequent shade; fluorescence fades gradually into the dark
_SCATTERED_SHARE = 0.25  # of lit pixels that are next to unlit ones
_DARK_SHARE = 0.3  # of all pixels
_ONE_COLOUR = 25.0  # median of the darkest channel of lit pixels; stained tissue has 90 or more


@dataclass(frozen=True, slots=True)
class Glass:
    """Background of a brightfield slide."""

    rgb: tuple[float, float, float]
    """Its colour, including tint."""
    grey_od: float
    """Optical density that occurs without stain: shading, seams between fields, fill of unscanned area."""


def is_fluorescence(rgb: npt.NDArray[np.uint8]) -> bool:
    """Whether the overview shows fluorescence on a dark field, not stain on a bright field (with or without borders).

    A black border has a sharp edge, and the rest of the slide is bright and contiguous. Fluorescence fades into the
    dark or is scattered over it; where it is bright, it has one colour, and the other channels are dark.
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
    """The most frequent flat, bright, nearly neutral colour; a default white if the slide has no such area."""
    means, constant = _flat_blocks(rgb)
    varied = means[~constant]
    # exactly constant pixels are usually the fill of area that was not scanned, not glass
    chosen = varied if len(varied) * _BLOCK**2 >= 0.01 * rgb.shape[0] * rgb.shape[1] else means
    if not len(chosen):
        return Glass(_DEFAULT_GLASS, _GREY_TINT)
    glass = _most_frequent(chosen)
    od = -np.log((means + 1.0) / (glass + 1.0))
    grey = od[np.ptp(od, axis=1) < _GREY_TINT].mean(axis=1)
    grey_od = float(np.clip(np.quantile(grey, 0.98) + 0.02, _GREY_TINT, 0.15)) if len(grey) else _GREY_TINT
    return Glass((float(glass[0]), float(glass[1]), float(glass[2])), grey_od)


def _flat_blocks(rgb: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Mean colour, float32 (N, 3), of blocks that may be glass, and (N,) whether all pixels of the block are equal."""
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
    """For blocks of 4 × 4 px: mean colour (n, m, 3), standard deviation of grey (n, m), all px equal (n, m)."""
    n = _BLOCK**2
    first = rgb[::_BLOCK, ::_BLOCK]
    total, square = np.zeros(first.shape, np.float32), np.zeros(first.shape[:2], np.float32)
    constant = np.ones(first.shape[:2], bool)
    for place in range(n):  # sums of strided planes: reductions over axes of length 4 are several times slower
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


def _most_frequent(colours: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Mean of the colours (N, 3) around the densest bin of 4 grey levels."""
    bins = (colours // 4).astype(np.int64)
    keys, counts = np.unique((bins[:, 0] * 64 + bins[:, 1]) * 64 + bins[:, 2], return_counts=True)
    key = keys[np.argmax(counts)]
    centre = np.array([key // 4096, key // 64 % 64, key % 64]) * 4 + 2
    near = np.abs(colours - centre).max(axis=1) <= 6
    mean: npt.NDArray[np.float64] = colours[near].mean(axis=0, dtype=np.float64)
    return mean
