"""Read patch coordinates and features that other tools wrote: TRIDENT, CLAM, STAMP 2, AtlasPatch, wsinfer.

Tables and bags (Parquet, AnnData, SpatialData, torchmil) are read by `wsikit.results.interop_tables`.

Coordinates are converted to level-0 px; `wsikit.results.interop_checks` checks whether they fit the slide.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.results import interop_tables
from wsikit.results.interop_patches import ExternalPatches
from wsikit.tables import key, number, read_cells

if TYPE_CHECKING:
    import h5py

LAYOUTS = (
    "trident", "clam", "stamp", "atlaspatch", "wsinfer", "parquet", "anndata", "spatialdata", "torchmil", "soma"
)  # fmt: skip
_PROB = "prob_"


def read_external(
    path: str | Path, *, layout: str = "auto", slide_mpp: tuple[float, float], features: str | None = None
) -> ExternalPatches:
    """Read one slide's file.

    Parameters
    ----------
    path
        A file of coordinates or of features. CLAM's features do not state the patch size, so `../patches/<name>.h5` is
        read, too.
    layout
        One of `LAYOUTS`, or "auto": recognised by the file's content.
    slide_mpp
        Level-0 µm/px of the slide along x and y, to convert coordinates in µm.
    features
        Which features, where the file holds several (AtlasPatch, Parquet, SpatialData).

    Raises
    ------
    RequestError
        The file has none of these layouts, or lacks data that the layout requires.
    """
    file = Path(path)
    if layout not in (*LAYOUTS, "auto"):
        raise RequestError(f"layout {layout!r}: choose one of auto, {', '.join(LAYOUTS)}")
    if file.is_dir() and layout in ("auto", "spatialdata") and (file / "tables").is_dir():
        return interop_tables.read_spatialdata(file, features)
    if not file.is_file():
        what = "a folder; give the file of one slide" if file.is_dir() else "no such file"
        raise RequestError(f"{file}: {what}")
    if file.suffix.lower() == ".csv":
        return _read_wsinfer(file, layout)
    if file.suffix.lower() == ".pt":
        raise RequestError(f"{file}: a tensor without coordinates. Give the file in h5_files/ that belongs to it.")
    by_start = _read_by_start(file, layout, features)
    if by_start is not None:
        return by_start
    import h5py

    found: str | None = None
    try:
        with h5py.File(file, "r") as opened:
            found = _recognize(opened) if layout == "auto" else layout
            if found is None:
                raise RequestError(
                    f"{file}: none of the known layouts; it holds {_contents(opened)}. Name the layout with --from."
                )
            if found == "anndata":
                return interop_tables.read_anndata(file, opened)
            if found not in (*_READERS, "atlaspatch"):
                raise RequestError(f"{file}: an HDF5 file, not {found}; it holds {_contents(opened)}")
            if "coords" not in opened:
                raise RequestError(f"{file}: no coordinates (dataset coords) in it; it holds {_contents(opened)}")
            if found == "atlaspatch":
                return _read_atlaspatch(file, opened, features)
            return _READERS[found](file, opened, slide_mpp)
    except OSError as error:
        raise RequestError(f"{file}: not a readable HDF5 file ({error})") from error
    except RequestError:
        raise
    except (KeyError, ValueError, TypeError) as error:
        raise RequestError(f"{file}: not written by {found or layout}, or damaged ({error})") from error


def _read_by_start(path: Path, layout: str, features: str | None) -> ExternalPatches | None:
    """Parquet and .npy, recognised by their first bytes; None for other files."""
    with open(path, "rb") as file:
        start = file.read(8)
    starts = {interop_tables.PARQUET_START: ("parquet",), interop_tables.NPY_START: ("torchmil", "soma")}
    for signature, names in starts.items():
        if start.startswith(signature):
            if layout not in ("auto", *names):
                raise RequestError(f"{path}: a file of {' or '.join(names)}, not of {layout}")
            return interop_tables.read_parquet(path, features) if "parquet" in names else interop_tables.read_bag(path)
        if layout in names:
            raise RequestError(f"{path}: not a file of {layout}")
    return None


def _recognize(file: h5py.File) -> str | None:
    if file.attrs.get("encoding-type") == "anndata":
        return "anndata"
    coords = file.get("coords")
    if "feats" in file and coords is not None:  # no other tool names them so; STAMP 1 writes no attributes
        return "stamp"
    if coords is None:
        return None
    if coords.ndim == 2 and coords.shape[1] == 5:
        return "atlaspatch"
    if "patch_level" in coords.attrs:
        return "clam"
    if {"target_magnification", "patch_size_level0", "level0_magnification"} & set(coords.attrs):
        return "trident"
    if "features" in file and not coords.attrs:
        return "clam"
    return None


def _read_trident(path: Path, file: h5py.File, slide_mpp: tuple[float, float]) -> ExternalPatches:
    attributes = _plain(file["coords"].attrs)
    needed = ("patch_size", "patch_size_level0", "level0_magnification", "target_magnification", "overlap")
    features = file.get("features")
    return ExternalPatches(
        layout="trident",
        path=str(path),
        coords=_places(file["coords"]),
        side_px=_side(attributes),
        patch_px=_whole(attributes.get("patch_size")),
        overlap_px=_whole(attributes.get("overlap")),
        features=None if features is None else _vectors(features),
        encoder="" if features is None else str(_plain(features.attrs).get("encoder", path.parent.name)),
        slide_px=_size(attributes),
        magnification=_magnification(attributes),
        unit="px",
        missing=tuple(name for name in needed if name not in attributes),
        attributes=attributes,
    )


def _read_clam(path: Path, file: h5py.File, slide_mpp: tuple[float, float]) -> ExternalPatches:
    features = file.get("features")
    attributes = _plain(file["coords"].attrs)
    if not attributes:
        coordinates = path.parent.parent / "patches" / path.name
        if coordinates.is_file():
            import h5py

            with h5py.File(coordinates, "r") as opened:
                attributes = _plain(opened["coords"].attrs)
    patch_px = _whole(attributes.get("patch_size"))
    downsample = attributes.get("downsample", 1.0 if attributes.get("patch_level") == 0 else None)
    return ExternalPatches(
        layout="clam",
        path=str(path),
        coords=_places(file["coords"]),
        side_px=None if patch_px is None or downsample is None else patch_px * float(np.mean(downsample)),
        patch_px=patch_px,
        overlap_px=None,
        features=None if features is None else _vectors(features),
        encoder="" if features is None else _encoder_of_folder(path),
        unit="px",
        missing=tuple(name for name in ("patch_size", "patch_level", "downsample") if name not in attributes),
        attributes=attributes,
    )


def _read_stamp(path: Path, file: h5py.File, slide_mpp: tuple[float, float]) -> ExternalPatches:
    attributes = _plain(file.attrs)
    coords = _places(file["coords"])
    unit = str(attributes["unit"]).strip() if attributes.get("unit") is not None else None
    in_um = unit is not None and unit.lower() in ("um", "µm", "μm", "micron", "microns")
    # STAMP 2.0 named the side of a tile tile_size
    side_um = attributes.get("tile_size_um", attributes.get("tile_size") if in_um else None)
    notes: tuple[str, ...] = ()
    patch_px, found = attributes.get("tile_size_px"), "um" if in_um else unit
    if side_um is None and unit is None and _is_stamp_1(coords, attributes.get("tile_size")):
        # STAMP 1: patches of 224 px and 256 µm, coordinates in px of the patches
        coords, side_um, patch_px = coords * (_STAMP_1_UM / _STAMP_1_PX), _STAMP_1_UM, _STAMP_1_PX
        found, in_um = "um", True
        notes = (
            f"written by STAMP 1, as neighbours are {_STAMP_1_PX} apart and no unit is stated: patches of "
            f"{_STAMP_1_PX} px and {_STAMP_1_UM:g} µm",
        )
    missing = tuple(
        name
        for name, value in (("unit", found), ("tile_size_um", side_um), ("tile_size_px", patch_px))
        if value is None
    )
    return ExternalPatches(
        layout="stamp",
        path=str(path),
        coords=coords / np.asarray(slide_mpp) if in_um else coords,
        side_px=None if side_um is None else float(side_um) / slide_mpp[0],
        patch_px=_whole(patch_px),
        overlap_px=0,
        features=_vectors(file["feats"]),
        encoder=str(attributes.get("extractor", path.parent.name)),
        unit=found,
        missing=missing,
        attributes=attributes,
        notes=notes,
    )


_STAMP_1_PX, _STAMP_1_UM = 224, 256.0


def _is_stamp_1(coords: npt.NDArray[np.float64], tile_size: Any) -> bool:
    """Whether the smallest step between patches, or the stated size, is that of STAMP 1, as STAMP itself decides."""
    if tile_size is not None:
        return round(float(tile_size)) == _STAMP_1_PX
    steps = [np.diff(np.unique(coords[:, axis])) for axis in (0, 1)]
    smallest = min((float(step.min()) for step in steps if len(step)), default=0.0)
    return round(smallest) == _STAMP_1_PX


def _read_atlaspatch(path: Path, file: h5py.File, features: str | None) -> ExternalPatches:
    attributes = _plain(file.attrs)
    rows = np.asarray(file["coords"][:], dtype=np.float64)
    group = file.get("features")
    encoders = sorted(group) if group is not None else []
    if features is not None:
        if features not in encoders:
            raise RequestError(f"{path}: no features {features!r}; there are {', '.join(encoders) or 'none'}")
        encoders = [features]
    if len(encoders) > 1:
        raise RequestError(f"{path}: features by {', '.join(encoders)}: name one of them (--features)")
    side = _side(attributes)
    if side is None and len(rows) and (rows[:, 4] == 0).all():
        side = float(rows[0, 2])
    needed = ("patch_size", "patch_size_level0", "level0_magnification", "target_magnification", "overlap")
    return ExternalPatches(
        layout="atlaspatch",
        path=str(path),
        coords=rows[:, :2],
        side_px=side,
        patch_px=_whole(attributes.get("patch_size")),
        overlap_px=_whole(attributes.get("overlap")),
        features=_vectors(group[encoders[0]]) if group is not None and encoders else None,
        encoder=encoders[0] if encoders else "",
        slide_px=_size(attributes),
        magnification=_magnification(attributes),
        unit="px",
        missing=tuple(name for name in needed if name not in attributes),
        attributes=attributes,
    )


_READERS = {"trident": _read_trident, "clam": _read_clam, "stamp": _read_stamp}


def _read_wsinfer(path: Path, layout: str) -> ExternalPatches:
    if layout not in ("auto", "wsinfer"):
        raise RequestError(f"{path}: a CSV, but {layout} writes HDF5")
    _, lines, _ = read_cells(str(path), path.read_bytes(), _BOX)
    of_key = {key(name): name for name in _BOX}
    columns = [of_key.get(key(name), name) for name in lines[0][1]]
    lacking = [name for name in _BOX if columns.count(name) != 1]
    classes = tuple(name.removeprefix(_PROB) for name in columns if name.startswith(_PROB))
    if lacking or not classes:
        raise RequestError(f"{path}: columns {', '.join(columns)}; wsinfer writes minx, miny, width, height, prob_…")
    order = [name for name in columns if name in _BOX or name.startswith(_PROB)]
    rows: list[list[float]] = []
    for line, cells in lines[1:]:
        row = dict(zip(columns, cells))
        try:
            rows.append([number(row[name]) for name in order])
        except (KeyError, ValueError) as error:
            raise RequestError(f"{path}, line {line}: not a number ({error})") from error
    table = np.asarray(rows, dtype=np.float64).reshape(-1, len(order))
    box = {name: table[:, order.index(name)] for name in _BOX}
    widths = np.unique(np.concatenate([box["width"], box["height"]]))
    if len(widths) > 1:
        raise RequestError(f"{path}: patches of different size ({widths.min():g} to {widths.max():g} px)")
    return ExternalPatches(
        layout="wsinfer",
        path=str(path),
        coords=np.stack([box["minx"], box["miny"]], axis=1),
        side_px=float(widths[0]) if len(widths) else None,
        patch_px=None,
        overlap_px=None,
        probs=table[:, [order.index(f"{_PROB}{name}") for name in classes]].astype(np.float32),
        classes=classes,
        unit="px",
    )


_BOX = ("minx", "miny", "width", "height")


def _places(dataset: h5py.Dataset) -> npt.NDArray[np.float64]:
    values = np.asarray(dataset[:], dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 2:
        raise ValueError(f"coords of shape {values.shape}, expected (N, 2)")
    return values


def _vectors(dataset: h5py.Dataset) -> npt.NDArray[Any]:
    """(N, D); some tools store a leading axis of length 1."""
    values = np.asarray(dataset[:])
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2:
        raise ValueError(f"features of shape {values.shape}, expected (N, D)")
    return values if values.dtype == np.float16 else values.astype(np.float32)


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as Python values: bytes as text, NumPy scalars and arrays of one element as numbers or text.

    Empty attributes are left out.
    """
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.reshape(-1)[0]
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if type(value).__name__ != "Empty":  # h5py's own class
            found[name] = value.item() if isinstance(value, np.generic) else value
    return found


