"""Small things that the tests of all towers need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

CORPUS = ["an H&E image of neuropil", "necrosis, Schwannian stroma and blood", "an H&E image of normal tissue"] * 4


def drawn_weights(module: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights with the names and shapes of `module`, of a size at which every part of it matters."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            weights[name] = value.clone()
            continue
        scale = 0.3 if value.ndim < 2 else min(1.0, 1.5 / value.shape[-1] ** 0.5)
        drawn = torch.randn(value.shape, generator=generator) * scale
        weights[name] = drawn.abs() + 0.2 if name.endswith(("running_var",)) else drawn
    return weights


@pytest.fixture
def weights_of() -> Callable[[nn.Module], dict[str, torch.Tensor]]:
    return drawn_weights


@pytest.fixture
def number_of_parameters() -> Callable[[nn.Module], int]:
    return lambda module: sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture
def byte_tokenizer(tmp_path: Path) -> Path:
    """A tiny uncased byte-level BPE tokenizer, of the type of CONCH's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<start_of_text>", "<end_of_text>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start_of_text> $A <end_of_text>", special_tokens=[("<start_of_text>", 1), ("<end_of_text>", 2)]
    )
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture
def word_tokenizer(tmp_path: Path) -> Path:
    """A tiny uncased WordPiece tokenizer, of the type of BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=100, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path
