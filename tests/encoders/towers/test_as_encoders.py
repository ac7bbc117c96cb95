"""Towers as encoders: from patches and texts to features, by the recipe that a preset makes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from wsikit.encoders.protocol import TextImageEncoder
from wsikit.encoders.recipe import Recipe
from wsikit.encoders.registry import build_module
from wsikit.encoders.torch_encoder import TextTorchEncoder, TorchEncoder
from wsikit.encoders.towers import TOWERS
from wsikit.encoders.transform import Transform

VISION = {"image_px": 32, "patch_px": 8, "vision_width": 24, "vision_layers": 1, "vision_heads": 3}
TEXT = {"text_width": 16, "text_layers": 1, "text_heads": 2, "vocabulary": 320, "context": 24}
SMALL: dict[str, dict[str, Any]] = {
    "conch": VISION | TEXT | {"pool_heads": 2, "caption_queries": 3, "shared_width": 12},
    "keep": VISION | TEXT | {"text_hidden": 20, "positions": 30, "shared_width": 16},
    "conch-v1.5": {k: v for k, v in VISION.items() if k != "image_px"}
    | {"position_px": 32, "pool_heads": 2, "width": 16},
    "ctranspath": {"image_px": 32, "window": 4, "width": 16, "layers": (1, 1), "heads": (2, 4)},
    "musk": {
        "image_px": 32,
        "patch_px": 8,
        "width": 16,
        "layers": 1,
        "heads": 2,
        "hidden": 32,
        "vocabulary": 320,
        "positions": 40,
        "context": 24,
    },
}
WIDTHS = {"conch": 12, "keep": 16, "conch-v1.5": 16, "ctranspath": 32, "musk": 16}


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_is_an_encoder_of_patches_and_texts(
    name: str,
    tmp_path: Path,
    byte_tokenizer: Path,
    weights_of: Callable[[nn.Module], dict[str, torch.Tensor]],
    request: pytest.FixtureRequest,
) -> None:
    if name == "keep":
        request.getfixturevalue("word_tokenizer")  # in place of the other
    place, _, function = TOWERS[name].partition(":")
    weights = weights_of(getattr(importlib.import_module(place), function)(SMALL[name]))
    file = tmp_path / "weights.bin"
    torch.save(weights, file)
    texts = name in ("conch", "keep", "musk")
    recipe = Recipe(
        name=name,
        kind="tower",
        architecture=name,
        width=WIDTHS[name],
        transform=Transform(crop=32),
        patch_px=32,
        options=SMALL[name],
        weights=(file,),
        folder=tmp_path,
        shared_width=WIDTHS[name] if texts else None,
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    encoder = (TextTorchEncoder if texts else TorchEncoder)(
        build_module(recipe), recipe.info(), recipe.transform, device="cpu"
    )
    assert encoder.encode(images).shape == (3, WIDTHS[name])
    assert encoder.encode(images).std(axis=0).min() > 0
    if not texts:
        return
    assert isinstance(encoder, TextImageEncoder)
    assert encoder.logit_scale == pytest.approx(float(weights["logit_scale"].exp()), rel=1e-6)
    for places in (encoder.encode_shared(images), encoder.encode_texts(["neuropil", "blood and necrosis"])):
        np.testing.assert_allclose(np.linalg.norm(places, axis=1), 1, rtol=1e-5)
    one, two = encoder.encode_texts(["neuropil", "blood and necrosis"])
    assert not np.allclose(one, two)


def test_the_table_of_towers_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, wsikit.encoders.towers; print('torch' in sys.modules, 'timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
