"""Patch features of slides as bags: files of TRIDENT, CLAM, STAMP, AtlasPatch or torchmil, or slide stores.

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
from wsikit.exporters.patch_source import FEATURES, SHARED, choose_features, feature_columns
from wsikit.training.cohort.protocol import Bag, Part

SUFFIXES = (".h5", ".hdf5", ".pt", ".npy", ".zarr")
"""In the order in which they are looked for."""
_CLAM = ("h5_files", "pt_files")
"""Folders of CLAM's features, in the one that is given to it (--feat_dir)."""
_DATASETS = ("features", "feats", "embeddings")
_SLIDE_SUFFIXES = {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".czi", ".dcm", ".bif", ".vms", ".isyntax"}


@dataclass(frozen=True)
class SlideBag:
    """Reads the patch features of one patient's slides, one after the other, float32 (n, D)."""

    files: tuple[Path, ...]
    column: str | None = None
    """NAME or features_NAME, for stores and files with features of several encoders; None: the only ones there."""

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
    """The file of a slide in `folder`, or in CLAM's folders there: the slide's name with or without its suffix, and one
    of `SUFFIXES`."""
    stem = slide[: -len(Path(slide).suffix)] if Path(slide).suffix.lower() in _SLIDE_SUFFIXES else slide
    for place in (Path(folder), *(Path(folder) / name for name in _CLAM)):
        for name in dict.fromkeys((slide, stem)):
            if Path(name).suffix.lower() in SUFFIXES and (place / name).exists():
                return place / name
            for suffix in SUFFIXES:
                if (path := place / f"{name}{suffix}").exists():
                    return path
    return None


def read_bag(path: Path, *, column: str | None = None) -> npt.NDArray[np.float32]:
    """Features of the patches of one slide, float32 (n, D).

    HDF5: the dataset `features` (TRIDENT, CLAM) or `feats` (STAMP), also with a leading axis of length 1, or one of the
    group `features` (AtlasPatch). .pt: a tensor. .npy: an array. .zarr: a slide store with a column `features_NAME`,
    without the patches that could not be read, which have none.

    Raises
    ------
    RequestError
        The file has no features, is empty, or holds values that are not finite.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in (".pt", ".npy"):
            values = {".pt": _tensor, ".npy": _array}[suffix](path)
        else:
            values = (_store if suffix == ".zarr" else _hdf5)(path, column)
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


def _hdf5(path: Path, column: str | None) -> npt.NDArray[Any]:
    import h5py

    with h5py.File(path, "r") as file:
        for name in _DATASETS:
            found = file.get(name)
            if isinstance(found, h5py.Group):
                found = found[_encoder(path, list(found), column)]
            if isinstance(found, h5py.Dataset):
                return np.asarray(found[...])
        raise RequestError(f"{path}: no dataset {' or '.join(_DATASETS)}; it holds {', '.join(file) or 'nothing'}.")


def _encoder(path: Path, there: list[str], column: str | None) -> str:
    """Which of the encoders of an AtlasPatch file is asked for, or the only one."""
    wanted = None if column is None else column.removeprefix(FEATURES)
    chosen = [name for name in there if wanted is None or name == wanted]
    if len(chosen) != 1:
        asked = "" if wanted is None else f", not {wanted}"
        raise RequestError(f"{path}: features of {', '.join(there) or 'no encoder'}{asked}. Name one as data.encoder.")
    return chosen[0]


def _array(path: Path) -> npt.NDArray[Any]:
    return np.asarray(np.load(path, allow_pickle=False))


def _tensor(path: Path) -> npt.NDArray[Any]:
    import torch

    found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, torch.Tensor):
        raise RequestError(f"{path}: holds a {type(found).__name__}; expected a tensor (patches, width).")
    return np.asarray(found.float().numpy())


def _store(path: Path, column: str | None) -> npt.NDArray[Any]:
    from wsikit.slides.store import SlideStore

    with SlideStore(path) as store:
        table = store.patches()
        there = feature_columns(table)
        if column is None and len([name for name in there if not name.endswith(SHARED)]) > 1:
            raise RequestError(f"{path}: features of several encoders, {', '.join(there)}. Name one as data.encoder.")
        chosen = choose_features(table, column)
        if chosen is None:
            raise RequestError(f"{path}: the store has no features. Compute them (wsikit features).")
        return np.asarray(table.read(chosen))
