"""Scanned areas of a slide that OpenSlide shows in one picture: Leica SCN, MIRAX, CZI. Each can be read as a scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from wsikit.slides.base import SlideInfo, true_downsamples
from wsikit.slides.scenes import SceneLike, choose_scene
from wsikit.slides.types import SceneInfo, Size

_FRAME = ("openslide.bounds-", "openslide.region[")
"""Properties that give positions in the whole picture."""


@dataclass(frozen=True)
class Area:
    """A scanned area, level-0 px of the whole picture."""

    x: int
    y: int
    width: int
    height: int


def scanned_areas(properties: Mapping[str, str]) -> tuple[Area, ...]:
    """The areas that OpenSlide lists; empty if there is one only.

    >>> scanned_areas({"openslide.region[0].x": "5"})
    ()
    """
    areas: list[Area] = []
    while True:
        sides = [properties.get(f"openslide.region[{len(areas)}].{side}") for side in ("x", "y", "width", "height")]
        if any(side is None or not side.lstrip("-").isdigit() for side in sides):
            break
        x, y, width, height = (int(side or 0) for side in sides)
        areas.append(Area(x, y, width, height))
    return tuple(areas) if len(areas) > 1 else ()


def in_scene(
    info: SlideInfo, areas: Sequence[Area], downsamples: Sequence[float], scene: SceneLike | None
) -> tuple[SlideInfo, tuple[int, int]]:
    """The facts of the requested scene, and its upper left corner in the whole picture, level-0 px.

    Without a request, all areas are shown in one picture, as in the scanner's software.

    Raises
    ------
    RequestError
        There is no such area.
    """
    if not areas:
        choose_scene(info.path, [""], scene, 0)
        return info, (0, 0)
    scenes = tuple(SceneInfo(number, "", (area.width, area.height)) for number, area in enumerate(areas))
    if scene is None:
        note = f"The file holds {len(areas)} scanned areas, shown in one picture; --scene reads one of them."
        return replace(info, scenes=scenes, notes=(*info.notes, note)), (0, 0)
    number = choose_scene(info.path, [""] * len(areas), scene, 0)
    area = areas[number]
    sizes = tuple(_size(area, downsample) for downsample in downsamples)
    note = f"The file holds {len(areas)} scanned areas, of which scene {number} is read (as requested)."
    return replace(
        info,
        dimensions=sizes[0],
        level_dimensions=sizes,
        level_downsamples=true_downsamples(sizes),
        scenes=scenes,
        scene=number,
        properties={name: text for name, text in (info.properties or {}).items() if not name.startswith(_FRAME)},
        notes=(*info.notes, note),
    ), (area.x, area.y)


def _size(area: Area, downsample: float) -> Size:
    return max(1, round(area.width / downsample)), max(1, round(area.height / downsample))