def _side(attributes: Mapping[str, Any]) -> float | None:
    """Side of a patch in level-0 px: as stated, or computed from the magnifications."""
    if "patch_size_level0" in attributes:
        return float(attributes["patch_size_level0"])
    magnification = _magnification(attributes)
    if magnification is None or "patch_size" not in attributes:
        return None
    return float(attributes["patch_size"]) * magnification[0] / magnification[1]


def _magnification(attributes: Mapping[str, Any]) -> tuple[float, float] | None:
    if "level0_magnification" not in attributes or "target_magnification" not in attributes:
        return None
    return float(attributes["level0_magnification"]), float(attributes["target_magnification"])


def _size(attributes: Mapping[str, Any]) -> tuple[int, int] | None:
    if "level0_width" not in attributes or "level0_height" not in attributes:
        return None
    return int(attributes["level0_width"]), int(attributes["level0_height"])


def _whole(value: Any) -> int | None:
    return None if value is None else round(float(value))


def _encoder_of_folder(path: Path) -> str:
    """CLAM's files do not name the encoder; by convention the folder above h5_files does."""
    return path.parent.parent.name if path.parent.name == "h5_files" else path.parent.name


def _contents(file: h5py.File) -> str:
    return ", ".join(f"{name} {getattr(file[name], 'shape', '')}".strip() for name in file) or "nothing"
