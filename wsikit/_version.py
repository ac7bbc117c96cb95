"""The version of wsikit and of the packages that decide a result. Imports nothing heavy."""

from __future__ import annotations

import platform
from functools import lru_cache
from importlib import metadata

__version__ = "0.1.0"

_PACKAGES = ("numpy", "zarr", "dask", "torch", "timm", "transformers", "scikit-image", "openslide-python", "tifffile")


@lru_cache
def _version(package: str) -> str:
    """Looked up once: it takes 2 ms, and each slide's records state the versions."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    found = {"wsikit": __version__, "python": platform.python_version()}
    return found | {package: _version(package) for package in _PACKAGES}
