"""The table of presets: its facts are complete, and each is built in its true size and shrunk."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch

from wsikit.encoders.names import random_recipe
from wsikit.encoders.presets import presets, sources
from wsikit.encoders.recipe import Recipe, towers
from wsikit.encoders.registry import build_module
from wsikit.encoders.torch_encoder import TextTorchEncoder, TorchEncoder

BUILT = [name for name, preset in presets().items() if preset.kind != "open-clip"]
ASKED = [
    "uni",
    "uni2-h",
    "conch",
    "conch-v1.5",
    "virchow2",
    "h-optimus-0",
    "h-optimus-1",
    "h0-mini",
    "gigapath",
    "phikon-v2",
    "hibou-b",
    "hibou-l",
    "midnight",
    "kaiko-s8",
    "kaiko-s16",
    "kaiko-b8",
    "kaiko-b16",
    "kaiko-l14",
    "plip",
    "keep",
    "musk",
    "ctranspath",
    "resnet50",
    "vit-s16",
]


SHRUNK_VIT = {"embed_dim": 24, "depth": 2, "num_heads": 2}
SHRUNK_HF = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SHRUNK_TOWERS: dict[str, tuple[dict[str, Any], int, int | None]] = {
    "conch": ({"vision_width": 24, "vision_layers": 1, "vision_heads": 2, "pool_heads": 2, "caption_queries": 4,
               "text_width": 24, "text_layers": 1, "text_heads": 2, "shared_width": 16}, 16, 16),
    "conch-v1.5": ({"vision_width": 24, "vision_layers": 1, "vision_heads": 2, "pool_heads": 2, "width": 16}, 16, None),
    "keep": ({"vision_width": 24, "vision_layers": 1, "vision_heads": 2, "text_width": 16, "text_layers": 1,
              "text_heads": 2, "text_hidden": 32, "vocabulary": 50, "shared_width": 16}, 16, 16),
    "ctranspath": ({"width": 16, "layers": (1, 1, 1, 1), "heads": (1, 1, 2, 2)}, 128, None),
}  # fmt: skip


def shrunk(name: str) -> Recipe:
    """The recipe of a preset with random weights, fewer layers and narrower; all other options are the preset's."""
    recipe = random_recipe(name)
    if recipe.kind == "tower":
        options, width, shared = SHRUNK_TOWERS[name]
        return dataclasses.replace(recipe, options=options, width=width, shared_width=shared)
    if recipe.kind == "clip":
        small = {**SHRUNK_HF, "projection_dim": 16}
        options = {"vision_config": {**small, "image_size": 224, "patch_size": 32},
                   "text_config": {**small, "vocab_size": 50}, "projection_dim": 16}  # fmt: skip
        return dataclasses.replace(recipe, options=options, width=16, shared_width=16)
    if recipe.kind == "timm" and recipe.architecture.startswith("resnet"):
        return dataclasses.replace(recipe, options={"channels": (8, 8, 8, 8)}, width=8 if name == "resnet18" else 32)
    small = SHRUNK_VIT if recipe.kind == "timm" else SHRUNK_HF
    if recipe.architecture in ("dinov2", "dinov2_with_registers"):
        small = {key: value for key, value in small.items() if key != "intermediate_size"}
    width = 48 if recipe.pooling == "cls+mean" else 24
    return dataclasses.replace(recipe, options={**recipe.options, **small}, width=width)


def ready(name: str) -> bool:
    preset = presets()[name]
    return preset.kind != "tower" or preset.architecture in towers()


def test_the_encoders_that_labs_use_have_a_name() -> None:
    assert set(ASKED) <= set(presets())


@pytest.mark.parametrize("name", list(presets()))
def test_every_fact_names_its_source(name: str) -> None:
    preset = presets()[name]
    stated = {"build", "transform", "licence"}
    stated |= {"mpp"} if preset.mpp is not None else set()
    stated |= {"parameters"} if preset.parameters is not None else set()
    assert set(preset.source) == stated
    assert set(preset.source.values()) <= set(sources())
    assert re.fullmatch(r"[a-z0-9.]+(-[a-z0-9.]+)*", name)
    assert preset.patch_px >= preset.transform.crop or preset.patch_px == preset.transform.side


