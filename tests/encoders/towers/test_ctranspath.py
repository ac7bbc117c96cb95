"""CTransPath: published names of an old timm, features against transformers' Swin, refusals."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from wsikit.encoders.towers import ctranspath
from wsikit.errors import ModelError

WeightsOf = Callable[[nn.Module], dict[str, torch.Tensor]]
SMALL = {"image_px": 32, "window": 4, "width": 16, "layers": (2, 2), "heads": (2, 4)}


def as_published(module: nn.Module) -> dict[str, torch.Tensor]:
    """Names as timm 0.5.4 gave them to two stages, with the tables that it stored."""
    state = {
        name.replace("layers.1.downsample", "layers.0.downsample"): value for name, value in module.state_dict().items()
    }
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    return state


@pytest.fixture
def small(weights_of: WeightsOf) -> nn.Module:
    module = ctranspath.build(SMALL).eval()
    module.load_state_dict(weights_of(module))
    return module


def test_the_published_model_has_its_names_and_size(number_of_parameters: Callable[[nn.Module], int]) -> None:
    with torch.device("meta"):
        module = ctranspath.build({})
    swin_t = 28_288_354  # Swin-T of ImageNet, by its authors: 28.3M
    stem = (3 * 12 * 9 + 24) + (12 * 24 * 9 + 48) + (24 * 96 + 96)
    assert number_of_parameters(module) == swin_t - (768 * 1000 + 1000) - (3 * 96 * 16 + 96) + stem
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert shapes["patch_embed.proj.0.weight"] == (12, 3, 3, 3)
    assert shapes["patch_embed.proj.6.weight"] == (96, 24, 1, 1)
    assert shapes["patch_embed.norm.weight"] == (96,)
    assert shapes["layers.2.blocks.5.attn.relative_position_bias_table"] == (169, 12)
    assert shapes["layers.1.downsample.reduction.weight"] == (192, 384)
    assert shapes["norm.weight"] == (768,)
    old = {f"layers.{i}.downsample.norm.weight": torch.zeros(1) for i in range(3)}
    assert list(ctranspath.renamed(old)) == [f"layers.{i}.downsample.norm.weight" for i in (1, 2, 3)]


def test_a_published_file_gives_the_same_features_row_by_row(small: nn.Module, tmp_path: Path) -> None:
    torch.save({"model": as_published(small)}, tmp_path / "ctranspath.pth")
    loaded = ctranspath.load(tmp_path / "ctranspath.pth", SMALL)
    images = torch.rand(3, 3, 32, 32)
    features = loaded(images)
    assert features.shape == (3, 32)
    torch.testing.assert_close(features, small(images).detach())
    torch.testing.assert_close(features[2:], loaded(images[2:]))


def test_features_equal_those_of_transformers_swin(small: nn.Module) -> None:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, drop_path_rate=0.0
    )
    theirs = SwinModel(config).eval()
    if not any(".attention.q_proj." in name for name in theirs.state_dict()):
        pytest.skip("this version of transformers names the parts of a Swin differently")
    theirs.embeddings.patch_embeddings.projection = small.patch_embed.proj
    rules = (
        (r"^norm\.", "layernorm."),
        (r"^patch_embed\.norm\.", "embeddings.norm."),
        (r"^layers\.1\.downsample", "layers.0.downsample"),
        (r"^layers\.", "encoder.layers."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.attn\.relative", ".attention.relative_position_bias.relative"),
        (r"\.attn\.proj\.", ".attention.o_proj."),
        (r"\.attn\.qkv\.", ".attention.qkv."),
    )
    state = {}
    for name, value in small.state_dict().items():
        for pattern, wanted in rules:
            name = re.sub(pattern, wanted, name)
        if ".qkv." in name:
            for part, piece in zip(("q_proj", "k_proj", "v_proj"), value.chunk(3)):
                state[name.replace("qkv", part)] = piece
        else:
            state[name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")] = value
    theirs.load_state_dict(state, strict=True)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(small(images), theirs(images).pooler_output, rtol=1e-4, atol=1e-5)


def test_a_file_of_another_architecture_is_refused(small: nn.Module, tmp_path: Path) -> None:
    state = as_published(small)
    del state["norm.bias"]
    state["patch_embed.proj.0.weight"] = torch.zeros(16, 3, 4, 4)
    torch.save({"model": state}, tmp_path / "swin.pth")
    with pytest.raises(ModelError, match=r"swin.pth: does not fit.*norm.bias.*patch_embed.proj.0.weight is \(16, 3"):
        ctranspath.load(tmp_path / "swin.pth", SMALL)
