"""A slide encoder that is a torch module with the weights of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wsikit.encoders.slide_protocol import Coordinates, Features, SlideEncoderInfo, check_patches
from wsikit.errors import ModelError

Forward = Callable[[Tensor, Tensor, float], Tensor]


class SlideModule:
    """Calls `forward(features (N, D), coords (N, 2), patch_size_lv0)` of a module, and checks what comes out: (S,)."""

    def __init__(self, module: nn.Module, forward: Forward, info: SlideEncoderInfo, *, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.module = module.to(self.device).eval().requires_grad_(False)
        self._forward = forward
        self._info = info

    @property
    def info(self) -> SlideEncoderInfo:
        return self._info

    def encode(self, features: Features, coords: Coordinates, patch_size_lv0: float) -> Features:
        """Features of the slide, float32 (S,); see `SlideEncoder.encode`."""
        check_patches(self._info, features, coords, patch_size_lv0)
        # Sums of floats depend on their order: patches are taken by rows of the slide, so that theirs does not matter
        order = np.lexsort((coords[:, 0], coords[:, 1]))
        given = torch.from_numpy(np.ascontiguousarray(features[order], dtype=np.float32)).to(self.device)
        corners = torch.from_numpy(np.ascontiguousarray(coords[order], dtype=np.int64)).to(self.device)
        with torch.inference_mode():
            vector = self._forward(given, corners, float(patch_size_lv0)).to(torch.float32).cpu().numpy()
        if vector.shape != (self._info.width,) or not np.isfinite(vector).all():
            raise ModelError(
                f"slide encoder {self._info.name!r}: gave {vector.shape}, of which {int((~np.isfinite(vector)).sum())} "
                f"are not finite; expected ({self._info.width},). Its weights are damaged."
            )
        out: Features = vector
        return out


def digest(architecture: str, state: Mapping[str, Tensor]) -> str:
    """sha256 over an architecture's name and its weights."""
    found = hashlib.sha256(architecture.encode())
    for name in sorted(state):
        value = state[name].detach().to(torch.float32).contiguous().cpu().numpy()
        found.update(f"{name}{value.shape}".encode())
        found.update(value.tobytes())
    return found.hexdigest()


def source_of(path: Path | str) -> str:
    """A file as the source of weights."""
    return Path(path).name
