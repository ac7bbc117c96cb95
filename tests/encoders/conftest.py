"""Small models as their libraries write them, and a local hub cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORDS = ["<|startoftext|>", "<|endoftext|>", "<pad>", "<unk>", "neuropil", "stroma", "of", "a", "tissue", "blood"]


@pytest.fixture
def patches() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub; the network is out of reach."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("socket.socket.connect", _no_network)
    return tmp_path / "hub"


def _no_network(*_: Any) -> None:
    raise AssertionError("the network was asked")


@pytest.fixture
def put(cache: Path) -> Callable[[str, Path], Path]:
    """Put the files of a folder into the cache as a hub id, as the hub's client does; the snapshot's folder."""

    def work(hub_id: str, folder: Path) -> Path:
        import hashlib

        place = cache / f"models--{hub_id.replace('/', '--')}"
        snapshot = place / "snapshots" / ("a" * 40)
        for made in (place / "refs", place / "blobs", snapshot):
            made.mkdir(parents=True)
        (place / "refs" / "main").write_text("a" * 40)
        for path in folder.iterdir():
            blob = place / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            blob.write_bytes(path.read_bytes())
            (snapshot / path.name).symlink_to(blob)
        return snapshot

    return work


@pytest.fixture
def timm_folder(tmp_path: Path) -> Path:
    """A small ViT of timm with a classifier, as `timm.models.push_to_hf_hub` writes it."""
    import timm
    import torch
    from safetensors.torch import save_file

    options = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=3, **options)  # type: ignore[arg-type]
    folder = tmp_path / "Small_ViT"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {"input_size": [3, 32, 32], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "interpolation": "bicubic",
              "crop_pct": 1.0, "license": "mit"}  # fmt: skip
    record = {"architecture": "vit_tiny_patch16_224", "num_features": 24, "num_classes": 3, "global_pool": "token",
              "model_args": options, "pretrained_cfg": config}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def dinov2_folder(tmp_path: Path) -> Path:
    """A small DINOv2 with registers of transformers, with its processor."""
    import torch
    from transformers import BitImageProcessor, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(0)
    config = Dinov2WithRegistersConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, num_register_tokens=4
    )
    folder = tmp_path / "small-dino"
    Dinov2WithRegistersModel(config).save_pretrained(folder)
    processor: Any = BitImageProcessor
    processor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    """A small CLIP of transformers, with processor and tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    small = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = CLIPConfig(
        vision_config={**small, "image_size": 32, "patch_size": 16},
        text_config={
            **small,
            "vocab_size": len(WORDS),
            "max_position_embeddings": 8,
            "eos_token_id": 1,
            "bos_token_id": 0,
        },
        projection_dim=16,
    )
    folder = tmp_path / "small-clip"
    CLIPModel(config).save_pretrained(folder)
    processor: Any = CLIPImageProcessor
    processor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[("<|startoftext|>", 0), ("<|endoftext|>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=WORDS[0], eos_token=WORDS[1], pad_token=WORDS[2], unk_token=WORDS[3]
    ).save_pretrained(folder)
    return folder
