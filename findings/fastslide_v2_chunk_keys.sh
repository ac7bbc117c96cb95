#!/bin/sh
# fastslide reads white from a valid Zarr v3 array whose metadata state chunk names as in Zarr v2
# (chunk_key_encoding "v2"); with the default names it reads the same pixels right. Exit status 1 if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "fastslide==0.8.0" "zarr==3.4.2" "ome-zarr==0.21.0"
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys

import fastslide
import numpy as np
import zarr

pixels = np.random.default_rng(0).integers(0, 200, (3, 600, 800), dtype=np.uint8)
axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
print("fastslide", fastslide.__version__, "zarr", zarr.__version__)
seen = {}
for name in ("default", "v2"):
    path = f"{sys.argv[1]}/{name}.zarr"
    group = zarr.create_group(path, attributes={"ome": {"version": "0.5", "multiscales": [image]}})
    keys = {"name": name, "separator": "/"}
    array = group.create_array("0", shape=pixels.shape, chunks=(3, 256, 256), dtype="uint8", chunk_key_encoding=keys,
                               fill_value=255, dimension_names=("c", "y", "x"))
    array[:] = pixels
    assert np.array_equal(zarr.open_array(f"{path}/0", mode="r")[:], pixels)
    found = np.asarray(fastslide.FastSlide.from_file_path(path).read_region((0, 0), 0, (800, 600)).numpy())
    seen[name] = "right" if np.array_equal(found, pixels) else "white" if (found == 255).all() else "other pixels"
    print(f"chunk_key_encoding {name}: zarr reads the pixels, fastslide: {seen[name]}")
sys.exit(seen != {"default": "right", "v2": "white"})
PY
