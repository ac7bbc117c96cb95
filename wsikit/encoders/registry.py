"""From the name of an encoder to its description, and to the loaded encoder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from wsikit.encoders import names, packaged
from wsikit.encoders.protocol import EncoderInfo, PatchEncoder
from wsikit.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from wsikit.encoders.recipe import Recipe


def describe_encoder(name: str | os.PathLike[str], *, download: bool = False) -> EncoderInfo:
    """Describe an encoder without loading it: width, patch size, scale, fingerprint, licence.

    Parameters
    ----------
    name
        As for `load_encoder`.
    download
        Fetch weights that are missing from the hub; else nothing touches the network.

    Raises
    ------
    ModelError
        There is no such encoder, or its weights are not here.
    PluginError
        It is a plug-in that cannot be imported.

    Examples
    --------
    >>> info = describe_encoder("random:vit-s16")
    >>> info.width, info.patch_px, info.column
    (384, 224, 'features_random-vit-s16')
    """
    spec = os.fspath(name)
    if (own := packaged.own_folder(spec)) is not None:
        return packaged.describe_own(own)
    if names.is_plugin(spec):
        from wsikit.encoders.plugin_models import module_of
        from wsikit.encoders.plugin_models import recipe_of as of_plugin

        return of_plugin(spec, module_of(spec)).info()
    return names.recipe_of(spec, download=download).info()


def load_encoder(name: str | os.PathLike[str], *, device: str = "auto", download: bool = False) -> PatchEncoder:
    """Load an encoder of patches, ready to use.

    Parameters
    ----------
    name
        Name of a preset (`wsikit encoders` lists them), or of an encoder in the package, phantom-afloc; PRESET=PATH,
        with its weights from there; a folder of timm, transformers or open_clip, or one that `wsikit train` wrote; a
        TorchScript or ONNX file; `hf-hub:ID`; `timm:NAME`; `random:NAME`, random weights from a fixed seed for a preset
        or a name of timm; or a plug-in of the group `wsikit.encoders`. Any name of a published model may end with
        `?pooling=cls` (or `mean`, `cls+mean`, `pooler`).
    device
        "auto" uses a GPU if there is one.
    download
        Fetch weights that are missing from the hub; else nothing touches the network.

    Returns
    -------
    PatchEncoder
        A `TextImageEncoder` if images and texts share a space (`info.shared_width`).

    Raises
    ------
    ModelError
        As for `describe_encoder`; also if the weights do not fit, or there is no such device.

    Examples
    --------
    >>> import numpy as np
    >>> encoder = load_encoder("random:resnet18", device="cpu")
    >>> encoder.encode(np.full((2, 224, 224, 3), 200, np.uint8)).shape
    (2, 512)
    """
    spec = os.fspath(name)
    try:
        if (own := packaged.own_folder(spec)) is not None:
            return packaged.load_own(own, device=device)
        from wsikit.encoders.torch_encoder import TextTorchEncoder, TorchEncoder

        if names.is_plugin(spec):
            from wsikit.encoders.plugin_models import module_of
            from wsikit.encoders.plugin_models import recipe_of as of_plugin

            module = module_of(spec)
            recipe = of_plugin(spec, module)
        else:
            recipe = names.recipe_of(spec, download=download)
            module = build_module(recipe)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"encoder {spec!r}: the package {error.name!r} is not installed here. Install it (pip install wsikit "
            "brings all that most encoders need)."
        ) from error
    kind = TorchEncoder if recipe.shared_width is None else TextTorchEncoder
    return kind(module, recipe.info(), recipe.transform, device=device)


def build_module(recipe: Recipe) -> nn.Module:
    """The torch module of a recipe, with its weights: normalised images (B, 3, H, W) to features (B, D).

    Raises
    ------
    ModelError
        It cannot be built, or the weights do not fit.
    """
    if recipe.kind == "timm":
        from wsikit.encoders.timm_models import build
    elif recipe.kind in ("transformers", "clip"):
        from wsikit.encoders.transformers_models import build
    elif recipe.kind == "tower":
        from wsikit.encoders.towers_table import build
    elif recipe.kind == "open-clip":
        from wsikit.encoders.open_clip_models import build
    else:
        from wsikit.encoders.file_models import build
    return build(recipe)
