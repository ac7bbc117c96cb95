"""Labelled patches with captions, ready for a model: all of one size and scale, row i of each field one patch.

Made from an `ImageTable` by `patch_set`; images may be a memory-mapped array. Also the check that no slide or patient
is in both parts of a split.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.models.field_context import field_means
from wsikit.models.slide_context import STATISTICS, SlideContext
from wsikit.training.datasets.classes import class_indices
from wsikit.training.datasets.table import ImageTable

Group = Literal["patient", "slide", "file"]
OddSizes = Literal["refuse", "drop", "mirror"]

READ_AT_ONCE = 512

_NUMBERS = ("facts", "fact_uncertainty", "slide_facts", "around")


@dataclass(frozen=True)
class PatchSet:
    """N patches; row i of each field is one patch."""

    images: npt.NDArray[np.uint8]
    """(N, P, P, 3) RGB."""
    labels: npt.NDArray[np.int64]
    """(N,), index into the model's classes."""
    groups: npt.NDArray[np.str_]
    """(N,), patient, or slide where patients are unknown. All patches of a group belong to one part of a split."""
    captions: tuple[str, ...]
    """Length N; "" if a patch has none."""
    ids: tuple[str, ...] = ()
    """Length N and unique, or empty if patches have no names."""
    slides: npt.NDArray[np.str_] | None = field(default=None)
    """(N,)"""
    coords: npt.NDArray[np.float64] | None = field(default=None)
    """(N, 2), x then y of the top-left corner, as the source gives them."""
    places_um: npt.NDArray[np.float64] | None = None
    """(N, 2), `coords` in µm; None where their scale is not known."""
    classes: tuple[str, ...] = ()
    """Class codes by label index."""
    fact_names: tuple[str, ...] = ()
    """Names of the columns of `facts`, of `wsikit.facts.FACTS`."""
    facts: npt.NDArray[np.float32] | None = None
    """(N, F), numbers of the captions, NaN where not measured."""
    fact_uncertainty: npt.NDArray[np.float32] | None = None
    """(N, F), half-widths of their intervals, 0 where measured exactly."""
    slide_facts: npt.NDArray[np.float32] | None = None
    """(N, F, 5), statistics of the facts in the slide of each patch (`wsikit.models.slide_context.SlideContext`)."""
    around: npt.NDArray[np.float32] | None = None
    """(N, F), means of the facts in the field around each patch (`with_field`)."""

    def __post_init__(self) -> None:
        n = len(self.images)
        lengths = {n, len(self.labels), len(self.groups), len(self.captions)}
        optional: tuple[npt.NDArray[Any] | None, ...] = (self.slides, self.coords, self.places_um)
        optional += (self.facts, self.fact_uncertainty, self.slide_facts, self.around)
        lengths |= {len(values) for values in optional if values is not None}
        if len(lengths) != 1 or len(self.ids) not in (0, n):
            raise RequestError(
                f"patch set: {n} images, {len(self.labels)} labels, {len(self.groups)} groups, "
                f"{len(self.captions)} captions, {len(self.ids)} ids; there must be one of each per patch."
            )
        if self.facts is not None and self.facts.shape[1] != len(self.fact_names):
            raise RequestError(f"patch set: {self.facts.shape[1]} columns of facts and {len(self.fact_names)} names.")
        if len(set(self.ids)) != len(self.ids):
            raise RequestError("patch set: two patches have the same id; each needs its own.")

    def __len__(self) -> int:
        return len(self.labels)

    def with_captions(self, captions: Sequence[str]) -> PatchSet:
        """The same patches with other captions; the numbers of the former captions are dropped."""
        dropped = {"fact_names": (), "facts": None, "fact_uncertainty": None, "slide_facts": None, "around": None}
        return replace(self, captions=tuple(captions), **dropped)  # type: ignore[arg-type]

    @property
    def slide_ids(self) -> npt.NDArray[np.str_]:
        """Slide of each patch, (N,); its group where slides are not known."""
        return self.groups if self.slides is None else self.slides

    def with_facts(
        self,
        names: Sequence[str],
        values: npt.NDArray[np.floating],
        uncertainty: npt.NDArray[np.floating] | None = None,
    ) -> PatchSet:
        """The same patches with the numbers of their captions, (N, F), whose statistics per slide are taken now.

        `uncertainty` are half-widths (N, F); None: all measured exactly.
        """
        values = np.asarray(values, dtype=np.float32)
        spread = np.zeros_like(values) if uncertainty is None else np.asarray(uncertainty, dtype=np.float32)
        known = np.full((*values.shape, len(STATISTICS)), np.nan, dtype=np.float32)
        for rows in rows_by_slide(self.slide_ids):
            known[rows] = SlideContext.of(values[rows]).statistics
        return replace(self, fact_names=tuple(names), facts=values, fact_uncertainty=spread, slide_facts=known)

    def with_field(self, sd_um: float) -> PatchSet:
        """The same patches with the means of the facts in the field around each (`field_means`), within its slide.

        Raises
        ------
        RequestError
            If the places of the patches in µm are not known.
        """
        if self.facts is None:
            return self
        if self.places_um is None:
            raise RequestError(
                "numbers.field_um: the patches have no places in µm. Give the columns x and y of the table and the mpp "
                "of the images, or leave field_um out."
            )
        around = np.full(self.facts.shape, np.nan, dtype=np.float32)
        for rows in rows_by_slide(self.slide_ids):
            around[rows] = field_means(self.facts[rows], self.places_um[rows], sd_um)
        return replace(self, around=around)

    def captioned_as(self, rows: npt.NDArray[np.integer]) -> PatchSet:
        """The same patches, each with caption and numbers of another one: that of `rows` (N,)."""
        chosen = np.asarray(rows, dtype=np.int64)
        return replace(self, captions=tuple(self.captions[row] for row in chosen), **self._of_captions(chosen))

    def _of_captions(self, chosen: npt.NDArray[np.int64]) -> dict[str, Any]:
        arrays = {name: getattr(self, name) for name in _NUMBERS}
        return {name: None if values is None else values[chosen] for name, values in arrays.items()}

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
            places_um=None if self.places_um is None else self.places_um[chosen],
            **self._of_captions(chosen),
        )

    def save(self, path: Path) -> None:
        """Write all as one .npz, without pickles."""
        names = ("slides", "coords", "places_um", *_NUMBERS)
        optional = {key: getattr(self, key) for key in names if getattr(self, key) is not None}
        if self.fact_names:
            optional["fact_names"] = np.array(self.fact_names, dtype=np.str_)
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
                places_um=saved.get("places_um"),
                classes=tuple(saved["classes"].tolist()),
                fact_names=tuple(saved["fact_names"].tolist()) if "fact_names" in saved else (),
                **{name: saved.get(name) for name in _NUMBERS},
            )


