"""The two branches' encoders: any of timm for patches, any of transformers for captions. Nothing is ever downloaded.

Both are built from configuration with random weights; trained ones come from safetensors on this disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from wsikit.errors import ModelError
from wsikit.models.config import ImageEncoderConfig, TextEncoderConfig


class ImageEncoder(nn.Module):
    """uint8 patches (B, H, W, 3) RGB to features (B, width).

    Parameters
    ----------
    config : ImageEncoderConfig
    patch_px : int
        Side of the patches, needed to learn the encoder's width.

    Raises
    ------
    ModelError
        If timm has no such model, or it gives no (B, width) for such patches.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ImageEncoderConfig, *, patch_px: int) -> None:
        super().__init__()
        if not timm.is_model(config.name):
            raise ModelError(
                f"image encoder {config.name!r}: timm {timm.__version__} has no such model; see timm.list_models()."
            )
        try:
            self.body: nn.Module = timm.create_model(config.name, pretrained=False, num_classes=0, **config.options)
        except TypeError as error:
            raise ModelError(
                f"image encoder {config.name!r}: options {config.options} do not fit ({error})."
            ) from error
        self._pretrained: dict[str, Any] = self.body.pretrained_cfg  # type: ignore[assignment]  # timm's own
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        self.width = self._measure(config.name, patch_px)

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).float() / 255.0  # (B, 3, H, W)
        return self.body((x - self.mean) / self.std)

    def load_weights(self, path: Path) -> None:
        """Take the encoder's weights from a safetensors file, as timm saves them; its classifier is left out.

        Raises
        ------
        ModelError
            If the file is not safetensors, or does not hold this encoder.
        """
        try:
            found = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{path}: not readable as safetensors ({error}); pickled weights are not opened."
            ) from error
        wanted = self.body.state_dict()
        classifier = str(self._pretrained.get("classifier", "head"))
        spare = {name for name in found.keys() - wanted.keys() if not name.startswith(classifier)}
        if spare or wanted.keys() - found.keys():
            odd = sorted(spare | (wanted.keys() - found.keys()))
            raise ModelError(f"{path}: not the weights of this encoder; {len(odd)} names differ, such as {odd[0]}.")
        self.body.load_state_dict({name: found[name] for name in wanted})

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


class TextEncoder(nn.Module):
    """Token ids (B, L) to features (B, width): the pooler's output where there is one, else the mean over tokens.

    Raises
    ------
    ModelError
        If transformers does not know the model type, or its options do not fit.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        try:
            settings = AutoConfig.for_model(config.model_type, **config.options)
            self.body = AutoModel.from_config(settings, trust_remote_code=False)
        except (ValueError, TypeError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"text encoder {config.model_type!r}: {reason}") from error
        self.width = int(settings.hidden_size)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        out = self.body(input_ids=ids, attention_mask=mask)
        pooled = getattr(out, "pooler_output", None)
        if pooled is not None:
            return pooled
        weights = mask.unsqueeze(2).to(out.last_hidden_state.dtype)  # (B, L, 1)
        return (out.last_hidden_state * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)

    def load_weights(self, folder: Path) -> None:
        """Take the encoder's weights from a local folder of transformers (config.json, model.safetensors).

        Raises
        ------
        ModelError
            If the folder does not hold such an encoder as safetensors.
        """
        try:
            body = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            self.body.load_state_dict(body.state_dict())
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"{folder}: does not hold this text encoder as safetensors ({reason}).") from error


def text_config_of(folder: Path) -> TextEncoderConfig:
    """Configuration of the text encoder in a local folder of transformers.

    Raises
    ------
    ModelError
        If the folder holds none.
    """
    try:
        options = AutoConfig.from_pretrained(folder, local_files_only=True).to_diff_dict()
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder}: no configuration of a transformers model ({str(error).splitlines()[0]})."
        ) from error
    options.pop("transformers_version", None)
    return TextEncoderConfig(model_type=options.pop("model_type"), options=options)
