"""Encoders in plain torch equal those of timm and transformers, whose imports they avoid."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from wsikit.models.config import ImageEncoderConfig, TextEncoderConfig, read_config
from wsikit.models.encoders import ImageEncoder, TextEncoder
from wsikit.models.io import load_model
from wsikit.models.mmlnb import MMLNB
from wsikit.models.plain import Bert, ResNet10T, plain_image_body, plain_text_body

SMALL_BERT = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}


def with_same_weights(library: torch.nn.Module, plain: torch.nn.Module) -> None:
    """Random weights for both, batch statistics included; their names must be equal."""
    generator = torch.Generator().manual_seed(3)
    weights = {
        name: torch.rand(value.shape, generator=generator) * 0.2 + 0.05 if value.is_floating_point() else value
        for name, value in library.state_dict().items()
    }
    library.load_state_dict(weights, strict=True)
    plain.load_state_dict(weights, strict=True)


@pytest.mark.parametrize("options", [{"channels": [16, 32, 64, 128], "stem_width": 8}, {}])
@pytest.mark.parametrize("side", [64, 75])
def test_the_image_encoder_equals_that_of_timm_in_every_bit(options: dict[str, Any], side: int) -> None:
    config = ImageEncoderConfig(name="resnet10t", options=options)
    library, plain = (ImageEncoder(config, patch_px=side, plain=plain).eval() for plain in (False, True))
    assert isinstance(plain.body, ResNet10T)
    assert not isinstance(library.body, ResNet10T)
    with_same_weights(library, plain)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, side, side, 3), dtype=np.uint8))
    with torch.inference_mode():
        torch.testing.assert_close(plain(images), library(images), rtol=0, atol=0)
    assert plain.width == library.width


@pytest.mark.parametrize("length", [1, 7, 40])
@pytest.mark.parametrize("padded", [False, True])
def test_the_text_encoder_equals_that_of_transformers_in_every_bit(length: int, padded: bool) -> None:
    config = TextEncoderConfig(model_type="bert", options=SMALL_BERT)
    library, plain = (TextEncoder(config, plain=plain).eval() for plain in (False, True))
    assert isinstance(plain.body, Bert)
    assert not isinstance(library.body, Bert)
    with_same_weights(library, plain)
    ids = torch.randint(1, 50, (6, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padded:
        for row in range(6):
            mask[row, max(1, length - row) :] = 0
    ids = ids * mask
    with torch.inference_mode():
        torch.testing.assert_close(plain(ids, mask), library(ids, mask), rtol=0, atol=0)
    assert plain.width == library.width


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("resnet10t", {"drop_path_rate": 0.1}),
        ("resnet10t", {"channels": [8, 0, 8, 8]}),
        ("resnet10t", {"channels": [8, 8, 8]}),
        ("resnet10t", {"channels": 8}),
    ],
)
def test_other_image_encoders_are_built_by_timm(name: str, options: dict[str, Any]) -> None:
    assert plain_image_body(ImageEncoderConfig(name=name, options=options)) is None


@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        ("roberta", SMALL_BERT),
        ("bert", {**SMALL_BERT, "hidden_act": "relu"}),
        ("bert", {**SMALL_BERT, "num_attention_heads": 5}),
        ("bert", {**SMALL_BERT, "vocab_size": "50"}),
        ("bert", {**SMALL_BERT, "layer_norm_eps": None}),
    ],
)
def test_other_text_encoders_are_built_by_transformers(model_type: str, options: dict[str, Any]) -> None:
    assert plain_text_body(TextEncoderConfig(model_type=model_type, options=options)) is None


def test_the_packaged_model_predicts_the_same_with_the_libraries_encoders() -> None:
    loaded = load_model()
    library = MMLNB(read_config("phantom-mmlnb"), loaded.tokenizer).eval()
    library.load_state_dict(loaded.state_dict(), strict=True)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8))
    tokens = loaded.read(["many small nuclei", "neuropil", None, "scattered nuclei, neuropil abundant"])
    inputs = tuple(torch.from_numpy(array) for array in (tokens.ids, tokens.mask, tokens.present))
    with torch.inference_mode():
        one, other = loaded(images, *inputs), library(images, *inputs)
    for name in ("logits", "logits_img", "logits_txt", "gate"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)


def test_the_packaged_model_predicts_without_timm_transformers_and_torchvision() -> None:
    code = (
        "import sys, numpy as np, wsikit\n"
        "model = wsikit.load_model('phantom-mmlnb', device='cpu')\n"
        "model.predict(np.zeros((2, 224, 224, 3), np.uint8), ['many nuclei', None])\n"
        "print(*(name for name in ('timm', 'transformers', 'torchvision', 'torch._dynamo') if name in sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []
