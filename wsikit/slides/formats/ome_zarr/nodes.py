"""What a folder of Zarr holds: its attributes, and which image in it is the slide. Metadata only, no pixels."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from wsikit.errors import BrokenSlideError, UnsupportedSlideError
from wsikit.slides.scenes import SceneLike, choose_scene
from wsikit.slides.types import SceneInfo

_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
_IDENTIFYING = re.compile(r"label|barcode|macro|overview|thumbnail", re.IGNORECASE)
_LISTED = 5


@dataclass(frozen=True)
class Series:
    """One image of a file with several, as bioformats2raw writes them."""

    path: Path
    name: str
    """As in its metadata; empty if it has none."""
    size: tuple[int, int]
    """Width and height of its largest level, px; (0, 0) if unknown."""


@dataclass(frozen=True)
class Found:
    """The image that is the slide, with the other images of its folder."""

    path: Path
    attributes: dict[str, Any]
    """Of OME-Zarr: multiscales, omero, …"""
    version: str
    associated: dict[str, Path]
    """Label, macro and thumbnail by name."""
    samples_per_pixel: int | None
    """As the OME-XML states; 3 for RGB."""
    notes: tuple[str, ...]
    scenes: tuple[SceneInfo, ...] = ()
    scene: int | None = None


def is_zarr(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is a Zarr node: it has the metadata of a group or an array."""
    return any(os.path.isfile(os.path.join(path, name)) for name in _METADATA)


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is a slide store of wsikit, of any format, also where its metadata are damaged.

    A folder at a URL can be given as `wsikit.store.paths.place` returns it.
    """
    folder = Path(path) if isinstance(path, str | os.PathLike) else path
    if (folder / "wsikit").is_dir() or (folder / "wsikit-plan").is_dir():
        return True
    try:
        record = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))["attributes"]["wsikit"]
        return "downsamples" in record or "format" in record
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def find_image(path: str, scene: SceneLike | None = None) -> Found:
    """The image in the Zarr folder `path` that is the slide; of several, the one that `scene` names, or the largest.

    Raises
    ------
    UnsupportedSlideError
        The folder holds something else, which is named.
    BrokenSlideError
        Its metadata are damaged.
    RequestError
        There is no such scene.
    """
    folder = Path(path)
    attributes = read_attributes(folder)
    ome = _ome(attributes)
    if "multiscales" in ome:
        if "image-label" in ome:
            raise _refused(path, "a label image of OME-Zarr, not a slide. Give the image that it belongs to")
        choose_scene(path, [""], scene, 0)
        return Found(folder, ome, _version(ome), {}, None, ())
    if "plate" in ome or "well" in ome:
        raise _refused(path, _plate_words(path, ome))
    if "spatialdata_attrs" in attributes:
        raise _refused(path, _parts_words(path, "a SpatialData object", _images_in(folder / "images")))
    kind = attributes.get("encoding-type")
    if kind in ("anndata", "MuData", "dataframe"):
        raise _refused(path, f"a table of {kind} in Zarr, not an image")
    if "bioformats2raw.layout" in attributes or "bioformats2raw.layout" in ome:
        return _of_series(path, _series(folder), scene)
    if "labels" in ome:
        raise _refused(path, "label images of OME-Zarr without an image. Give the image that they belong to")
    if "scene" in ome:
        raise _refused(path, _parts_words(path, "an OME-Zarr scene of several images", _images_in(folder)))
    if _is_array(folder):
        raise _refused(path, "a Zarr array without OME-Zarr metadata. Write it as OME-Zarr, with its pixel size")
    numbered = [series for series in _series(folder) if series.size != (0, 0)]
    if numbered:
        return _of_series(path, numbered, scene)
    parts = _images_in(folder)
    if parts:
        raise _refused(path, _parts_words(path, "a Zarr group of images", parts))
    found = ", ".join(sorted(attributes)[:_LISTED]) or "none"
    raise _refused(path, f"a Zarr group without OME-Zarr metadata (attributes: {found})")


def read_attributes(folder: Path) -> dict[str, Any]:
    """Attributes of a Zarr node of either format; empty if it has none. BrokenSlideError if they are damaged."""
    for name in ("zarr.json", ".zattrs"):
        try:
            record = json.loads((folder / name).read_text(encoding="utf-8-sig"))
            found = record.get("attributes", {}) if name == "zarr.json" else record
            if not isinstance(found, dict):
                raise ValueError("no JSON object")
        except FileNotFoundError:
            continue
        except (ValueError, AttributeError, RecursionError) as error:
            raise BrokenSlideError(
                f"{folder / name}: damaged Zarr metadata ({error}). Copy the folder again from its source."
            ) from None
        if found or name == ".zattrs":
            return found
    return {}


def array_metadata(folder: Path) -> tuple[tuple[int, ...], int]:
    """Shape of a Zarr array, and its format; ValueError, KeyError or OSError if there is none."""
    for name, zarr_format in (("zarr.json", 3), (".zarray", 2)):
        if (folder / name).is_file():
            try:
                record = json.loads((folder / name).read_text(encoding="utf-8"))
            except RecursionError as error:
                raise ValueError(f"{folder / name}: nested too deeply") from error
            return tuple(int(size) for size in record["shape"]), zarr_format
    raise FileNotFoundError(f"{folder}: no array")


def _ome(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes of OME-Zarr: under `ome` from 0.5 on, before that at the top."""
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def _version(ome: dict[str, Any]) -> str:
    first = ome["multiscales"][0] if isinstance(ome["multiscales"], list) and ome["multiscales"] else {}
    stated = ome.get("version") or (first.get("version") if isinstance(first, dict) else None)
    return str(stated or "unknown version")


