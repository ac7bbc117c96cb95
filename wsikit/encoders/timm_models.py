"""Encoders of timm: built from a name and options, with weights from files or random ones."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsikit.encoders import loading, randomness
from wsikit.encoders.configs import timm_transform
from wsikit.encoders.pooling import pooled
from wsikit.encoders.recipe import Pooling, Recipe
from wsikit.encoders.transform import Transform
from wsikit.errors import ModelError, WsikitError, reason_of
from wsikit.tensor_files import no_larger_than


class TimmModule(nn.Module):
    """A timm model without a classifier: normalised images (B, 3, H, W) to features (B, D)."""

    def __init__(self, body: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.body = body
        self.pooling = pooling

    def forward(self, images: Tensor) -> Tensor:
        body: Any = self.body
        if self.pooling == "model":
            features: Tensor = body(images)
            return features
        return pooled(body.forward_features(images), self.pooling, prefix=int(body.num_prefix_tokens))


def build_body(architecture: str, options: Mapping[str, Any]) -> nn.Module:
    """A timm model without a classifier, whose weights are to be set.

    Raises
    ------
    ModelError
        timm has no such model, or its options do not fit.
    """
    import timm
    from timm.layers.mlp import SwiGLUPacked

    if not timm.is_model(architecture):
        raise ModelError(
            f"encoder {architecture!r}: timm {timm.__version__} has no such model; timm.list_models() lists them."
        )
    layers: dict[str, Any] = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}
    named: dict[str, Any] = {
        name: layers.get(value, value) if isinstance(value, str) else value for name, value in options.items()
    }
    try:
        with randomness.undrawn():
            body: nn.Module = timm.create_model(architecture, pretrained=False, **{**named, "num_classes": 0})
    except WsikitError:
        raise
    except Exception as error:  # timm checks settings as it likes, by errors of every type
        raise ModelError(
            f"encoder {architecture!r}: timm {timm.__version__} cannot build it with {dict(options)} "
            f"({type(error).__name__}: {reason_of(error)})."
        ) from error
    return body


def build(recipe: Recipe) -> nn.Module:
    """The module of a recipe, with its weights.

    Raises
    ------
    ModelError
        timm cannot build it, it does not give the pooling, or the weights do not fit.
    """
    with no_larger_than(*recipe.weights) if recipe.weights else contextlib.nullcontext():
        body = build_body(recipe.architecture, recipe.options)
    if recipe.pooling != "model" and not hasattr(body, "num_prefix_tokens"):
        raise ModelError(f"encoder {recipe.name!r}: has no tokens, so no pooling {recipe.pooling!r}; leave it out.")
    if "cls" in recipe.pooling and getattr(body, "cls_token", None) is None:
        raise ModelError(f"encoder {recipe.name!r}: has no class token, so no pooling {recipe.pooling!r}.")
    if recipe.weights:
        _load(body, recipe.weights)
    else:
        randomness.fill(body)
    return TimmModule(body, recipe.pooling)


def measured(architecture: str, options: Mapping[str, Any], pooling: Pooling) -> tuple[int, Transform]:
    """Width of the features, and the transform that timm has for the model. Nothing is computed (meta device)."""
    with torch.device("meta"):
        body: Any = build_body(architecture, options)
    width = int(getattr(body, "head_hidden_size", None) or body.num_features)
    if pooling != "model":
        width = int(body.num_features) * (2 if pooling == "cls+mean" else 1)
    return width, timm_transform(getattr(body, "pretrained_cfg", None) or {})


def hub_id_of(architecture: str) -> str:
    """Id at the hub of timm's weights for a name, such as `resnet50` or `resnet50.a1_in1k`.

    Raises
    ------
    ModelError
        timm has no such model, or no weights at the hub for it.
    """
    import timm

    config = timm.get_pretrained_cfg(architecture) if timm.is_model(architecture.partition(".")[0]) else None
    found = getattr(config, "hf_hub_id", None)
    if config is None or not found:
        raise ModelError(
            f"timm:{architecture}: timm {timm.__version__} has no weights of this name at the hub; "
            "timm.list_pretrained() lists them."
        )
    return str(found)


def pretrained_transform(architecture: str) -> Transform:
    """The transform of timm's weights for a name."""
    import timm

    config: Any = timm.get_pretrained_cfg(architecture)
    return timm_transform(config.to_dict() if config is not None else {})


def _load(body: nn.Module, files: tuple[Path, ...]) -> None:
    """Load a timm file; a classifier in it is left out, and older names and sizes are converted as timm does."""
    state = loading.read_state(files)
    heads = getattr(body, "pretrained_cfg", {}).get("classifier") or "head"
    names = tuple(f"{name}." for name in ([heads] if isinstance(heads, str) else heads))
    wanted = body.state_dict().keys()
    state = {name: value for name, value in state.items() if name in wanted or not name.startswith(names)}
    if loading.misfit(body, state):
        convert = getattr(sys.modules[type(body).__module__], "checkpoint_filter_fn", None)
        if convert is not None:
            with contextlib.suppress(LookupError, TypeError, RuntimeError, ValueError, AttributeError, AssertionError):
                state = convert(state, body)  # what it cannot convert is reported as a misfit below
            state = {name: value for name, value in state.items() if name in wanted or not name.startswith(names)}
    loading.fill(body, state, files)
