"""Scenes: several main images in one slide file, such as scanned areas, sections or focal planes."""

from __future__ import annotations

from collections.abc import Sequence

from wsikit.errors import RequestError

SceneLike = int | str
"""Number of a scene from 0, in the order of the file; or its name."""


def choose_scene(path: str, names: Sequence[str], scene: SceneLike | None, default: int) -> int:
    """Number of the requested scene; `default` without a request.

    Parameters
    ----------
    path
        Of the slide, for the message.
    names
        Name of each scene of the file; empty if it has none.
    scene
        The request: a number, also as text, or a name.

    Raises
    ------
    RequestError
        There is no such scene, or several have this name. The message lists those that exist.

    >>> choose_scene("a.tif", ["left", "right"], "right", 0), choose_scene("a.tif", ["left", "right"], "0", 1)
    (1, 0)
    """
    if scene is None:
        return default
    if isinstance(scene, str) and scene in names:
        if names.count(scene) > 1:
            raise RequestError(f"{path}: {names.count(scene)} scenes are named {scene!r}. Give the number of one.")
        return names.index(scene)
    text = str(scene).strip()
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if 0 <= number < len(names):
        return number
    known = ", ".join(f"{i} ({name})" if name else str(i) for i, name in enumerate(names))
    has = f"the file has scenes {known}" if len(names) > 1 else "the file has one scene, 0"
    raise RequestError(f"{path}: there is no scene {scene!r}: {has}")