def _is_array(folder: Path) -> bool:
    try:
        array_metadata(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _images_in(folder: Path) -> list[str]:
    """Names of the OME-Zarr images directly in a folder."""
    if not folder.is_dir():
        return []
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and _is_image(child))


def _is_image(folder: Path) -> bool:
    try:
        return "multiscales" in _ome(read_attributes(folder))
    except BrokenSlideError:
        return False


def _series(folder: Path) -> list[Series]:
    """The images of bioformats2raw's layout, in their order: as OME/ lists them, or numbered from 0."""
    listed = _ome(read_attributes(folder / "OME")).get("series")
    names = [str(name) for name in listed] if isinstance(listed, list) else []
    if not names:
        names = sorted((child.name for child in folder.iterdir() if child.name.isdigit()), key=int)
    titles = [str(image.get("Name", "")) for image in _xml_images(folder)]
    return [
        Series(folder / name, titles[index] if index < len(titles) else "", _size(folder / name))
        for index, name in enumerate(names)
        if _is_image(folder / name)
    ]


def _size(folder: Path) -> tuple[int, int]:
    try:
        first = _ome(read_attributes(folder))["multiscales"][0]["datasets"][0]["path"]
        shape = array_metadata(folder / first)[0]
        return int(shape[-1]), int(shape[-2])
    except (BrokenSlideError, OSError, ValueError, KeyError, IndexError, TypeError):
        return 0, 0


def _of_series(path: str, series: list[Series], scene: SceneLike | None) -> Found:
    """The slide among several images: the largest that is no label or overview, or the requested scene."""
    if not series:
        raise BrokenSlideError(f"{path}: the layout of bioformats2raw without an image. Copy or convert it again.")
    scenes = [one for one in series if not _IDENTIFYING.search(one.name)] or series
    pixels = [one.size[0] * one.size[1] for one in scenes]
    chosen = choose_scene(path, [one.name for one in scenes], scene, pixels.index(max(pixels)))
    slide = scenes[chosen]
    rest = [one for one in series if one not in scenes]
    notes = [f"image {slide.path.name} of {len(series)} in the folder is the slide"] if len(series) > 1 else []
    if len(scenes) > 1 and scene is None:
        listed = ", ".join(f"{number} ({_described(one)})" for number, one in enumerate(scenes[:_LISTED]))
        notes.append(f"{len(scenes)} scenes, the largest is read: {listed}")
    attributes = _ome(read_attributes(slide.path))
    infos = tuple(SceneInfo(number, one.name, one.size) for number, one in enumerate(scenes))
    return Found(
        slide.path,
        attributes,
        _version(attributes),
        _associated(rest),
        _samples(Path(path), series.index(slide)),
        tuple(notes),
        infos if len(scenes) > 1 else (),
        chosen if len(scenes) > 1 else None,
    )


def _described(series: Series) -> str:
    size = f"{series.size[0]} × {series.size[1]} px"
    return f"{series.name}, {size}" if series.name else size


def _associated(series: list[Series]) -> dict[str, Path]:
    """Label, macro and thumbnail among the images, by their names."""
    found: dict[str, Path] = {}
    for one in series:
        match = _IDENTIFYING.search(one.name)
        if match:
            name = {"barcode": "label", "overview": "macro"}.get(match[0].lower(), match[0].lower())
            found.setdefault(name, one.path)
    return found


def _xml_images(folder: Path) -> list[ElementTree.Element]:
    """The `Image` elements of OME/METADATA.ome.xml; none without the file, or if it is damaged."""
    try:
        text = (folder / "OME" / "METADATA.ome.xml").read_bytes()
        if b"<!DOCTYPE" in text:
            return []
        root = ElementTree.fromstring(text)
    except (OSError, ElementTree.ParseError):
        return []
    return [element for element in root if element.tag.rpartition("}")[2] == "Image"]


def _samples(folder: Path, index: int) -> int | None:
    """SamplesPerPixel of the first channel of an image."""
    images = _xml_images(folder)
    if index >= len(images):
        return None
    for element in images[index].iter():
        if element.tag.rpartition("}")[2] == "Channel":
            stated = element.get("SamplesPerPixel", "")
            return int(stated) if stated.isdigit() else None
    return None


def _plate_words(path: str, ome: dict[str, Any]) -> str:
    plate = ome.get("plate")
    if isinstance(plate, dict):
        wells = [str(well.get("path")) for well in plate.get("wells", []) if isinstance(well, dict)]
        example = f". Give the image of one field, such as {os.path.join(path, wells[0], '0')}" if wells else ""
        return f"a multi-well plate of {len(wells)} wells (OME-Zarr HCS), not a slide{example}"
    well = ome.get("well")
    fields = [str(image.get("path")) for image in (well if isinstance(well, dict) else {}).get("images", [])]
    example = f". Give the image of one field, such as {os.path.join(path, fields[0])}" if fields else ""
    return f"a well of a multi-well plate (OME-Zarr HCS) of {len(fields)} fields, not a slide{example}"


def _parts_words(path: str, what: str, names: list[str]) -> str:
    inner = "images" if "SpatialData" in what else ""
    if not names:
        return f"{what}, without an image"
    where = os.path.join(path, inner, names[0]) if inner else os.path.join(path, names[0])
    return f"{what}; its images are {', '.join(names[:_LISTED])}. Give one of them, such as {where}"


def _refused(path: str, words: str) -> UnsupportedSlideError:
    return UnsupportedSlideError(f"{path}: {words}.")
