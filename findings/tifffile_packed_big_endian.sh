#!/bin/sh
# tifffile writes packed integers (BitsPerSample 12 etc.) of a big-endian file with their bytes swapped before packing:
# what it wrote, it reads back as other numbers, without an error. Little-endian files are right.
# Seen with tifffile 2026.3.3, the first version that writes packed integers. Exit status 0: still so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet "tifffile==${TIFFFILE:-2026.3.3}" "imagecodecs==2026.3.6" "numpy==2.4.6"
"$folder/env/bin/python" - "$folder/packed.tif" <<'PYTHON'
import sys

import imagecodecs
import numpy
import tifffile

path = sys.argv[1]
values = numpy.array([[0x123, 0x456] * 8] * 16, dtype=numpy.uint16)
print("tifffile", tifffile.__version__, "imagecodecs", imagecodecs.__version__, "numpy", numpy.__version__)
same = {}
for order in "<>":
    tifffile.imwrite(path, values, photometric="minisblack", bitspersample=12, byteorder=order, tile=(16, 16))
    with tifffile.TiffFile(path) as tiff:
        tiff.filehandle.seek(tiff.pages[0].dataoffsets[0])
        stored = tiff.filehandle.read(3).hex()
    found = tifffile.imread(path)
    same[order] = bool((found == values).all())
    print(f"byte order {order}: stored {stored} for 123456, read back {found[0, 0]:#x} for 0x123: same {same[order]}")
sys.exit(0 if same == {"<": True, ">": False} else 1)
PYTHON
