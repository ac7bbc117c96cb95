"""Random weights that are the same on each machine and at each call, and building modules without drawing any."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

SEED = 20240823
TINY = 0.01
_DRAWN = ("uniform_", "normal_", "erfinv_", "trunc_normal_", "log_normal_", "exponential_", "bernoulli_")


class _Undrawn(TorchFunctionMode):
    """Zeros where random numbers would be drawn, which takes most of the time of building a model."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _DRAWN and args and isinstance(args[0], torch.Tensor):
            with torch.no_grad():
                return args[0].zero_()
        return func(*args, **(kwargs or {}))


@contextmanager
def undrawn() -> Iterator[None]:
    """Build modules within, whose weights are set afterwards: random draws are left out, torch's state is kept."""
    with torch.random.fork_rng(devices=[]), _Undrawn():
        yield


def fill(module: nn.Module) -> None:
    """Fill every matrix and kernel, and every vector that is not constant, from a generator of its own, by its name.

    Matrices and kernels keep the variance of their input on average; vectors are small. Norms keep their ones.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim < 2 and (parameter.numel() < 2 or bool((parameter == parameter.reshape(-1)[0]).all())):
                if 0 < parameter.abs().max() < TINY:
                    parameter.fill_(1.0)  # a scale of residual branches, which would leave all features equal
                continue
            generator = np.random.Generator(np.random.PCG64([SEED, zlib.crc32(name.encode())]))
            fan_in = parameter[0].numel() if parameter.ndim > 1 and parameter.shape[0] > 1 else 2500
            gain = 2.0 if parameter.ndim == 4 else 1.0  # convolutions are mostly followed by a ReLU
            drawn = generator.random(parameter.shape, dtype=np.float32)
            drawn -= 0.5
            drawn *= float(np.sqrt(12 * gain / fan_in))
            parameter.copy_(torch.from_numpy(drawn).to(parameter.dtype))
