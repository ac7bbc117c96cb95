"""CONCH v1.5's architecture: names and sizes, its pooling against torch's attention, its positions, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from wsikit.encoders.towers import conch_v15
from wsikit.errors import ModelError

SMALL = {
    "position_px": 32,
    "patch_px": 8,
    "vision_width": 24,
    "vision_layers": 2,
    "vision_heads": 3,
    "pool_heads": 2,
    "width": 16,
}


@pytest.fixture
def small(weights_of: Callable[[nn.Module], dict[str, torch.Tensor]]) -> conch_v15.ConchV15:
    module = conch_v15.build(SMALL).eval()
    module.load_state_dict(weights_of(module))
    return module


def test_the_published_trunk_has_the_names_of_timm() -> None:
    with torch.device("meta"):
        module = conch_v15.build({})
        trunk = timm.create_model("vit_large_patch16_224", init_values=1.0, num_classes=0)
    wanted = {f"trunk.{name}": tuple(value.shape) for name, value in trunk.state_dict().items()}
    wanted |= {"attn_pool_contrast.query": (1, 768), "attn_pool_contrast.to_q.weight": (768, 768)}
    wanted |= {"attn_pool_contrast.to_kv.weight": (1536, 1024), "attn_pool_contrast.to_out.weight": (768, 768)}
    wanted |= {f"attn_pool_contrast.ln_q.{part}": (768,) for part in ("weight", "bias")}
    wanted |= {f"attn_pool_contrast.ln_k.{part}": (1024,) for part in ("weight", "bias")}
    wanted |= {f"ln_contrast.{part}": (768,) for part in ("weight", "bias")}
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == wanted


def test_at_the_size_of_its_positions_the_trunk_is_timms(small: conch_v15.ConchV15) -> None:
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, init_values=1.0, num_classes=0
    ).eval()
    theirs.load_state_dict(small.trunk.state_dict(), strict=True)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(small.trunk.forward_features(images), theirs.forward_features(images))


def test_its_pooling_is_attention_as_torch_has_it(small: conch_v15.ConchV15) -> None:
    pool = small.attn_pool_contrast
    theirs = nn.MultiheadAttention(16, 2, bias=False, kdim=24, vdim=24, batch_first=True)
    keys, values = pool.to_kv.weight.chunk(2)
    weights = {"q_proj_weight": pool.to_q.weight, "k_proj_weight": keys, "v_proj_weight": values}
    theirs.load_state_dict(weights | {"out_proj.weight": pool.to_out.weight}, strict=True)
    tokens = torch.rand(3, 7, 24)
    normed = pool.ln_k(tokens)
    wanted = theirs(pool.ln_q(pool.query).expand(3, -1, -1), normed, normed)[0]
    torch.testing.assert_close(pool(tokens), wanted)


def test_positions_of_larger_images_are_those_of_cubic_convolution_with_a_scale_a_little_too_large(
    small: conch_v15.ConchV15,
) -> None:
    """The published model adds 0.1 to the number of patches before it divides; numbers of a row, by the definition."""
    row = torch.tensor([0.0, 3.0, -1.0, 2.0])
    table = torch.zeros(1, 4, 4, 24)
    table[..., 0], table[..., 1] = row, row[:, None]  # one channel changes along x, one along y
    small.trunk.pos_embed = nn.Parameter(torch.cat([torch.zeros(1, 1, 24), table.flatten(1, 2)], dim=1))
    places = small.trunk._positions(8, 8)[0, 1:].reshape(8, 8, 24)

    def kernel(x: float, a: float = -0.75) -> float:
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    wanted = []
    for i in range(8):
        centre = (i + 0.5) * 4 / 8.1 - 0.5
        taps = range(math.floor(centre) - 1, math.floor(centre) + 3)
        wanted.append(sum(kernel(centre - t) * float(row[min(max(t, 0), 3)]) for t in taps))
    for line in [*places[..., 0], *places[..., 1].T]:
        torch.testing.assert_close(line.detach(), torch.tensor(wanted), rtol=1e-4, atol=1e-5)


def test_features_of_a_row_depend_on_itself_only_and_a_file_gives_them_again(
    small: conch_v15.ConchV15, tmp_path: Path
) -> None:
    torch.save(small.state_dict(), tmp_path / "conch_v1_5_pytorch_model.bin")
    loaded = conch_v15.load(tmp_path / "conch_v1_5_pytorch_model.bin", SMALL)
    images = torch.rand(3, 3, 64, 64)  # larger than the positions, as in use
    features = loaded(images)
    assert features.shape == (3, 16)
    torch.testing.assert_close(features, small(images).detach())
    torch.testing.assert_close(features[1:2], loaded(images[1:2]))


def test_the_file_of_conch_1_is_refused(small: conch_v15.ConchV15, tmp_path: Path) -> None:
    torch.save({f"visual.{name}": value for name, value in small.state_dict().items()}, tmp_path / "w.bin")
    with pytest.raises(ModelError, match=r"w.bin: does not fit.*missing \(trunk.cls_token.*unknown \(visual.trunk"):
        conch_v15.load(tmp_path / "w.bin", SMALL)
