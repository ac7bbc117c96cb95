"""CONCH's architecture: names, numbers, both towers against open_clip's, texts, and refusals."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn
from torch.nn import functional

from wsikit.encoders.towers import conch
from wsikit.errors import ModelError, RequestError

WeightsOf = Callable[[nn.Module], dict[str, torch.Tensor]]
NumberOf = Callable[[nn.Module], int]
SMALL = {
    "image_px": 32,
    "patch_px": 8,
    "vision_width": 24,
    "vision_layers": 2,
    "vision_heads": 3,
    "pool_heads": 2,
    "caption_queries": 3,
    "text_width": 16,
    "text_layers": 2,
    "text_heads": 2,
    "vocabulary": 320,
    "context": 24,
    "shared_width": 12,
}


@pytest.fixture
def small(weights_of: WeightsOf) -> conch.Conch:
    module = conch.build(SMALL).eval()
    module.load_state_dict(weights_of(module))
    return module


def test_the_published_towers_have_their_published_sizes_and_names(number_of_parameters: NumberOf) -> None:
    with torch.device("meta"):
        module = conch.build({})
    visual, text = number_of_parameters(module.visual), number_of_parameters(module.text)
    assert round(visual / 1e6) == 90  # the model card says 90M, and 110M for the text tower
    assert round(text / 1e7) == 11
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert shapes["visual.trunk.pos_embed"] == (1, 785, 768)
    assert shapes["visual.trunk.blocks.11.attn.qkv.weight"] == (2304, 768)
    assert shapes["visual.attn_pool_contrast.query"] == (1, 512)
    assert shapes["visual.attn_pool_contrast.attn.k_proj_weight"] == (512, 768)
    assert shapes["visual.attn_pool_caption.attn.in_proj_weight"] == (2304, 768)
    assert shapes["visual.proj_contrast"] == (512, 512)
    assert shapes["text.cls_emb"] == (768,)
    assert shapes["text.positional_embedding"] == (128, 768)
    assert shapes["text.token_embedding.weight"] == (32007, 768)
    assert shapes["text.transformer.resblocks.11.mlp.c_fc.weight"] == (3072, 768)
    assert shapes["text.text_projection"] == (768, 512)
    assert shapes["logit_scale"] == ()


def test_a_published_file_is_loaded_and_gives_the_same_features(small: conch.Conch, tmp_path: Path) -> None:
    state = {name: value.half() for name, value in small.state_dict().items()}
    state["text_decoder.ln_final.weight"] = torch.ones(16)  # of the decoder, which is not needed
    torch.save(state, tmp_path / "pytorch_model.bin")
    loaded = conch.load(tmp_path / "pytorch_model.bin", SMALL)
    images = torch.rand(2, 3, 32, 32)
    small.load_state_dict({name: value.float() for name, value in state.items() if "decoder" not in name})
    torch.testing.assert_close(loaded(images), small(images).detach())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_shared_places_have_length_1_and_features_are_before_the_projection(small: conch.Conch) -> None:
    images = torch.rand(3, 3, 32, 32)
    features, shared = small(images), small.shared(images)
    assert features.shape == shared.shape == (3, 12)
    torch.testing.assert_close(shared.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(shared, functional.normalize(features @ small.visual.proj_contrast, dim=-1))
    assert not torch.allclose(features.norm(dim=-1), torch.ones(3))


def test_a_row_depends_on_itself_only(small: conch.Conch, byte_tokenizer: Path) -> None:
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(small.shared(images)[1:2], small.shared(images[1:2]))
    reader = small.reader(byte_tokenizer.parent)
    texts = ["neuropil", "necrosis and blood of normal tissue", "Schwannian"]
    torch.testing.assert_close(small.texts(*reader(texts))[:1], small.texts(*reader(texts[:1])))


def test_the_image_tower_equals_one_of_timm_and_open_clip(small: conch.Conch) -> None:
    open_clip = pytest.importorskip("open_clip")
    pool = open_clip.transformer.AttentionalPooler(12, 24, n_head=2, n_queries=1)
    pool.load_state_dict(small.visual.attn_pool_contrast.state_dict())
    images = torch.rand(2, 3, 32, 32)
    tokens = small.visual.trunk.forward_features(images)
    torch.testing.assert_close(small.visual.ln_contrast(pool(tokens)[:, 0]), small(images))


def test_the_text_tower_equals_that_of_open_clip(small: conch.Conch, byte_tokenizer: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    theirs = open_clip.transformer.TextTransformer(
        context_length=23,  # open_clip adds the class token's place to it
        vocab_size=320,
        width=16,
        heads=2,
        layers=2,
        output_dim=12,
        embed_cls=True,
        pad_id=0,
    ).eval()
    theirs.load_state_dict(small.text.state_dict(), strict=True)
    reader = small.reader(byte_tokenizer.parent)
    ids, given = reader(["neuropil", "necrosis, Schwannian stroma"])
    torch.testing.assert_close(small.text(ids, given), theirs(ids), rtol=1e-5, atol=1e-5)


def test_texts_become_ids_as_published(small: conch.Conch, byte_tokenizer: Path) -> None:
    reader = small.reader(byte_tokenizer.parent)
    ids, given = reader(["Neuropil", "neuropil"])
    assert ids.shape == (2, 23)  # one place of 24 is the class token's
    assert torch.equal(ids[0], ids[1])
    count = int(given[0].sum())
    assert ids[0, 0] == 1
    assert ids[0, count - 1] == 2
    assert not ids[0, count:].any()
    with pytest.raises(RequestError, match="empty"):
        reader([" "])
    with pytest.raises(RequestError, match="tokens; this encoder reads 23 at most"):
        reader(["necrosis " * 30])


def test_a_missing_tokenizer_is_named_with_its_source(small: conch.Conch, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer file \(conch_byte_level_bpe_uncased.json"):
        small.reader(tmp_path)


def test_positions_of_another_image_size_are_resized_as_timm_does(small: conch.Conch, tmp_path: Path) -> None:
    state = small.state_dict()
    other = torch.randn(1, 1 + 3 * 3, 24)
    torch.save(state | {"visual.trunk.pos_embed": other}, tmp_path / "w.bin")
    loaded = conch.load(tmp_path / "w.bin", SMALL)
    wanted = resample_abs_pos_embed(other, [4, 4], num_prefix_tokens=1, interpolation="bilinear", antialias=False)
    torch.testing.assert_close(loaded.visual.trunk.pos_embed, nn.Parameter(wanted, requires_grad=False))


def test_a_file_that_does_not_fit_is_refused_by_name(small: conch.Conch, tmp_path: Path) -> None:
    state = dict(small.state_dict())
    del state["text.cls_emb"]
    state["logit_scale"] = torch.zeros(3)
    state["head.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.bin")
    with pytest.raises(ModelError) as caught:
        conch.load(tmp_path / "w.bin", SMALL)
    message = str(caught.value)
    assert str(tmp_path / "w.bin") in message
    assert "1 of" in message
    assert "text.cls_emb" in message
    assert "head.weight" in message
    assert "logit_scale is (3,), expected ()" in message


def test_files_that_could_run_code_or_are_damaged_are_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "evil.bin", "wb") as file:
        pickle.dump({"a": print}, file, protocol=2)
    with pytest.raises(ModelError, match="holds more than tensors"):
        conch.load(tmp_path / "evil.bin", SMALL)
    (tmp_path / "cut.safetensors").write_bytes(b"12345678")
    for name in ("cut.safetensors", "none.bin"):
        with pytest.raises(ModelError, match=name):
            conch.load(tmp_path / name, SMALL)
    torch.save([1, 2], tmp_path / "list.bin")
    with pytest.raises(ModelError, match="no table of tensors"):
        conch.load(tmp_path / "list.bin", SMALL)