@pytest.mark.parametrize("name", BUILT)
def test_in_true_size_width_and_number_of_parameters_are_as_published(name: str) -> None:
    if not ready(name):
        pytest.skip("no loader in this version")
    preset, recipe = presets()[name], random_recipe(name)
    with torch.device("meta"):
        if recipe.kind == "timm":
            from wsikit.encoders.timm_models import build_body

            body: Any = build_body(recipe.architecture, recipe.options)
            width = int(body.num_features) * (2 if recipe.pooling == "cls+mean" else 1)
        elif recipe.kind in ("transformers", "clip"):
            from wsikit.encoders.transformers_models import config_of, empty_body

            body = empty_body(config_of(recipe.architecture, recipe.options))
            config = body.config
            width = config.projection_dim if recipe.kind == "clip" else config.hidden_size
            width *= 2 if recipe.pooling == "cls+mean" else 1
        else:
            import importlib

            module, _, function = towers()[recipe.architecture].partition(":")
            body = getattr(importlib.import_module(module), function)({})
            width = preset.width  # measured below, on the shrunk one
    assert width == preset.width
    if preset.parameters is None:
        return
    number = float(preset.parameters[:-1]) * {"M": 1e6, "B": 1e9}[preset.parameters[-1]]
    count = sum(value.numel() for key, value in body.named_parameters() if not key.startswith("pooler."))
    if name == "conch":  # published with the captioning decoder, which is not part of the weights
        assert count < number
    else:
        assert count == pytest.approx(number, rel=0.006)


@pytest.mark.parametrize("name", BUILT)
def test_shrunk_each_gives_features_of_its_patches(name: str) -> None:
    if not ready(name) or (presets()[name].kind == "tower" and name not in SHRUNK_TOWERS):
        pytest.skip("no loader in this version")
    recipe = shrunk(name)
    kind = TorchEncoder if recipe.shared_width is None else TextTorchEncoder
    encoder = kind(build_module(recipe), recipe.info(), recipe.transform, device="cpu")
    images = np.random.default_rng(1).integers(0, 256, (2, recipe.patch_px, recipe.patch_px, 3), dtype=np.uint8)
    features = encoder.encode(images)
    assert features.shape == (2, recipe.width)
    assert not np.allclose(features[0], features[1], atol=1e-4)
    np.testing.assert_allclose(encoder.encode(images[1:]), features[1:], rtol=1e-3, atol=1e-4)
    if isinstance(encoder, TextTorchEncoder):
        places = encoder.encode_shared(images)
        np.testing.assert_allclose((places**2).sum(axis=1), 1, rtol=1e-4)
        assert encoder.logit_scale > 1


@pytest.mark.parametrize("name", ["virchow2", "h0-mini", "virchow"])
def test_features_are_class_token_and_mean_of_the_patch_tokens_without_registers(name: str) -> None:
    recipe = shrunk(name)
    module: Any = build_module(recipe).eval()
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens = module.body.forward_features(images)
        found = module(images)
    registers = {"virchow": 0, "virchow2": 4, "h0-mini": 4}[name]
    assert tokens.shape[1] == 1 + registers + 256
    expected = torch.cat([tokens[:, 0], tokens[:, 1 + registers :].mean(1)], dim=1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", [name for name in BUILT if presets()[name].source["transform"] == "timm"])
def test_plain_presets_normalise_as_timm_states(name: str) -> None:
    from wsikit.encoders.timm_models import hub_id_of, pretrained_transform

    preset = presets()[name]
    stated = pretrained_transform(preset.hub.removeprefix("timm/"))
    assert hub_id_of(preset.hub.removeprefix("timm/")) == preset.hub
    held = preset.transform
    assert (held.mean, held.std, held.interpolation) == (stated.mean, stated.std, stated.interpolation)
