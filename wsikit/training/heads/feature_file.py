"""A file of features of labelled images: `.npz`, or HDF5 of other tools.

Both hold `features`, float (N, D), and `ids`, N names of images as in the data. An `.npz` of wsikit also holds the
encoder's record, as JSON in `encoder`. Nothing is unpickled.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.store.atomic import atomic_write

_HDF5 = (".h5", ".hdf5")


@dataclass(frozen=True)
class FeatureFile:
    """The content of such a file, in the order that was asked for."""

    features: npt.NDArray[np.floating]
    """(N, D)"""
    encoder: dict[str, Any]
    """Record of the encoder; empty if the file has none."""


def write_feature_file(
    path: Path, ids: Sequence[str], features: npt.NDArray[np.floating], encoder: Mapping[str, Any]
) -> None:
    """Write features (N, D) of images by their names, with the record of their encoder, in one step; as float16 if that
    changes nothing."""
    half = features.astype(np.float16)
    features = half if np.array_equal(half.astype(features.dtype), features) else features
    with atomic_write(path) as partial, open(partial, "wb") as file:
        np.savez(file, ids=np.array(ids, dtype=np.str_), features=features, encoder=np.array(json.dumps(dict(encoder))))


def read_feature_file(path: str | Path, ids: Sequence[str]) -> FeatureFile:
    """Features of these images, one row each; the file may hold more, in any order.

    Raises
    ------
    RequestError
        If it is of another kind, has other lengths, names an image twice, or lacks an image.
    """
    path = Path(path)
    if not path.is_file():
        raise RequestError(f"{path}: no such file. Give the file of features, .npz or .h5.")
    names, features, encoder = _hdf5(path) if path.suffix.lower() in _HDF5 else _npz(path)
    if features.ndim != 2 or features.dtype.kind != "f" or len(names) != len(features):
        raise RequestError(
            f"{path}: features of {features.dtype} {features.shape} and {len(names)} ids; expected float (N, D) and N."
        )
    places = {name: row for row, name in enumerate(names)}
    if len(places) != len(names):
        raise RequestError(f"{path}: an image is named twice in ids. Keep one row per image.")
    if missing := [one for one in ids if one not in places]:
        raise RequestError(
            f"{path}: no features of {missing[0]} ({len(missing)} of {len(ids)} images). Its ids must be the images' "
            "names as in the data."
        )
    return FeatureFile(features[[places[one] for one in ids]], encoder)


def _npz(path: Path) -> tuple[list[str], npt.NDArray[Any], dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as saved:
            encoder = json.loads(str(saved["encoder"])) if "encoder" in saved else {}
            return [str(name) for name in saved["ids"].tolist()], saved["features"], encoder
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RequestError(f"{path}: not an .npz with the arrays ids and features ({error}).") from error


def _hdf5(path: Path) -> tuple[list[str], npt.NDArray[Any], dict[str, Any]]:
    import h5py

    try:
        with h5py.File(path) as file:
            names = file["ids"].asstr()[()].tolist()
            return names, np.asarray(file["features"][()]), {}
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{path}: not an HDF5 file with the datasets ids and features ({error}).") from error
