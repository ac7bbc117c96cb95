"""Vision encoders and CLIP-type towers of transformers. No code of a model's folder is run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.encoders import randomness
from wsikit.encoders.configs import PREFIX_TOKENS, read_json
from wsikit.encoders.pooling import pooled
from wsikit.encoders.recipe import Pooling, Recipe
from wsikit.errors import ModelError, RequestError, WsikitError, reason_of
from wsikit.tensor_files import check_finite, no_larger_than

IGNORED = ("pooler.", "classifier.", "head.", "mask_token", "embeddings.mask_token")
"""Beginnings of names that a file may lack or hold in excess: heads that features do not use."""


class VisionModule(nn.Module):
    """A vision model of transformers: normalised images (B, 3, H, W) to features (B, D)."""

    def __init__(self, body: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.body = body
        self.pooling: Pooling = pooling
        config: Any = body.config
        self.prefix = PREFIX_TOKENS.get(config.model_type, 0) + int(getattr(config, "num_register_tokens", 0) or 0)

    def forward(self, images: Tensor) -> Tensor:
        out = self.body(pixel_values=images)
        if self.pooling == "pooler":
            features: Tensor = out.pooler_output.flatten(1)
            return features
        return pooled(out.last_hidden_state, self.pooling, prefix=self.prefix)


class ClipModule(nn.Module):
    """A CLIP or SigLIP of transformers: features are the images' projections, as the model gives them."""

    def __init__(self, body: nn.Module, folder: Path | None) -> None:
        super().__init__()
        self.body = body
        self.folder = folder
        self._tokenizer: Any = None

    def forward(self, images: Tensor) -> Tensor:
        body: Any = self.body
        return _projected(body.get_image_features(pixel_values=images))

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
        tokens = self._tokens(texts, int(body.config.text_config.max_position_embeddings))
        found = body.get_text_features(**{name: value.to(device) for name, value in tokens.items()})
        return functional.normalize(_projected(found), dim=-1)

    def _tokens(self, texts: Sequence[str], longest: int) -> dict[str, Tensor]:
        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self.folder)
        body: Any = self.body
        siglip = body.config.model_type == "siglip"  # trained on texts that are filled up, without a mask
        for row, ids in enumerate(self._tokenizer(list(texts))["input_ids"]):
            if len(ids) > longest:
                raise RequestError(
                    f"text {row + 1} of {len(texts)} ({texts[row][:40]!r}…) has {len(ids)} tokens; this encoder reads "
                    f"{longest} at most. Shorten it."
                )
        if siglip:
            filled = self._tokenizer(list(texts), padding="max_length", max_length=longest, return_tensors="pt")
            return {"input_ids": filled["input_ids"]}
        tokens = self._tokenizer(list(texts), padding=True, return_tensors="pt")
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def build(recipe: Recipe) -> nn.Module:
    """The module of a recipe, with its weights.

    Raises
    ------
    ModelError
        transformers cannot build it, or the weights do not fit.
    """
    body = _body(recipe)
    if recipe.kind == "clip":
        return ClipModule(body, recipe.folder)
    return VisionModule(body, recipe.pooling)


def config_of(model_type: str, options: Mapping[str, Any]) -> Any:
    """A configuration of transformers.

    Raises
    ------
    ModelError
        transformers has no such model type.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(model_type, **options)
    except Exception as error:  # libraries check settings as they like, by errors of every type
        raise ModelError(f"model type {model_type!r}: {reason_of(error)}") from error


def empty_body(config: Any) -> nn.Module:
    """A model of a configuration, whose weights are to be set."""
    from transformers import AutoModel

    try:
        with randomness.undrawn():
            body: nn.Module = AutoModel.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # as above
        raise ModelError(f"model type {config.model_type!r}: {reason_of(error)}") from error
    return body


def _body(recipe: Recipe) -> nn.Module:
    if not recipe.weights:
        body = empty_body(config_of(recipe.architecture, recipe.options))
        randomness.fill(body)
        return body
    folder = recipe.folder
    assert folder is not None
    from transformers import AutoConfig, AutoModel

    try:
        if recipe.options:
            config = config_of(recipe.architecture, recipe.options)
            _agree(recipe.options, folder)
        else:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with _quiet(), no_larger_than(*recipe.weights):
            body, found = AutoModel.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=recipe.weights[0].suffix == ".safetensors",
                dtype=torch.float32,
                output_loading_info=True,
            )
    except WsikitError:
        raise
    except Exception as error:  # as above
        raise ModelError(f"{folder}: transformers cannot load it ({reason_of(error)}).") from error
    used = IGNORED if recipe.pooling != "pooler" else tuple(name for name in IGNORED if name != "pooler.")
    missing = [name for name in found["missing_keys"] if not name.startswith(used)]
    if missing or found.get("mismatched_keys"):
        names = [*missing, *map(str, found.get("mismatched_keys", ()))]
        raise ModelError(
            f"{folder}: its weights do not fit its architecture: {len(names)} tensors are missing or have another "
            f"shape, such as {sorted(names)[0]}. Copy the complete folder from its source."
        )
    model: nn.Module = body
    check_finite(model.state_dict(), folder)
    return model


def _agree(options: Mapping[str, Any], folder: Path) -> None:
    """Refuse a folder whose configuration contradicts the preset's."""
    path = folder / "config.json"
    if not path.is_file():
        return
    held = read_json(path)
    other = [name for name, value in options.items() if name in held and held[name] != value]
    if other:
        raise ModelError(
            f"{path}: {other[0]} is {held[other[0]]!r}, expected {options[other[0]]!r} of this encoder. Give the path "
            "of the folder as the encoder if it is another model."
        )


def _tokenizer(folder: Path | None) -> Any:
    from transformers import AutoTokenizer

    if folder is None:
        raise ModelError("texts need the tokenizer of a model's folder; this encoder was built with random weights.")
    untyped: Any = AutoTokenizer
    try:
        return untyped.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as above
        raise ModelError(
            f"{folder}: no tokenizer of transformers in it, which texts need ({reason_of(error)})."
        ) from error


def _projected(found: Any) -> Tensor:
    """Projected features, which older versions of transformers return as such and newer ones in an object."""
    features: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return features


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's report of loading, which is checked here."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
