"""OME-Zarr (NGFF) 0.5 and zarr v3 metadata as plain JSON records. Knows nothing of files and pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NGFF_VERSION = "0.5"
JPEG_CODEC = "imagecodecs_jpeg"
"""Name of the inner codec; its class is wsikit.store.codecs.Jpeg."""
_CHANNELS = (("R", "FF0000"), ("G", "00FF00"), ("B", "0000FF"))


def group(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """zarr.json of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def jpeg_array(
    *, width: int, height: int, tile_px: tuple[int, int], chunks_per_shard: int, attributes: Mapping[str, Any]
) -> dict[str, Any]:
    """zarr.json of one image level: uint8 (3, height, width), a JPEG stream per tile (width, height), in shards."""
    tile_w, tile_h = tile_px
    inner = [
        # the JPEG holds y, x, c; the array is c, y, x as NGFF wants it
        {"name": "transpose", "configuration": {"order": [1, 2, 0]}},
        {"name": JPEG_CODEC},
        {"name": "crc32c"},
    ]
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {
        "chunk_shape": [3, tile_h, tile_w],
        "codecs": inner,
        "index_codecs": index,
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [3, height, width],
        "data_type": "uint8",
        "fill_value": 255,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [3, tile_h * chunks_per_shard, tile_w * chunks_per_shard]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": ["c", "y", "x"],
        "attributes": {"wsikit": dict(attributes)},
    }


def multiscale_image(
    *, name: str, mpp: tuple[float, float] | None, downsamples: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """attributes.ome of an RGB pyramid (c, y, x). `downsamples` is (x, y) per level, finest first; mpp in µm/px."""
    channels = [
        {
            "label": label,
            "color": color,
            "active": True,
            "coefficient": 1,
            "family": "linear",
            "inverted": False,
            "window": {"min": 0, "max": 255, "start": 0, "end": 255},
        }
        for label, color in _CHANNELS
    ]
    return {
        "version": NGFF_VERSION,
        "multiscales": [_multiscale(name, mpp, downsamples, kind="mean", channel_axis=True)],
        "omero": {"rdefs": {"model": "color", "defaultT": 0, "defaultZ": 0}, "channels": channels},
    }


def label_image(
    *,
    name: str,
    mpp: tuple[float, float] | None,
    downsamples: Sequence[tuple[float, float]],
    colors: Mapping[int, tuple[int, int, int]],
    names: Mapping[int, str],
) -> dict[str, Any]:
    """attributes.ome of a label pyramid (y, x). `downsamples`: image px per label px by level; colours RGB by value."""
    return {
        "version": NGFF_VERSION,
        "multiscales": [_multiscale(name, mpp, downsamples, kind="nearest", channel_axis=False)],
        "image-label": {
            "colors": [{"label-value": value, "rgba": [*rgb, 255]} for value, rgb in colors.items()],
            "properties": [{"label-value": value, "name": text} for value, text in names.items()],
            "source": {"image": "../../"},
        },
    }


def _multiscale(
    name: str,
    mpp: tuple[float, float] | None,
    downsamples: Sequence[tuple[float, float]],
    *,
    kind: str,
    channel_axis: bool,
) -> dict[str, Any]:
    unit = {"unit": "micrometer"} if mpp else {}
    lead = [1.0] if channel_axis else []
    pixel_x, pixel_y = mpp or (1.0, 1.0)
    datasets = []
    for level, (ds_x, ds_y) in enumerate(downsamples):
        transformations: list[dict[str, Any]] = [
            {"type": "scale", "scale": [*lead, pixel_y * ds_y, pixel_x * ds_x]},
        ]
        if (ds_x, ds_y) != (1.0, 1.0):
            # the centre of a coarse pixel lies (ds - 1) / 2 fine pixels from the centre of the first fine one
            shift = [pixel_y * (ds_y - 1) / 2, pixel_x * (ds_x - 1) / 2]
            zeros = [0.0] if channel_axis else []
            transformations.append({"type": "translation", "translation": [*zeros, *shift]})
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    axes: list[dict[str, Any]] = [{"name": "c", "type": "channel"}] if channel_axis else []
    axes += [{"name": "y", "type": "space", **unit}, {"name": "x", "type": "space", **unit}]
    return {"name": name, "type": kind, "axes": axes, "datasets": datasets}
