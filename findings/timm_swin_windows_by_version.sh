#!/bin/sh
# A Swin of timm made for patches whose side is no multiple of 32 px has other windows from 1.0.31 on: sizes of stages
# are rounded up, before down. The tables of relative positions have other shapes, so that weights of the one version
# are refused by the other, and the same random seed gives another network. Exit status 0: still so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "torchvision==0.29.1" "huggingface_hub<2" safetensors pyyaml
for version in 1.0.30 1.0.31; do
    "$folder/venv/bin/pip" install --quiet --no-deps --target "$folder/$version" "timm==$version"
done
cat > "$folder/swin.py" <<'PY'
import sys
from importlib.metadata import version

import timm
import torch

folder, task = sys.argv[1:]
model = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, img_size=200, strict_img_size=False)
windows = [stage.blocks[0].window_size for stage in model.layers]
print(f"timm {version('timm')}, torch {version('torch')}: windows of the stages at 200 px: {windows}")
if task == "write":
    torch.save(model.state_dict(), f"{folder}/weights.pt")
    sys.exit(windows[-1] != (6, 6))
try:
    model.load_state_dict(torch.load(f"{folder}/weights.pt", weights_only=True))
except RuntimeError as error:
    misshapen = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
    print(f"{len(misshapen)} tensors do not fit: {misshapen[0]}")
    sys.exit(windows[-1] != (7, 7))
print("the weights fit")
sys.exit(1)
PY
PYTHONPATH="$folder/1.0.30" "$folder/venv/bin/python" -W ignore "$folder/swin.py" "$folder" write
PYTHONPATH="$folder/1.0.31" "$folder/venv/bin/python" -W ignore "$folder/swin.py" "$folder" read
