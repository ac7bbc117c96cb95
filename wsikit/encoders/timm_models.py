"""Encoders of timm: built from a name and options, with weights from files or random ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from wsikit.encoders import randomness
from wsikit.encoders.recipe import RANDOM_NOTICE, Recipe, column_name
from wsikit.encoders.transform import Transform
from wsikit.errors import ModelError


def build(architecture: str, options: Mapping[str, Any]) -> nn.Module:
    """A timm model without a classifier, weights not set.

    Raises
    ------
    ModelError
        timm has no such model, or its options do not fit.
    """
    import timm

    if not timm.is_model(architecture):
        raise ModelError(
            f"encoder {architecture!r}: timm {timm.__version__} has no such model; timm.list_models() lists them."
        )
    try:
        with torch.random.fork_rng(devices=[]):
            module: nn.Module = timm.create_model(architecture, pretrained=False, **{"num_classes": 0, **options})
    except (TypeError, RuntimeError, AssertionError, ValueError) as error:
        raise ModelError(
            f"encoder {architecture!r}: timm {timm.__version__} cannot build it with {dict(options)} "
            f"({type(error).__name__}: {error})."
        ) from error
    return module


def transform_of(config: Mapping[str, Any]) -> Transform:
    """The transform of a timm configuration (`pretrained_cfg`), as `timm.data.create_transform` makes it."""
    side = int(tuple(config.get("input_size") or (3, 224, 224))[-1])
    share = 1.0 if config.get("crop_mode") == "squash" else float(config.get("crop_pct") or 0.875)
    interpolation = str(config.get("interpolation") or "bicubic")
    return Transform(
        crop=side,
        resize=max(side, int(side / share)),
        interpolation="bilinear" if interpolation == "bilinear" else "bicubic",
        mean=_three(config.get("mean") or (0.485, 0.456, 0.406)),
        std=_three(config.get("std") or (0.229, 0.224, 0.225)),
    )


def random_recipe(architecture: str) -> Recipe:
    """A recipe for random weights; width and transform as in timm."""
    with torch.device("meta"):
        module: Any = build(architecture, {})
    transform = dataclasses.replace(transform_of(getattr(module, "pretrained_cfg", {})), resize=None)
    return Recipe(
        name=column_name(f"random-{architecture}"),
        kind="timm",
        architecture=architecture,
        width=int(getattr(module, "head_hidden_size", None) or module.num_features),
        transform=transform,
        patch_px=transform.crop,
        digest=f"random {randomness.SEED}",
        source=f"random:{architecture}",
        notice=RANDOM_NOTICE,
    )


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
