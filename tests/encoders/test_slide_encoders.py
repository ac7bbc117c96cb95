"""Slide encoders: mean, gated attention, CHIEF and TITAN, by their definitions; order, shapes and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wsikit.encoders.slide_protocol import MeanPooling, SlideEncoder
from wsikit.encoders.slide_registry import load_slide_encoder
from wsikit.encoders.towers import abmil, chief, prism, titan
from wsikit.errors import ModelError, RequestError

SMALL_PRISM = {
    "latent_seq": 3,
    "latent_dim": 8,
    "context_dim": 12,
    "mhsa_heads": 2,
    "perceiver_depth": 4,
    "transformer_depth": 2,
    "xattn_heads": 2,
}
Make = Callable[[Path], SlideEncoder]
SMALL_CHIEF = {"given": 12, "hidden": 8, "attention": 5, "sites": 3, "text_width": 6}
SMALL_TITAN = {"given": 12, "width": 24, "layers": 2, "heads": 3, "pool_heads": 2, "caption_queries": 4}


def drawn(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def patches(count: int = 9, width: int = 12, side: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Features, and corners on a grid that is not full, beginning somewhere."""
    rng = np.random.default_rng(5)
    cells = rng.permutation(25)[:count]
    corners = np.stack([cells % 5, cells // 5], axis=1) * side + np.array([1000, 77])
    return rng.normal(size=(count, width)).astype(np.float32), corners.astype(np.int64)


def attention_file(folder: Path, *, place: int = 3) -> Path:
    shapes: dict[str, tuple[int, ...]] = {"attention_net.0.weight": (8, 12), "attention_net.0.bias": (8,)}
    for part, shape in (("attention_a.0", (5, 8)), ("attention_b.0", (5, 8)), ("attention_c", (1, 5))):
        shapes[f"attention_net.{place}.{part}.weight"] = shape
        shapes[f"attention_net.{place}.{part}.bias"] = shape[:1]
    save_file(drawn(shapes | {"classifiers.0.weight": (1, 8)}), folder / "abmil.safetensors")
    return folder / "abmil.safetensors"


def chief_file(folder: Path) -> Path:
    torch.save(chief_state(), folder / "CHIEF_pretraining.pth")
    return folder / "CHIEF_pretraining.pth"


def chief_state() -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"attention_net.0.weight": (8, 12), "attention_net.0.bias": (8,)}
    for part, shape in (("attention_a.0", (5, 8)), ("attention_b.0", (5, 8)), ("attention_c", (1, 5))):
        shapes[f"attention_net.3.{part}.weight"] = shape
        shapes[f"attention_net.3.{part}.bias"] = shape[:1]
    shapes |= {"text_to_vision.0.weight": (8, 6), "text_to_vision.0.bias": (8,), "organ_embedding": (3, 6)}
    return drawn(shapes | {"classifiers.weight": (2, 8), "att_head.fc1.weight": (5, 8)})


def titan_file(folder: Path) -> Path:
    state = titan.build(SMALL_TITAN).state_dict()
    weights = drawn({f"vision_encoder.{name}": tuple(value.shape) for name, value in state.items()})
    save_file({name: value * 0.4 for name, value in weights.items()}, folder / "model.safetensors")
    return folder / "model.safetensors"


def prism_file(folder: Path) -> Path:
    """As published: only the first of the names that share weights, and a text decoder."""
    state = prism.build(SMALL_PRISM).state_dict()
    weights = drawn({f"image_resampler.{name}": tuple(value.shape) for name, value in state.items()})
    weights = {name: value * 0.4 for name, value in weights.items()}
    save_file(weights | {"text_decoder.weight": torch.zeros(2)}, folder / "prism.safetensors")
    return folder / "prism.safetensors"


MAKERS: dict[str, Make] = {
    "mean": lambda folder: MeanPooling(),
    "abmil": lambda folder: abmil.load(attention_file(folder)),
    "chief": lambda folder: chief.load(chief_file(folder), SMALL_CHIEF),
    "chief-breast": lambda folder: chief.load(chief_file(folder), SMALL_CHIEF, site="breast"),
    "titan": lambda folder: titan.load(titan_file(folder), SMALL_TITAN),
    "prism": lambda folder: prism.load(prism_file(folder), SMALL_PRISM),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_slide_is_a_vector_whatever_the_order_of_its_patches(name: str, tmp_path: Path) -> None:
    encoder = MAKERS[name](tmp_path)
    features, corners = patches()
    vector = encoder.encode(features, corners, 256)
    assert isinstance(encoder, SlideEncoder)
    assert encoder.info.name == name
    assert vector.dtype == np.float32
    assert vector.shape == (encoder.info.width or 12,)
    order = np.random.default_rng(0).permutation(len(features))
    again = encoder.encode(features[order], corners[order], 256)
    np.testing.assert_allclose(vector, again, rtol=1e-6, atol=1e-6)
    assert not np.allclose(vector, encoder.encode(features + 1, corners, 256))


@pytest.mark.parametrize("name", MAKERS)
def test_what_no_vector_can_be_made_of_is_refused(name: str, tmp_path: Path) -> None:
    encoder = MAKERS[name](tmp_path)
    features, corners = patches()
    with pytest.raises(RequestError, match="no patches"):
        encoder.encode(features[:0], corners[:0], 256)
    with pytest.raises(RequestError, match="1 of 9 patches are not finite"):
        encoder.encode(np.where(np.arange(9)[:, None] == 4, np.nan, features).astype(np.float32), corners, 256)
    with pytest.raises(ModelError, match="corners"):
        encoder.encode(features, corners[:5], 256)
    if encoder.info.given is not None:
        with pytest.raises(ModelError, match="width 7; expected 12"):
            encoder.encode(features[:, :7], corners, 256)


@pytest.mark.parametrize("place", [2, 3])
def test_gated_attention_is_that_of_its_definition(place: int, tmp_path: Path) -> None:
    path = attention_file(tmp_path, place=place)
    features, corners = patches()
    from safetensors.numpy import load_file

    w = {
        name.split(".", 2)[2] if name[14] != "0" else name[14:]: v
        for name, v in load_file(path).items()
        if "att" in name
    }
    hidden = np.maximum(features @ w["0.weight"].T + w["0.bias"], 0)
    a = np.tanh(hidden @ w["attention_a.0.weight"].T + w["attention_a.0.bias"])
    b = 1 / (1 + np.exp(-(hidden @ w["attention_b.0.weight"].T + w["attention_b.0.bias"])))
    scores = (a * b) @ w["attention_c.weight"][0] + w["attention_c.bias"]
    weights = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(abmil.load(path).encode(features, corners, 256), weights @ hidden, rtol=1e-4)


def test_attention_without_a_hidden_layer_weighs_the_features_themselves(tmp_path: Path) -> None:
    shapes = {"attention_a.0.weight": (5, 12), "attention_b.0.weight": (5, 12), "attention_c.weight": (1, 5)}
    shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}  # type: ignore[misc]
    save_file({name: value * 0 for name, value in drawn(shapes).items()}, tmp_path / "w.safetensors")
    features, corners = patches()
    encoder = abmil.load(tmp_path / "w.safetensors", name="own", patch_encoder="uni")
    np.testing.assert_allclose(encoder.encode(features, corners, 256), features.mean(0), rtol=1e-5, atol=1e-6)
    assert encoder.info.record()["patch_encoder"] == "uni"


def test_attention_is_read_from_a_fitting_safetensors_file_only(tmp_path: Path) -> None:
    torch.save(chief_state(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"w.pt: attention pooling is read from .safetensors only"):
        abmil.load(tmp_path / "w.pt")
    save_file({"head.weight": torch.zeros(2, 2)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="no matrix attention_net"):
        abmil.load(tmp_path / "w.safetensors")


def test_chief_gives_the_weighted_mean_of_the_features_and_with_a_site_of_the_hidden_ones(tmp_path: Path) -> None:
    path, w = chief_file(tmp_path), {name: value.numpy() for name, value in chief_state().items()}
    features, corners = patches()
    hidden = np.maximum(features @ w["attention_net.0.weight"].T + w["attention_net.0.bias"], 0)
    pooled = abmil.GatedAttention(8, 5)
    net = {name[16:]: value for name, value in chief_state().items() if name.startswith("attention_net.3.")}
    pooled.load_state_dict(net)
    weights = torch.softmax(pooled(torch.from_numpy(hidden))[:, 0], 0).detach().numpy()
    vector = chief.load(path, SMALL_CHIEF).encode(features, corners, 256)
    np.testing.assert_allclose(vector, weights @ features, rtol=1e-4, atol=1e-5)
    text = np.maximum(w["text_to_vision.0.weight"] @ w["organ_embedding"][2] + w["text_to_vision.0.bias"], 0)
    vector = chief.load(path, SMALL_CHIEF, site="bladder").encode(features, corners, 256)
    np.testing.assert_allclose(vector, weights @ hidden + text, rtol=1e-4, atol=1e-5)
    with pytest.raises(RequestError, match="site 'lung': unknown to CHIEF; expected one of brain, breast, bladder"):
        chief.load(path, SMALL_CHIEF, site="lung")
    with pytest.raises(ModelError, match=r"CHIEF_pretraining.pth: does not fit"):
        chief.load(path)


def test_spoilt_weights_of_a_slide_encoder_are_refused(
    tmp_path: Path, fault_of_weights: str, refuses_spoilt_weights: Callable[..., None]
) -> None:
    shapes = {"attention_a.0.weight": (5, 12), "attention_b.0.weight": (5, 12), "attention_c.weight": (1, 5)}
    shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}  # type: ignore[misc]
    path = tmp_path / "w.safetensors"
    save_file(drawn(shapes), path)
    refuses_spoilt_weights(path, fault_of_weights, lambda: abmil.load(path))


def test_published_sizes_of_chief_and_titan() -> None:
    with torch.device("meta"):
        small, large = chief.build({}), titan.build({})
    shapes = {name: tuple(value.shape) for name, value in small.state_dict().items()}
    assert shapes["attention_net.0.weight"] == (512, 768)
    assert shapes["attention_net.3.attention_a.0.weight"] == (256, 512)
    assert shapes["text_to_vision.0.weight"] == (512, 768)
    assert shapes["organ_embedding"] == (19, 768)
    shapes = {name: tuple(value.shape) for name, value in large.state_dict().items()}
    assert shapes["cls_token"] == (1, 1, 768)
    assert shapes["patch_embed.0.weight"] == (768, 768)
    assert shapes["blocks.modules_list.5.attn.qkv.weight"] == (2304, 768)
    assert shapes["attn_pool.query"] == (128, 768)
    assert shapes["attn_pool_contrastive.attn.in_proj_weight"] == (2304, 768)
    assert shapes["proj"] == (768, 768)
    assert sum(block.numel() for block in large.blocks.parameters()) == 6 * 7_087_872  # "42 million" in the paper


def test_titan_is_a_transformer_with_distances_on_the_grid_as_bias(tmp_path: Path) -> None:
    """The reference is torch's own encoder layer with a dense mask; rows are taken in parts here."""
    path = titan_file(tmp_path)
    module = titan.load(path, SMALL_TITAN).module
    features, corners = patches()
    cells = (corners - corners.min(0)) // 256
    distances = np.sqrt(((cells[:, None] - cells[None]) ** 2).sum(-1))
    bias = torch.zeros(3, 10, 10)
    bias[:, 1:, 1:] = torch.tensor([[[2.0**-4]], [[2.0**-8]], [[2.0**-2]]]) * -torch.from_numpy(distances).float()
    x = torch.cat([module.cls_token, module.patch_embed(torch.from_numpy(features))[None]], dim=1)
    for block in module.blocks["modules_list"]:
        layer = nn.TransformerEncoderLayer(24, 3, 96, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True)
        renamed = {
            name.replace("attn.qkv.", "self_attn.in_proj_")
            .replace("attn.proj", "self_attn.out_proj")
            .replace("mlp.fc", "linear"): value
            for name, value in block.state_dict().items()
        }
        layer.load_state_dict(renamed, strict=True)
        x = layer(x, src_mask=bias)
    wanted = module.attn_pool_contrastive(module.norm(x))[0, 0].detach().numpy()
    old, titan.ROWS = titan.ROWS, 3
    try:
        vector = titan.load(path, SMALL_TITAN).encode(features, corners, 256)
    finally:
        titan.ROWS = old
    np.testing.assert_allclose(vector, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(titan.load(path, SMALL_TITAN).encode(features, corners, 256), vector, atol=1e-5)
    projected = titan.load(path, SMALL_TITAN | {"projected": 1}).encode(features, corners, 256)
    np.testing.assert_allclose(projected, vector @ module.proj.numpy(), rtol=1e-3, atol=1e-4)


def test_titan_refuses_patches_that_overlap_and_leaves_out_those_without_features(tmp_path: Path) -> None:
    encoder = titan.load(titan_file(tmp_path), SMALL_TITAN)
    features, corners = patches()
    with pytest.raises(RequestError, match=r"patches share a cell of 512 px of the grid with another one"):
        encoder.encode(features, corners, 512)
    inner = int(np.flatnonzero((corners != corners.min(0)).all(axis=1))[0])  # the grid begins where it did
    features[inner] = 0
    kept = np.arange(9) != inner
    np.testing.assert_allclose(
        encoder.encode(features, corners, 256), encoder.encode(features[kept], corners[kept], 256), atol=1e-6
    )


def test_titans_file_is_known_by_its_names(tmp_path: Path) -> None:
    save_file({"text_encoder.cls_emb": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"no names vision_encoder.\*"):
        titan.load(tmp_path / "model.safetensors", SMALL_TITAN)


def test_published_sizes_of_prism() -> None:
    with torch.device("meta"):
        module = prism.build({})
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert shapes["perceiver.latents"] == (513, 1280)
    assert shapes["perceiver.layers.0.xattn.xattn.to_kv.weight"] == (2560, 2560)
    assert shapes["perceiver.layers.1.xattn.ff.net.0.weight"] == (2560, 1280)
    assert shapes["perceiver.layers.0.tf.5.mhsa.mha.in_proj_weight"] == (3840, 1280)
    assert not any(name.startswith(("perceiver.layers.1.tf", "perceiver.layers.2")) for name in shapes)


def test_prism_is_a_perceiver_whose_layers_share_weights(tmp_path: Path) -> None:
    """The reference has all layers, made of torch's attention, with copies of the shared weights."""
    encoder = prism.load(prism_file(tmp_path), SMALL_PRISM)
    w = dict(encoder.module.state_dict())

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return nn.functional.layer_norm(x, (8,), w[f"{name}.weight"], w[f"{name}.bias"])

    def feed(x: torch.Tensor, name: str) -> torch.Tensor:
        wide = norm(x, f"{name}.norm") @ w[f"{name}.net.0.weight"].T + w[f"{name}.net.0.bias"]
        return (wide[:, :8] * nn.functional.gelu(wide[:, 8:])) @ w[f"{name}.net.2.weight"].T + w[f"{name}.net.2.bias"]

    features, corners = patches()
    given, x = torch.from_numpy(features), w["perceiver.latents"]
    for i in range(4):
        cross = f"perceiver.layers.{min(i, 1)}.xattn"
        attention = nn.MultiheadAttention(8, 2, bias=False, kdim=12, vdim=12)
        keys, values = w[f"{cross}.xattn.to_kv.weight"].chunk(2)
        parts = {"q_proj_weight": w[f"{cross}.xattn.to_q.weight"], "k_proj_weight": keys, "v_proj_weight": values}
        attention.load_state_dict(parts | {"out_proj.weight": w[f"{cross}.xattn.to_out.weight"]}, strict=True)
        x = x + attention(norm(x, f"{cross}.xattn.x_norm"), given, given)[0]
        x = x + feed(x, f"{cross}.ff")
        for j in range(2):
            block = f"perceiver.layers.0.tf.{j}"
            attention = nn.MultiheadAttention(8, 2, bias=False)
            names = ("in_proj_weight", "out_proj.weight")
            attention.load_state_dict({name: w[f"{block}.mhsa.mha.{name}"] for name in names}, strict=True)
            normed = norm(x, f"{block}.mhsa.norm")
            x = x + attention(normed, normed, normed)[0]
            x = x + feed(x, f"{block}.ff")
    wanted = norm(x[:1], "cls_norm")[0].detach().numpy()
    np.testing.assert_allclose(encoder.encode(features, corners, 256), wanted, rtol=1e-4, atol=1e-5)


def test_prism_takes_copies_of_shared_weights_if_they_are_equal_and_sizes_of_its_config(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    features, corners = patches()
    wanted = prism.load(prism_file(tmp_path), SMALL_PRISM).encode(features, corners, 256)
    (tmp_path / "config.json").write_text(json.dumps({"perceiver_config": SMALL_PRISM | {"mlp_activation": "geglu"}}))
    state = load_file(tmp_path / "prism.safetensors")
    name = "image_resampler.perceiver.layers.{}.tf.0.ff.net.0.bias"
    torch.save(state | {name.format(3): state[name.format(0)]}, tmp_path / "prism.bin")
    np.testing.assert_array_equal(prism.load(tmp_path / "prism.bin").encode(features, corners, 256), wanted)
    torch.save(state | {name.format(3): state[name.format(0)] + 1}, tmp_path / "prism.bin")
    with pytest.raises(ModelError, match=r"layers.3.tf.0.ff.net.0.bias differs"):
        prism.load(tmp_path / "prism.bin")
    (tmp_path / "config.json").write_text(json.dumps({"perceiver_config": {"mlp_activation": "gelu"}}))
    with pytest.raises(ModelError, match=r"config.json: is no config.json of PRISM"):
        prism.load(tmp_path / "prism.bin")


def test_slide_encoders_are_found_by_kind_and_file_or_folder(tmp_path: Path) -> None:
    features, corners = patches()
    named = load_slide_encoder(f"abmil:{attention_file(tmp_path)}", name="mine", patch_encoder="conch")
    assert (named.info.name, named.info.patch_encoder) == ("mine", "conch")
    assert named.encode(features, corners, 256).shape == (8,)
    chief_file(tmp_path)
    found = load_slide_encoder(f"chief:{tmp_path}", options=SMALL_CHIEF, site="brain")
    assert found.info.name == "chief-brain"
    for name in ("median", "abmil", "titan:", f"titan:{tmp_path}", f"abmil:{tmp_path}", f"prism:{tmp_path}/none.bin"):
        with pytest.raises(ModelError):
            load_slide_encoder(name)
