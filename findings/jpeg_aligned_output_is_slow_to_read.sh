#!/bin/sh
# libjpeg-turbo writes the rows of a 4:2:0 JPEG past the processor's cache if they begin at a multiple of 32 bytes (AVX2).
# Who cuts patches from a tile at once then waits for memory: decoding and one copy take a quarter longer than with the
# same buffer moved by 8 bytes. Exits 0 while that is so, 1 if the behaviour has changed (or the processor lacks AVX2).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "simplejpeg==1.9.0" "numpy==2.4.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import time

import numpy as np
import simplejpeg

print("simplejpeg", simplejpeg.__version__, "numpy", np.__version__)
y, x = np.mgrid[:256, :256]
pixels = np.stack([200 + 40 * np.sin(x / 9), 150 + 60 * np.sin(y / 7), 180 + 50 * np.cos((x + y) / 8)], -1)
stream = simplejpeg.encode_jpeg(pixels.clip(0, 255).astype(np.uint8), quality=80, colorsubsampling="420")
memory = np.zeros(256 * 256 * 3 + 4096, np.uint8)
start = -memory.ctypes.data % 64
patch = np.zeros((224, 224, 3), np.uint8)


def seconds(shift: int) -> float:
    tile = memory[start + shift :][: 256 * 256 * 3].reshape(256, 256, 3)
    begun = time.thread_time()
    for _ in range(200):
        simplejpeg.decode_jpeg(stream, "RGB", buffer=tile)
        patch[:] = tile[:224, :224]
    return (time.thread_time() - begun) / 200


found = {shift: [] for shift in (0, 8)}
for _ in range(15):
    for shift in found:
        found[shift].append(seconds(shift))
aligned, moved = min(found[0]), min(found[8])
print(f"decoding and a copy of 224 x 224 px: aligned {aligned * 1e6:.0f} us, moved by 8 bytes {moved * 1e6:.0f} us")
sys.exit(0 if aligned > 1.1 * moved else 1)
PYTHON
