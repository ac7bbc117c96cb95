"""Which images of a TIFF file are the slide, and which are its levels, its other scenes, label, macro and thumbnail.

Images belong together by structure (type, aspect, sub-directories) and by content: a level must look like the level
above it. The largest image is the slide; of several equally large ones, the first. A picture that says that it is a
label, or that does not look like the slide, never becomes a level.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass, field

import tifffile

from wsikit.slides.formats.tiff.likeness import is_reduced_copy
from wsikit.slides.formats.tiff.names import name_in, stated_name
from wsikit.slides.formats.tiff.ome import OmeImage, companion_of, read_ome
from wsikit.slides.scenes import SceneLike, choose_scene

logger = logging.getLogger(__name__)

_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType."""
_TRANSPARENCY_MASK = 4
"""Value of PhotometricInterpretation."""

_X_RESOLUTION, _Y_RESOLUTION, _UNIT = 282, 283, 296
"""Tags."""

_SCENE_SHARE = 0.25
_SCENE_PX = 16_000_000
"""An image without a name is a scene if it has a quarter of the slide's pixels, or more than labels and macros have."""
_CHECKS = 96
"""Most comparisons of two images in one file: a bound for files of hundreds of sections."""
_NAMED_PX = 64_000_000
"""Larger pictures are not offered as associated images: they would be read as a whole."""


