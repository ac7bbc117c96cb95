"""The version of wsikit and of the packages that decide a result. Imports nothing heavy."""

from __future__ import annotations

import platform
from importlib import metadata

__version__ = "0.1.0"

_PACKAGES = ("numpy", "zarr", "dask", "torch", "timm", "transformers", "scikit-image", "openslide-python", "tifffile")


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    found = {"wsikit": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