@dataclass(frozen=True)
class Prepared:
    """A patch set, and how its images were changed."""

    patches: PatchSet
    mpp: float
    """µm/px of the patches, after resizing."""
    source_px: int
    """Side of the images before resizing."""
    dropped: int
    """Number of images of another size, left out."""
    mirrored: int
    """Number of images of another size, padded by mirroring."""

    def words(self) -> str:
        """Summary in one sentence."""
        side = self.patches.images.shape[1]
        said = f"{len(self.patches)} patches of {side} px at {self.mpp:.4g} µm/px"
        if side != self.source_px:
            said += f", resampled from {self.source_px} px (bicubic, antialiased)"
        if self.dropped:
            said += f"; {self.dropped} of another size left out"
        if self.mirrored:
            said += f"; {self.mirrored} cut off at the slide edge and padded by mirroring"
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
    """Load images, labels and groups of a table whose classes are those of the model. Captions are the table's.

    Parameters
    ----------
    table
        Result of `map_classes`.
    patch_px
        Side of the patches; images of another side are resampled.
    mpp
        µm/px of the images as stored.
    group
        Grouping unit for splits. "patient" needs a table with patients; otherwise choose "slide" or "file".
    odd_sizes
        How to treat images that are smaller or larger than most, such as patches cut off at the slide edge.
    into
        A .npy file for the pixels, which is memory-mapped. Default: in memory.

    Raises
    ------
    RequestError
        If an image is of another size (with `odd_sizes="refuse"`), not square, or has no group.
    """
    groups = groups_of(table, group)
    plan = plan_images(table, patch_px=patch_px, odd_sizes=odd_sizes)
    table = plan.table
    shape = (len(table), patch_px, patch_px, 3)
    images = np.empty(shape, np.uint8) if into is None else np.lib.format.open_memmap(into, "w+", np.uint8, shape)
    for rows, batch in plan.batches():
        images[rows] = batch
    slides = None if None in table.slides else np.array(table.slides, dtype=np.str_)
    patches = PatchSet(
        images=images,
        labels=class_indices(table, classes),
        groups=groups[plan.kept],
        captions=tuple(caption or "" for caption in table.captions),
        ids=table.files,
        slides=slides,
        coords=table.coords,
        places_um=table.coords * mpp if table.places_um is None and table.coords is not None else table.places_um,
        classes=tuple(classes),
    )
    return Prepared(patches, mpp * plan.side / patch_px, plan.side, plan.dropped, plan.mirrored)


