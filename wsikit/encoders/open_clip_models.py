"""CLIP-type models of open_clip, an extra (`pip install wsikit[open-clip]`), from a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.encoders.configs import read_json
from wsikit.encoders.recipe import Recipe
from wsikit.errors import ModelError, RequestError, WsikitError, reason_of
from wsikit.tensor_files import check_finite, no_larger_than

CONFIG = "open_clip_config.json"


class OpenClipModule(nn.Module):
    """Features are the images' projections, as the model gives them."""

    def __init__(self, body: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.body = body
        self.tokenizer = tokenizer

    def forward(self, images: Tensor) -> Tensor:
        body: Any = self.body
        features: Tensor = body.encode_image(images)
        return features

    def shared(self, images: Tensor) -> Tensor:
        """Places of normalised images in the shared space, each of length 1."""
        return functional.normalize(self(images), dim=-1)

    @property
    def scale(self) -> float:
        """Factor of the cosines, as trained."""
        body: Any = self.body
        return float(body.logit_scale.detach().exp())

    def encode_texts(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Places of texts in the shared space, each of length 1."""
        body: Any = self.body
        longest = int(self.tokenizer.context_length)
        for row, text in enumerate(texts):
            count = len(self.tokenizer.encode(text)) + 2
            if count > longest:
                raise RequestError(
                    f"text {row + 1} of {len(texts)} ({text[:40]!r}…) has {count} tokens; this encoder reads {longest} "
                    "at most. Shorten it."
                )
        places: Tensor = body.encode_text(self.tokenizer(list(texts)).to(device))
        return functional.normalize(places, dim=-1)


def build(recipe: Recipe) -> nn.Module:
    """The model of a folder with open_clip_config.json and its weights.

    Raises
    ------
    ModelError
        open_clip is not installed, cannot build the model from this folder alone, or the weights do not fit.
    """
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise ModelError(
            f"encoder {recipe.name!r}: the package open_clip is not installed. pip install wsikit[open-clip]"
        ) from error
    assert recipe.folder is not None
    model = read_json(recipe.folder / CONFIG).get("model_cfg") or {}
    text = model.get("text_cfg") or {}
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if text.get(key):
            raise ModelError(
                f"{recipe.folder / CONFIG}: its text tower is {text[key]!r}, which open_clip would fetch from the hub; "
                "such models are not supported."
            )
    try:
        with no_larger_than(*recipe.weights):
            body = open_clip.create_model(
                f"local-dir:{recipe.folder}", pretrained=None, load_weights=True, device="cpu", precision="fp32"
            )
        tokenizer = open_clip.get_tokenizer(f"local-dir:{recipe.folder}")
    except WsikitError:
        raise
    except Exception as error:  # libraries check settings as they like, by errors of every type
        raise ModelError(f"{recipe.folder}: open_clip cannot load it ({reason_of(error)}).") from error
    check_finite(body.state_dict(), recipe.folder)
    return OpenClipModule(body, tokenizer)
