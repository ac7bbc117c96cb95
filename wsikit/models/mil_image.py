"""The image encoder of a model on slide labels that was trained end to end. Torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from wsikit.models.config import CONFIG_FILE
from wsikit.models.encoders import ImageEncoder
from wsikit.models.mil_config import IMAGE_WEIGHTS, MilConfig
from wsikit.models.model_folder import building
from wsikit.tensor_files import load_module

Encode = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]

AT_ONCE = 64


def load_image_encoder(folder: Path, config: MilConfig, *, device: str = "auto") -> Encode:
    """A function from patches, uint8 (B, P, P, 3), to features, float32 (B, D).

    Raises
    ------
    ModelError
        If the weights are damaged, or not those of the encoder in the configuration.
    """
    assert config.image is not None
    with building(folder / CONFIG_FILE, folder / IMAGE_WEIGHTS):
        encoder = ImageEncoder(config.image, patch_px=config.patch_px, plain=True)
    load_module(encoder, folder / IMAGE_WEIGHTS)
    return encode_by(encoder, device=device)


def encode_by(encoder: ImageEncoder, *, device: str = "auto") -> Encode:
    """As `load_image_encoder`, of an encoder in memory."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder.to(device).eval()

    @torch.inference_mode()
    def encode(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        parts = [np.empty((0, encoder.width), np.float32)]
        for first in range(0, len(images), AT_ONCE):
            some = torch.as_tensor(images[first : first + AT_ONCE]).to(device)
            parts.append(encoder(some).cpu().numpy().astype(np.float32))
        return np.concatenate(parts)

    return encode
