"""The network of CMSwinKAN: timm's Swin with KAN layers and stages that are fused, as an image encoder by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch.nn import functional

from wsikit.errors import ModelError
from wsikit.models.config import ImageEncoderConfig
from wsikit.models.encoders import ImageEncoder
from wsikit.models.kan import KANLinear
from wsikit.models.multi_scale import MultiScaleFusion, NeighbourMean
from wsikit.models.swin_kan import DEPTHS, SIZES, SwinKAN


def tiny(**options) -> SwinKAN:
    torch.manual_seed(0)
    return SwinKAN(**{"img_size": 32, "embed_dim": 8, "num_heads": (1, 2, 4, 8)} | options)


@pytest.mark.parametrize(("name", "width"), [("swin_kan_micro", 192), ("swin_kan_mini", 192), ("swin_kan_tiny", 448)])
@pytest.mark.parametrize("patch_px", [50, 96, 224])
def test_each_size_takes_patches_of_any_side_by_its_name(name: str, width: int, patch_px: int):
    encoder = ImageEncoder(ImageEncoderConfig(name=name), patch_px=patch_px).eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, patch_px, patch_px, 3), dtype=np.uint8))
    with torch.inference_mode():
        features = encoder(images)
    assert encoder.width == encoder.body.num_features == width
    assert features.shape == (2, width)
    assert features.isfinite().all()


def test_a_model_made_for_one_side_takes_another():
    model = tiny(img_size=50).eval()
    assert model(torch.randn(1, 3, 224, 224)).shape == (1, 64)
    assert model.layers[3].blocks[0].window_size == (2, 2)  # not 7 × 7, nearly all of it padding


def test_features_and_maps_of_one_pass_are_those_of_the_encoder():
    encoder = ImageEncoder(ImageEncoderConfig(name="swin_kan_micro"), patch_px=50).eval()
    images = torch.randint(0, 256, (2, 50, 50, 3), dtype=torch.uint8)
    cells, features = encoder.map_and_features(images)
    assert cells.shape == (2, 96, 4, 4)
    torch.testing.assert_close(features, encoder(images))


def test_the_published_network_is_built():
    model = SIZES["swin_kan_micro"]()
    assert [len(layer.blocks) for layer in model.layers] == list(DEPTHS) == [2, 2, 8, 2]
    for layer, width in zip(model.layers, (24, 48, 96, 192), strict=True):
        for block in layer.blocks:
            sides = [tuple(part.base_weight.shape) for part in block.mlp]
            assert sides == [(16, width), (width, 16)]
            assert all(isinstance(part, KANLinear) and part.grid == 5 for part in block.mlp)


def test_without_kan_and_fusion_it_is_the_swin_of_timm():
    ours = tiny(kan=False, fusion=False).eval()
    ratios = [(160 + 1e-6) / width for width in (8, 16, 32, 64)]
    theirs = SwinTransformer(
        img_size=32, num_classes=0, embed_dim=8, depths=DEPTHS, num_heads=(1, 2, 4, 8), mlp_ratio=ratios
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x))


def test_plain_and_kan_have_the_same_number_of_matrix_weights():
    kan, plain = ([p for p in tiny(kan=kan, fusion=False).parameters() if p.ndim > 1] for kan in (True, False))
    assert sum(p.numel() for p in kan) == sum(p.numel() for p in plain)


def test_prediction_is_deterministic_and_every_weight_is_trained():
    """The published code made two convolutions with new random weights at each call."""
    model = tiny(img_size=64).eval()
    x = torch.randn(4, 3, 64, 64)
    names = set(model.state_dict())
    torch.testing.assert_close(model(x), model(x), atol=0, rtol=0)
    assert set(model.state_dict()) == names
    (model(x) * torch.randn(4, 64)).sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert idle == []


def test_fusion_changes_the_features_by_all_three_stages():
    model = tiny().eval()
    size = (2, 2)
    stages = [torch.randn(1, width, side, side) for width, side in ((8, 8), (16, 4), (32, 2))]
    whole = model.fusion(stages, size)
    for number in range(3):
        changed = list(stages)
        changed[number] = torch.randn_like(stages[number])
        assert not torch.allclose(model.fusion(changed, size), whole, atol=1e-4)


def test_fusion_keeps_places_apart_from_channels():
    """The published code viewed (B, L, C) as an image of L · C / F by F pixels: places and channels were mixed, and all
    channels got one number."""
    torch.manual_seed(0)
    fusion = MultiScaleFusion((8, 16, 32), 64).double()
    fusion.norm = torch.nn.Identity()  # it sees the whole map
    stages = [torch.randn(1, width, side, side, dtype=torch.float64) for width, side in ((8, 8), (16, 4), (32, 2))]
    whole = fusion(stages, (4, 4))
    assert whole.shape == (1, 64, 4, 4)
    assert whole.std(dim=1).min() > 0.01  # channels differ
    turned = fusion([stage.flip(3) for stage in stages], (4, 4))
    mirrored = MultiScaleFusion((8, 16, 32), 64).double()
    mirrored.load_state_dict(fusion.state_dict(), strict=False)
    mirrored.norm = torch.nn.Identity()
    for part in (mirrored.second, mirrored.third):  # left and right neighbours change places
        order = torch.arange(9).view(3, 3).flip(1).flatten()
        part.weights.weight.data = part.weights.weight.data[order]
        part.weights.bias.data = part.weights.bias.data[order]
    torch.testing.assert_close(mirrored(stages, (4, 4)), turned.flip(3))
    near = [stages[0].clone(), *stages[1:]]
    near[0][..., 0, 0] += 5.0
    moved = (fusion(near, (4, 4)) - whole).abs().amax(dim=1)[0] > 1e-12
    assert moved[:2, :2].all()
    assert not moved[2:].any()
    assert not moved[:, 2:].any()


def test_neighbours_are_averaged_by_weights_that_sum_to_one():
    torch.manual_seed(0)
    mean = NeighbourMean(4, 6, heads=2)
    values, guide = torch.randn(2, 4, 5, 7), torch.randn(2, 6, 5, 7)
    expected = torch.zeros_like(values)
    logits = mean.weights(guide).view(2, 2, 3, 3, 5, 7)
    for y, x, head in np.ndindex(5, 7, 2):
        rows, columns = (slice(max(0, at - 1), at + 2) for at in (y, x))
        inside = slice(max(0, 1 - y), 6 - y), slice(max(0, 1 - x), 8 - x)
        share = logits[:, head, inside[0], inside[1], y, x].flatten(1).softmax(dim=1)
        near = values[:, 2 * head : 2 * head + 2, rows, columns].flatten(2)
        expected[:, 2 * head : 2 * head + 2, y, x] = (share[:, None] * near).sum(dim=2)
    torch.testing.assert_close(mean(values, guide), expected)
    constant = torch.ones(1, 4, 5, 7)
    torch.testing.assert_close(mean(constant, guide[:1]), constant)


def test_a_saved_model_predicts_as_before(tmp_path: Path):
    from wsikit.models.config import ModelConfig, PRMFConfig, TextEncoderConfig
    from wsikit.models.io import load_model, save_model
    from wsikit.models.mmlnb import MMLNB
    from wsikit.models.predictor import Predictor
    from wsikit.models.tokenizer import CaptionTokenizer

    tokenizer = CaptionTokenizer.train(["neuropil absent"], vocabulary=60, max_tokens=16)
    text = {"vocab_size": tokenizer.vocabulary, "dim": 8, "n_layers": 1, "n_heads": 1, "hidden_dim": 8}
    config = ModelConfig(
        name="swin", version="1", classes=("a", "b"), class_names=("a", "b"), colors=("#000000", "#ffffff"),
        background=(), mpp=0.5, patch_px=50, stain="H&E", captioner="table", text_max_tokens=16,
        prmf=PRMFConfig(d=16, gate="scalar", mode="robust"), image=ImageEncoderConfig(name="swin_kan_mini"),
        text=TextEncoderConfig(model_type="distilbert", options=text), notice="test",
    )  # fmt: skip
    model = MMLNB(config, tokenizer).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 50, 3), dtype=np.uint8)
    captions = ["neuropil absent", None, "neuropil absent"]
    before = Predictor(model, device="cpu").predict(images, captions)
    loaded = load_model(save_model(model, tmp_path / "model", card="", metrics={}))
    after = Predictor(loaded, device="cpu").predict(images, captions)
    np.testing.assert_array_equal(before["probability"], after["probability"])


def test_options_that_do_not_fit_are_named():
    with pytest.raises(ModelError, match="heads must divide"):
        tiny(num_heads=(3, 2, 4, 8))
    with pytest.raises(ModelError, match="depth"):
        ImageEncoder(ImageEncoderConfig(name="swin_kan_micro", options={"depth": 3}), patch_px=50)
    with pytest.raises(ModelError, match="swin_kan_micro"):
        ImageEncoder(ImageEncoderConfig(name="swin_kan_giant"), patch_px=50)


def test_it_learns_a_texture_that_a_mean_colour_does_not_show():
    """Stripes of two directions, of one mean colour; chance is 0.5."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 2, 64))
    stripes = torch.from_numpy(np.sign(np.sin(np.arange(32) * np.pi / 4 + rng.uniform(0, 6, (64, 1))))).float()
    images = torch.where(labels[:, None, None] > 0, stripes[:, :, None].expand(-1, -1, 32), stripes[:, None, :])
    x = images[:, None].expand(-1, 3, -1, -1) + 0.3 * torch.randn(64, 3, 32, 32)
    model, head = tiny(drop_path_rate=0.0), torch.nn.Linear(64, 2)
    optimiser = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(15):
        optimiser.zero_grad()
        functional.cross_entropy(head(model(x[:48])), labels[:48]).backward()
        optimiser.step()
    right = (head(model.eval()(x[48:])).argmax(dim=1) == labels[48:]).float().mean()
    assert right > 0.9
