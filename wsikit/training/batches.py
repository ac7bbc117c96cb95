"""Batches of a patch set: order, augmentation and captions, each a pure function of seed, epoch and rows.

A resumed run therefore sees the same batches as an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from wsikit.models.mmlnb import MMLNB
from wsikit.models.tokenizer import Tokens
from wsikit.training.afloc.settings import AflocSettings
from wsikit.training.augment import disturb, jitter_stain, turn
from wsikit.training.data import PatchSet
from wsikit.training.numbers import numbers_of
from wsikit.training.settings import TrainingSettings

ENCODED_AT_ONCE = 4096


class Texts:
    """All captions of a patch set, and their numbers, as the model reads them; tokenised once.

    `numbers` are those of `wsikit.training.numbers.numbers_of`; see `Texts.of`.

    Attributes
    ----------
    present : bool (N,)
    truncated : int
        Number of captions longer than the model's token limit.
    """

    def __init__(self, model: MMLNB, captions: Sequence[str], numbers: npt.NDArray[np.float32] | None = None) -> None:
        parts = [
            model.read(captions[first : first + ENCODED_AT_ONCE]) for first in range(0, len(captions), ENCODED_AT_ONCE)
        ]
        length = max(part.ids.shape[1] for part in parts)
        self._ids = np.concatenate([_wide(part.ids, length) for part in parts])
        self._mask = np.concatenate([_wide(part.mask, length) for part in parts])
        self.numbers = numbers
        self.present = model.present(np.concatenate([part.present for part in parts]), numbers)
        self.truncated = sum(part.truncated for part in parts)

    @classmethod
    def of(cls, model: MMLNB, data: PatchSet) -> Texts:
        """The captions of a patch set and, for a model that reads numbers, their numbers."""
        return cls(model, data.captions, numbers_of(model.config, data))

    def __call__(self, rows: npt.NDArray[np.int64], *, without: npt.NDArray[np.bool_] | None = None) -> Tokens:
        """Tokens of `rows` (B,); where `without` (B,) is True the caption is treated as missing."""
        present = self.present[rows] if without is None else self.present[rows] & ~without
        mask = self._mask[rows]
        length = int(mask.sum(axis=1).max(initial=1))  # padded at the end
        ids = self._ids[rows, :length].astype(np.int64)
        numbers = None if self.numbers is None else self.numbers[rows]
        return Tokens(ids, mask[:, :length].astype(np.int64), present, 0, numbers)


class Rows(Dataset[int]):
    """Row indices of a patch set as a dataset for torch's loader."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, row: int) -> int:
        return row


class EpochOrder(Sampler[list[int]]):
    """Batches of rows in a new order each epoch. Batch sizes differ by one row at most.

    Attributes
    ----------
    epoch : int
        Set before each epoch.
    """

    def __init__(self, n: int, settings: TrainingSettings | AflocSettings) -> None:
        self._n, self._seed = n, settings.seed
        self._n_batches = math.ceil(n / settings.batch)
        self.epoch = 0

    def __len__(self) -> int:
        return self._n_batches

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._n)
        for rows in np.array_split(order, self._n_batches):
            yield rows.tolist()


class Drawer:
    """Build a batch with augmented patches and with dropped and swapped captions (torch's `collate_fn`)."""

    def __init__(
        self, data: PatchSet, texts: Texts, order: EpochOrder, settings: TrainingSettings, device: torch.device
    ) -> None:
        self._data, self._texts, self._order, self._settings = data, texts, order, settings
        self._device = device
        self.context: npt.NDArray[np.float32] | None = None
        """(N, 2, d_img), the context of the patches' slides, for a model that reads it; set before each epoch."""

    def __call__(self, batch: Sequence[int]) -> dict[str, Tensor]:
        settings, rows = self._settings, np.asarray(batch, dtype=np.int64)
        rng = np.random.default_rng([settings.seed, self._order.epoch, int(rows[0])])
        images = torch.from_numpy(self._data.images[rows]).to(self._device)
        pixels = images.ndim == 4  # else features, which are not augmented
        images = turn(images, rng) if pixels else images
        if pixels and (settings.stain_scale or settings.stain_shift):
            images = jitter_stain(images, rng, scale=settings.stain_scale, shift=settings.stain_shift)
        source, dropped, own = disturb(len(rows), rng, drop=settings.caption_drop, swap=settings.caption_swap)
        tokens = self._texts(rows[source], without=dropped)
        batch_of = {
            "images": images,
            "ids": torch.from_numpy(tokens.ids),
            "mask": torch.from_numpy(tokens.mask),
            "present": torch.from_numpy(tokens.present),
            "own": torch.from_numpy(own & tokens.present),
            "labels": torch.from_numpy(self._data.labels[rows]),
        }
        if tokens.numbers is not None:
            batch_of["numbers"] = torch.from_numpy(tokens.numbers)
        if self.context is not None:
            batch_of["context"] = torch.from_numpy(self.context[rows])
        return batch_of


def _wide(values: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int32]:
    return np.pad(values, ((0, 0), (0, length - values.shape[1]))).astype(np.int32)
