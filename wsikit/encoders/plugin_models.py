"""Encoders of other packages: entry points of the group `wsikit.encoders`, callables that make a torch module.

The module has `num_features`, its width, and may have `patch_px`, `mpp`, `mean`, `std`, `licence` and `source`.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from wsikit.encoders.configs import three
from wsikit.encoders.recipe import Recipe, column_name
from wsikit.encoders.transform import IMAGENET_MEAN, IMAGENET_STD, Transform
from wsikit.errors import ModelError
from wsikit.plugins import load_plugin, plugin_package


def module_of(name: str) -> nn.Module:
    """The module of a plug-in.

    Raises
    ------
    ModelError
        It cannot be made, or is not what a plug-in must be.
    PluginError
        It cannot be imported.
    """
    create = load_plugin("encoders", name)
    try:
        made = create()
    except Exception as error:  # a plug-in may fail in any way
        raise ModelError(f"encoder {name!r}, a plug-in: cannot be built ({type(error).__name__}: {error}).") from error
    if not isinstance(made, nn.Module) or not isinstance(getattr(made, "num_features", None), int):
        raise ModelError(
            f"encoder {name!r}, a plug-in: gave {type(made).__name__}; expected a torch.nn.Module with an integer "
            "num_features. Report it to the authors of that plug-in."
        )
    return made


def recipe_of(name: str, module: nn.Module) -> Recipe:
    """Description of a plug-in's module: what it says about itself, and ImageNet's values where it says nothing."""
    made: Any = module
    side = int(getattr(made, "patch_px", 224))
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return Recipe(
        name=column_name(name),
        kind="plug-in",
        architecture=name,
        width=made.num_features,
        transform=Transform(
            crop=side,
            mean=three(getattr(made, "mean", IMAGENET_MEAN)),
            std=three(getattr(made, "std", IMAGENET_STD)),
        ),
        patch_px=side,
        mpp=getattr(made, "mpp", None),
        options={"package": plugin_package("encoders", name)},
        digest=digest.hexdigest(),
        source=str(getattr(made, "source", "") or plugin_package("encoders", name)),
        licence=str(getattr(made, "licence", "")),
    )
