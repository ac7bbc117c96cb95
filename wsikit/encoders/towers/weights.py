"""Files of weights fitted to the module of a tower by name and shape, or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.encoders import loading

State = dict[str, Tensor]


def read_state(path: Path | str) -> State:
    """`wsikit.encoders.loading.read_state` of one file."""
    return loading.read_state((Path(path),))


def with_weights(
    build: Callable[[Mapping[str, Any]], nn.Module],
    options: Mapping[str, Any],
    state: Mapping[str, Tensor],
    path: Path | str,
    *,
    unused: Sequence[str] = (),
) -> nn.Module:
    """A module of `build(options)` with the weights of `state`, in float32 and in eval mode.

    Parameters
    ----------
    state
        Tensors by name, as `read_state` gives them. Names and shapes must be those of the module.
    path
        Named in errors.
    unused
        Beginnings of names that the file may hold and the module has no use for.

    Raises
    ------
    ModelError
        Names are missing or unknown, shapes differ, or values are not finite.
    """
    with torch.device("meta"):
        module = build(options)
    if any(buffer.is_meta for name, buffer in module.named_buffers() if name not in module.state_dict()):
        module = build(options)  # what is computed, not loaded, needs memory
    kept = {name: value for name, value in state.items() if not name.startswith(tuple(unused))}
    loading.check_fit(module, kept, path)
    kept = {name: value.to(torch.float32) if value.is_floating_point() else value for name, value in kept.items()}
    module.load_state_dict(kept, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def resized_positions(embedding: Tensor, grid: int) -> Tensor:
    """Position embedding (1, 1 + n², D) of a ViT with a class token, as (1, 1 + grid², D): bilinear, as published.

    What is no such embedding is given back unchanged, for `loading.check_fit` to refuse.
    """
    if embedding.ndim != 3 or embedding.shape[1] == 1 + grid * grid:
        return embedding
    side = round((embedding.shape[1] - 1) ** 0.5)
    if side < 1 or 1 + side * side != embedding.shape[1]:
        return embedding
    places = embedding[:, 1:].to(torch.float32).reshape(1, side, side, -1).permute(0, 3, 1, 2)
    places = functional.interpolate(places, size=(grid, grid), mode="bilinear", align_corners=False)
    return torch.cat([embedding[:, :1].to(torch.float32), places.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
