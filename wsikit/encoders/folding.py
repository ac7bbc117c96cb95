"""The normalisation of patches folded into a model's first convolution: one pass over the pixels less.

`conv((x / 255 - mean) / std)` is another convolution of `x` itself, with other weights and another bias. That is exact
without padding only: a border of zeros is black for one and the mean colour for the other.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from wsikit.encoders.transform import Transform

TOLERANCE = 1e-4
"""Largest difference of the features on a trial, as a fraction of their largest value; above it nothing is folded."""


class _FoundError(Exception):
    """Ends a forward pass at the first convolution."""


def folded(module: nn.Module, transform: Transform, device: torch.device) -> nn.Module | None:
    """A module that takes pixels, float32 (B, 3, H, W) from 0 to 255, and gives the features of `module` on normalised
    ones; None where that is not the same. All weights but those of the first convolution are shared with `module`."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 3, transform.crop, transform.crop), generator=generator).float().to(device)
    mean, std = (torch.tensor(of, device=device).view(1, 3, 1, 1) for of in (transform.mean, transform.std))
    normal = (pixels / 255 - mean) / std
    with torch.inference_mode():
        name = _first_convolution(module, normal)
        if name is None:
            return None
        made = _with(module, name.split("."), _folded(module.get_submodule(name), transform))
        expected, found = module(normal), made(pixels)
        difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    return made if difference <= TOLERANCE else None


def _first_convolution(module: nn.Module, normal: Tensor) -> str | None:
    """Name of the convolution that takes the input itself, if it has no padding."""
    found: list[str] = []

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def seen(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].data_ptr() == normal.data_ptr() and inputs[0].shape == normal.shape:
                found.append(name)
            raise _FoundError

        return module.get_submodule(name).register_forward_pre_hook(seen)

    handles = [watch(name) for name, part in module.named_modules() if type(part) is nn.Conv2d]
    try:
        module(normal)
    except _FoundError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        return None
    conv = module.get_submodule(found[0])
    assert isinstance(conv, nn.Conv2d)
    plain = conv.padding in ((0, 0), "valid") and conv.groups == 1 and conv.weight.dtype == torch.float32
    return found[0] if plain else None


def _folded(conv: nn.Module, transform: Transform) -> nn.Conv2d:
    assert isinstance(conv, nn.Conv2d)
    weight, made = conv.weight.double(), copy.copy(conv)
    mean, std = (torch.tensor(of, device=weight.device, dtype=weight.dtype) for of in (transform.mean, transform.std))
    shift = -(weight * (mean / std).view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
    bias = shift if conv.bias is None else conv.bias.double() + shift
    made._parameters = {
        "weight": nn.Parameter((weight / (255 * std.view(1, 3, 1, 1))).float(), requires_grad=False),
        "bias": nn.Parameter(bias.float(), requires_grad=False),
    }
    return made


def _with(module: nn.Module, path: list[str], part: nn.Module) -> nn.Module:
    """`module` with another part at `path`; the given module is not changed, and shares all other parts."""
    made = copy.copy(module)
    made._modules = dict(module._modules)
    inner = module.get_submodule(path[0])
    made._modules[path[0]] = part if len(path) == 1 else _with(inner, path[1:], part)
    return made
