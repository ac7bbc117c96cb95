"""What timm says of its models, kept in the user's cache: describing one a second time imports neither timm nor torch.

An entry is of one version of timm, as widths and transforms may change with it. A file that is damaged or cannot be
written changes the time only.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wsikit.encoders.cache import cache_folder
from wsikit.encoders.recipe import Pooling
from wsikit.encoders.transform import Transform
from wsikit.errors import WsikitError
from wsikit.store.atomic import write_json


def measured(architecture: str, pooling: Pooling) -> tuple[int, Transform]:
    """Width of the features, and the transform that timm has for a model: as `timm_models.measured`.

    Raises
    ------
    ModelError
        timm has no such model.
    """

    def ask() -> dict[str, Any]:
        from wsikit.encoders import timm_models

        width, transform = timm_models.measured(architecture, {}, pooling)
        return {"width": width, "transform": asdict(transform)}

    card = _known(f"measured {pooling} {architecture}", _is_measured, ask)
    return int(card["width"]), _transform(card["transform"])


def pretrained(architecture: str) -> tuple[str, Transform]:
    """Id at the hub of timm's weights for a name, and their transform.

    Raises
    ------
    ModelError
        timm has no such model, or no weights at the hub for it.
    """

    def ask() -> dict[str, Any]:
        from wsikit.encoders import timm_models

        hub_id = timm_models.hub_id_of(architecture)
        return {"hub_id": hub_id, "transform": asdict(timm_models.pretrained_transform(architecture))}

    card = _known(f"pretrained {architecture}", _is_pretrained, ask)
    return str(card["hub_id"]), _transform(card["transform"])


def cards_path() -> Path:
    """The file of what is known, in the user's cache folder."""
    return cache_folder() / "timm.json"


def _known(name: str, is_whole: Callable[[Any], bool], ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The entry of this version of timm, asked for where it is not known yet."""
    try:
        key = f"timm {importlib.metadata.version('timm')}: {name}"
    except importlib.metadata.PackageNotFoundError:
        return ask()  # which says that it is missing
    card = _read().get(key)
    if isinstance(card, dict) and is_whole(card):
        return card
    card = ask()
    with contextlib.suppress(OSError, RuntimeError, WsikitError):
        cards_path().parent.mkdir(parents=True, exist_ok=True)
        write_json(cards_path(), {**_read(), key: card})
    return card


def _read() -> dict[str, Any]:
    try:
        found = json.loads(cards_path().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_measured(card: Any) -> bool:
    return isinstance(card.get("width"), int) and _is_transform(card.get("transform"))


def _is_pretrained(card: Any) -> bool:
    return isinstance(card.get("hub_id"), str) and _is_transform(card.get("transform"))


def _is_transform(record: Any) -> bool:
    try:
        _transform(record)
    except (TypeError, ValueError, KeyError, WsikitError):
        return False
    return True


def _transform(record: dict[str, Any]) -> Transform:
    mean, std = ((float(a), float(b), float(c)) for a, b, c in (record["mean"], record["std"]))
    resize = record["resize"]
    return Transform(int(record["crop"]), None if resize is None else int(resize), record["interpolation"], mean, std)
