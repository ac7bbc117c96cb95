"""Random weights that are the same on each machine and at each call, whatever torch and timm draw themselves."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import nn

SEED = 20240823


def fill(module: nn.Module) -> None:
    """Fill every parameter that is not constant (such as a norm's ones) from a generator of its own, by its name.

    Matrices and kernels keep the variance of their input on average; vectors are small.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.numel() < 2 or bool((parameter == parameter.reshape(-1)[0]).all()):
                continue
            generator = np.random.Generator(np.random.PCG64([SEED, zlib.crc32(name.encode())]))
            fan_in = parameter[0].numel() if parameter.ndim > 1 and parameter.shape[0] > 1 else 2500
            gain = 2.0 if parameter.ndim == 4 else 1.0  # convolutions are mostly followed by a ReLU
            drawn = generator.random(parameter.shape, dtype=np.float32)
            drawn -= 0.5
            drawn *= float(np.sqrt(12 * gain / fan_in))
            parameter.copy_(torch.from_numpy(drawn).to(parameter.dtype))
