"""OME-Zarr (NGFF) 0.5 and Zarr v3 metadata as JSON values. No files, no pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NGFF_VERSION = "0.5"
INTRINSIC = "physical"
"""Name of the coordinate system of an image in NGFF 0.6."""
_CHANNELS = {1: (("grey", "FFFFFF"),), 3: (("R", "FF0000"), ("G", "00FF00"), ("B", "0000FF"))}

Channel = tuple[str, str, tuple[float, float]]
"""Name, colour (RRGGBB), lowest and highest value shown."""


class ShownChannel(NamedTuple):
    """A channel of a fluorescence slide, as viewers show it."""

    label: str
    color: str
    """RRGGBB."""
    window: tuple[float, float]
    """Samples shown black and in full colour."""
    range: tuple[float, float]
    """Lowest and highest value that the window can be moved to."""
    active: bool


def group(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """zarr.json of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def byte_array(length: int) -> dict[str, Any]:
    """zarr.json of `length` bytes in one chunk."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [length],
        "data_type": "uint8",
        "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [length]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "bytes"}],
        "attributes": {},
    }


def multiscale_image(
    *,
    name: str,
    mpp: tuple[float, float] | None,
    downsamples: Sequence[tuple[float, float]],
    channels: int = 3,
    shown: Sequence[ShownChannel] = (),
) -> dict[str, Any]:
    """attributes.ome of a pyramid (c, y, x) of 3 channels (RGB) or 1 (grey), or of the channels `shown`.

    `downsamples` is (x, y) per level, relative to the slide's level 0, whose pixel size is `mpp`, µm/px.
    """
    return {
        "version": NGFF_VERSION,
        "multiscales": [_multiscale(name, mpp, downsamples, kind="mean", channel_axis=True)],
        "omero": _fluorescence(shown) if shown else _omero(_pixel_channels(channels)),
    }


def multiscale_image_04(
    *,
    name: str,
    mpp: tuple[float, float] | None,
    downsamples: Sequence[tuple[float, float]],
    channels: int = 3,
    shown: Sequence[ShownChannel] = (),
) -> dict[str, Any]:
    """.zattrs of the same pyramid in NGFF 0.4 (Zarr v2), for QuPath and older readers."""
    multiscale = _multiscale(name, mpp, downsamples, kind="mean", channel_axis=True)
    return {
        "multiscales": [{"version": "0.4", **multiscale}],
        "omero": {**(_fluorescence(shown) if shown else _omero(_pixel_channels(channels))), "version": "0.4"},
    }


def of_version(ome: Mapping[str, Any], version: str) -> dict[str, Any]:
    """attributes.ome of NGFF 0.5 as that of 0.5 or 0.6, which names the coordinate system of an image.

    >>> ome = multiscale_image(name="a", mpp=(0.5, 0.5), downsamples=[(1.0, 1.0)])
    >>> of_version(ome, "0.6")["multiscales"][0]["datasets"][0]["coordinateTransformations"]  # doctest: +ELLIPSIS
    [{'type': 'scale', 'scale': [1.0, 0.5, 0.5], 'input': {'path': '0'}, 'output': {'name': 'physical'}}]
    """
    if version != "0.6":
        return dict(ome)
    found = {**ome, "version": version}
    if "multiscales" in ome:
        found["multiscales"] = [_multiscale_06(multiscale) for multiscale in ome["multiscales"]]
    return found


def _multiscale_06(multiscale: Mapping[str, Any]) -> dict[str, Any]:
    others = {name: value for name, value in multiscale.items() if name not in ("axes", "datasets")}
    datasets = []
    for dataset in multiscale["datasets"]:
        steps = dataset["coordinateTransformations"]
        whole = steps[0] if len(steps) == 1 else {"type": "sequence", "transformations": steps}
        ends = {"input": {"path": dataset["path"]}, "output": {"name": INTRINSIC}}
        datasets.append({"path": dataset["path"], "coordinateTransformations": [{**whole, **ends}]})
    return {**others, "coordinateSystems": [{"name": INTRINSIC, "axes": multiscale["axes"]}], "datasets": datasets}


def _pixel_channels(channels: int) -> list[Channel]:
    return [(label, color, (0, 255)) for label, color in _CHANNELS[channels]]


def _omero(channels: Sequence[Channel], *, model: str = "color") -> dict[str, Any]:
    return {
        "rdefs": {"model": model, "defaultT": 0, "defaultZ": 0},
        "channels": [
            {
                "label": label,
                "color": color,
                "active": True,
                "coefficient": 1,
                "family": "linear",
                "inverted": False,
                "window": {"min": low, "max": high, "start": low, "end": high},
            }
            for label, color, (low, high) in channels
        ],
    }


def _fluorescence(shown: Sequence[ShownChannel]) -> dict[str, Any]:
    record = _omero([(channel.label, channel.color, channel.window) for channel in shown])
    for entry, channel in zip(record["channels"], shown, strict=True):
        entry["active"] = channel.active
        entry["window"] |= {"min": channel.range[0], "max": channel.range[1]}
    return record


def map_image(
    *,
    name: str,
    mpp: tuple[float, float],
    downsamples: Sequence[tuple[float, float]],
    channels: Sequence[Channel],
) -> dict[str, Any]:
    """attributes.ome of a pyramid (c, y, x) of quantities. `downsamples`: slide px per map px by level, the slide's
    level-0 pixel being `mpp` µm; `channels`: name, colour (RRGGBB), lowest and highest value shown."""
    return {
        "version": NGFF_VERSION,
        "multiscales": [_multiscale(name, mpp, downsamples, kind="mean", channel_axis=True)],
        "omero": _omero(channels, model="color" if len(channels) > 1 else "greyscale"),
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
            # the centre of a coarse pixel is (ds - 1) / 2 fine pixels away from the centre of its first fine pixel
            shift = [pixel_y * (ds_y - 1) / 2, pixel_x * (ds_x - 1) / 2]
            zeros = [0.0] if channel_axis else []
            transformations.append({"type": "translation", "translation": [*zeros, *shift]})
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    axes: list[dict[str, Any]] = [{"name": "c", "type": "channel"}] if channel_axis else []
    axes += [{"name": "y", "type": "space", **unit}, {"name": "x", "type": "space", **unit}]
    return {"name": name, "type": kind, "axes": axes, "datasets": datasets}
