"""Parts that other packages add to wsikit, by Python entry points. Imports a plug-in only when it is asked for.

A package announces a part in its own metadata, for example in its `pyproject.toml`::

    [project.entry-points."wsikit.readers"]
    my-format = "my_package.reader:MySlide"

The groups are `wsikit.readers`, `wsikit.captioners`, `wsikit.encoders`, `wsikit.models` and `wsikit.exporters`. What an
entry point must be is written in `wsikit.testing`, which also has the checks that wsikit's own parts pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from wsikit.errors import PluginError

Group = Literal["readers", "captioners", "encoders", "models", "exporters"]

GROUPS: tuple[Group, ...] = ("readers", "captioners", "encoders", "models", "exporters")


@dataclass(frozen=True)
class BrokenPlugin:
    """A plug-in that is installed and cannot be imported."""

    group: Group
    name: str
    package: str
    """Distribution that announces it, with its version."""
    reason: str
    """The exception of the import, in one line."""


def plugin_names(group: Group) -> tuple[str, ...]:
    """Names of the installed plug-ins of `group`, sorted; nothing is imported.

    >>> isinstance(plugin_names("readers"), tuple)
    True
    """
    return tuple(sorted({point.name for point in _points(group)}))


def load_plugin(group: Group, name: str) -> Any:
    """The object that the plug-in `name` of `group` announces, imported now.

    Raises
    ------
    PluginError
        There is no such plug-in, two packages announce the same name, or its import fails. The message names the
        package and the reason.
    """
    found = [point for point in _points(group) if point.name == name]
    if not found:
        known = ", ".join(plugin_names(group)) or "none"
        raise PluginError(f"no plug-in {name!r} for wsikit.{group} is installed; installed: {known}")
    if len({point.value for point in found}) > 1:
        packages = " and ".join(sorted(_package(point) for point in found))
        raise PluginError(f"plug-in {name!r} for wsikit.{group} is announced by {packages}. Uninstall one of them.")
    try:
        return found[0].load()
    except Exception as error:  # a plug-in may fail in any way; it is named, never silently absent
        raise PluginError(
            f"plug-in {name!r} for wsikit.{group} (package {_package(found[0])}) cannot be imported: "
            f"{type(error).__name__}: {error}. Reinstall or uninstall that package."
        ) from error


def plugin_package(group: Group, name: str) -> str:
    """Distribution, with its version, that announces the plug-in `name` of `group`; nothing is imported.

    Raises
    ------
    PluginError
        There is no such plug-in.
    """
    found = [point for point in _points(group) if point.name == name]
    if not found:
        raise PluginError(f"no plug-in {name!r} for wsikit.{group} is installed")
    return _package(found[0])


def broken_plugins() -> list[BrokenPlugin]:
    """Every installed plug-in that cannot be imported, with the reason. Imports all plug-ins."""
    broken = []
    for group in GROUPS:
        for point in _points(group):
            try:
                point.load()
            except Exception as error:  # see load_plugin
                broken.append(BrokenPlugin(group, point.name, _package(point), f"{type(error).__name__}: {error}"))
    return broken


def _points(group: Group) -> list[metadata.EntryPoint]:
    return list(metadata.entry_points(group=f"wsikit.{group}"))


def _package(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown"
