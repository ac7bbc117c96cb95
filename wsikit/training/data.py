"""Labelled patches with captions, ready for a model: all of one size and scale, row i of each field one patch.

Made from an `ImageTable` by `patch_set`; images may be a memory-mapped array. Also the guard that no slide or patient
is on both sides of a split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.training.datasets.classes import class_indices
from wsikit.training.datasets.table import ImageTable

Group = Literal["patient", "slide", "file"]
OddSizes = Literal["refuse", "drop", "mirror"]

READ_AT_ONCE = 512


@dataclass(frozen=True)
class PatchSet:
    """N patches; row i of each field is one patch."""

    images: npt.NDArray[np.uint8]
    """(N, P, P, 3) RGB."""
    labels: npt.NDArray[np.int64]
    """(N,), index into the model's classes."""
    groups: npt.NDArray[np.str_]
    """(N,), patient; slide where patients are not known. What a split must not cut through."""
    captions: tuple[str, ...]
    """Length N; "" where there is none."""
    ids: tuple[str, ...] = ()
    """Length N and unique, or empty where patches have no names."""
    slides: npt.NDArray[np.str_] | None = field(default=None)
    """(N,)"""
    coords: npt.NDArray[np.float64] | None = field(default=None)
    """(N, 2), x then y of the top-left corner, as the source gives them."""
    classes: tuple[str, ...] = ()
    """Codes that the labels stand for."""

    def __post_init__(self) -> None:
        n = len(self.images)
        lengths = {n, len(self.labels), len(self.groups), len(self.captions)}
        lengths |= {len(values) for values in (self.slides, self.coords) if values is not None}
        if len(lengths) != 1 or len(self.ids) not in (0, n):
            raise RequestError(
                f"patch set: {n} images, {len(self.labels)} labels, {len(self.groups)} groups, "
                f"{len(self.captions)} captions, {len(self.ids)} ids; there must be one of each per patch."
            )
        if len(set(self.ids)) != len(self.ids):
            raise RequestError("patch set: two patches have the same id; each needs its own.")

    def __len__(self) -> int:
        return len(self.labels)

    def with_captions(self, captions: Sequence[str]) -> PatchSet:
        """The same patches with other captions."""
        return replace(self, captions=tuple(captions))

    def select(self, rows: npt.NDArray[np.integer] | Sequence[int]) -> PatchSet:
        """Only these rows, in this order."""
        chosen = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            images=self.images[chosen],
            labels=self.labels[chosen],
            groups=self.groups[chosen],
            captions=tuple(self.captions[row] for row in chosen),
            ids=tuple(self.ids[row] for row in chosen) if self.ids else (),
            slides=None if self.slides is None else self.slides[chosen],
            coords=None if self.coords is None else self.coords[chosen],
        )

    def save(self, path: Path) -> None:
        """Write all as one .npz, without pickles."""
        optional = {key: getattr(self, key) for key in ("slides", "coords") if getattr(self, key) is not None}
        np.savez(
            path,
            images=self.images,
            labels=self.labels,
            groups=self.groups,
            captions=np.array(self.captions, dtype=np.str_),
            ids=np.array(self.ids, dtype=np.str_),
            classes=np.array(self.classes, dtype=np.str_),
            **optional,
        )

    @classmethod
    def load(cls, path: Path) -> PatchSet:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as saved:
            return cls(
                images=saved["images"],
                labels=saved["labels"],
                groups=saved["groups"],
                captions=tuple(saved["captions"].tolist()),
                ids=tuple(saved["ids"].tolist()),
                slides=saved.get("slides"),
                coords=saved.get("coords"),
                classes=tuple(saved["classes"].tolist()),
            )


@dataclass(frozen=True)
class Prepared:
    """A patch set, and what was done to the images on the way."""

    patches: PatchSet
    mpp: float
    """µm/px of the patches, after resizing."""
    source_px: int
    """Side of the images as they came."""
    dropped: int
    """Images of another size, left out."""
    mirrored: int
    """Images of another size, filled up by mirroring."""

    def words(self) -> str:
        """What was done, in a sentence."""
        side = self.patches.images.shape[1]
        said = f"{len(self.patches)} patches of {side} px at {self.mpp:.4g} µm/px"
        if side != self.source_px:
            said += f", resampled from {self.source_px} px (bicubic, antialiased)"
        if self.dropped:
            said += f"; {self.dropped} of another size left out"
        if self.mirrored:
            said += f"; {self.mirrored} cut off at a slide's edge and filled up by mirroring"
        return said + "."


