"""Towers of our own for published architectures: by name, imported when they are used."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wsikit.encoders import loading, randomness
from wsikit.encoders.recipe import Recipe, towers
from wsikit.errors import ModelError


class TowerModule(nn.Module):
    """A tower with the methods of a text and image encoder, where it has them."""

    def __init__(self, body: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.body = body
        self.recipe = recipe
        self._reader: Any = None

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images)
        return features

    def shared(self, images: Tensor) -> Tensor:
        """Places of normalised images in the shared space, each of length 1."""
        body: Any = self.body
        places: Tensor = body.shared(images)
        return places

    @property
    def scale(self) -> float:
        """Factor of the cosines, as trained."""
        body: Any = self.body
        return float(body.logit_scale.detach().exp())

    def encode_texts(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Places of texts in the shared space, each of length 1."""
        body: Any = self.body
        if self._reader is None:
            if self.recipe.folder is None:
                raise ModelError(f"encoder {self.recipe.name!r}: texts need the tokenizer in the model's folder.")
            self._reader = body.reader(self.recipe.folder)
        places: Tensor = body.texts(*(array.to(device) for array in self._reader(texts)))
        return places


def build(recipe: Recipe) -> nn.Module:
    """The tower of a recipe, with its weights.

    Raises
    ------
    ModelError
        There is no such tower, or the weights do not fit.
    """
    place = towers().get(recipe.architecture)
    if place is None:
        raise ModelError(f"encoder {recipe.name!r}: this version of wsikit has no loader for {recipe.architecture!r}.")
    module_name, _, function = place.partition(":")
    module = importlib.import_module(module_name)
    load = getattr(module, "load", None)
    if recipe.weights and load is not None:
        return TowerModule(load(recipe.weights[0], dict(recipe.options)), recipe)
    with randomness.undrawn():
        body: nn.Module = getattr(module, function)(dict(recipe.options))
    if recipe.weights:
        loading.fill(body, loading.read_state(recipe.weights), recipe.weights)
    else:
        randomness.fill(body)
    return TowerModule(body, recipe)
