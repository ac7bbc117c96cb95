"""Search of folders for slides. What is passed over is named: links, unreadable folders, outputs of wsikit itself."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from wsikit.errors import SlideError, StoreError, WsikitError
from wsikit.slides.containers import unread_kind
from wsikit.slides.formats.dicom.looks import is_unnamed_dicom
from wsikit.slides.formats.ome_zarr.nodes import is_zarr
from wsikit.slides.registry import plugin_suffixes

SLIDE_SUFFIXES = frozenset(
    [
        ".svs",
        ".tif",
        ".tiff",
        ".ndpi",
        ".mrxs",
        ".scn",
        ".svslide",
        ".bif",
        ".vms",
        ".vmu",
        ".dcm",
        ".czi",
        ".qptiff",
        ".zarr",
    ]
)
"""Suffixes that are recognised as slides in a folder. A file given by its path is always tried."""


PICTURE_SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".bmp"])
"""Suffixes of plain pictures: read if they are named, and not looked for in folders, where many are no slides."""


def pictures_in(folder: Path) -> int:
    """The number of plain pictures directly in a folder."""
    if not folder.is_dir():
        return 0
    return sum(child.suffix.lower() in PICTURE_SUFFIXES for child in folder.iterdir())


def slide_suffixes() -> frozenset[str]:
    """`SLIDE_SUFFIXES`, and those of the installed plug-in readers."""
    return SLIDE_SUFFIXES | plugin_suffixes()[0]


def slides_below(folder: Path, *, out: Path | None = None) -> tuple[list[Path], list[str]]:
    """The slides in a folder, in a fixed order, and what is passed over, one sentence each.

    Names that begin with a dot are ignored. `out` is the output folder of the run: its stores are results, not slides.
    Folders of other runs below `folder` are passed over too.
    """
    of_plugins, faults = plugin_suffixes()
    search = _Search(SLIDE_SUFFIXES | of_plugins, None if out is None else _key(out))
    search.notes.extend(f"{folder}: {fault}" for fault in faults)
    search.folder(folder, (), top=True)
    return search.slides, search.notes


class _Search:
    def __init__(self, suffixes: frozenset[str], out: tuple[int, int] | None) -> None:
        self.slides: list[Path] = []
        self.notes: list[str] = []
        self._suffixes = suffixes
        self._out = out

    def folder(self, folder: Path, above: tuple[tuple[int, int], ...], *, top: bool = False) -> None:
        key = _key(folder)
        if key is not None and key in above:
            self.notes.append(f"{folder}: passed over, a link to a folder that contains it")
            return
        try:
            children = sorted(folder.iterdir())
        except OSError as error:
            self.notes.append(f"{folder}: passed over, it cannot be read ({error.strerror or error})")
            return
        if (not top and _is_run(folder)) or (key is not None and key == self._out):
            own = [child for child in children if child.name in ("slides", "results")]
            stores = sum(len(_stores_in(child)) for child in own)
            self.notes.append(f"{folder}: results of wsikit run, {_count(stores, 'store')} passed over")
            for child in own:
                if child.name == "slides":  # a folder of the user may have this name too
                    self.folder_without_stores(child, (*above, *([key] if key else [])))
            children = [child for child in children if child not in own]
        for child in children:
            self._child(child, (*above, *([key] if key else [])))

    def folder_without_stores(self, folder: Path, above: tuple[tuple[int, int], ...]) -> None:
        """The files in a folder of stores that are no stores."""
        try:
            children = sorted(folder.iterdir())
        except OSError:
            return
        for child in children:
            if child.suffix != ".zarr":
                self._child(child, above)

    def _child(self, child: Path, above: tuple[tuple[int, int], ...]) -> None:
        if child.name.startswith("."):
            return
        is_slide = child.suffix.lower() in self._suffixes
        try:
            if (
                is_slide
                and (child.is_file() or (child.suffix == ".zarr" and child.is_dir()))
                or is_unnamed_dicom(child)
            ):
                self.slides.append(child)
            elif child.is_dir():
                if isinstance(child, Path) and is_zarr(child):
                    self.slides.append(child)  # OME-Zarr under another name
                elif child.suffix != ".zarr":
                    self.folder(child, above)
            elif (kind := unread_kind(child)) is not None:
                self.notes.append(f"{child}: passed over, {kind}, which no reader here reads")
            elif is_slide:
                self.notes.append(f"{child}: passed over, {_kind(child)}")
        except OSError as error:
            self.notes.append(f"{child}: passed over, it cannot be read ({error.strerror or error})")


def _kind(path: Path) -> str:
    if path.is_symlink():
        return "a link to a file that is not there"
    return "neither a file nor a folder (a pipe, socket or device)"


def why_not_a_file(path: Path) -> str | None:
    """Why a path that was given is no slide: a broken link, or a pipe that would block; None if it may be one."""
    if path.is_symlink() and not path.exists():
        return "a link to a file that is not there"
    if path.exists() and not path.is_file() and not path.is_dir():
        return "neither a file nor a folder (a pipe, socket or device)"
    return None


def _is_run(folder: Path) -> bool:
    """Whether `wsikit run` wrote its results into this folder."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and {"configuration", "slides", "versions"} <= set(record)


def _stores_in(folder: Path) -> list[Path]:
    return list(folder.glob("*.zarr")) if folder.is_dir() else []


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _key(folder: Path) -> tuple[int, int] | None:
    """Identity of a folder, whatever path leads to it."""
    if not isinstance(folder, Path):
        return None  # a URL, which has no links
    try:
        found = os.stat(folder)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def stores_of_slides(paths: Sequence[str]) -> dict[str, str]:
    """Stores among `paths` whose source slide is among them too: the slide by store.

    The source is recognised by its content; of files with the recorded name first.
    """
    stores = [path for path in paths if path.rstrip("/").endswith(".zarr")]
    slides = [path for path in paths if path not in stores]
    if not stores or not slides:
        return {}
    from wsikit.slides.fingerprint import fingerprint
    from wsikit.slides.store import SlideStore

    prints: dict[str, str | None] = {}

    def print_of(path: str) -> str | None:
        if path not in prints:
            try:
                prints[path] = fingerprint(path)
            except (OSError, WsikitError, ValueError):
                prints[path] = None
        return prints[path]

    found: dict[str, str] = {}
    for store in stores:
        try:
            source = SlideStore.read_record(store)["source"]
            name, wanted = source["name"], source["fingerprint"]
        except (StoreError, SlideError, OSError, KeyError, TypeError, ValueError):
            continue  # not a store of wsikit, or damaged: it is reported when it is opened
        named = sorted(slides, key=lambda path: Path(path).name != name)
        slide = next((path for path in named if print_of(path) == wanted), None)
        if slide is not None:
            found[store] = slide
    return found
