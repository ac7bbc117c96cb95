"""Loaders of our own for published encoders whose weights otherwise need other people's code to load.

Each module builds one published architecture in plain torch (and timm, where timm has the blocks) with the parameter
names of the published file. Nothing of a model's folder is executed: files of weights are read as tensors only.
docs/towers.md says, for each, what was read where and what could not be checked.
"""

from __future__ import annotations

TOWERS: dict[str, str] = {
    "conch": "wsikit.encoders.towers.conch:build",
    "keep": "wsikit.encoders.towers.keep:build",
    "conch-v1.5": "wsikit.encoders.towers.conch_v15:build",
    "ctranspath": "wsikit.encoders.towers.ctranspath:build",
    "musk": "wsikit.encoders.towers.musk:build",
}
"""Name of a tower: where its `build(options)` is, for `importlib`. No torch is imported here."""
