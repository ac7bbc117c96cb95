"""Patch features of slides as bags: files of TRIDENT, CLAM, STAMP or torchmil, or slide stores.

Coordinates are not needed here, so also files without them are read; and nothing before it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.training.cohort.protocol import Bag, Part

SUFFIXES = (".h5", ".hdf5", ".pt", ".npy", ".zarr")
"""In the order in which they are looked for."""
_DATASETS = ("features", "feats", "embeddings")
_SLIDE_SUFFIXES = {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".czi", ".dcm", ".bif", ".vms", ".isyntax"}


@dataclass(frozen=True)
class SlideBag:
    """Reads the patch features of one patient's slides, one after the other, float32 (n, D)."""

    files: tuple[Path, ...]
    column: str | None = None
    """`features_NAME` of stores; None: the only one there."""

    @cached_property
    def mean(self) -> npt.NDArray[np.float32]:
        """Mean over all patches, (D,); read once, then kept: it is small and every baseline asks for it."""
        return np.asarray(self().mean(axis=0), dtype=np.float32)

    def __call__(self) -> npt.NDArray[np.float32]:
        found = [read_bag(path, column=self.column) for path in self.files]
        widths = {values.shape[1] for values in found}
        if len(widths) > 1:
            raise RequestError(
                f"{self.files[0]} and the patient's other slides: features of widths {sorted(widths)}. Use one encoder."
            )
        return np.concatenate(found)


def find_bag(folder: str | Path, slide: str) -> Path | None:
    """The file of a slide in `folder`: the slide's name with or without its suffix, and one of `SUFFIXES`."""
    stem = slide[: -len(Path(slide).suffix)] if Path(slide).suffix.lower() in _SLIDE_SUFFIXES else slide
    for name in dict.fromkeys((slide, stem)):
        if Path(name).suffix.lower() in SUFFIXES and (Path(folder) / name).exists():
            return Path(folder) / name
        for suffix in SUFFIXES:
            if (path := Path(folder) / f"{name}{suffix}").exists():
                return path
    return None


def read_bag(path: Path, *, column: str | None = None) -> npt.NDArray[np.float32]:
    """Features of the patches of one slide, float32 (n, D).

    HDF5: the dataset `features` (TRIDENT, CLAM, AtlasPatch) or `feats` (STAMP), also with a leading axis of length 1.
    .pt: a tensor. .npy: an array. .zarr: a slide store with a column `features_NAME`, without the patches that
    could not be read, which have none.

    Raises
    ------
    RequestError
        The file has no features, is empty, or holds values that are not finite.
    """
    suffix = path.suffix.lower()
    try:
        values = (
            {".pt": _tensor, ".npy": _array}.get(suffix, _hdf5)(path) if suffix != ".zarr" else _store(path, column)
        )
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(f"{path}: features cannot be read ({error}).") from error
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2 or not len(values):
        raise RequestError(f"{path}: features of shape {values.shape}; expected (patches, width).")
    bag = np.asarray(values, dtype=np.float32)
    if suffix == ".zarr":
        bag = bag[~np.isnan(bag).all(axis=1)]  # patches that could not be read have no features
        if not len(bag):
            raise RequestError(f"{path}: no patch has features, as none could be read. Leave the slide out.")
    if bad := int((~np.isfinite(bag)).any(axis=1).sum()):
        raise RequestError(f"{path}: features of {bad} of {len(bag)} patches are not finite. Compute them again.")
    return bag


def bag_rows(path: Path, *, column: str | None = None) -> npt.NDArray[np.bool_]:
    """Which rows of a file `read_bag` gives, (n,): all but the patches of a store that could not be read."""
    if path.suffix.lower() != ".zarr":
        return np.ones(len(read_bag(path, column=column)), dtype=np.bool_)
    return np.asarray(~np.isnan(_store(path, column)).all(axis=1), dtype=np.bool_)


def slide_means(part: Part) -> npt.NDArray[np.float32]:
    """Mean of the patch features of each patient, (N, D); NaN for a patient without slides."""
    means = [None if bag is None else _mean(bag) for bag in part.bags or ()]
    width = next((len(one) for one in means if one is not None), 0)
    if not width:
        raise RequestError("slides: no patient of this part has patch features.")
    blank = np.full(width, np.nan, dtype=np.float32)
    return np.stack([blank if one is None else one for one in means])


def _mean(bag: Bag) -> npt.NDArray[np.float32]:
    return bag.mean if isinstance(bag, SlideBag) else np.asarray(bag().mean(axis=0), dtype=np.float32)


def _hdf5(path: Path) -> npt.NDArray[Any]:
    import h5py

    with h5py.File(path, "r") as file:
        for name in _DATASETS:
            if name in file and isinstance(file[name], h5py.Dataset):
                return np.asarray(file[name][...])
        raise RequestError(f"{path}: no dataset {' or '.join(_DATASETS)}; it holds {', '.join(file) or 'nothing'}.")


def _array(path: Path) -> npt.NDArray[Any]:
    return np.asarray(np.load(path, allow_pickle=False))


def _tensor(path: Path) -> npt.NDArray[Any]:
    import torch

    found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, torch.Tensor):
        raise RequestError(f"{path}: holds a {type(found).__name__}; expected a tensor (patches, width).")
    return np.asarray(found.float().numpy())


def _store(path: Path, column: str | None) -> npt.NDArray[Any]:
    from wsikit.encoders.protocol import COLUMN_PREFIX
    from wsikit.slides.store import SlideStore

    with SlideStore(path) as store:
        table = store.patches()
        there = [name for name in table.columns() if name.startswith(COLUMN_PREFIX)]
        if column is None and len(there) != 1:
            raise RequestError(
                f"{path}: {len(there)} columns of features ({', '.join(there) or 'none'}); expected one."
            )
        return np.asarray(table.read(column or there[0]))
