"""Labelled patches with captions in memory, and the guard that no slide or patient is on both sides of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError


@dataclass(frozen=True)
class PatchSet:
    """N patches; row i of each field is one patch."""

    images: npt.NDArray[np.uint8]
    """(N, P, P, 3) RGB."""
    labels: npt.NDArray[np.int64]
    """(N,), index into the model's classes."""
    groups: npt.NDArray[np.str_]
    """(N,), slide or patient."""
    captions: tuple[str, ...]
    """Length N; "" where there is none."""

    def __post_init__(self) -> None:
        lengths = {len(self.images), len(self.labels), len(self.groups), len(self.captions)}
        if len(lengths) != 1:
            raise RequestError(
                f"patch set: {len(self.images)} images, {len(self.labels)} labels, {len(self.groups)} groups, "
                f"{len(self.captions)} captions; there must be one of each per patch."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def with_captions(self, captions: Sequence[str]) -> PatchSet:
        """The same patches with other captions."""
        return PatchSet(self.images, self.labels, self.groups, tuple(captions))

    def save(self, path: Path) -> None:
        """Write all as one .npz, without pickles."""
        np.savez(path, images=self.images, labels=self.labels, groups=self.groups, captions=np.array(self.captions))

    @classmethod
    def load(cls, path: Path) -> PatchSet:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as saved:
            return cls(saved["images"], saved["labels"], saved["groups"], tuple(saved["captions"].tolist()))


def refuse_shared_groups(train: PatchSet, test: PatchSet) -> None:
    """Raise RequestError if a slide or patient is on both sides of a split."""
    shared = sorted(set(train.groups.tolist()) & set(test.groups.tolist()))
    if shared:
        raise RequestError(
            f"{len(shared)} group(s) are in training and test, such as {shared[0]!r}; split by slide or patient."
        )
