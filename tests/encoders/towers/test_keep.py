"""KEEP's architecture: names and sizes, the text tower against transformers' BERT, texts, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from wsikit.encoders.towers import keep
from wsikit.errors import ModelError, RequestError

SMALL = {
    "image_px": 32,
    "patch_px": 8,
    "vision_width": 24,
    "vision_layers": 2,
    "vision_heads": 3,
    "text_width": 16,
    "text_layers": 2,
    "text_heads": 2,
    "text_hidden": 40,
    "vocabulary": 120,
    "positions": 30,
    "context": 20,
    "shared_width": 16,
}


@pytest.fixture
def small(weights_of: Callable[[nn.Module], dict[str, torch.Tensor]]) -> keep.Keep:
    module = keep.build(SMALL).eval()
    module.load_state_dict(weights_of(module))
    return module


def test_the_published_towers_have_the_names_of_timm_and_transformers() -> None:
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        module = keep.build({})
        vision = timm.create_model("vit_large_patch16_224", init_values=1e-5, num_classes=0, dynamic_img_size=True)
        text = BertModel(BertConfig())
    wanted = {f"visual.{name}": value.shape for name, value in vision.state_dict().items()}
    wanted |= {f"text.{name}": value.shape for name, value in text.state_dict().items()}
    wanted |= {"visual_head.0.weight": torch.Size([768, 1024]), "visual_head.0.bias": torch.Size([768])}
    wanted |= {"visual_head.2.weight": torch.Size([768, 768]), "visual_head.2.bias": torch.Size([768])}
    wanted |= {"logit_scale": torch.Size([])}
    assert {name: value.shape for name, value in module.state_dict().items()} == wanted


def test_the_text_tower_equals_that_of_transformers(small: keep.Keep, word_tokenizer: Path) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=120,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=40,
        max_position_embeddings=30,
    )
    theirs = BertModel(config).eval()
    theirs.load_state_dict(small.text.state_dict(), strict=True)
    ids, given = small.reader(word_tokenizer.parent)(["neuropil", "necrosis, Schwannian stroma"])
    pooled = theirs(input_ids=ids, attention_mask=given.long()).pooler_output
    torch.testing.assert_close(small.text(ids, given), pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(small.texts(ids, given), functional.normalize(pooled, dim=-1), rtol=1e-5, atol=1e-5)


def test_images_and_texts_have_length_1_and_rows_are_independent(small: keep.Keep, word_tokenizer: Path) -> None:
    images = torch.rand(3, 3, 32, 32)
    places = small.shared(images)
    assert places.shape == (3, 16)
    torch.testing.assert_close(places.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(places[2:], small(images[2:]))
    reader = small.reader(word_tokenizer.parent)
    texts = small.texts(*reader(["blood", "normal tissue of neuropil"]))
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(texts[:1], small.texts(*reader(["blood"])))


def test_texts_become_ids_as_published(small: keep.Keep, word_tokenizer: Path) -> None:
    ids, given = small.reader(word_tokenizer.parent)(["Neuropil", "neuropil"])
    assert ids.shape == (2, 20)
    assert torch.equal(ids[0], ids[1])
    assert ids[0, 0] == 2
    assert ids[0, int(given[0].sum()) - 1] == 3
    with pytest.raises(RequestError, match="reads 20 at most"):
        small.reader(word_tokenizer.parent)(["necrosis " * 30])


def test_a_word_list_gives_the_ids_of_transformers(small: keep.Keep, word_tokenizer: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import BertTokenizer

    pieces = Tokenizer.from_file(str(word_tokenizer)).get_vocab()
    word_tokenizer.unlink()
    words = "\n".join(sorted(pieces, key=lambda piece: pieces[piece])) + "\n"
    (tmp_path / "vocab.txt").write_text(words, encoding="utf-8")
    theirs = BertTokenizer.from_pretrained(tmp_path, do_lower_case=True, local_files_only=True)
    for text in ("an H&E image of Neuropil.", "Necrosis, blöod!"):
        ids, given = small.reader(tmp_path)([text])
        assert ids[0, given[0]].tolist() == theirs(text)["input_ids"]
    (tmp_path / "vocab.txt").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"vocab.txt: is no word list of BERT, it has no \[PAD\]"):
        small.reader(tmp_path)


def test_a_published_file_is_loaded_and_another_refused(small: keep.Keep, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = small.state_dict() | {"text.embeddings.position_ids": torch.arange(30)[None]}
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "model.safetensors")
    loaded = keep.load(tmp_path / "model.safetensors", SMALL)
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(loaded(images), small(images).detach())
    with pytest.raises(ModelError, match=r"model.safetensors: does not fit.*text.embeddings.word_embeddings.weight"):
        keep.load(tmp_path / "model.safetensors", SMALL | {"vocabulary": 119})


def test_a_tokenizer_with_more_tokens_than_the_tower_is_refused(word_tokenizer: Path) -> None:
    module = keep.build(SMALL | {"vocabulary": 10})
    with pytest.raises(ModelError, match=r"tokens, the text tower 10"):
        module.reader(word_tokenizer.parent)
