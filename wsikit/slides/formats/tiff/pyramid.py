"""Which images of a TIFF file are the slide, and which are its levels, its other scenes, label, macro and thumbnail.

Images belong together by structure (type, aspect, sub-directories) and by content: a level must look like the level
above it. The largest image is the slide; of several equally large ones, the first. A picture that says that it is a
label, or that does not look like the slide, never becomes a level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import tifffile

from wsikit.errors import UnsupportedSlideError
from wsikit.slides.formats.tiff.associated import find_associated
from wsikit.slides.formats.tiff.likeness import is_other_picture, is_reduced_copy
from wsikit.slides.formats.tiff.names import name_in, stated_name
from wsikit.slides.formats.tiff.ome import OmeImage, companion_of, described_elsewhere, read_ome
from wsikit.slides.formats.tiff.page_facts import (
    REDUCED,
    area_of,
    finely_scanned,
    is_mask,
    is_reduction,
    is_scene,
    is_stated_level,
    key_of,
    ordinals,
    tag_mpp,
    without_repeated_sizes,
)
from wsikit.slides.formats.tiff.vendors import find_vendor, other_images
from wsikit.slides.scenes import SceneLike, choose_scene

_PLACEHOLDER_SHARE = 64
"""An image with a smaller part of the px that the OME-XML describes is a placeholder, if it names other files."""
_STACK = 16
"""From so many images of one size on, only the levels of the scene that is read are compared."""
_ORIENTATION = 274
"""TIFF tag: which corner of the picture is stored first."""

_CHECKS = 96
"""Most comparisons of two images in one file: a bound for files of hundreds of sections."""


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
    ome_image: int | None = None
    """Place of its text among the images of the OME-XML."""

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


class _Finder:
    def __init__(self, tiff: tifffile.TiffFile, path: str) -> None:
        self._tiff, self._path = tiff, path
        self._pages = [page.aspage() for page in tiff.pages]
        self._checks = 0
        self._is_stack = False
        self._notes: list[str] = []

    def structure(self, wanted: SceneLike | None) -> Structure:
        pictures = [page for page in self._pages if not is_mask(page)] or self._pages
        names = {page: stated_name(page) for page in pictures}
        vendor = find_vendor(self._tiff)
        for name, number in (other_images(self._tiff, vendor) if vendor else {}).items():
            names[self._pages[number]] = name
        images = self._ome_images()
        for image in images:
            if name_in(image.name) is not None:
                names.update(dict.fromkeys((self._pages[number] for number in image.directories), name_in(image.name)))
        self._doubt(names)
        unnamed = [page for page in pictures if names[page] is None] or pictures
        scenes = self._scenes(unnamed, images)
        default = max(range(len(scenes)), key=lambda number: (math.prod(scenes[number].size), -number))
        chosen = choose_scene(self._path, [scene.name for scene in scenes], wanted, default)
        if self._is_stack:
            self._check_levels(scenes[chosen])
        if len(scenes) > 1:
            self._note_scenes(scenes, chosen, given=wanted is not None)
        self._check_holds_pixels(scenes[chosen])
        turn = scenes[chosen].main.tags.valueof(_ORIENTATION, 1)
        if turn in range(2, 9):
            self._notes.append(
                f"The file states orientation {turn}, which is not applied: pixels are shown as they are stored, as "
                "OpenSlide does."
            )
        used = frozenset(self._number(level) for scene in scenes for level in scene.levels)
        numbered = {self._number(page): (page, names[page]) for page in pictures}
        associated, notes = find_associated(self._tiff, self._path, numbered, scenes[chosen].levels, used)
        self._notes += notes
        return Structure(scenes, chosen, associated, self._notes)

    def _doubt(self, names: dict[tifffile.TiffPage, str | None]) -> None:
        """Forget the name of a picture that is larger than all others and has reduced copies: it is the slide."""
        unnamed = [page for page, name in names.items() if name is None]
        for page, name in names.items():
            if name is None or any(area_of(other) >= area_of(page) for other in unnamed):
                continue
            if any(is_reduction(other, page) and is_reduced_copy(self._tiff, page, other) for other in unnamed):
                names[page] = None

    # --- scenes and levels

    def _scenes(self, pages: list[tifffile.TiffPage], images: list[OmeImage]) -> list[Scene]:
        tiled = [page for page in pages if page.is_tiled]
        pool = tiled or pages
        planes = {self._pages[number] for image in images for number in image.directories[1:]}
        pool = [page for page in pool if page not in planes] or pool
        if self._tiff.is_qpi:
            pool = without_repeated_sizes(pool)
        whole = finely_scanned(
            [page for page in pool if not int(page.subfiletype) & REDUCED] or pool, self._mpp(images)
        )
        ordinal = ordinals(pool)
        self._is_stack = max(ordinal.values(), default=0) >= _STACK
        scenes: list[Scene] = []
        held: list[tifffile.TiffPage] = []
        for page in sorted(pool, key=area_of, reverse=True):
            home = self._home(page, scenes, ordinal[page])
            if home is not None:
                home.levels.append(page)
            elif page in whole and (not scenes or is_scene(page, scenes[0].main)):
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
            if self._is_stack and scene in likely and not taken and is_reduction(page, scene.main):
                return scene  # checked for the scene that is read, see structure()
            if not taken and is_reduction(page, scene.main) and self._looks_alike(scene, page):
                return scene
        return None

    def _looks_alike(self, scene: Scene, page: tifffile.TiffPage) -> bool:
        """Whether a candidate looks like the next finer level; also if nothing decides, as in a blank slide.

        A reduced image whose place or resolution says the same as its size is one unless its colours forbid it.
        """
        finer = min(
            (level for level in scene.levels if level.imagewidth > page.imagewidth), key=lambda level: level.imagewidth
        )
        if is_stated_level(page, scene.main):
            return not is_other_picture(self._tiff, finer, page)
        self._checks += 1
        if self._checks > _CHECKS:
            return False
        return is_reduced_copy(self._tiff, finer, page) is not False

    def _check_levels(self, scene: Scene) -> None:
        """Take out the levels that do not look like the level above."""
        candidates, scene.levels = scene.levels[1:], scene.levels[:1]
        for page in candidates:
            if self._looks_alike(scene, page):
                scene.levels.append(page)

    def _add_sub_directories(self, scene: Scene) -> None:
        """The reduced versions that the file stores below the main image."""
        below = [page.aspage() for page in scene.main.pages or ()]
        for page in sorted(below, key=area_of, reverse=True):
            if self._home(page, [scene], 0) is not None:
                scene.levels.append(page)

    def _put_above(self, scenes: list[Scene], larger: list[tifffile.TiffPage]) -> None:
        """A larger image of which the slide is a reduced copy is the slide, whatever its flags say."""
        for page in sorted(larger, key=area_of):
            scene = scenes[0] if scenes else None
            if scene is None or area_of(page) <= area_of(scene.main) or not is_reduction(scene.main, page):
                continue
            if is_reduced_copy(self._tiff, page, scene.main):
                scene.levels.insert(0, page)

    def _describe(self, scene: Scene, images: list[OmeImage]) -> None:
        """Name and planes, as the OME-XML, ImageJ or QPTIFF state them."""
        number = self._number(scene.main)
        image = next((image for image in images if image.directories[0] == number), None)
        scene.axes = scene.main.axes
        if image is not None:
            scene.ome_image = image.number
            scene.name, scene.planes, scene.axes = image.name, len(image.directories), image.axes
        elif self._tiff.is_imagej:
            channels = int((self._tiff.imagej_metadata or {}).get("channels", 1))
            if channels > 1 and scene.main.samplesperpixel == 1:
                scene.planes, scene.axes = channels, "C" + scene.main.axes
        elif self._tiff.is_qpi and scene.main.samplesperpixel == 1:
            scene.planes = sum(key_of(page) == key_of(scene.main) for page in self._pages)
            scene.axes = "C" + scene.main.axes if scene.planes > 1 else scene.main.axes

    def _mpp(self, images: list[OmeImage]) -> dict[tifffile.TiffPage, float]:
        """Pixel sizes that images state, µm/px; only those of a microscope's scan or of a macro of it."""
        stated = {page: mpp for page in self._pages if (mpp := tag_mpp(page)) is not None}
        stated |= {self._pages[image.directories[0]]: image.mpp for image in images if image.mpp is not None}
        return stated

    # --- OME-XML

    def _check_holds_pixels(self, scene: Scene) -> None:
        """UnsupportedSlideError for a file that only carries the text of a set: its image is a placeholder."""
        if not self._tiff.is_ome:
            return
        described, others = described_elsewhere(self._path, self._pages[0].description)
        empty = not any(scene.main.databytecounts)
        if others and (empty or area_of(scene.main) * _PLACEHOLDER_SHARE < described):
            names = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
            raise UnsupportedSlideError(
                f"{self._path}: an OME-TIFF that describes a slide in other files and holds none itself. Give one of "
                f"them: {names}."
            )

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
