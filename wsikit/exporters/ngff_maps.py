"""A slide's map as OME-Zarr 0.5: the classes as a label image, probabilities and gate as one multi-channel image.

One pixel is one patch, or 1/`FINER` of a stride where patches overlap. The frame is the slide's: µm from its level-0
corner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zarr

from wsikit.errors import RequestError
from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.palette import UNPREDICTED_COLOR, UNPREDICTED_NAME
from wsikit.slides.store import SlideStore
from wsikit.store import ngff
from wsikit.store.atomic import new_node
from wsikit.store.labels import CHUNK_PX, Label, ngff_version, write_label
from wsikit.store.receipts import Receipt

SUBTYPE, MAPS = "subtype", "maps"
FINER = 4
"""Map px per stride where patches overlap or are not on a grid: their borders are then exact to 1/8 of a stride."""

MAPS_REVISION = 1
SMALLEST_PX = 64
"""Pyramid levels are added until the longer side is at most this."""

_MOST_LABELS = 254
_CHUNK_CHANNELS = 1
_GREYS = "FFFFFF"

Channels = Mapping[str, npt.NDArray[np.floating]]


def write_in_store(store: SlideStore, class_map: ClassMap, channels: Channels) -> list[Path]:
    """Write labels/subtype and the image maps into the slide's own store; return their folders. Without classes there
    is no label.

    Parameters
    ----------
    channels
        (N,) values per patch by channel name, such as "probability UD", "gate" and "localize neuropil"; NaN where there
        is none.
    """
    receipt = _receipt(store, class_map, channels)
    maps = store.folder / MAPS
    written = [maps]
    if class_map.classes:
        label = subtype_label(class_map)
        write_label(store.folder, label, n_levels=len(store.level_dimensions), mpp=store.info.mpp, receipt=receipt)
        written.insert(0, store.folder / "labels" / SUBTYPE)
    _write_image(maps, class_map, channels, receipt, ngff_version(store.folder))
    return written


def write_apart(path: Path, store: SlideStore, class_map: ClassMap, channels: Channels) -> list[Path]:
    """Write the maps as a separate OME-Zarr image at `path`, with the subtype as its label; return the folders.

    A file or folder that wsikit did not write is not replaced (StoreError).
    """
    receipt = _receipt(store, class_map, channels)
    n_levels = _write_image(path, class_map, channels, receipt, ngff.NGFF_VERSION)
    if not class_map.classes:
        return [path]
    write_label(path, subtype_label(class_map), n_levels=n_levels, mpp=class_map.grid.slide_mpp, receipt=receipt)
    return [path, path / "labels" / SUBTYPE]


def subtype_label(class_map: ClassMap) -> Label:
    """Values 1 … C are the classes in the model's order, C + 1 is a patch without prediction, 0 no patch."""
    n_classes = len(class_map.classes)
    if n_classes > _MOST_LABELS:
        raise RequestError(f"{class_map.slide_id}: {n_classes} classes, a label image holds {_MOST_LABELS}")
    owners, downsample = raster(class_map)
    values = np.append(np.where(class_map.labels >= 0, class_map.labels + 1, n_classes + 1), 0)[owners]
    names = {index + 1: class_map.class_names[index] for index in range(n_classes)}
    colors = {index + 1: class_map.colors[index] for index in range(n_classes)}
    names[n_classes + 1], colors[n_classes + 1] = UNPREDICTED_NAME.lower(), UNPREDICTED_COLOR
    record = {"classes": list(class_map.classes), "slide_id": class_map.slide_id, "notice": class_map.notice}
    return Label(SUBTYPE, values.astype(np.uint8), downsample, names, colors, record)


