"""Regions drawn in the viewer: read, checked and written as GeoJSON next to their store.

A page works with outlines in level-0 px. The file is of the layout that QuPath, `wsikit run --roi` and training read;
where the slide states bounds, its coordinates count from their corner, as in QuPath, and the file states so. Only files
that the viewer wrote are replaced.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from wsikit._version import __version__
from wsikit.errors import RequestError, WsikitError
from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.geojson import Placed
from wsikit.exporters.palette import hex_color
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import write_bytes
from wsikit.store.paths import is_url
from wsikit.tiling.drawing import MEMBER, read_drawing

MAX_BYTES = 4 * 2**20
"""Maximum size of what a page sends to be saved."""
MAX_REGIONS = 2000
MAX_CORNERS = 10_000
"""Of one region."""
MAX_LABEL = 100
"""Characters of a class."""
DRAWN = "drawn_in"
"""In the member "wsikit" of a file: the program that drew it. Files without it are not replaced."""
_OUTSIDE_PX = 1.0
"""An outline may lie this far outside of the slide, level-0 px; it is moved to the edge."""


class ChangedError(WsikitError):
    """The file is not the one that the page has read: saving would lose the changes of another page or program."""


@dataclass(frozen=True)
class Region:
    """One region of a class."""

    id: str
    label: str
    """Its class."""
    color: str
    """#rrggbb."""
    corners: tuple[tuple[float, float], ...]
    """Outline without its last corner, which is the first; (x, y) in level-0 px, to 0.01 px."""

    def to_json(self) -> dict[str, Any]:
        """For the page."""
        return {"id": self.id, "label": self.label, "color": self.color, "corners": [list(c) for c in self.corners]}


