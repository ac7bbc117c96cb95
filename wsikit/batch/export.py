"""One output of a store on request: maps, outlines, tables, pixels, files of other tools.

This is the glue: it knows the store's columns and the exporters' plain data, and neither knows the other.
"""

from __future__ import annotations

import os
from pathlib import Path

from wsikit.batch.outputs import gather, report_data, whole_slide
from wsikit.errors import RequestError
from wsikit.export.geojson import write_geojson
from wsikit.export.heatmap import write_map_png
from wsikit.export.report import write_report
from wsikit.export.tiff import write_tiff
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import atomic_write
from wsikit.store.place import place

FORMATS = ("png", "geojson", "report", "csv", "tiff")


def export(
    store: SlideStore | str | os.PathLike[str],
    to: str,
    path: str | os.PathLike[str],
    *,
    grid: str | None = None,
    method: str = "mean",
) -> Path:
    """Write one output of a store.

    Parameters
    ----------
    to
        "png": subtype map over the thumbnail. "geojson": regions for QuPath, level-0 px. "report": one HTML file.
        "csv": the patch table, one row per patch, places in level-0 px. "tiff": the pixels as a tiled pyramid, from the
        bytes that the store holds.
    path
        The file to write.

    Raises
    ------
    RequestError
        There is no such format.
    StoreError
        The store has no patch table.
    """
    if to not in FORMATS:
        raise RequestError(f"export to {to!r}: choose one of {', '.join(FORMATS)}")
    opened = store if isinstance(store, SlideStore) else SlideStore(store)
    target = place(path)
    if target.is_dir():
        raise RequestError(f"{target}: a folder; give the file to write")
    if to == "tiff":
        write_tiff(opened, target)
        return target
    table = opened.patches(grid)
    found = gather(opened, table, method=method)
    if to == "csv":
        with atomic_write(target) as partial:
            table.frame().to_csv(partial, index=False)
    elif to == "geojson":
        write_geojson(target, found.class_map)
    elif to == "png":
        write_map_png(target, found.class_map, whole_slide(opened), found.result, reason=found.reason)
    else:
        write_report(target, report_data(found, whole_slide(opened)))
    return target
