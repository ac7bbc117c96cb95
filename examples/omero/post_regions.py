"""Regions of a GeoJSON file of wsikit as ROIs of an image in OMERO.

    pip install ezomero
    wsikit export slide.zarr --to geojson --frame level0 --per region -o regions.geojson
    python post_regions.py regions.geojson IMAGE_ID --host HOST --user USER       asks for the password

One ROI per region, named by its class, in the colour of the class; its area in mm² is the description. IMAGE_ID is the
number of the whole slide in OMERO, not of a picture of the map: coordinates are px of the full resolution.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("regions", type=Path)
    parser.add_argument("image_id", type=int)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=4064)
    parser.add_argument("--user", required=True)
    given = parser.parse_args(arguments)
    content = json.loads(given.regions.read_text(encoding="utf-8"))
    if content.get("wsikit", {}).get("frame") != "level0":
        parser.error(f"{given.regions}: coordinates do not count from level 0. Export with --frame level0.")

    import ezomero

    conn = ezomero.connect(user=given.user, host=given.host, port=given.port, group="", secure=True)
    if conn is None:
        parser.exit(1, f"{given.host}: no connection. Check host, port, user and password.\n")
    holes = 0
    try:
        for feature in content["features"]:
            shapes, left_out = polygons(feature, ezomero.rois.Polygon)
            holes += left_out
            properties = feature["properties"]
            area = properties.get("measurements", {}).get("area_mm2")
            description = "" if area is None else f"{area:.4g} mm²"
            ezomero.post_roi(conn, given.image_id, shapes, name=name_of(properties), description=description)
    finally:
        conn.close()
    print(f"{len(content['features'])} ROIs added to image {given.image_id}.")
    if holes:
        print(f"Holes that were left out, as polygons of OMERO have none: {holes}.")


def name_of(properties: dict[str, Any]) -> str:
    """Name of a region's class."""
    return str(properties.get("classification", {}).get("name", "region"))


def polygons(feature: dict[str, Any], polygon: Any) -> tuple[list[Any], int]:
    """The outer rings of a region as shapes of the class `polygon`, and the number of holes that are left out."""
    geometry, properties = feature["geometry"], feature["properties"]
    parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    color = tuple(properties.get("classification", {}).get("color", (255, 255, 0)))
    shapes = [
        polygon(
            points=[(float(x), float(y)) for x, y in outer[:-1]],  # GeoJSON repeats the first corner at the end
            label=name_of(properties),
            fill_color=(*color, 60),
            stroke_color=(*color, 255),
            stroke_width=2.0,
        )
        for outer, *_ in parts
    ]
    return shapes, sum(len(inner) for _, *inner in parts)


if __name__ == "__main__":
    main()
