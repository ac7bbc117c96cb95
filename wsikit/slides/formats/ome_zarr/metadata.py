"""Axes, levels, pixel size and channels of one OME-Zarr image (0.1 to 0.6), from its metadata as JSON values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsikit.slides.scale import NO_SCALE, UNKNOWN, Scale

_UM = {
    "angstrom": 1e-4,
    "ångström": 1e-4,
    "picometer": 1e-6,
    "nanometer": 1e-3,
    "nm": 1e-3,
    "micrometer": 1.0,
    "um": 1.0,
    "µm": 1.0,  # micro sign
    "μm": 1.0,  # Greek mu
    "micron": 1.0,
    "millimeter": 1e3,
    "mm": 1e3,
    "centimeter": 1e4,
    "cm": 1e4,
    "decimeter": 1e5,
    "meter": 1e6,
    "m": 1e6,
    "inch": 25_400.0,
    "in": 25_400.0,
}
_RGB_NAMES = (("r", "g", "b"), ("red", "green", "blue"))
_RGB_COLORS = ("FF0000", "00FF00", "0000FF")
_NO_NAME = re.compile(r"(channel)?[\s_:#-]*\d*|c:?\d+|none|null|rgb", re.IGNORECASE)
"""Channel names that say nothing: none, a number, `Channel 0`, `Channel:0:0`."""

_FULL_SCALES = (1023, 4095, 16383, 65535)
_SOURCE = "OME-Zarr scale"


class MetadataError(ValueError):
    """The metadata do not describe an image that can be read; the message has no path."""


@dataclass(frozen=True)
class Axes:
    """Positions of the axes in the arrays."""

    y: int
    x: int
    c: int | None
    others: tuple[int, ...]
    """Time, focus and others; each is read at one index."""
    names: tuple[str, ...]
    unit_y: str | None
    unit_x: str | None


@dataclass(frozen=True)
class Multiscale:
    """A pyramid as its metadata describe it."""

    name: str
    axes: Axes
    paths: tuple[str, ...]
    """Of the arrays, in the order of the metadata: finest first."""
    scales: tuple[tuple[float, float] | None, ...]
    """Per array, units per px (x, y); None if it has no such scale."""


def parse_multiscale(ome: Mapping[str, Any], n_dims: int | None = None) -> Multiscale:
    """The first multiscale image of `ome`; MetadataError if it is not as the specification says.

    `n_dims` is that of the arrays, for versions before 0.3, which do not name the axes.
    """
    entries = ome.get("multiscales")
    if not isinstance(entries, list) or not entries or not isinstance(entries[0], dict):
        raise MetadataError("multiscales is not a list of images")
    entry = entries[0]
    datasets = entry.get("datasets")
    if not isinstance(datasets, list) or not datasets:
        raise MetadataError("the multiscale image has no datasets")
    axes = _axes(entry, datasets, n_dims)
    try:
        paths = tuple(str(dataset["path"]) for dataset in datasets)
    except (KeyError, TypeError):
        raise MetadataError("a dataset has no path") from None
    whole = _product(entry.get("coordinateTransformations"), axes) if "axes" in entry else (1.0, 1.0)
    scales = []
    for dataset in datasets:
        steps = dataset.get("coordinateTransformations")
        if "coordinateSystems" in entry and isinstance(steps, list):
            steps = steps[:1]  # others would lead to other coordinate systems
        own = _product(steps, axes, needed=True)
        scales.append(None if own is None or whole is None else (own[0] * whole[0], own[1] * whole[1]))
    return Multiscale(str(entry.get("name") or ""), axes, paths, tuple(scales))


def pixel_size(multiscale: Multiscale) -> Scale:
    """µm per px of the first array, with its source, or why there is none."""
    units = multiscale.axes.unit_x, multiscale.axes.unit_y
    scale = multiscale.scales[0]
    if scale is None:
        return NO_SCALE
    if None in units:
        if scale == (1.0, 1.0):
            return NO_SCALE
        return Scale(None, UNKNOWN, f"its OME-Zarr scale is {scale[0]:g} × {scale[1]:g}, without a unit")
    factors = [_UM.get(str(unit).strip().lower().replace("metre", "meter")) for unit in units]
    if None in factors:
        return Scale(None, UNKNOWN, f"its OME-Zarr scale is in {units[0]!r}, which is not a unit of length known here")
    return Scale((scale[0] * float(factors[0] or 0), scale[1] * float(factors[1] or 0)), _SOURCE)


@dataclass(frozen=True)
class Channels:
    """What the channels of an image mean."""

    rgb: bool
    names: tuple[str, ...]
    white_level: int
    """Sample value that is shown as 255."""
    note: str = ""


def channels_of(ome: Mapping[str, Any], count: int, dtype: np.dtype[Any], samples_per_pixel: int | None) -> Channels:
    """Whether the `count` channels are grey, R, G and B, or stains; their names; and the white level."""
    omero = ome.get("omero")
    stated = omero.get("channels") if isinstance(omero, dict) else None
    channels = [channel for channel in stated if isinstance(channel, dict)] if isinstance(stated, list) else []
    labels = [str(channel.get("label") or channel.get("name") or "").strip() for channel in channels]
    names = tuple(labels[i] if i < len(labels) and labels[i] else f"channel {i}" for i in range(count))
    white = _white_level(channels, dtype)
    if count != 3:
        return Channels(False, names, white)
    lowered = tuple(label.lower() for label in labels[:3])
    colors = tuple(str(channel.get("color") or "").lstrip("#").upper()[:6] for channel in channels[:3])
    nameless = all(_NO_NAME.fullmatch(label) for label in lowered)
    if lowered in _RGB_NAMES or (samples_per_pixel == 3 and nameless):
        return Channels(True, names, white)
    if nameless and dtype == np.uint8 and (not any(colors) or colors == _RGB_COLORS):
        note = "three channels of 8 bits without names are taken for red, green and blue"
        return Channels(True, names, white, note)
    return Channels(False, names, white)


def _white_level(channels: Sequence[Mapping[str, Any]], dtype: np.dtype[Any]) -> int:
    """255 for 8 bits; otherwise the highest value stated, if it is a full scale such as 4095, or 65535."""
    if dtype.itemsize == 1:
        return 255
    windows = [channel.get("window") for channel in channels]
    highest = {window.get("max") for window in windows if isinstance(window, dict)}
    only = highest.pop() if len(highest) == 1 else None
    return int(only) if only in _FULL_SCALES else 65535


def _axes(entry: Mapping[str, Any], datasets: Sequence[Any], n_dims: int | None) -> Axes:
    stated = entry.get("axes")
    if stated is None and "coordinateSystems" in entry:
        stated = _intrinsic_axes(entry, datasets)
    if stated is None:
        if n_dims != 5:
            raise MetadataError("the axes are not named")
        stated = ["t", "c", "z", "y", "x"]  # as versions 0.1 and 0.2 prescribe
    if not isinstance(stated, list):
        raise MetadataError("axes is not a list")
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in stated]
    names = tuple(str(axis.get("name", "")).lower() for axis in axes)
    place = {name: index for index, name in enumerate(names)}
    if len(place) != len(names) or "y" not in place or "x" not in place:
        raise MetadataError(f"axes {', '.join(names)}: an image needs one y and one x")
    kinds = [axis.get("type") for axis in axes]
    c = place.get("c", kinds.index("channel") if "channel" in kinds else None)
    others = tuple(index for index in range(len(axes)) if index not in (place["y"], place["x"], c))
    units = [axis.get("unit") for axis in axes]
    unit_y, unit_x = (None if not units[place[name]] else str(units[place[name]]) for name in "yx")
    return Axes(place["y"], place["x"], c, others, names, unit_y, unit_x)


def _intrinsic_axes(entry: Mapping[str, Any], datasets: Sequence[Any]) -> Any:
    """Axes of the coordinate system that the datasets are placed in (0.6)."""
    systems = {system["name"]: system.get("axes") for system in entry["coordinateSystems"] if isinstance(system, dict)}
    first = datasets[0] if isinstance(datasets[0], dict) else {}
    for transformation in first.get("coordinateTransformations") or []:
        output = transformation.get("output") if isinstance(transformation, dict) else None
        name = output.get("name") if isinstance(output, dict) else output
        if name in systems:
            return systems[name]
    return next(iter(systems.values()), None)


def _product(steps: Any, axes: Axes, *, needed: bool = False) -> tuple[float, float] | None:
    """Units per px along x and y of some transformations, one after the other.

    (1, 1) without any, or None if one is `needed`. None if one is neither scale, translation nor identity.
    """
    if not isinstance(steps, list) or not steps:
        return None if needed else (1.0, 1.0)
    x, y, seen = 1.0, 1.0, not needed
    for step in steps:
        kind = step.get("type") if isinstance(step, dict) else None
        if kind == "sequence":
            inner = _product(step.get("transformations"), axes, needed=needed)
            if inner is None:
                return None
            x, y, seen = x * inner[0], y * inner[1], True
        elif kind == "scale":
            values = step.get("scale")
            if not isinstance(values, list) or len(values) != len(axes.names):
                return None
            try:
                x, y, seen = x * float(values[axes.x]), y * float(values[axes.y]), True
            except (TypeError, ValueError):
                return None
        elif kind == "identity":
            seen = True
        elif kind != "translation":
            return None
    return (x, y) if seen else None
