"""The patch table as SpatialData, as LazySlide lays it out: shapes `tiles`, table `<encoder>_tiles`, `tile_spec`.

Everything is in level-0 px. Needs the package spatialdata (extra `spatialdata`).
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.exporters.anndata import ABOUT, SPATIAL, centres, observations, units_of
from wsikit.exporters.patch_source import PatchSource, provenance

_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9._-]")

TILES = "tiles"
"""Name of the shapes that LazySlide gives to its patches."""


def write_spatialdata(
    path: Path,
    source: PatchSource,
    *,
    labels: npt.NDArray[Any] | None = None,
    classes: tuple[str, ...] = (),
    votes: Mapping[str, Any] | None = None,
    thumbnail: npt.NDArray[np.uint8] | None = None,
) -> None:
    """Write SpatialData (Zarr) into the empty folder `path`. The arguments are those of `write_h5ad`.

    Elements: shapes `tiles`, one square per patch, with `tile_id`, `x`, `y`; table `<encoder>_tiles`, or
    `patches_tiles` without features, annotating it; image `wsi_thumbnail`.

    Raises
    ------
    RequestError
        spatialdata is not installed, or there are no patches.
    """
    try:
        # geopandas, datashader and xarray warn of changes in each other
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import anndata
            import geopandas
            import pandas as pd
            import shapely
            import spatialdata
            from spatialdata.models import Image2DModel, ShapesModel, TableModel
            from spatialdata.transformations import Scale
    except ModuleNotFoundError as error:
        raise RequestError(
            f"SpatialData needs the package {error.name}, not installed: pip install 'wsikit[spatialdata]', or "
            "export to anndata, which needs no package"
        ) from error

    table = source.table
    n, side = len(table), np.asarray(source.grid.side)
    if n == 0:
        raise RequestError(f"{source.slide_id}: no patches; SpatialData has no shapes without any. Export to anndata.")
    columns = observations(source, labels, classes)
    tile_id = np.arange(n)
    corners = table.coords
    boxes = shapely.box(corners[:, 0], corners[:, 1], *(corners + side).T)
    tiles = {"tile_id": tile_id, "x": corners[:, 0], "y": corners[:, 1], "tissue_id": np.zeros(n, np.int64)}
    shapes = geopandas.GeoDataFrame({**tiles, "geometry": boxes})
    obs = pd.DataFrame(_allowed(columns))
    obs["tile_id"] = tile_id
    obs["library_id"] = pd.Categorical([TILES] * n)
    obs.index = pd.Index([f"{source.slide_id}_{row}" for row in range(n)])
    values = np.empty((n, 0), np.float32) if source.features is None else table.read(source.features)
    about = {**provenance(source), "units": units_of(table), "votes": dict(votes or {})}
    data = anndata.AnnData(
        X=values, obs=obs, obsm={SPATIAL: centres(source)}, uns={ABOUT: json.dumps(about, ensure_ascii=False)}
    )
    name = _NOT_ALLOWED.sub("_", f"{'patches' if source.features is None else source.encoder}_{TILES}")
    elements: dict[str, Any] = {
        "shapes": {TILES: ShapesModel.parse(shapes)},
        "tables": {name: TableModel.parse(data, region=TILES, region_key="library_id", instance_key="tile_id")},
        "attrs": {"tile_spec": {TILES: _tile_spec(source)}},
    }
    if thumbnail is not None:
        scale = np.asarray(source.grid.slide_px) / thumbnail.shape[1::-1]
        place = Scale(scale.tolist(), axes=("x", "y"))
        image = Image2DModel.parse(
            np.moveaxis(thumbnail, 2, 0), dims=("c", "y", "x"), c_coords=("r", "g", "b"),
            transformations={"global": place},
        )  # fmt: skip
        elements["images"] = {"wsi_thumbnail": image}
    path.rmdir()  # spatialdata makes it
    with _quiet():
        spatialdata.SpatialData(**elements).write(path)


def _allowed(columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The columns by names that SpatialData accepts: `probability.PD` in place of `probability:PD`."""
    found: dict[str, npt.NDArray[Any]] = {}
    for column, values in columns.items():
        name = _NOT_ALLOWED.sub("_", column.replace(":", "."))
        while name.lower() in {other.lower() for other in found}:  # two names may not differ in case alone
            name += "_"
        found[name] = values
    return found


def _tile_spec(source: PatchSource) -> dict[str, Any]:
    """LazySlide's description of its tiles, read at level 0."""
    grid, side = source.grid, source.side_px
    factor = side / grid.patch_px
    stride = grid.patch_px - grid.overlap_px
    return {
        "height": grid.patch_px,
        "width": grid.patch_px,
        "stride_height": stride,
        "stride_width": stride,
        "mpp": grid.target_mpp,
        "ops_level": 0,
        "ops_downsample": factor,
        "base_level": 0,
        "base_downsample": factor,
        "tissue_name": None,
    }


class _quiet(warnings.catch_warnings):  # noqa: N801  a context manager
    """Without the warnings of others' libraries, and their notes of progress."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore")
        self._level = logging.getLogger("spatialdata").level
        logging.getLogger("spatialdata").setLevel(logging.ERROR)
        return entered

    def __exit__(self, *arguments: Any) -> None:
        logging.getLogger("spatialdata").setLevel(self._level)
        super().__exit__(*arguments)
