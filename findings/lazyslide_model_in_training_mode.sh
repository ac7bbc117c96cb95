#!/bin/sh
# LazySlide runs a model that it loads by model_path in the mode in which it was saved, for torch.save the training mode
# unless eval() was called: batch norm then uses the other tiles of the batch. Features of a tile depend on batch_size
# and on its neighbours, without a word. A model of its registry and one after eval() are right. Exit status 0: still so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet "lazyslide==0.13.0" "lazyslide-models==0.1.0" "wsidata==0.12.0" \
    "torch==2.14.1" "torchvision==0.29.1" "tifffile==2026.3.3" openslide-python openslide-bin
"$folder/env/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import tifffile
import torch
from lazyslide.tools import feature_extraction
from torch import nn
from wsidata import TileSpec, open_wsi
from wsidata.io import add_tiles

print(*(f"{name} {version(name)}" for name in ("lazyslide", "wsidata", "torch")))
folder = sys.argv[1]
pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
pixels[:256] //= 4  # tiles of the upper half are darker
scale = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}  # 0.5 µm/px
tifffile.imwrite(f"{folder}/slide.tif", pixels, tile=(256, 256), photometric="rgb", **scale)
torch.manual_seed(0)
made = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
features = {}
for mode in ("as made", "after eval()"):
    torch.save(made if mode == "as made" else made.eval(), f"{folder}/model.pt")
    for batch_size in (8, 64):
        wsi = open_wsi(f"{folder}/slide.tif", store=None)
        places = np.array([(x, y) for y in range(0, 512, 64) for x in range(0, 512, 64)])
        add_tiles(wsi, "tiles", places, TileSpec.from_wsidata(wsi, tile_px=64), tissue_ids=np.zeros(len(places), int))
        features[mode, batch_size] = feature_extraction(
            wsi, model_path=f"{folder}/model.pt", transform=lambda tile: torch.tensor(tile).permute(2, 0, 1) / 255,
            batch_size=batch_size, device="cpu", pbar=False, return_features=True,
        )
differ = {}
for mode in ("as made", "after eval()"):
    small, large = features[mode, 8], features[mode, 64]
    differ[mode] = float(np.abs(small - large).max() / np.abs(large).max())
    print(f"model saved {mode}: features of batches of 8 and of 64 differ by {differ[mode]:.2g} of the largest")
sys.exit(not (differ["as made"] > 0.05 and differ["after eval()"] < 1e-4))
PYTHON
