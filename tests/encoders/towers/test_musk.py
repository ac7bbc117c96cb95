"""MUSK's architecture: names and sizes, torchscale's BEiT-3 as the reference, multiscale, texts, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from wsikit.encoders.towers import musk
from wsikit.encoders.towers.texts import TextReader
from wsikit.errors import ModelError

SMALL = {
    "image_px": 32,
    "patch_px": 8,
    "width": 16,
    "layers": 2,
    "heads": 2,
    "hidden": 32,
    "vocabulary": 320,
    "positions": 40,
    "context": 24,
}


@pytest.fixture
def small(weights_of: Callable[[nn.Module], dict[str, torch.Tensor]]) -> musk.Musk:
    module = musk.build(SMALL).eval()
    module.load_state_dict(weights_of(module))
    return module


def texts(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of texts of growing length, filled up with 1."""
    ids = torch.ones(count, 24, dtype=torch.int64)
    for row in range(count):
        ids[row, : 4 + row] = torch.arange(4 + row) * 7 % 300
    given = torch.arange(24)[None] < (4 + torch.arange(count))[:, None]
    return ids, given


def test_the_published_model_has_its_published_size_and_names(
    number_of_parameters: Callable[[nn.Module], int],
) -> None:
    with torch.device("meta"):
        module = musk.build({})
    assert round(number_of_parameters(module) / 1e6) == 675
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert shapes["beit3.text_embed.weight"] == (64010, 1024)
    assert shapes["beit3.vision_embed.proj.weight"] == (1024, 3, 16, 16)
    assert shapes["beit3.encoder.embed_positions.A.weight"] == (579, 1024)
    assert shapes["beit3.encoder.embed_positions.B.weight"] == (1024, 1024)
    assert shapes["beit3.encoder.layers.23.self_attn.inner_attn_ln.B.weight"] == (1024,)
    assert shapes["beit3.encoder.layers.23.ffn.A.ffn_layernorm.weight"] == (4096,)
    assert shapes["vision_head.weight"] == shapes["language_head.weight"] == (1024, 1024)


def test_both_towers_equal_torchscales(small: musk.Musk) -> None:
    pytest.importorskip("torchscale")
    pytest.importorskip("fairscale")
    from torchscale.architecture.config import EncoderConfig
    from torchscale.model.BEiT3 import BEiT3

    config = EncoderConfig(
        img_size=32,
        patch_size=8,
        vocab_size=320,
        multiway=True,
        layernorm_embedding=False,
        normalize_output=True,
        no_output_layer=True,
        encoder_embed_dim=16,
        encoder_attention_heads=2,
        encoder_ffn_embed_dim=32,
        encoder_layers=2,
        max_source_positions=40,
    )
    theirs = BEiT3(config).eval()
    state = small.beit3.state_dict() | {"vision_embed.mask_token": torch.zeros(1, 1, 16)}
    theirs.load_state_dict(state, strict=True)
    images = torch.rand(2, 3, 32, 32)
    token = theirs(visual_tokens=images)["encoder_out"][:, 0]
    torch.testing.assert_close(small(images), token, rtol=1e-5, atol=1e-5)
    ids, given = texts(3)
    token = theirs(textual_tokens=ids, text_padding_position=~given)["encoder_out"][:, 0]
    wanted = functional.normalize(small.language_head(token), dim=-1)
    torch.testing.assert_close(small.texts(ids, given), wanted, rtol=1e-5, atol=1e-5)


def test_places_have_length_1_and_rows_and_filling_do_not_matter(small: musk.Musk) -> None:
    images = torch.rand(3, 3, 32, 32)
    places = small.shared(images)
    torch.testing.assert_close(places.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(places[1:2], small.shared(images[1:2]))
    ids, given = texts(3)
    places = small.texts(ids, given)
    torch.testing.assert_close(places.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(places[1:2], small.texts(ids[1:2, :9], given[1:2, :9]))


def test_multiscale_features_add_the_mean_of_the_quarters_at_twice_the_scale(small: musk.Musk) -> None:
    both = musk.build(SMALL | {"multiscale": 1}).eval()
    both.load_state_dict(small.state_dict())
    images = torch.rand(2, 3, 32, 32)
    features = both(images)
    assert features.shape == (2, 32)
    torch.testing.assert_close(features[:, :16], small(images))
    large = functional.interpolate(images, size=(64, 64), mode="bicubic", align_corners=False)
    quarters = [small(part) for row in large.chunk(2, dim=2) for part in row.chunk(2, dim=3)]
    torch.testing.assert_close(features[:, 16:], sum(quarters) / 4)


def test_a_published_file_is_loaded_and_another_refused(small: musk.Musk, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = small.state_dict() | {"beit3.vision_embed.mask_token": torch.zeros(1, 1, 16)}
    save_file(state, tmp_path / "model.safetensors")
    loaded = musk.load(tmp_path / "model.safetensors", SMALL)
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(loaded.shared(images), small.shared(images).detach())
    with pytest.raises(ModelError, match=r"embed_positions.A.weight is \(19, 16\), expected \(67, 16\)"):
        musk.load(tmp_path / "model.safetensors", SMALL | {"image_px": 64})


def test_a_sentencepiece_file_gives_the_ids_of_xlm_r(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = [f"an H&E image of neuropil, {word} and necrosis" for word in ("blood", "Schwannian stroma", "tissue")]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 5),
        model_prefix=str(tmp_path / "t"),
        vocab_size=60,
        hard_vocab_limit=False,
        model_type="unigram",
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "t.model"))
    reader = TextReader(tmp_path / "t.model", context=40, vocabulary=80, pad="<pad>")
    for text in ("neuropil", "An  H&E image of  blood ", "ﬁbrous zebra", "  H&E: stroma"):
        pieces = [3 if piece == theirs.unk_id() else piece + 1 for piece in theirs.encode(text)]
        ids, given = reader([text])
        assert ids[0, given[0]].tolist() == [0, *pieces, 2], text
        assert set(ids[0, ~given[0]].tolist()) == {1}


def test_what_is_no_sentencepiece_file_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"hello, this is a text", b"\x0a\x03\x0a\x01a"):
        (tmp_path / "tokenizer.spm").write_bytes(content)
        with pytest.raises(ModelError, match="tokenizer.spm"):
            TextReader(tmp_path / "tokenizer.spm", context=9, vocabulary=80, pad="<pad>")
