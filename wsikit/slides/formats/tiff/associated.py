"""The pictures of a TIFF file that are neither the slide nor its levels: thumbnail, label, macro, and unnamed ones.

A picture that does not say what it is and does not look like the slide can be its label: it is `image N`, the number of
its directory from 1, and is shown and stored only on request.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import tifffile

from wsikit.slides.formats.tiff.likeness import is_reduced_copy
from wsikit.slides.formats.tiff.page_facts import area_of, has_aspect_of, key_of

logger = logging.getLogger(__name__)

_NAMED_PX = 64_000_000
"""Larger pictures are not offered: they would be read as a whole."""


def find_associated(
    tiff: tifffile.TiffFile,
    path: str,
    pictures: Mapping[int, tuple[tifffile.TiffPage, str | None]],
    levels: Sequence[tifffile.TiffPage],
    used: frozenset[int],
) -> tuple[dict[str, int], list[str]]:
    """Number of the directory of each picture, by name; and what is to be said about them.

    Parameters
    ----------
    tiff, path
        The open file.
    pictures
        All images of the file and what they say they are, by number of directory.
    levels
        Of the scene that is read, finest first.
    used
        Numbers of the directories of all scenes and their levels.
    """
    found: dict[str, int] = {}
    sizes = {key_of(level) for level in levels}
    for number, (page, stated) in pictures.items():
        if number in used or stated == "map" or (stated is None and key_of(page) in sizes):
            continue  # of the same size as a level: a plane, a channel, or a level of another scene
        name = stated
        if name in (None, "thumbnail"):
            name = "thumbnail" if _is_thumbnail(tiff, page, levels, stated=stated is not None) else None
        if name is None:
            logger.info("%s: an image of %d × %d px is not a level", path, page.imagewidth, page.imagelength)
        if area_of(page) <= _NAMED_PX:
            found[name if name and name not in found else f"image {number + 1}"] = number
    others = [name for name in found if name.startswith("image ")]
    notes = []
    if others:
        verb = "is no level" if len(others) == 1 else "are no levels"
        notes.append(
            f"{_listed(others)} {verb} of the slide and may show its label: not shown or stored unless asked for."
        )
    return dict(sorted(found.items())), notes


def _is_thumbnail(
    tiff: tifffile.TiffFile, page: tifffile.TiffPage, levels: Sequence[tifffile.TiffPage], *, stated: bool
) -> bool:
    """Whether the picture is seen to be a small copy of the slide; otherwise it can be the label.

    A `stated` thumbnail, as scanners place one, also counts where nothing can be seen, as in a blank slide.
    """
    main, coarsest = levels[0], levels[-1]
    if not (has_aspect_of(page, main) or key_of(page) == key_of(main)) or area_of(page) > _NAMED_PX:
        return False
    larger = coarsest if coarsest.imagewidth > page.imagewidth else main
    alike = is_reduced_copy(tiff, larger, page, same_colours=False)
    return bool(alike) or (alike is None and stated)


def _listed(names: list[str]) -> str:
    return names[0].capitalize() if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}".capitalize()