def raster(class_map: ClassMap) -> tuple[npt.NDArray[np.int64], tuple[float, float]]:
    """(h, w) table row of the patch at the centre of each map pixel, -1 for none, and level-0 px per map px (x, y).

    The raster covers the whole slide from level-0 (0, 0), in whole map pixels.
    """
    grid = class_map.grid
    finer = 1 if grid.anchored and grid.overlap_px == 0 else FINER
    downsample = (grid.stride[0] / finer, grid.stride[1] / finer)
    partition = class_map.partition
    indices, within = [], []
    for axis, edges in ((1, partition.y_edges), (0, partition.x_edges)):
        count = max(1, math.ceil(grid.slide_px[axis] / downsample[axis] - 1e-6))
        middle = np.minimum((np.arange(count) + 0.5) * downsample[axis], grid.slide_px[axis] - 0.5)
        index = np.searchsorted(edges, middle, side="right") - 1
        within.append((index >= 0) & (index < len(edges) - 1))
        indices.append(np.clip(index, 0, max(0, len(edges) - 2)))
    if partition.patch.size == 0:
        return np.full((len(indices[0]), len(indices[1])), -1, dtype=np.int64), downsample
    owners = partition.patch[np.ix_(indices[0], indices[1])]
    return np.where(within[0][:, None] & within[1][None, :], owners, -1), downsample


def _write_image(path: Path, class_map: ClassMap, channels: Channels, receipt: Receipt, version: str) -> int:
    """Write float32 (c, y, x), coarser levels by the mean of the finite values; return the number of levels."""
    if not channels:
        raise RequestError(f"{class_map.slide_id}: no probabilities and no gate to map. Run wsikit predict first.")
    owners, downsample = raster(class_map)
    # np.append of a Python float would make float64 of it
    outside = np.array([np.nan], dtype=np.float32)
    stack = np.stack([np.append(np.asarray(values, np.float32), outside)[owners] for values in channels.values()])
    levels = [stack]
    while max(levels[-1].shape[1:]) > SMALLEST_PX:
        levels.append(_halve(levels[-1]))
    downsamples = [(downsample[0] * 2**level, downsample[1] * 2**level) for level in range(len(levels))]
    ome = ngff.map_image(
        name=f"{class_map.slide_id} maps",
        mpp=class_map.grid.slide_mpp,
        downsamples=downsamples,
        channels=[(name, _color(class_map, name), _window(values)) for name, values in channels.items()],
    )
    ome = ngff.of_version(ome, version)
    record = {"slide_id": class_map.slide_id, "notice": class_map.notice, "receipt": receipt.to_json()}
    with new_node(path) as partial:
        group = zarr.create_group(partial, attributes={"ome": ome, "wsikit": record})
        for level, values in enumerate(levels):
            group.create_array(
                str(level),
                data=values,
                chunks=(_CHUNK_CHANNELS, *(min(CHUNK_PX, size) for size in values.shape[1:])),
                fill_value=np.nan,
                dimension_names=("c", "y", "x"),
            )
    return len(levels)


def _halve(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mean of the finite values of 2 × 2 px of (c, h, w); NaN where there is none."""
    height, width = (size + size % 2 for size in values.shape[1:])
    padded = np.full((values.shape[0], height, width), np.nan, dtype=np.float32)
    padded[:, : values.shape[1], : values.shape[2]] = values
    blocks = padded.reshape(values.shape[0], height // 2, 2, width // 2, 2)
    there = np.isfinite(blocks).sum(axis=(2, 4))
    total = np.nansum(blocks, axis=(2, 4))
    return np.where(there > 0, total / np.maximum(there, 1), np.nan).astype(np.float32)


def _color(class_map: ClassMap, channel: str) -> str:
    """Colour of a channel: that of the class for a probability, else white."""
    code = channel.removeprefix("probability ")
    if code == channel or code not in class_map.classes:
        return _GREYS
    return "{:02X}{:02X}{:02X}".format(*class_map.colors[class_map.classes.index(code)])


def _window(values: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Display range of viewers, from black to full colour: 0 to 1, or up to the highest value."""
    found = values[np.isfinite(values)]
    high = float(found.max()) if len(found) else 1.0
    return min(0.0, float(found.min()) if len(found) else 0.0), 1.0 if high <= 1.0 else high


def _receipt(store: SlideStore, class_map: ClassMap, channels: Sequence[str] | Channels) -> Receipt:
    parameters = {"grid": class_map.grid.to_json(), "channels": list(channels), "classes": list(class_map.classes)}
    return Receipt("maps", MAPS_REVISION, parameters, {"image": store.fingerprint})
