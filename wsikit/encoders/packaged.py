"""Encoders that wsikit trained itself: those in the package, and folders that `wsikit train` wrote.

Their code is in a room above this one, so it is named here and imported when it is used, as that of a plug-in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from wsikit.encoders.protocol import EncoderInfo, PatchEncoder
from wsikit.errors import ModelError

_ZOO = Path(__file__).parent / "zoo"
_CONFIG = "config.json"
_DESCRIBE = {"afloc": "wsikit.models.afloc_config:afloc_info"}
"""Architecture in config.json to a function of a folder: its `EncoderInfo`."""
_LOAD = {"afloc": "wsikit.models.afloc_encoder:load_afloc_encoder"}
"""Architecture to a function of a folder and `device`: the encoder."""


def packaged_encoders() -> tuple[str, ...]:
    """Names of the encoders that come with the package.

    >>> packaged_encoders()
    ('phantom-afloc',)
    """
    return tuple(sorted(path.parent.name for path in _ZOO.glob(f"*/{_CONFIG}")))


def own_folder(name: str) -> Path | None:
    """Folder of a packaged encoder, or `name` itself if it is the folder of one; None: neither."""
    if name in packaged_encoders():
        return _ZOO / name
    folder = Path(name)
    return folder if str(_architecture(folder)) in _LOAD else None


def describe_own(folder: Path) -> EncoderInfo:
    """Description of an encoder by its folder (`own_folder`); no torch is imported. ModelError if it is incomplete."""
    info: EncoderInfo = _of_architecture(_DESCRIBE, folder)(folder)
    return info


def load_own(folder: Path, *, device: str = "auto") -> PatchEncoder:
    """Load an encoder by its folder (`own_folder`). ModelError if it is incomplete or damaged."""
    encoder: PatchEncoder = _of_architecture(_LOAD, folder)(folder, device=device)
    return encoder


def _architecture(folder: Path) -> Any:
    try:
        record: Any = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record.get("architecture") if isinstance(record, dict) else None


def _of_architecture(table: Mapping[str, str], folder: Path) -> Any:
    found = _architecture(folder)
    place = table.get(found) if isinstance(found, str) else None
    if place is None:
        raise ModelError(f"{folder / _CONFIG}: architecture {found!r}; expected one of {', '.join(table)}.")
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
