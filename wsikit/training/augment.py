"""Augmentation during training: rotation and reflection, stain jitter, dropped and swapped captions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Optical density of haematoxylin, eosin and a residual per unit of stain, RGB in columns; unit rows.
# Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291; the residual is the cross product of the two.
_STAINS = torch.tensor([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
_STAINS_OF_DENSITY = torch.linalg.inv(_STAINS)


def turn(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Rotate and reflect each patch by a random symmetry of the square (eight). uint8 (B, P, P, 3) in and out."""
    out = torch.empty_like(images)
    for row, symmetry in enumerate(rng.integers(8, size=len(images))):
        image = torch.rot90(images[row], int(symmetry % 4), dims=(0, 1))
        out[row] = image.flip(0) if symmetry >= 4 else image
    return out


def jitter_stain(images: Tensor, rng: np.random.Generator, *, scale: float, shift: float) -> Tensor:
    """Vary the stain intensity of each patch, as it varies between laboratories and scanners.

    Parameters
    ----------
    images : uint8 (B, P, P, 3)
    scale : float
        Each stain is multiplied by a factor in 1 ± `scale`.
    shift : float
        An offset in ± `shift` is added to each stain in every pixel.
    """
    b = len(images)
    factor = torch.from_numpy(rng.uniform(1 - scale, 1 + scale, (b, 1, 1, 3))).float().to(images.device)
    offset = torch.from_numpy(rng.uniform(-shift, shift, (b, 1, 1, 3))).float().to(images.device)
    density = -torch.log((images.float() + 1) / 256)  # (B, P, P, 3)
    stains = density @ _STAINS_OF_DENSITY.to(images.device)
    density = (stains * factor + offset) @ _STAINS.to(images.device)
    return (torch.exp(-density) * 256 - 1).round_().clamp_(0, 255).to(torch.uint8)


def disturb(
    n: int, rng: np.random.Generator, *, drop: float, swap: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Choose, for a batch of `n` patches, which captions are removed and which are swapped.

    Parameters
    ----------
    drop, swap : float
        Probability per patch of losing its caption, and of getting the caption of a random patch of the batch.

    Returns
    -------
    source : int64 (n,)
        Patch whose caption each patch gets.
    dropped : bool (n,)
        True where the caption is removed.
    own : bool (n,)
        True where the caption is kept and the patch's own.
    """
    fate = rng.random(n)
    dropped, swapped = fate < drop, (fate >= drop) & (fate < drop + swap)
    source = np.where(swapped, rng.integers(n, size=n), np.arange(n))
    return source, dropped, ~dropped & (source == np.arange(n))