@dataclass(frozen=True)
class ImagePlan:
    """How the images of a table become patches of one size."""

    table: ImageTable
    """Without the rows that are left out."""
    kept: npt.NDArray[np.int64]
    """Rows of the given table that are in `table`."""
    side: int
    """Side of most images, px; the others are cut or padded to it."""
    patch_px: int
    """Side of the patches; images of another side are resampled."""
    dropped: int
    mirrored: int

    def batches(self, size: int = READ_AT_ONCE) -> Iterator[tuple[slice, npt.NDArray[np.uint8]]]:
        """Rows, and their patches, uint8 (B, patch_px, patch_px, 3), decoded when asked for."""
        for first in range(0, len(self.table), size):
            rows = slice(first, min(first + size, len(self.table)))
            images = self.table.images(range(rows.start, rows.stop))
            yield rows, np.stack([_resized(_mirrored(image, self.side), self.patch_px) for image in images])


def plan_images(table: ImageTable, *, patch_px: int, odd_sizes: OddSizes) -> ImagePlan:
    """See `patch_set`; the sizes of all images are read now.

    Raises
    ------
    RequestError
        If an image is of another size than most, with `odd_sizes="refuse"`.
    """
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
    mirrored = int(odd.sum()) if odd_sizes == "mirror" else 0
    return ImagePlan(table.select(kept), kept, side, patch_px, n - len(kept), mirrored)


def rows_by_slide(slides: npt.NDArray[np.str_]) -> list[npt.NDArray[np.int64]]:
    """Rows of each slide, ascending, from the slide of each row (N,); slides in the order of their names.

    >>> [rows.tolist() for rows in rows_by_slide(np.array(["b", "a", "b"]))]
    [[1], [0, 2]]
    """
    _, of_row = np.unique(slides, return_inverse=True)
    order = np.argsort(of_row, kind="stable")
    return np.split(order, np.cumsum(np.bincount(of_row))[:-1])


def refuse_shared_groups(train: PatchSet, test: PatchSet) -> None:
    """Raise RequestError if a slide or patient is in both parts of a split."""
    shared = sorted(set(train.groups.tolist()) & set(test.groups.tolist()))
    if shared:
        raise RequestError(
            f"{len(shared)} group(s) are in training and test, such as {shared[0]!r}; split by slide or patient."
        )


def groups_of(table: ImageTable, group: Group) -> npt.NDArray[np.str_]:
    """Patient, slide or file of each row, (N,). RequestError if one has none."""
    values = {"patient": table.patients, "slide": table.slides, "file": table.files}[group]
    if None in values:
        raise RequestError(
            f"{table.source}: {table.files[values.index(None)]} has no {group}. Name the {group}'s column, or group by "
            "slide or file if no patient can then be in two parts of a split."
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
    """Pad to side × side by mirroring at the lower and right edge; crop larger images there."""
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
    """Balanced class weights, float32 (C,): each class that occurs has equal total weight; mean over the patches 1.

    >>> class_weights(np.array([0, 0, 0, 1]), n_classes=2)
    array([0.6666667, 2.       ], dtype=float32)
    """
    counts = np.bincount(labels, minlength=n_classes)
    present = counts > 0
    weights = np.zeros(n_classes, dtype=np.float32)
    weights[present] = math.fsum(counts) / (present.sum() * counts[present])
    return weights
