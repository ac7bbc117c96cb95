"""Scores and losses of AFLoc: units of a text (words, sentences) against places of an image (cells, patches).

`published` is the form of the published code, for comparison. The default differs where that code is in error: see
docs/afloc.md. All functions are pure; temperatures are given, as numbers or as parameters that are learnt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

Temperature = Tensor | float

TAU_ATTENTION, TAU_AGGREGATION, SCALE = 4.0, 5.0, 10.0
"""Published constants: tau1, tau2 and tau3."""


def local_scores(
    places: Tensor,
    units: Tensor,
    unit_mask: Tensor,
    *,
    place_mask: Tensor | None = None,
    attention: Temperature = TAU_ATTENTION,
    aggregation: Temperature = TAU_AGGREGATION,
    published: bool = False,
    at_once: int = 32,
) -> Tensor:
    """Score of each image for each text, (B, T): how well the image has a place for each unit of the text.

    Each unit attends to the places of an image; the score compares the unit with the mean of the places, so weighted.
    The default aggregates by the mean over the units (in [-1, 1], whatever their number). `published`: units compete
    at each place by their dot products, and the sum over the units gives texts of many units higher scores.

    Parameters
    ----------
    places
        (B, L, d) of the images: cells of a feature map, or patches of a region.
    units
        (T, n, d) of the texts.
    unit_mask
        bool (T, n), True where there is a unit. Every text has one or more.
    place_mask
        bool (B, L), True where there is a place; None: everywhere.
    attention, aggregation
        Inverse temperatures of the attention and of the aggregation.
    at_once
        Texts per step, which bounds the memory.
    """
    rows = range(0, len(units), at_once)
    parts = [
        _scores(
            places, units[r : r + at_once], unit_mask[r : r + at_once], place_mask, attention, aggregation, published
        )
        for r in rows
    ]
    return torch.cat(parts, dim=1)


def _scores(
    places: Tensor,
    units: Tensor,
    unit_mask: Tensor,
    place_mask: Tensor | None,
    attention: Temperature,
    aggregation: Temperature,
    published: bool,
) -> Tensor:
    missing = ~unit_mask[None, :, :, None]  # (1, T, n, 1)
    if published:
        products = torch.einsum("bld,tnd->btnl", places, units)
        weights = products.masked_fill(missing, -torch.inf).softmax(dim=2)
    else:
        near, unit = functional.normalize(places, dim=-1), functional.normalize(units, dim=-1)
        weights = torch.einsum("bld,tnd->btnl", near, unit)
    weights = attention * weights
    if place_mask is not None:
        weights = weights.masked_fill(~place_mask[:, None, None, :], -torch.inf)
    context = torch.einsum("btnl,bld->btnd", weights.softmax(dim=3), places)
    likeness = functional.cosine_similarity(context, units[None], dim=-1)  # (B, T, n)
    scaled = (aggregation * likeness).masked_fill(missing[..., 0], -torch.inf)
    if published:
        return torch.logsumexp(scaled, dim=2)
    return (torch.logsumexp(scaled, dim=2) - unit_mask.sum(dim=1).log()) / aggregation


def global_scores(images: Tensor, texts: Tensor) -> Tensor:
    """Cosine of each image (B, d) with each text (T, d): (B, T)."""
    return functional.normalize(images, dim=-1) @ functional.normalize(texts, dim=-1).T


def contrast(logits: Tensor, positives: Tensor) -> Tensor:
    """Loss of logits (B, T) where image i and text j belong together if `positives` (B, T) is True.

    Both ways, images to texts and texts to images: Kullback-Leibler divergence from equal probability of all that
    belong together. Rows and columns without any are left out. Repeating images and texts does not change it. Where
    each has one partner, this is the cross-entropy of the published code, of which equal texts are negatives.
    """
    return _one_way(logits, positives) + _one_way(logits.T, positives.T)


def _one_way(logits: Tensor, positives: Tensor) -> Tensor:
    count = positives.sum(dim=1)
    rows = count > 0
    if not bool(rows.any()):
        return logits.sum() * 0.0
    share = positives[rows].to(logits.dtype) / count[rows, None].to(logits.dtype)
    cross = -(share * logits[rows].log_softmax(dim=1)).sum(dim=1)
    return (cross - count[rows].to(logits.dtype).log()).mean()


def published_loss(scores: Tensor, scale: Temperature = SCALE) -> Tensor:
    """The published loss of scores (B, B): image i belongs to text i alone."""
    return contrast(scale * scores, torch.eye(len(scores), dtype=torch.bool, device=scores.device))


def equal_texts(rows: Sequence[str], columns: Sequence[str]) -> Tensor:
    """Which texts are equal but for case and spaces, bool (rows, columns): identical reports are not negatives.

    >>> equal_texts(["No tumour.", "Fat."], ["no  tumour."]).tolist()
    [[True], [False]]
    """
    number: dict[str, int] = {}
    codes = [
        torch.tensor([number.setdefault(" ".join(text.lower().split()), len(number)) for text in texts])
        for texts in (rows, columns)
    ]
    return codes[0][:, None] == codes[1][None, :]


def text_codes(texts: Sequence[str]) -> Tensor:
    """A number per text, int64 (T,), equal for texts that are equal but for case and spaces, in any process.

    >>> a, b, c = text_codes(["No tumour.", "Fat.", "no  tumour."]).tolist()
    >>> a == c, a == b
    (True, False)
    """
    plain = (" ".join(text.lower().split()).encode() for text in texts)
    codes = [int.from_bytes(hashlib.sha256(text).digest()[:8], "big", signed=True) for text in plain]
    return torch.tensor(codes, dtype=torch.int64)


def gathered(values: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks, where torch.distributed runs; else `values`.

    Gradients flow back to each process's own rows, as the sum over the processes: the mean that distributed training
    takes of the parameters' gradients then is that of the loss over all rows. Numbers of rows may differ; other sides
    are padded by 0 to the widest. Without it, each process would see its own negatives alone.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return values
    shape = torch.tensor(values.shape, device=values.device)
    shapes = [torch.zeros_like(shape) for _ in range(distributed.get_world_size())]
    distributed.all_gather(shapes, shape)
    widest = torch.stack(shapes).amax(dim=0).tolist()
    pad = [wanted - side for wanted, side in zip(widest, values.shape, strict=True)]
    padded = functional.pad(values, [side for added in reversed(pad) for side in (0, added)])
    if values.is_floating_point():
        from torch.distributed.nn.functional import all_gather

        parts = list(all_gather(padded.contiguous()))  # type: ignore[no-untyped-call]
    else:
        whole = padded.to(torch.int64).contiguous()  # not all backends send booleans
        parts = [torch.zeros_like(whole) for _ in shapes]
        distributed.all_gather(parts, whole)
        parts = [part.to(values.dtype) for part in parts]
    return torch.cat([part[: int(size[0])] for part, size in zip(parts, shapes, strict=True)])