def patch_set(
    table: ImageTable,
    classes: Sequence[str],
    *,
    patch_px: int,
    mpp: float,
    group: Group = "patient",
    odd_sizes: OddSizes = "refuse",
    into: Path | None = None,
) -> Prepared:
    """Images, labels and groups of a table whose classes are those of the model. Captions are the table's.

    Parameters
    ----------
    table
        As `map_classes` gives it.
    patch_px
        Side of the patches; images of another side are resampled.
    mpp
        µm/px of the images as they come.
    group
        What a split must not cut through. A table without patients is refused under "patient": say "slide" or "file".
    odd_sizes
        What to do with images that are not as large as most: slides end, and patches there are cut off.
    into
        A file for the pixels, .npy, which is then memory-mapped. Default: in memory.

    Raises
    ------
    RequestError
        If an image is of another size (unless told what to do), not square, or has no group.
    """
    groups = _groups(table, group)
    sizes, n = _sizes(table), len(table)
    side = int(np.bincount(sizes.max(axis=1)).argmax())
    odd = (sizes != side).any(axis=1)
    if odd.any() and odd_sizes == "refuse":
        row = int(np.argmax(odd))
        raise RequestError(
            f"{table.source}: {table.files[row]} is {sizes[row, 1]}×{sizes[row, 0]} px, most are {side}×{side} "
            f"({odd.sum()} are not). Set odd_sizes to drop or mirror."
        )
    kept = np.flatnonzero(~odd) if odd_sizes == "drop" else np.arange(n)
    table = table.select(kept)
    shape = (len(table), patch_px, patch_px, 3)
    images = np.empty(shape, np.uint8) if into is None else np.lib.format.open_memmap(into, "w+", np.uint8, shape)
    for first in range(0, len(table), READ_AT_ONCE):
        rows = range(first, min(first + READ_AT_ONCE, len(table)))
        for row, image in zip(rows, table.images(rows), strict=True):
            images[row] = _resized(_mirrored(image, side), patch_px)
    slides = None if None in table.slides else np.array(table.slides, dtype=np.str_)
    patches = PatchSet(
        images=images,
        labels=class_indices(table, classes),
        groups=groups[kept],
        captions=tuple(caption or "" for caption in table.captions),
        ids=table.files,
        slides=slides,
        coords=table.coords,
        classes=tuple(classes),
    )
    mirrored = int(odd.sum()) if odd_sizes == "mirror" else 0
    return Prepared(patches, mpp * side / patch_px, side, n - len(kept), mirrored)


def refuse_shared_groups(train: PatchSet, test: PatchSet) -> None:
    """Raise RequestError if a slide or patient is on both sides of a split."""
    shared = sorted(set(train.groups.tolist()) & set(test.groups.tolist()))
    if shared:
        raise RequestError(
            f"{len(shared)} group(s) are in training and test, such as {shared[0]!r}; split by slide or patient."
        )


def _groups(table: ImageTable, group: Group) -> npt.NDArray[np.str_]:
    values = {"patient": table.patients, "slide": table.slides, "file": table.files}[group]
    if None in values:
        raise RequestError(
            f"{table.source}: {table.files[values.index(None)]} has no {group}. Name the {group}'s column, or group by "
            "slide or file, if you are sure that no patient then is on both sides of a split."
        )
    return np.array(values, dtype=np.str_)


def _sizes(table: ImageTable) -> npt.NDArray[np.int64]:
    """(N, 2) height and width."""
    sizes = []
    for first in range(0, len(table), READ_AT_ONCE):
        images = table.images(range(first, min(first + READ_AT_ONCE, len(table))))
        sizes += [image.shape[:2] for image in images]
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)


def _mirrored(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """To side × side by mirroring at the lower and right edge; larger ones are cut there."""
    image = image[:side, :side]
    missing = [(0, side - length) for length in image.shape[:2]]
    if not any(after for _, after in missing):
        return image
    return np.pad(image, (*missing, (0, 0)), mode="symmetric")


def _resized(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    if image.shape[0] == side:
        return image
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def class_weights(labels: npt.NDArray[np.int64], n_classes: int) -> npt.NDArray[np.float32]:
    """Weights, float32 (C,), under which each class that occurs counts alike; their mean over the patches is 1."""
    counts = np.bincount(labels, minlength=n_classes)
    present = counts > 0
    weights = np.zeros(n_classes, dtype=np.float32)
    weights[present] = math.fsum(counts) / (present.sum() * counts[present])
    return weights
