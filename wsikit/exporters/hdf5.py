"""Patch coordinates and features in the HDF5 layouts of TRIDENT 0.3, CLAM, STAMP 2 and AtlasPatch, written atomically.

Coordinates are top-left corners in level-0 px, in STAMP's files in µm. Nothing is resampled: a magnification in these
files is a label, chosen so that the tools read the same field of view as wsikit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsikit.errors import RequestError
from wsikit.exporters.patch_source import FEATURES, PatchSource, choose_features, feature_columns
from wsikit.geometry import PatchGrid
from wsikit.store.atomic import atomic_write

if TYPE_CHECKING:
    import h5py

__all__ = [
    "FEATURES",
    "LAYOUTS",
    "PatchSource",
    "choose_features",
    "feature_columns",
    "magnifications",
    "nominal_field",
    "write_layout",
]

LAYOUTS = ("trident", "clam", "stamp", "atlaspatch")
STAMP_VERSION = "2.0.0"
"""The first version with this layout: STAMP refuses files of versions later than its own."""

NOMINAL_TOLERANCE = 0.012
"""Relative. A magnification this close to a whole number is written as that number."""

_OWNER = b"wsikit slide "
"""Begins the comment of each file's root, which names the slide's id in wsikit. Attributes are those of the tools."""

_MAGNIFICATIONS = ((0.16, 80), (0.2, 60), (0.3, 40), (0.6, 20), (1.2, 10), (2.4, 5))
"""(µm/px limit, magnification below it), as TRIDENT quantises."""


def write_layout(
    layout: str, folder: str | os.PathLike[str], source: PatchSource, *, final: str | os.PathLike[str] | None = None
) -> list[Path]:
    """Write a slide's files of one tool into `folder`, each atomically; return them.

    Parameters
    ----------
    layout
        One of `LAYOUTS`.
    folder
        The tool's job, data or output folder; files of other slides in it are not changed.

    final
        The folder that the files name as theirs, if they are moved there afterwards; None: `folder`.

    Raises
    ------
    RequestError
        STAMP needs features; pixels are not square; there is no magnification for the pixel size.
    """
    writers = {"trident": _write_trident, "clam": _write_clam, "stamp": _write_stamp, "atlaspatch": _write_atlaspatch}
    target = Path(folder if final is None else final)
    written = writers[layout](Path(folder), source, target)
    if final is not None:
        for path in written:
            _check_owner(target / path.relative_to(folder), source)
    return written


def _check_owner(path: Path, source: PatchSource) -> None:
    """RequestError if `path` is a file of another slide, from another folder, whose file has the same name."""
    import h5py

    if path.suffix != ".h5" or not path.is_file():
        return
    try:
        with h5py.File(path, "r") as file:
            comment = file["/"].id.get_comment(b"/") or b""
    except OSError:
        return  # a damaged file is replaced
    owner = comment.removeprefix(_OWNER).decode("utf-8", "replace")
    if comment.startswith(_OWNER) and owner != source.slide_id:
        raise RequestError(
            f"{path}: holds the patches of {owner}, another slide of the same file name; {source.slide_id} needs "
            "another folder"
        )


def magnifications(grid: PatchGrid, side_px: int) -> tuple[int, int | float]:
    """Magnifications of slide and patches for TRIDENT and AtlasPatch: their ratio gives the field that these read.

    >>> magnifications(PatchGrid((9000, 9000), (0.25, 0.25), 224, 0.5), 448)
    (40, 20)
    """
    mpp = sum(grid.slide_mpp) / 2
    level0 = next((magnification for limit, magnification in _MAGNIFICATIONS if mpp < limit), None)
    if level0 is None:
        raise RequestError(f"there is no magnification (5x or more) for {mpp:.4g} µm/px; use CSV, CLAM or STAMP")
    exact = level0 * grid.patch_px / side_px
    return level0, round(exact) if abs(round(exact) / exact - 1) <= NOMINAL_TOLERANCE else exact


def nominal_field(grid: PatchGrid, side_px: int, *, whole: bool = False) -> float:
    """Side that a tool reads according to `magnifications`, relative to the patch's side: 1 = the same field.

    `whole`: the tool reads whole magnifications only, as AtlasPatch does.
    """
    level0, target = magnifications(grid, side_px)
    target = max(1, round(target)) if whole else target
    return grid.patch_px * level0 / target / side_px


def _write_trident(job: Path, source: PatchSource, final: Path) -> list[Path]:
    grid, side = source.grid, source.side_px
    level0, target = magnifications(grid, side)
    folder = job / f"{target:.4g}x_{grid.patch_px}px_{grid.overlap_px}px_overlap"
    attributes = {
        "patch_size": grid.patch_px,
        "patch_size_level0": side,
        "level0_magnification": level0,
        "target_magnification": target,
        "overlap": grid.overlap_px,
        "name": source.stem,
        "savetodir": str(final / folder.name),
        "level0_width": grid.slide_px[0],
        "level0_height": grid.slide_px[1],
    }
    coords = source.coords
    written = [folder / "patches" / f"{source.stem}_patches.h5"]
    with _new_file(written[0], source) as file:
        file.create_dataset("coords", data=coords).attrs.update(attributes)
    if source.features is not None:
        features = folder / f"features_{source.encoder}"
        written.append(features / f"{source.stem}.h5")
        with _new_file(written[-1], source) as file:
            stated = str(final / folder.name / features.name)
            file.create_dataset("coords", data=coords).attrs.update({**attributes, "savetodir": stated})
            about = {"name": source.stem, "savetodir": stated, "encoder": source.encoder}
            _write_vectors(file, "features", source, "float32").attrs.update(about)
    for name, vector in source.slide_vectors.items():
        place = folder / f"slide_features_{name}"
        written.append(place / f"{source.stem}.h5")
        stated = str(final / folder.name / place.name)
        with _new_file(written[-1], source) as file:
            about = {"name": source.stem, "savetodir": stated}
            file.create_dataset("features", data=vector.astype(np.float32)).attrs.update(about)
            file.create_dataset("coords", data=coords).attrs.update({**attributes, "savetodir": stated})
    return written


def _write_clam(folder: Path, source: PatchSource, final: Path) -> list[Path]:
    coords = source.coords
    written = [folder / "patches" / f"{source.stem}.h5"]
    size = np.asarray(source.grid.slide_px, dtype=np.int64)
    with _new_file(written[0], source) as file:
        # level 0, so that the field is right whatever levels the reader of the slide finds
        file.create_dataset("coords", data=coords).attrs.update(
            {
                "patch_size": source.side_px,
                "patch_level": 0,
                "downsample": np.ones(2),
                "downsampled_level_dim": size,
                "level_dim": size,
                "name": source.stem,
                "save_path": str(final / "patches"),
            }
        )
    if source.features is not None:
        written += [folder / "h5_files" / f"{source.stem}.h5", folder / "pt_files" / f"{source.stem}.pt"]
        with _new_file(written[1], source) as file:
            _write_vectors(file, "features", source, "float32")
            file.create_dataset("coords", data=coords.astype(np.int32))
        _write_tensor(written[2], source)
    return written


def _write_stamp(folder: Path, source: PatchSource, final: Path) -> list[Path]:
    if source.features is None:
        raise RequestError(
            f"{source.slide_id}: STAMP's files hold features, and the store has none. Import features first "
            "(wsikit import), or export to trident, clam or atlaspatch, which also have files with coordinates only."
        )
    grid = source.grid
    receipt = source.table.receipt(source.features)
    path = folder / source.encoder / f"{source.stem}.h5"
    with _new_file(path, source) as file:
        file.create_dataset("coords", data=(source.coords * np.asarray(grid.slide_mpp)).astype(np.float32))
        _write_vectors(file, "feats", source, "float16")
        file.attrs.update(
            {
                "stamp_version": STAMP_VERSION,
                "extractor": source.encoder,
                "unit": "um",
                "tile_size_um": float(grid.patch_px * grid.target_mpp),
                "tile_size_px": grid.patch_px,
                "code_hash": receipt.digest if receipt else "",
                "feat_type": "tile",
            }
        )
    return [path]


def _write_atlaspatch(folder: Path, source: PatchSource, final: Path) -> list[Path]:
    grid, side = source.grid, source.side_px
    level0, target = magnifications(grid, side)
    coords = source.coords
    path = folder / "patches" / f"{source.stem}.h5"
    with _new_file(path, source) as file:
        places = np.zeros((len(coords), 5), dtype=np.int32)
        places[:, :2], places[:, 2:4] = coords, side  # and level 0
        file.create_dataset("coords", data=places)
        if source.features is not None:
            _write_vectors(file, f"features/{source.encoder}", source, "float32")
        file.attrs.update(
            {
                "patch_size": grid.patch_px,
                "patch_size_level0": side,
                # AtlasPatch cuts fractions off when it reads; the field of view is that of patch_size_level0
                "level0_magnification": max(1, round(level0)),
                "target_magnification": max(1, round(target)),
                "overlap": grid.overlap_px,
                "level0_width": grid.slide_px[0],
                "level0_height": grid.slide_px[1],
                "wsi_path": source.file_name,
                "num_patches": len(coords),
            }
        )
    return [path]


@contextmanager
def _new_file(path: Path, source: PatchSource) -> Iterator[h5py.File]:
    """An HDF5 file that appears under its name only when it is complete."""
    import h5py

    _check_owner(path, source)
    with atomic_write(path) as partial, h5py.File(partial, "w") as file:
        yield file
        file["/"].id.set_comment(b"/", _OWNER + source.slide_id.encode())


def _write_vectors(file: h5py.File, name: str, source: PatchSource, dtype: str) -> h5py.Dataset:
    assert source.features is not None
    width = source.table.width(source.features)
    dataset = file.create_dataset(name, shape=(source.n_rows, width), dtype=dtype)
    for rows, values in source.vectors(dtype):
        dataset[rows] = values
    return dataset


def _write_tensor(path: Path, source: PatchSource) -> None:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise RequestError(
            f"{path}: CLAM's .pt files need PyTorch, which is not installed (pip install torch)"
        ) from error

    assert source.features is not None
    everything = np.empty((source.n_rows, source.table.width(source.features) or 0), dtype=np.float32)
    for rows, values in source.vectors("float32"):
        everything[rows] = values
    # through an open file: given a path, torch writes the (temporary) file name into the archive
    with atomic_write(path) as partial, open(partial, "wb") as file:
        torch.save(torch.from_numpy(everything), file)
