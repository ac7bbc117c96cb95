"""The folder of the user that keeps what takes long to find out and is no result; it may be deleted at any time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Folder `wsikit` in the user's cache folder, `XDG_CACHE_HOME` where it is set. It need not exist.

    Raises
    ------
    RuntimeError
        The user has no home folder.
    """
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wsikit"