@dataclass(eq=False)
class Scene:
    """One main image of a file and its levels."""

    levels: list[tifffile.TiffPage]
    """Finest first."""
    name: str = ""
    """As the file gives it (OME); empty if it gives none."""
    planes: int = 1
    """Channels or focal planes that are stored as images of their own."""
    axes: str = ""
    """Axes of all planes together, as tifffile names them."""

    @property
    def main(self) -> tifffile.TiffPage:
        """The finest level."""
        return self.levels[0]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the finest level, px."""
        return int(self.main.imagewidth), int(self.main.imagelength)


@dataclass
class Structure:
    """The images of a file."""

    scenes: list[Scene]
    """In the order of the file."""
    chosen: int
    """Number of the scene that is read."""
    associated: dict[str, int]
    """Name of each other picture and the number of its directory. `image 3` is the third directory: what it shows is
    unknown, so it can be the label."""
    notes: list[str] = field(default_factory=list)

    @property
    def scene(self) -> Scene:
        """The scene that is read."""
        return self.scenes[self.chosen]


def find_images(tiff: tifffile.TiffFile, path: str, scene: SceneLike | None = None) -> Structure:
    """Find the slide among the images of a TIFF file.

    Parameters
    ----------
    tiff
        The open file.
    path
        Its path, for messages and for the names in its OME-XML.
    scene
        Number or name of the scene to read; None: the largest.

    Raises
    ------
    RequestError
        There is no such scene.
    """
    return _Finder(tiff, path).structure(scene)


def is_reduction(page: tifffile.TiffPage, first: tifffile.TiffPage) -> bool:
    """Whether `page` can be the same picture as `first` with fewer pixels: same type, smaller, same aspect ratio."""
    same_type = (page.samplesperpixel, page.dtype) == (first.samplesperpixel, first.dtype)
    return same_type and has_aspect_of(page, first)


def has_aspect_of(page: tifffile.TiffPage, first: tifffile.TiffPage) -> bool:
    """Whether `page` is smaller than `first` and has its aspect ratio, as far as sizes are whole pixels."""
    shrink_x, shrink_y = first.imagewidth / page.imagewidth, first.imagelength / page.imagelength
    # the smallest levels are rounded to whole pixels
    return shrink_x > 1 and (
        abs(shrink_x / shrink_y - 1) < 0.01 or abs(first.imagelength / shrink_x - page.imagelength) <= 1.5
    )


class _Finder:
    def __init__(self, tiff: tifffile.TiffFile, path: str) -> None:
        self._tiff, self._path = tiff, path
        self._pages = [page.aspage() for page in tiff.pages]
        self._checks = 0
        self._notes: list[str] = []

    def structure(self, wanted: SceneLike | None) -> Structure:
        pictures = [page for page in self._pages if not _is_mask(page)] or self._pages
        names = {page: stated_name(page) for page in pictures}
        images = self._ome_images()
        for image in images:
            if name_in(image.name) is not None:
                names.update(dict.fromkeys((self._pages[number] for number in image.directories), name_in(image.name)))
        unnamed = [page for page in pictures if names[page] is None] or pictures
        scenes = self._scenes(unnamed, images)
        default = max(range(len(scenes)), key=lambda number: (math.prod(scenes[number].size), -number))
        chosen = choose_scene(self._path, [scene.name for scene in scenes], wanted, default)
        if len(scenes) > 1:
            self._note_scenes(scenes, chosen, given=wanted is not None)
        associated = self._associated(pictures, names, scenes, chosen)
        return Structure(scenes, chosen, associated, self._notes)

    # --- scenes and levels

    def _scenes(self, pages: list[tifffile.TiffPage], images: list[OmeImage]) -> list[Scene]:
        tiled = [page for page in pages if page.is_tiled]
        pool = tiled or pages
        planes = {self._pages[number] for image in images for number in image.directories[1:]}
        pool = [page for page in pool if page not in planes] or pool
        if self._tiff.is_qpi:
            pool = _without_repeated_sizes(pool)
        whole = [page for page in pool if not int(page.subfiletype) & _REDUCED] or pool
        ordinal = _ordinals(pool)
        scenes: list[Scene] = []
        held: list[tifffile.TiffPage] = []
        for page in sorted(pool, key=_area, reverse=True):
            home = self._home(page, scenes, ordinal[page])
            if home is not None:
                home.levels.append(page)
            elif page in whole and (not scenes or _is_scene(page, scenes[0].main)):
                scenes.append(Scene([page]))
                self._add_sub_directories(scenes[-1])
            elif not scenes:
                held.append(page)
        self._put_above(scenes, held + [page for page in pages if not page.is_tiled and tiled])
        for scene in scenes:
            scene.levels.sort(key=lambda page: page.imagewidth, reverse=True)
        scenes.sort(key=lambda scene: self._number(scene.main))
        for scene in scenes:
            self._describe(scene, images)
        return scenes

    def _home(self, page: tifffile.TiffPage, scenes: list[Scene], ordinal: int) -> Scene | None:
        """The scene of which `page` is a level, by structure and content."""
        # sections are usually stored in the same order at each size
        likely = scenes[ordinal : ordinal + 1]
        for scene in [*likely, *(other for other in scenes if other not in likely)]:
            taken = any(level.imagewidth == page.imagewidth for level in scene.levels)
            if not taken and is_reduction(page, scene.main) and self._looks_alike(scene, page):
                return scene
        return None

    def _looks_alike(self, scene: Scene, page: tifffile.TiffPage) -> bool:
        """Whether a candidate looks like the next finer level; also if nothing decides, as in a blank slide.

        A reduced image whose place or resolution says the same as its size needs no look.
        """
        if _is_stated_level(page, scene.main):
            return True
        finer = min(
            (level for level in scene.levels if level.imagewidth > page.imagewidth), key=lambda level: level.imagewidth
        )
        self._checks += 1
        if self._checks > _CHECKS:
            return False
        return is_reduced_copy(self._tiff, finer, page) is not False

    def _add_sub_directories(self, scene: Scene) -> None:
        """The reduced versions that the file stores below the main image."""
        below = [page.aspage() for page in scene.main.pages or ()]
        for page in sorted(below, key=_area, reverse=True):
            if self._home(page, [scene], 0) is not None:
                scene.levels.append(page)

    def _put_above(self, scenes: list[Scene], larger: list[tifffile.TiffPage]) -> None:
        """A larger image of which the slide is a reduced copy is the slide, whatever its flags say."""
        for page in sorted(larger, key=_area):
            scene = scenes[0] if scenes else None
            if scene is None or _area(page) <= _area(scene.main) or not is_reduction(scene.main, page):
                continue
            if is_reduced_copy(self._tiff, page, scene.main):
                scene.levels.insert(0, page)

    def _describe(self, scene: Scene, images: list[OmeImage]) -> None:
        """Name and planes, as the OME-XML, ImageJ or QPTIFF state them."""
        number = self._number(scene.main)
        image = next((image for image in images if image.directories[0] == number), None)
        scene.axes = scene.main.axes
        if image is not None:
            scene.name, scene.planes, scene.axes = image.name, len(image.directories), image.axes
        elif self._tiff.is_imagej:
            channels = int((self._tiff.imagej_metadata or {}).get("channels", 1))
            if channels > 1 and scene.main.samplesperpixel == 1:
                scene.planes, scene.axes = channels, "C" + scene.main.axes
        elif self._tiff.is_qpi and scene.main.samplesperpixel == 1:
            scene.planes = sum(_key(page) == _key(scene.main) for page in self._pages)
            scene.axes = "C" + scene.main.axes if scene.planes > 1 else scene.main.axes

    # --- OME-XML

    def _ome_images(self) -> list[OmeImage]:
        if not self._tiff.is_ome:
            return []
        xml = self._pages[0].description
        found = read_ome(self._path, xml, self._pages)
        if found is None:
            companion = companion_of(xml)
            self._notes.append(
                f"The OME-XML of this file is in {companion}, which is not used; images are found by the directories."
                if companion
                else "The OME-XML does not fit the images in this file, and they are found by the directories: it was "
                "probably copied from the file that this one was made from."
            )
            return []
        for image in found.images:
            if len(image.directories) < image.planes:
                self._notes.append(
                    f"This file holds {len(image.directories)} of the {image.planes} planes of an image; the others "
                    "are in other files."
                )
        if found.elsewhere:
            self._notes.append(
                f"This file is one of a set; only its own images are read. Other files: {', '.join(found.elsewhere)}."
            )
        return list(found.images)

    # --- other pictures

    def _associated(
        self,
        pictures: list[tifffile.TiffPage],
        names: dict[tifffile.TiffPage, str | None],
        scenes: list[Scene],
        chosen: int,
    ) -> dict[str, int]:
        found: dict[str, int] = {}
        used = {self._number(level) for scene in scenes for level in scene.levels}
        sizes = {_key(level) for level in scenes[chosen].levels}
        coarsest = scenes[chosen].levels[-1]
        for page in pictures:
            number = self._number(page)
            if number in used or (names[page] is None and _key(page) in sizes):
                continue  # of the same size as a level: a plane, a channel, or a level of another scene
            name = names[page]
            if name == "map":
                continue
            if name in (None, "thumbnail"):
                stated = name is not None
                name = self._thumbnail(page, scenes[chosen].main, coarsest, stated=stated)
            if name is None:
                logger.info("%s: an image of %d × %d px is not a level", self._path, page.imagewidth, page.imagelength)
            name = name if name and name not in found else f"image {number + 1}"
            if _area(page) <= _NAMED_PX:
                found[name] = number
        others = [name for name in found if name.startswith("image ")]
        if others:
            self._notes.append(
                f"{_listed(others)} {'is no level' if len(others) == 1 else 'are no levels'} of the slide and may show "
                "its label: not shown or stored unless asked for."
            )
        return dict(sorted(found.items()))

    def _thumbnail(
        self, page: tifffile.TiffPage, main: tifffile.TiffPage, coarsest: tifffile.TiffPage, *, stated: bool
    ) -> str | None:
        """thumbnail if the picture is seen to be a small copy of the slide; otherwise None, as it can be the label.

        A `stated` thumbnail, as scanners place one, also counts where nothing can be seen, as in a blank slide.
        """
        if not (has_aspect_of(page, main) or _key(page) == _key(main)) or _area(page) > _NAMED_PX:
            return None
        larger = coarsest if coarsest.imagewidth > page.imagewidth else main
        alike = is_reduced_copy(self._tiff, larger, page)
        return "thumbnail" if alike or (alike is None and stated) else None

    def _note_scenes(self, scenes: list[Scene], chosen: int, *, given: bool) -> None:
        equal = len({scene.size for scene in scenes}) == 1
        why = "as requested" if given else "the first of equal size" if equal else "the largest"
        what = "sections, focal planes or channels of equal size" if equal else "scenes"
        self._notes.append(
            f"The file holds {len(scenes)} {what}, of which scene {chosen} is read ({why}); --scene reads another."
        )

    def _number(self, page: tifffile.TiffPage) -> int:
        """Number of a directory in the file; -1 for a sub-directory."""
        return next((number for number, other in enumerate(self._pages) if other is page), -1)


def _is_mask(page: tifffile.TiffPage) -> bool:
    return bool(int(page.subfiletype) & _MASK) or int(page.photometric) == _TRANSPARENCY_MASK


def _is_stated_level(page: tifffile.TiffPage, main: tifffile.TiffPage) -> bool:
    """Whether the file states that `page` is a reduced version of `main`.

    It is flagged as reduced, and is a sub-directory, or states the pixel size that a level of its size has.
    """
    if not int(page.subfiletype) & _REDUCED:
        return False
    if page.is_subifd:
        return True
    if page.tags.valueof(_UNIT) != main.tags.valueof(_UNIT):
        return False
    for resolution, side, main_side in (
        (_X_RESOLUTION, page.imagewidth, main.imagewidth),
        (_Y_RESOLUTION, page.imagelength, main.imagelength),
    ):
        own, finest = (_number(of.tags.valueof(resolution)) for of in (page, main))
        if not own or not finest or abs(own / finest / (side / main_side) - 1) > 0.01:
            return False
    return True


def _number(ratio: object) -> float | None:
    """A TIFF rational as a number."""
    return ratio[0] / ratio[1] if isinstance(ratio, tuple) and len(ratio) == 2 and ratio[1] else None


def _is_scene(page: tifffile.TiffPage, main: tifffile.TiffPage) -> bool:
    return _area(page) >= _SCENE_SHARE * _area(main) or _area(page) >= _SCENE_PX


def _area(page: tifffile.TiffPage) -> int:
    return int(page.imagewidth) * int(page.imagelength)


def _key(page: tifffile.TiffPage) -> tuple[object, ...]:
    return page.imagewidth, page.imagelength, page.samplesperpixel, page.dtype


def _without_repeated_sizes(pages: list[tifffile.TiffPage]) -> list[tifffile.TiffPage]:
    """The first image of each size: the others are channels of it."""
    first: dict[tuple[object, ...], tifffile.TiffPage] = {}
    for page in pages:
        first.setdefault(_key(page), page)
    return list(first.values())


def _ordinals(pages: list[tifffile.TiffPage]) -> dict[tifffile.TiffPage, int]:
    """How many images of the same size stand before each image."""
    seen: Counter[tuple[object, ...]] = Counter()
    ordinals = {}
    for page in pages:
        ordinals[page] = seen[_key(page)]
        seen[_key(page)] += 1
    return ordinals


def _listed(names: list[str]) -> str:
    return names[0].capitalize() if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}".capitalize()
