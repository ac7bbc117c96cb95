"""The scores of a CLIP model of transformers, with its tokenizer: equal to the model's own logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel

import wsikit
from wsikit.encoders.protocol import EncoderInfo, TextImageEncoder
from wsikit.slides.store import SlideStore
from wsikit.tiling.stream import read_patches


class TinyClip:
    """A CLIP of random weights; the tokenizer has a token per word."""

    def __init__(self) -> None:
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        text = {**sizes, "vocab_size": 12, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 11}
        vision = {**sizes, "image_size": 32, "patch_size": 16}
        torch.manual_seed(0)
        self.model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
        self.model.logit_scale.data.fill_(1.5)
        self.info = EncoderInfo("tiny-clip", 16, 32, 0.5, "tiny", shared_width=8)
        self.words: dict[str, int] = {}

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.detach().exp())

    def tokens(self, text: str) -> list[int]:
        words = [self.words.setdefault(word, 1 + len(self.words)) for word in text.split()]
        return [0, *words, 11]

    def pixels(self, images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1

    def encode(self, images: np.ndarray) -> np.ndarray:
        return self.encode_shared(images)

    def encode_shared(self, images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self._unit(self.model.get_image_features(pixel_values=self.pixels(images)))

    def encode_texts(self, texts: Any) -> np.ndarray:
        with torch.no_grad():
            found = [self.model.get_text_features(input_ids=torch.tensor([self.tokens(text)])) for text in texts]
        return np.concatenate([self._unit(one) for one in found])

    @staticmethod
    def _unit(found: Any) -> np.ndarray:
        vectors = getattr(found, "pooler_output", found)
        return torch.nn.functional.normalize(vectors, dim=-1).numpy()


def test_probabilities_are_those_of_the_model_itself(square_store: SlideStore) -> None:
    clip = TinyClip()
    assert isinstance(clip, TextImageEncoder)
    (found,) = wsikit.localize(square_store, ["a1"], against=["b2"], encoder=clip, templates=["{}"], sigma=0)
    table = square_store.patches()
    rows = np.arange(0, len(table), 97)
    images = read_patches(square_store, table.grid, table.coords[rows]).images
    receipt = table.receipt(found.column)
    assert receipt is not None
    rivals = [texts for texts in receipt.parameters["against"].values() if len(texts) == 1]
    assert rivals == [["b2"]]
    with torch.no_grad():
        logits = [self_logits(clip, images, texts) for texts in (["a1"], *receipt.parameters["against"].values())]
    expected = torch.softmax(torch.cat(logits, dim=1), dim=1)[:, 0].numpy()
    np.testing.assert_allclose(table.read(found.column)[rows], expected, atol=5e-3)  # features are float16
    assert np.ptp(expected) > 0


def self_logits(clip: TinyClip, images: np.ndarray, texts: list[str]) -> torch.Tensor:
    """Logits of images for a group of texts: of the one, or of the mean place of several."""
    ids = [torch.tensor([clip.tokens(text)]) for text in texts]
    if len(ids) == 1:
        return clip.model(input_ids=ids[0], pixel_values=clip.pixels(images)).logits_per_image
    places = torch.nn.functional.normalize(torch.from_numpy(clip.encode_texts(texts)).mean(dim=0, keepdim=True), dim=-1)
    return clip.logit_scale * torch.from_numpy(clip.encode_shared(images)) @ places.T
