"""Encoders that are one file: TorchScript and ONNX. What the file needs to know about patches is in its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsikit.encoders.recipe import Recipe
from wsikit.errors import ModelError
from wsikit.tensor_files import check_finite

_untyped_load: Any = torch.jit.load


class TorchScriptModule(nn.Module):
    """A TorchScript file: normalised images (B, 3, H, W) to features (B, D)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            self.body = _untyped_load(str(path), map_location="cpu")
        except (RuntimeError, ValueError, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(
                f"{path}: no TorchScript file ({reason}). For weights without their architecture, give them with the "
                "name of a preset (NAME=FILE), or the folder with their config.json."
            ) from error
        check_finite(dict(self.body.named_parameters()), path)  # buffers may be masks of −∞

    def forward(self, images: Tensor) -> Tensor:
        out = self.body(images)
        features: Tensor = out[0] if isinstance(out, tuple | list) else out
        return features


class OnnxModule(nn.Module):
    """An ONNX file: one input, normalised images, float32 (B, 3, H, W); first output features (B, D)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ModelError(f"{path}: the package onnxruntime is not installed. pip install wsikit[onnx]") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:  # the library's errors have no common type
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"{path}: onnxruntime cannot load it ({reason}).") from error
        self.input = self.session.get_inputs()[0]
        if len(self.session.get_inputs()) != 1 or self.input.type != "tensor(float)":
            raise ModelError(f"{path}: expected one input of float32 images, found {self.input.type}.")

    def forward(self, images: Tensor) -> Tensor:
        values = np.ascontiguousarray(images.cpu().numpy())
        fixed = self.input.shape[0]
        if isinstance(fixed, int) and fixed != len(values):
            parts = [
                self._run(_padded(values[at : at + fixed], fixed))[: len(values) - at]
                for at in range(0, len(values), fixed)
            ]
            return torch.from_numpy(np.concatenate(parts)).to(images.device)
        return torch.from_numpy(self._run(values)).to(images.device)

    def _run(self, values: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
        return self.session.run(None, {self.input.name: values})[0]


def build(recipe: Recipe) -> nn.Module:
    """The module of a file.

    Raises
    ------
    ModelError
        The file is not what its name says, or onnxruntime is missing.
    """
    path = recipe.weights[0]
    return TorchScriptModule(path) if recipe.kind == "torchscript" else OnnxModule(path)


def _padded(values: np.ndarray[Any, np.dtype[np.float32]], size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Filled up to `size` images, for a file that was written for one size of batches."""
    missing = size - len(values)
    return values if missing <= 0 else np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])
