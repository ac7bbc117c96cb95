"""KEEP (Astaxanthin/KEEP): a ViT-L/16 with a projection head of two layers, and a BERT text tower; both of 768.

The published folder holds `pytorch_model.bin` or `model.safetensors`, and the tokenizer of PubMedBERT.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.encoders.towers.bert import Bert
from wsikit.encoders.towers.texts import TextReader, tokenizer_file
from wsikit.encoders.towers.weights import read_state, with_weights

OPTIONS: dict[str, int] = {
    "image_px": 224,
    "patch_px": 16,
    "vision_width": 1024,
    "vision_layers": 24,
    "vision_heads": 16,
    "text_width": 768,
    "text_layers": 12,
    "text_heads": 12,
    "text_hidden": 3072,
    "vocabulary": 30522,
    "positions": 512,
    "context": 256,
    "shared_width": 768,
}
UNUSED = ("text.embeddings.position_ids", "text.embeddings.token_type_ids")  # constants that old versions stored
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
TOKENIZER_ADVICE = "Copy tokenizer.json or vocab.txt of Astaxanthin/KEEP to it."


class Keep(nn.Module):
    """Both towers, with the parameter names of the published file."""

    def __init__(self, options: Mapping[str, int]) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer

        o = OPTIONS | dict(options)
        self.options = o
        self.visual = VisionTransformer(
            img_size=o["image_px"],
            patch_size=o["patch_px"],
            embed_dim=o["vision_width"],
            depth=o["vision_layers"],
            num_heads=o["vision_heads"],
            init_values=1e-5,
            num_classes=0,
            dynamic_img_size=True,
        )
        shared = o["shared_width"]
        self.visual_head = nn.Sequential(nn.Linear(o["vision_width"], shared), nn.GELU(), nn.Linear(shared, shared))
        self.text = Bert(
            o["vocabulary"],
            o["text_width"],
            o["text_layers"],
            o["text_heads"],
            hidden=o["text_hidden"],
            positions=o["positions"],
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.04)))

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 768) of normalised images (B, 3, 224, 224): the places in the shared space, each of length 1.

        KEEP has no other published patch feature.
        """
        projected: Tensor = self.visual_head(self.visual(images))
        return functional.normalize(projected, dim=-1)

    def shared(self, images: Tensor) -> Tensor:
        """As the features."""
        places: Tensor = self(images)
        return places

    def texts(self, ids: Tensor, given: Tensor) -> Tensor:
        """Places of texts in the shared space, (K, 768), each of length 1; arguments as `TextReader` gives them."""
        return functional.normalize(self.text(ids, given), dim=-1)

    def reader(self, folder: Path) -> TextReader:
        """The tokenizer in `folder`."""
        path = tokenizer_file(folder, TOKENIZER_FILES, TOKENIZER_ADVICE)
        return TextReader(path, context=self.options["context"], vocabulary=self.options["vocabulary"], pad="[PAD]")


def build(options: Mapping[str, Any]) -> Keep:
    """KEEP without weights; `options` overrides `OPTIONS`, such as to shrink it."""
    return Keep(options)


def load(path: Path | str, options: Mapping[str, Any] | None = None) -> Keep:
    """KEEP with the weights of a file.

    Raises
    ------
    ModelError
        The file is missing, damaged, or of another architecture.
    """
    module = with_weights(build, options or {}, read_state(path), path, unused=UNUSED)
    assert isinstance(module, Keep)
    return module
