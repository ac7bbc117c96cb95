"""Make the pictures of docs/tour.md as the page makes them: python docs/images/tour.py [FOLDER].

FOLDER (default: the folder of this script) gets tour_map.png and tour_nuclei.png.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

import wsikit

SIDE_PX = 900


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        wsikit.make_phantom(scratch / "first.tif", size_px=(2600, 2200), seed=4)
        wsikit.run(scratch / "first.tif", scratch / "out")
        store = scratch / "out" / "slides" / "first.zarr"
        wsikit.export(store, "png", scratch / "nuclei.png", column="caption_facts:nuclei_per_mm2")
        subtypes = scratch / "out" / "results" / "first" / "map.png"
        pictures = {"tour_map": subtypes, "tour_nuclei": scratch / "nuclei.png"}
        for name, path in pictures.items():
            with Image.open(path) as picture:
                small = picture.convert("RGB")
            small.thumbnail((SIDE_PX, SIDE_PX))
            small.save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
