#!/bin/sh
# libvips turns a tiled TIFF whose JPEG 2000 tiles it cannot decompress into a black picture, and reports success,
# also with fail_on="error". A slide "converted" so is empty without any sign of it: compare the result with the source.
# Exits 0 while that is so, 1 if the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "pyvips[binary]==3.2.0" "pyvips-binary==8.18.7" "tifffile==2026.3.3" "imagecodecs" "numpy"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import pyvips
import tifffile

print("pyvips", pyvips.__version__, "libvips", ".".join(str(pyvips.version(part)) for part in range(3)))
print("tifffile", tifffile.__version__)
y, x = np.mgrid[:512, :512]
pixels = np.stack([200 + 40 * np.sin(x / 40), 150 + 60 * np.sin(y / 33), 180 + 50 * np.cos((x + y) / 50)], -1)
pixels = pixels.clip(0, 255).astype(np.uint8)
tifffile.imwrite("in.tif", pixels, photometric="rgb", tile=(256, 256), compression="jpeg2000", metadata=None)
assert np.array_equal(tifffile.imread("in.tif"), pixels), "the input is not as it was written"
try:
    pyvips.Image.new_from_file("in.tif", fail_on="error").tiffsave("out.tif", tile=True, compression="jpeg", Q=90)
except pyvips.Error as error:
    print("refused:", str(error).splitlines()[-1])
    sys.exit(1)
found = tifffile.imread("out.tif")
print(f"no error; mean of the source {pixels.mean():.0f}, of the converted file {found.mean():.0f}")
sys.exit(0 if found.max() == 0 else 1)
PYTHON
