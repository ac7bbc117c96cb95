#!/bin/sh
# raw2features writes level-0 px as patch_size into its files for TRIDENT, where patch_size counts px at the target
# magnification. TRIDENT reads patch_size x level0_magnification / target_magnification level-0 px, so from a slide of
# 0.25 um/px it would read fields of twice the side that the features are of. Exit status 1 if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-deps "raw2features==0.2.1"
"$folder/venv/bin/pip" install --quiet "zarr==3.1.6" "h5py==3.16.0" "numpy==2.4.6"
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys
from importlib.metadata import version

import h5py
import numpy as np
import zarr
from raw2features.export.h5 import export_h5

print(*(f"{name} {version(name)}" for name in ("raw2features", "zarr", "h5py")))
# 224 px at 0.5 um/px of a slide of 0.25 um/px: 448 level-0 px
patching = {"patch_px": 224, "target_mpp": 0.5, "achieved_mpp": 0.5, "level0_patch": 448}
store = f"{sys.argv[1]}/slide.embeddings.zarr"
header = {"patching": patching, "source": {"mpp_level0": 0.25}}
grid = zarr.open_group(store, mode="w").create_group("grids/mpp0.5_px224", attributes={"raw2features": header})
grid.create_array("coords", data=np.array([[0, 0], [448, 0]], dtype=np.int32))
grid.create_array("features/model", data=np.zeros((2, 4), dtype=np.float32))
(path,) = export_h5(store, sys.argv[1], layout="trident")
with h5py.File(path) as file:
    stated = {name: float(value) for name, value in file["coords"].attrs.items()}
print(stated)
read = stated["patch_size"] * stated["level0_magnification"] / stated["target_magnification"]
print(f"by its magnifications a patch is {read:.0f} level-0 px wide, the features are of {patching['level0_patch']} px")
sys.exit(not (stated["patch_size"] == 448 and read == 896))
PY
