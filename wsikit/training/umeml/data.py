"""Patients of a part as tensors: tables at once, patches bag by bag. Axes: B patients, N patches, D features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.errors import RequestError
from wsikit.training.cohort.protocol import Bag, Part
from wsikit.training.umeml.tables import Tables
from wsikit.training.umeml.targets import Targets, Tasks, targets_of

Rows = npt.NDArray[np.int64]
FOR_STATISTICS = 256
"""Patches of each patient from which mean and standard deviation of the features are computed."""


FOR_CENTRES = 20_000
"""Patches of all patients from which the centres are computed."""


@dataclass(frozen=True)
class Batch:
    """Inputs of the network for B patients."""

    rows: Tensor
    """int64 (B,): the patients in their part."""
    patches: Tensor | None
    """(B, N, D), padded with zeros."""
    mask: Tensor | None
    """Bool (B, N); None: no padding."""
    values: dict[str, Tensor]
    direct: Tensor
    """(B, q)."""


class Patients:
    """The inputs and targets of a part, on one device.

    Parameters
    ----------
    part : Part
    tables : Tables
        Fitted on the training part.
    tasks : Tasks
    width : int or None
        Width of the patch features; None: slides are not used.
    device : torch.device
    """

    def __init__(self, part: Part, tables: Tables, tasks: Tasks, *, width: int | None, device: torch.device) -> None:
        self.ids, self.width, self.device = part.ids, width, device
        self.bags: tuple[Bag | None, ...] = part.bags or (None,) * len(part) if width else (None,) * len(part)
        values, direct = tables.transform(part)
        self.values = {name: torch.from_numpy(one).to(device) for name, one in values.items()}
        self.direct = torch.from_numpy(direct).to(device)
        found = targets_of(part, tasks)
        self.targets = Targets(*(t.to(device) for t in (found.time, found.interval, found.event, found.labels)))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_slides(self) -> bool:
        """Whether any patient has patches."""
        return any(bag is not None for bag in self.bags)

    def bag(self, row: int) -> npt.NDArray[np.float32]:
        """All patches of a patient, float32 (n, D); (0, D) without slides.

        Raises
        ------
        RequestError
            If the features have another width than those of the training, or hold NaN.
        """
        read = self.bags[row]
        if read is None:
            return np.zeros((0, self.width or 0), np.float32)
        bag = np.asarray(read(), dtype=np.float32)
        if bag.ndim != 2 or bag.shape[1] != self.width:
            raise RequestError(
                f"patient {self.ids[row]}: patch features of shape {bag.shape}; expected (n, {self.width}), as in the "
                "training. Give features of one encoder."
            )
        if not np.isfinite(bag).all():
            raise RequestError(f"patient {self.ids[row]}: patch features hold NaN or infinity; make them again.")
        return bag

    def batches(
        self, rows: Rows, *, together: int, most: int | None = None, draw: tuple[int, ...] = ()
    ) -> Iterator[Batch]:
        """These patients in their order, in batches of at most `together` patches with padding.

        Without slides all are one batch. `most`: patches of a patient, drawn without replacement as a function of
        `draw` and the patient.
        """
        if not self.has_slides:
            yield self._batch(rows, None)
            return
        waiting: list[npt.NDArray[np.float32]] = []
        start = 0
        for number, row in enumerate(rows):
            bag = self.bag(int(row))
            if most is not None and len(bag) > most:
                rng = np.random.default_rng([*draw, int(row)])
                bag = bag[np.sort(rng.choice(len(bag), most, replace=False))]
            longest = max(len(bag), *(len(one) for one in waiting)) if waiting else len(bag)
            if waiting and longest * (len(waiting) + 1) > together:
                yield self._batch(rows[start:number], waiting)
                waiting, start = [], number
            waiting.append(bag)
        yield self._batch(rows[start:], waiting)

    def _batch(self, rows: Rows, bags: list[npt.NDArray[np.float32]] | None) -> Batch:
        index = torch.as_tensor(rows, device=self.device)
        patches = mask = None
        if bags is not None and any(len(bag) for bag in bags):
            longest = max(len(bag) for bag in bags)
            if len(bags) == 1:
                patches = torch.from_numpy(bags[0])[None].to(self.device)  # no copy on the CPU
            else:
                padded = np.zeros((len(bags), longest, self.width or 0), np.float32)
                for one, bag in zip(padded, bags, strict=True):
                    one[: len(bag)] = bag
                patches = torch.from_numpy(padded).to(self.device)
            lengths = torch.tensor([len(bag) for bag in bags], device=self.device)
            if bool((lengths < longest).any()):
                mask = torch.arange(longest, device=self.device)[None, :] < lengths[:, None]
        values = {name: one[index] for name, one in self.values.items()}
        return Batch(index, patches, mask, values, self.direct[index])


def feature_width(part: Part) -> int | None:
    """Width of the patch features: that of the first patient with slides; None if no one has any."""
    for bag in part.bags or ():
        if bag is not None:
            return int(np.shape(bag())[1])
    return None


@dataclass(frozen=True)
class FeatureStatistics:
    """Of patch features of a training part, D of them."""

    mean: Tensor
    """(D,)."""
    std: Tensor
    """(D,); 1 for a feature that does not vary."""
    centres: Tensor | None
    """(K, D): centres of k-means of the standardised features, in their own units; None: not asked for, or there are
    fewer patches."""


def feature_statistics(patients: Patients, *, centres: int = 0, seed: int) -> FeatureStatistics:
    """Statistics from up to `FOR_STATISTICS` patches of each patient, and of `FOR_CENTRES` for `centres` centres."""
    drawn = []
    for row in range(len(patients)):
        bag = patients.bag(row)
        if len(bag) > FOR_STATISTICS:
            bag = bag[np.random.default_rng([seed, row]).choice(len(bag), FOR_STATISTICS, replace=False)]
        drawn.append(bag)
    every = np.concatenate(drawn).astype(np.float64)
    mean, std = every.mean(axis=0), every.std(axis=0)
    std = np.where(std > 1e-6, std, 1.0)
    found = None
    if 0 < centres <= len(every):
        from sklearn.cluster import KMeans

        some = every[np.random.default_rng(seed).permutation(len(every))[:FOR_CENTRES]]
        fitted = KMeans(centres, n_init=1, random_state=seed).fit((some - mean) / std)
        found = torch.tensor(fitted.cluster_centers_ * std + mean).float()
    return FeatureStatistics(torch.tensor(mean).float(), torch.tensor(std).float(), found)
