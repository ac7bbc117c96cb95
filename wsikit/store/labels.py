"""Label images of a store: an NGFF 0.5 label under labels/<name>, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from wsikit.store import ngff
from wsikit.store.atomic import new_node, read_metadata, write_json
from wsikit.store.receipts import Receipt

CHUNK_PX = 2048


@dataclass(frozen=True)
class Label:
    """A label image in memory."""

    name: str
    values: npt.NDArray[np.uint8]
    """(h, w), covering the slide from level-0 (0, 0)."""
    downsample: tuple[float, float]
    """Level-0 px per label px along x and y."""
    names: Mapping[int, str]
    colors: Mapping[int, tuple[int, int, int]]
    record: Mapping[str, Any] = field(default_factory=dict)
    """JSON values stored in its attributes."""


def write_label(store: Path, label: Label, *, n_levels: int, mpp: tuple[float, float] | None, receipt: Receipt) -> None:
    """Write `label` into the store; one of the same name is replaced.

    `n_levels` is the number of levels of the image: NGFF requires as many of the label. Each has half the size of the
    one before. `mpp` is level-0 µm/px.
    """
    folder = store / "labels" / label.name
    record = {**label.record, "downsample": list(label.downsample), "receipt": receipt.to_json()}
    downsamples = [(label.downsample[0] * 2**level, label.downsample[1] * 2**level) for level in range(n_levels)]
    ome = ngff.label_image(name=label.name, mpp=mpp, downsamples=downsamples, colors=label.colors, names=label.names)
    ome = ngff.of_version(ome, ngff_version(store))
    with new_node(folder) as partial:
        group = zarr.create_group(partial, attributes={"ome": ome, "wsikit": record})
        for level in range(n_levels):
            values = label.values[:: 2**level, :: 2**level]
            group.create_array(
                str(level),
                data=values,
                chunks=tuple(min(CHUNK_PX, size) for size in values.shape),
                fill_value=0,
                dimension_names=("y", "x"),
            )
    list_labels(store)


def list_labels(store: Path) -> None:
    """Update labels/zarr.json to the labels that exist: a run may have been killed before it was written."""
    path = store / "labels" / "zarr.json"
    names = sorted(found.parent.name for found in (store / "labels").glob("*/zarr.json") if found.parent.name[0] != ".")
    record = ngff.group({"ome": {"version": ngff_version(store), "labels": names}})
    if read_metadata(path.parent) != record:
        write_json(path, record)


def ngff_version(image: Path) -> str:
    """Version of the OME-Zarr metadata of the image at `image`, which that of its labels must equal."""
    try:
        attributes = json.loads((image / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        return str(attributes["ome"]["version"])
    except (FileNotFoundError, KeyError):
        return ngff.NGFF_VERSION
