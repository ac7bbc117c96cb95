"""Bags for torchmil's `ProcessedMILDataset`, one .npy file per slide in features/ and in coords/; and for soma's
directories of sets: <slide>.npy and <slide>.coords.npy in one folder.

Coordinates are top-left corners in level-0 px, as in torchmil's own CAMELYON16 and PANDA bags. Labels are the user's:
labels/<slide>.npy for torchmil, a table of samples for soma. A small file of wsikit's own, wsikit/<slide>.json, states
the grid; the others do not read it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.exporters.patch_source import PatchSource, provenance
from wsikit.store.atomic import atomic_write

ABOUT_FOLDER = "wsikit"

TORCHMIL, SOMA = "torchmil", "soma"
SOMA_COORDS = ".coords.npy"
"""Ending of the coordinates next to the features of a set."""


def write_bag(folder: Path, source: PatchSource, *, layout: str = TORCHMIL, final: Path | None = None) -> list[Path]:
    """Write a slide's bag into `folder`; return its files. `final`: where they are moved to afterwards.

    Features are float32 (N, D): torchmil gives a bag to the model as it is stored, and its models have float32 weights.
    Coordinates are int64 (N, 2). Patches that could not be read are left out.

    Raises
    ------
    RequestError
        There are no features, or `final` holds a bag of another slide of that name.
    """
    if source.features is None:
        raise RequestError(
            f"{source.slide_id}: bags of {layout} hold features, and the store has none. Compute or import features "
            "first."
        )
    if layout == SOMA:
        paths = [folder / f"{source.stem}{ending}" for ending in (".npy", SOMA_COORDS)]
    else:
        paths = [folder / part / f"{source.stem}.npy" for part in ("features", "coords")]
    paths.append(folder / ABOUT_FOLDER / f"{source.stem}.json")
    _check_owner((final or folder) / ABOUT_FOLDER / paths[2].name, source)
    everything = np.empty((source.n_rows, source.table.width(source.features) or 0), dtype=np.float32)
    for rows, values in source.vectors("float32"):
        everything[rows] = values
    arrays: list[npt.NDArray[Any]] = [everything, source.coords]
    for path, array in zip(paths, arrays):
        with atomic_write(path) as partial, open(partial, "wb") as file:
            np.save(file, array)
    about = {"layout": layout, "unit": "level-0 px", **provenance(source)}
    with atomic_write(paths[2]) as partial:
        partial.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return paths


def neighbour_distance(source: PatchSource) -> float:
    """Distance in level-0 px below which torchmil shall link two patches: diagonal neighbours are, the next are not."""
    return 1.5 * max(source.grid.stride)


def _check_owner(path: Path, source: PatchSource) -> None:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))["slide_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if owner != source.slide_id:
        raise RequestError(
            f"{path}: holds the bag of {owner}, another slide of the same file name; {source.slide_id} needs another "
            "folder"
        )
