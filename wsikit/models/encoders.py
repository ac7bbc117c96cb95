"""Encoders of patches and captions: any timm model or plug-in, swin_kan, any transformers model; no downloads.

They are built from their configuration with random weights; trained weights come from local safetensors files. Both
libraries are imported when an encoder is built by them; for prediction, those of the packaged model need neither
(`wsikit.models.plain`).

A plug-in of the entry-point group `wsikit.encoders` is a callable `(**options) -> torch.nn.Module`. The module has
`num_features`, the width D of its output, and maps normalised patches, float (B, 3, H, W), to features, float (B, D).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsikit.encoders.loading import fill
from wsikit.errors import ModelError, WsikitError, reason_of
from wsikit.models.config import ImageEncoderConfig, TextEncoderConfig
from wsikit.models.plain import Bert, ResNet10T, plain_image_body, plain_text_body
from wsikit.plugins import load_plugin, plugin_names
from wsikit.tensor_files import no_larger_than, read_safetensors


class ImageEncoder(nn.Module):
    """uint8 patches (B, H, W, 3) RGB to features (B, width).

    Parameters
    ----------
    config : ImageEncoderConfig
        Its name is that of a timm model, of `wsikit.models.swin_kan` or, where neither has one, of a plug-in.
    patch_px : int
        Side of the patches, needed to measure the encoder's width.
    plain : bool
        For prediction with weights that are loaded afterwards: without timm where `wsikit.models.plain` has the
        encoder. The features are the same.

    Raises
    ------
    ModelError
        If there is no such encoder, its options do not fit, or it gives no (B, width) for such patches.
    PluginError
        If the plug-in of this name cannot be imported.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ImageEncoderConfig, *, patch_px: int, plain: bool = False) -> None:
        super().__init__()
        found = plain_image_body(config) if plain else None
        self.body, of_plugin = (found, False) if found is not None else _image_body(config, patch_px)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        self.width = self._measure(config.name, patch_px)
        stated = getattr(self.body, "num_features", self.width)
        if of_plugin and stated != self.width:
            raise ModelError(
                f"image encoder {config.name!r}: its num_features is {stated}, but its features are {self.width} wide. "
                "Report it to the authors of that plug-in."
            )

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(self._normalised(images))
        return features

    def map_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The last but one feature map (B, C, h, w), and the features (B, width), of uint8 patches (B, H, W, 3).

        Raises
        ------
        ModelError
            If the encoder has no feature maps: it is neither one of `wsikit.models.plain` nor one of timm with them.
        """
        x = self._normalised(images)
        if isinstance(self.body, ResNet10T):
            return self.body.map_and_features(x)
        body: Any = self.body
        if not hasattr(body, "forward_intermediates") or not hasattr(body, "forward_head"):
            raise ModelError(
                f"image encoder {type(body).__name__}: has no feature maps. Use one of timm that has them."
            )
        last, cells = body.forward_intermediates(x, indices=2, output_fmt="NCHW")
        return cells[0], body.forward_head(last)

    def _normalised(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).to(torch.float32, copy=True)  # (B, 3, H, W)
        return x.div_(255.0).sub_(self.mean).div_(self.std)  # in place: new memory takes longer than the arithmetic

    def load_weights(self, path: Path) -> None:
        """Load the encoder's weights from a safetensors file, as timm saves them; a classifier in it is left out.

        Raises
        ------
        ModelError
            If the file is not safetensors, or does not hold this encoder.
        """
        found = read_safetensors(path)
        wanted = self.body.state_dict()
        classifier = str(getattr(self.body, "pretrained_cfg", {}).get("classifier", "head"))
        spare = {name for name in found.keys() - wanted.keys() if not name.startswith(classifier)}
        if spare or wanted.keys() - found.keys():
            odd = sorted(spare | (wanted.keys() - found.keys()))
            raise ModelError(f"{path}: not the weights of this encoder; {len(odd)} names differ, such as {odd[0]}.")
        fill(self.body, {name: found[name] for name in wanted}, (path,))

    @torch.no_grad()
    def _measure(self, name: str, patch_px: int) -> int:
        self.eval()
        try:
            features = self(torch.zeros(1, patch_px, patch_px, 3, dtype=torch.uint8))
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"image encoder {name!r}: takes no patches of {patch_px} px ({error}).") from error
        self.train()
        if features.ndim != 2:
            raise ModelError(f"image encoder {name!r}: gives {tuple(features.shape)}, not (B, width); set global_pool.")
        return int(features.shape[1])


def _image_body(config: ImageEncoderConfig, patch_px: int) -> tuple[nn.Module, bool]:
    """The encoder with random weights, without a classifier; whether it is of a plug-in."""
    import timm

    from wsikit.models.swin_kan import SIZES

    create = partial(timm.create_model, config.name, pretrained=False, num_classes=0)
    if config.name in SIZES:
        create = partial(SIZES[config.name], img_size=patch_px)  # windows that fit the patches
    if config.name in SIZES or timm.is_model(config.name):
        try:
            body: nn.Module = create(**config.options)
        except TypeError as error:
            raise ModelError(
                f"image encoder {config.name!r}: options {config.options} do not fit ({error})."
            ) from error
        return body, False
    plugins = plugin_names("encoders")
    if config.name not in plugins:
        raise ModelError(
            f"image encoder {config.name!r}: timm {timm.__version__} has no such model (see timm.list_models()), it is "
            f"none of {', '.join(SIZES)}, and no plug-in for wsikit.encoders has this name (installed: "
            f"{', '.join(plugins) or 'none'})."
        )
    of_plugin = load_plugin("encoders", config.name)
    try:
        made = of_plugin(**config.options)
    except Exception as error:  # a plug-in may fail in any way
        raise ModelError(
            f"image encoder {config.name!r}, a plug-in: cannot be built with options {config.options} "
            f"({type(error).__name__}: {error})."
        ) from error
    if not isinstance(made, nn.Module) or not isinstance(getattr(made, "num_features", None), int):
        raise ModelError(
            f"image encoder {config.name!r}, a plug-in: gave {type(made).__name__}; expected a torch.nn.Module with an "
            "integer num_features. Report it to the authors of that plug-in."
        )
    return made, True


class TextEncoder(nn.Module):
    """Token ids (B, L) to features (B, width): the pooler's output if the model has one, else the mean over tokens.

    `plain` as for `ImageEncoder`: without transformers where `wsikit.models.plain` has the encoder.

    Raises
    ------
    ModelError
        If transformers does not know the model type, or its options do not fit.
    """

    def __init__(self, config: TextEncoderConfig, *, plain: bool = False) -> None:
        super().__init__()
        found = plain_text_body(config) if plain else None
        if found is not None:
            self.body: nn.Module = found
            self.width = found.num_features
            return
        from transformers import AutoConfig, AutoModel

        try:
            settings = AutoConfig.for_model(config.model_type, **config.options)
            self.body = AutoModel.from_config(settings, trust_remote_code=False)  # type: ignore[no-untyped-call]
        except WsikitError:
            raise
        except Exception as error:  # libraries check settings as they like, by errors of every type
            raise ModelError(f"text encoder {config.model_type!r}: {reason_of(error)}") from error
        self.width = int(settings.hidden_size)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        if isinstance(self.body, Bert):
            features: Tensor = self.body(ids, mask)
            return features
        out = self.body(input_ids=ids, attention_mask=mask)
        pooled = getattr(out, "pooler_output", None)
        if pooled is not None:
            found: Tensor = pooled
            return found
        weights = mask.unsqueeze(2).to(out.last_hidden_state.dtype)  # (B, L, 1)
        mean: Tensor = (out.last_hidden_state * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return mean

    def tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Features of each token after the last layer, (B, L, width)."""
        if isinstance(self.body, Bert):
            return self.body.hidden(ids, mask)
        features: Tensor = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        return features

    def load_weights(self, folder: Path) -> None:
        """Load the encoder's weights from a local folder of transformers (config.json, model.safetensors).

        Raises
        ------
        ModelError
            If the folder does not hold such an encoder as safetensors.
        """
        from transformers import AutoModel

        try:
            with no_larger_than(*sorted(Path(folder).glob("*.safetensors"))):
                body, found = AutoModel.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, output_loading_info=True
                )
        except WsikitError:
            raise
        except Exception as error:  # as above
            raise ModelError(
                f"{folder}: does not hold this text encoder as safetensors ({reason_of(error)})."
            ) from error
        missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
        if missing:  # the library would draw them; a pooler is often not published, and is learned here
            raise ModelError(
                f"{folder}: {len(missing)} tensors of this text encoder are missing, such as {missing[0]}."
            )
        fill(self.body, body.state_dict(), (Path(folder) / "model.safetensors",))


def text_config_of(folder: Path) -> TextEncoderConfig:
    """Configuration of the text encoder in a local folder of transformers.

    Raises
    ------
    ModelError
        If the folder holds none.
    """
    from transformers import AutoConfig

    try:
        options = AutoConfig.from_pretrained(folder, local_files_only=True).to_diff_dict()
    except Exception as error:  # as above
        raise ModelError(f"{folder}: no configuration of a transformers model ({reason_of(error)}).") from error
    options.pop("transformers_version", None)
    return TextEncoderConfig(model_type=options.pop("model_type"), options=options)