class DrawnRegions:
    """The regions of one store, in `<name of the store>.geojson` next to it. Thread-safe.

    Parameters
    ----------
    store
        The store on which they are drawn.
    class_map
        Its classes are offered.
    """

    def __init__(self, store: SlideStore, class_map: ClassMap) -> None:
        self._size = store.dimensions
        self._slide_id = store.slide_id
        self._placed = Placed.of(store.info.bounds, "auto")
        self._classes = [
            {"name": name, "color": hex_color(color)}
            for name, color in zip(class_map.class_names, class_map.colors, strict=True)
        ]
        self._lock = Lock()
        self.path: Path | None = None
        """None: the store is at a URL."""
        if not is_url(store.folder):
            folder = Path(store.folder).absolute()
            self.path = folder.with_name(f"{folder.name.removesuffix('.zarr')}.geojson")

    def for_page(self) -> dict[str, Any]:
        """What a page needs: the regions, the classes, and `fault`, the reason why nothing can be drawn, or "" """
        known = {"classes": self._classes, "regions": [], "revision": "", "file": "", "fault": ""}
        if self.path is None:
            return {**known, "fault": "Regions are drawn only on stores on a disk; this one is at a URL."}
        known["file"] = self.path.name
        try:
            content, regions = self._read(self.path)
        except (WsikitError, OSError) as error:
            return {**known, "fault": str(error)}
        return {**known, "regions": [region.to_json() for region in regions], "revision": _revision(content)}

    def save(self, body: bytes) -> dict[str, Any]:
        """Check and write what a page sends; return the new `revision`, and `notes`, one sentence each.

        Raises
        ------
        RequestError
            The content is not of the expected form, or an outline is no area: one line that names the region.
        ChangedError
            The file has changed since the page read it.
        OSError
            The file cannot be written.
        """
        sent = _json(body)
        regions = self._checked(sent.get("regions"))
        if self.path is None:
            raise RequestError("Regions are drawn only on stores on a disk; this one is at a URL.")
        with self._lock:
            content, _ = self._read(self.path)
            if _revision(content) != sent.get("revision"):
                raise ChangedError(
                    f"{self.path.name}: changed by another page or program since this page read it. Reload the page "
                    "and draw again what is missing."
                )
            written = self._geojson(regions)
            write_bytes(self.path, written)
        return {"revision": _revision(written), "notes": _overlaps(regions)}

    def _read(self, path: Path) -> tuple[bytes | None, list[Region]]:
        """The file's content and its regions; None and no regions where there is no file."""
        if path.is_symlink():
            raise RequestError(f"{path.name}: a link, which the viewer does not follow. Put the file itself there.")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None, []
        try:
            record = json.loads(content)
        except (ValueError, RecursionError):
            record = None
        member = record.get(MEMBER) if isinstance(record, dict) else None
        if not isinstance(member, dict) or DRAWN not in member:
            raise RequestError(
                f"{path.name} next to the store was not drawn in this viewer, which leaves it unchanged and draws "
                "nothing here. Rename it to draw; run --roi and training read it under any name."
            )
        try:
            return content, self._checked(self._regions_of(path, record))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, WsikitError):
                raise
            raise RequestError(f"{path.name}: cannot be read ({error!r:.80}). Rename it to draw here.") from error

    def _regions_of(self, path: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
        """The regions of a file that the viewer wrote, as a page sends them."""
        drawing = read_drawing(path)
        origin = drawing.origin or (0.0, 0.0)
        regions = []
        for thing in drawing.things:
            rings = thing.geometry.get("coordinates") if isinstance(thing.geometry, dict) else None
            if thing.kind != "Polygon" or thing.fault or not isinstance(rings, list) or len(rings) != 1:
                raise RequestError(
                    f"{path.name}: feature {thing.number} is not one polygon without holes, and was changed elsewhere. "
                    "Rename the file to draw here; run --roi and training read it under any name."
                )
            feature = record["features"][thing.number - 1]
            color = feature["properties"]["classification"].get("color")
            regions.append(
                {
                    "id": feature.get("id"),
                    "label": thing.label,
                    "color": hex_color(tuple(color)) if isinstance(color, list) and len(color) == 3 else None,
                    "corners": [[x + origin[0], y + origin[1]] for x, y, *_ in rings[0][:-1]],
                }
            )
        return regions

    def _checked(self, sent: Any) -> list[Region]:
        if not isinstance(sent, list):
            raise RequestError('no list "regions". Reload the page.')
        if len(sent) > MAX_REGIONS:
            raise RequestError(f"{len(sent):,} regions; at most {MAX_REGIONS:,} are saved for a slide.")
        return [self._region(number, region) for number, region in enumerate(sent, 1)]

    def _region(self, number: int, sent: Any) -> Region:
        if not isinstance(sent, Mapping):
            raise RequestError(f"region {number}: no region. Reload the page.")
        label = _label(number, sent.get("label"))
        name = f"region {number} ({label})"
        corners = _outline(name, sent.get("corners"), self._size)
        color, known = sent.get("color"), sent.get("id")
        return Region(
            known if isinstance(known, str) and re.fullmatch(r"[0-9a-f-]{36}", known) else str(uuid.uuid4()),
            label,
            color if isinstance(color, str) and re.fullmatch(r"#[0-9a-f]{6}", color) else "#000000",
            corners,
        )

    def _geojson(self, regions: Sequence[Region]) -> bytes:
        record = {
            "type": "FeatureCollection",
            MEMBER: {**self._placed.to_json(), DRAWN: f"wsikit view {__version__}"},
            "features": [self._feature(region) for region in regions],
        }
        return (json.dumps(record, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()

    def _feature(self, region: Region) -> dict[str, Any]:
        ring = [[round(x - self._placed.x, 2), round(y - self._placed.y, 2)] for x, y in region.corners]
        color = [int(region.color[at : at + 2], 16) for at in (1, 3, 5)]
        return {
            "type": "Feature",
            "id": region.id,
            "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
            "properties": {
                "objectType": "annotation",
                "classification": {"name": region.label, "color": color},
                "metadata": {"slide_id": self._slide_id, "frame": self._placed.frame},
            },
        }


def _json(body: bytes) -> dict[str, Any]:
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not JSON ({error}). Reload the page.") from None
    if not isinstance(sent, dict):
        raise RequestError(f"a {type(sent).__name__} in place of an object. Reload the page.")
    return sent


def _revision(content: bytes | None) -> str:
    return "" if content is None else hashlib.sha256(content).hexdigest()


def _label(number: int, sent: Any) -> str:
    label = " ".join(sent.split()) if isinstance(sent, str) else ""
    if not label:
        raise RequestError(f"region {number} has no class. Give it one.")
    if len(label) > MAX_LABEL or any(unicodedata.category(char).startswith("C") for char in label):
        raise RequestError(f"region {number}: a class has at most {MAX_LABEL} characters, all of them visible.")
    return label


def _outline(name: str, sent: Any, size: tuple[int, int]) -> tuple[tuple[float, float], ...]:
    """The corners, checked: a simple polygon on the slide.

    Raises
    ------
    RequestError
        They are none.
    """
    from shapely import Polygon
    from shapely.validation import explain_validity

    if not isinstance(sent, list) or len(sent) > MAX_CORNERS:
        raise RequestError(f"{name}: no outline, or more than {MAX_CORNERS:,} corners. Draw it again.")
    corners: list[tuple[float, float]] = []
    for corner in sent:
        if not (isinstance(corner, list) and len(corner) == 2 and all(type(value) in (int, float) for value in corner)):
            raise RequestError(f"{name}: a corner that is not two numbers. Draw it again.")
        if not all(-_OUTSIDE_PX <= value <= side + _OUTSIDE_PX for value, side in zip(corner, size, strict=True)):
            raise RequestError(
                f"{name}: a corner at x={corner[0]:.6g}, y={corner[1]:.6g} outside of the slide of {size[0]} × "
                f"{size[1]} px. Move it."
            )
        x, y = (round(min(max(float(value), 0.0), side), 2) for value, side in zip(corner, size, strict=True))
        if not corners or corners[-1] != (x, y):
            corners.append((x, y))
    if len(corners) > 1 and corners[0] == corners[-1]:
        corners.pop()
    if len(set(corners)) < 3:
        raise RequestError(f"{name}: {len(set(corners))} corners; an area has 3 or more. Remove it or draw it again.")
    shape = Polygon(corners)
    if not shape.is_valid:
        why = explain_validity(shape)
        near = re.search(r"\[(-?[\d.]+) (-?[\d.]+)", why)
        where = f" near x={float(near[1]):.0f}, y={float(near[2]):.0f}" if near else f" ({why})"
        raise RequestError(f"{name}: its outline crosses or touches itself{where}. Move or remove a corner.")
    return tuple(corners)


def _overlaps(regions: Sequence[Region]) -> list[str]:
    """The first overlap of two regions of different classes: no error here, but training refuses it."""
    from shapely import Polygon, STRtree

    shapes = [Polygon(region.corners) for region in regions]
    first, second = STRtree(shapes).query(shapes, predicate="overlaps") if len(shapes) > 1 else ((), ())
    inside, outside = STRtree(shapes).query(shapes, predicate="within") if len(shapes) > 1 else ((), ())
    pairs = {tuple(sorted((int(a), int(b)))) for a, b in [*zip(first, second), *zip(inside, outside)]}
    found = sorted(pair for pair in pairs if regions[pair[0]].label != regions[pair[1]].label)
    if not found:
        return []
    a, b = found[0]
    more = f" ({len(found)} such pairs)" if len(found) > 1 else ""
    return [
        f"Regions {a + 1} ({regions[a].label}) and {b + 1} ({regions[b].label}) overlap{more}: training refuses a "
        "patch whose centre lies in regions of two classes."
    ]
