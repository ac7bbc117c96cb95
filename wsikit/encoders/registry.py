"""From the name of an encoder to its description, and to the loaded encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikit.encoders.protocol import EncoderInfo, PatchEncoder
from wsikit.errors import ModelError

if TYPE_CHECKING:
    from wsikit.encoders.recipe import Recipe


def describe_encoder(name: str, *, download: bool = False) -> EncoderInfo:
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

    Examples
    --------
    >>> describe_encoder("random:vit_small_patch16_224").width
    384
    """
    return _recipe_of(name, download=download).info()


def load_encoder(name: str, *, device: str = "auto", download: bool = False) -> PatchEncoder:
    """Load an encoder of patches, ready to use.

    Parameters
    ----------
    name
        `random:NAME`: random weights from a fixed seed, for a name of timm.
    device
        "auto" uses a GPU if there is one.
    download
        Fetch weights that are missing from the hub; else nothing touches the network.

    Raises
    ------
    ModelError
        As for `describe_encoder`; also if there is no such device.

    Examples
    --------
    >>> import numpy as np
    >>> encoder = load_encoder("random:resnet18", device="cpu")
    >>> encoder.encode(np.full((2, 224, 224, 3), 200, np.uint8)).shape
    (2, 512)
    """
    from wsikit.encoders import randomness, timm_models
    from wsikit.encoders.torch_encoder import TorchEncoder

    recipe = _recipe_of(name, download=download)
    module = timm_models.build(recipe.architecture, recipe.options)
    randomness.fill(module)
    return TorchEncoder(module, recipe.info(), recipe.transform, device=device)


def _recipe_of(name: str, *, download: bool) -> Recipe:
    prefix, _, rest = name.partition(":")
    if prefix == "random" and rest:
        from wsikit.encoders.timm_models import random_recipe

        return random_recipe(rest)
    raise ModelError(f"encoder {name!r} not found: expected random:NAME, with a name of timm.")
