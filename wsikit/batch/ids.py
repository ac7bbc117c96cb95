"""Ids of the slides of a batch: made from paths, distinct also where case is ignored, short enough as file names."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath

from wsikit.store.paths import is_url

ID_BYTES = 150
"""Maximum length of an id, bytes of UTF-8: file systems allow 255, and suffixes of temporary files follow."""

_UNSAFE = re.compile(r"[^\w.+=@-]+")


def unusable(slide_id: str) -> str | None:
    """Why a given id cannot be used; None if it can."""
    if _UNSAFE.search(slide_id) or slide_id.startswith("."):
        return f"slide_id {slide_id!r}: use letters, digits and _ . + = @ - only"
    return None


def limited(slide_id: str) -> str:
    """The id, shortened with a digest of the whole if it is too long for a file name.

    >>> limited("a"), len(limited("病" * 100).encode())
    ('a', 150)
    """
    encoded = os.fsencode(slide_id)
    if len(encoded) <= ID_BYTES:
        return slide_id
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return f"{encoded[: ID_BYTES - 9].decode('utf-8', 'ignore')}-{digest}"


def same_name(slide_id: str) -> str:
    """Equal for ids that are one file name on some disks: without case, and in one Unicode form.

    >>> same_name("A") == same_name("a")
    True
    """
    return unicodedata.normalize("NFC", slide_id).casefold()


def real_path(path: str) -> str:
    """The path without links; a URL unchanged."""
    return path if is_url(path) else os.path.realpath(path)


def with_digest(slide_id: str, path: str) -> str:
    """The id with a digest of the slide's path, which makes it unique, the same in every run."""
    digest = hashlib.sha256(os.fsencode(real_path(path))).hexdigest()[:8]
    return limited(f"{slide_id}-{digest}")


def make_ids(
    slides: Sequence[tuple[Path, str, str]],
    taken: Mapping[str, str],
    scenes: Sequence[str] = (),
    belongs: Callable[[str, str, str | None], bool] | None = None,
) -> list[str]:
    """The id of each slide of `slides`: (folder that was given, path, given id or "").

    `scenes` are the requested scenes ("" for none), which become part of an id that is not given.

    Given ids are kept, except that one which differs from another only in case gets a digest of its path. `taken` are
    ids in use in the output folder, with their paths; another path gets another id. `belongs(id, path, known)` decides
    it by more than the `known` path of the id, where given.

    >>> make_ids([(Path("in"), "in/A.svs", ""), (Path("in"), "in/b/a.svs", "")], {})
    ['A', 'b__a']
    """
    in_use = {same_name(slide_id): path for slide_id, path in taken.items()}
    given = {same_name(limited(slide_id)) for _, _, slide_id in slides if slide_id}
    parts = [f"_scene{_UNSAFE.sub('_', scene)}" if scene else "" for scene in scenes or [""] * len(slides)]
    names = [
        limited(slide_id) or _id_below(root, path, suffix=False, scene=part)
        for (root, path, slide_id), part in zip(slides, parts, strict=True)
    ]
    shared = {name for name, count in Counter(map(same_name, names)).items() if count > 1}
    mine = belongs or _is_free_or_same
    ids: list[str] = []
    used: set[str] = set()
    for (root, path, stated), name, part in zip(slides, names, parts, strict=True):
        slide_id, taken_by_given = name, given
        if not stated:
            if same_name(name) in shared or same_name(name) in given:
                slide_id = _id_below(root, path, suffix=True, scene=part)
        else:
            taken_by_given = set()
        elsewhere = not stated and not mine(slide_id, path, in_use.get(same_name(slide_id)))
        if same_name(slide_id) in used | taken_by_given or elsewhere:
            slide_id = with_digest(slide_id, path)  # equal names from different folders
        used.add(same_name(slide_id))
        ids.append(slide_id)
    return ids


def _id_below(root: Path, path: str, *, suffix: bool, scene: str = "") -> str:
    whole, above = PurePath(path), PurePath(str(root))
    relative = whole.relative_to(above) if whole.is_relative_to(above) else PurePath(whole.name)
    name = relative.name if suffix else relative.stem
    parts = [*relative.parts[:-1], name.removesuffix(".zarr")]
    return limited(("__".join(_UNSAFE.sub("_", part).lstrip(".") for part in parts) or "_") + scene)


def _is_free_or_same(slide_id: str, path: str, known: str | None) -> bool:
    return known is None or real_path(known) == real_path(path)
