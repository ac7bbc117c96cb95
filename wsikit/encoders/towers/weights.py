"""Files of weights: read as tensors only, and fitted to a module by name and shape, or refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.errors import ModelError

State = dict[str, Tensor]
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_SHOWN = 3  # names in a message


def read_state(path: Path | str) -> State:
    """Tensors by name of a file of weights (`.safetensors`, or `.bin`/`.pt`/`.pth` of torch). No code of it is run.

    A dictionary within `state_dict`, `model` or `model_state_dict` is unwrapped, and the prefix `module.` of
    data-parallel training taken off.

    Raises
    ------
    ModelError
        The file is missing, damaged, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file of weights.")
    held = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for key in _WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
            break
    if not isinstance(held, Mapping) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        raise ModelError(f"{path}: holds no table of tensors by name; expected a published file of weights.")
    if all(name.startswith("module.") for name in held):
        held = {name.removeprefix("module."): value for name, value in held.items()}
    return dict(held)


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: is no readable safetensors file ({error}); copy it again from its source."
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{path}: holds more than tensors, or is damaged ({reason}). It was not read, as such a file can run code; "
            "use the published file of weights."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{path}: is no readable file of weights ({reason}); copy it again from its source."
        ) from error


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
        Names are missing or unknown, or shapes differ.
    """
    with torch.device("meta"):
        module = build(options)
    if any(buffer.is_meta for name, buffer in module.named_buffers() if name not in module.state_dict()):
        module = build(options)  # what is computed, not loaded, needs memory
    kept = {name: value for name, value in state.items() if not name.startswith(tuple(unused))}
    check_fit(module, kept, path)
    kept = {name: value.to(torch.float32) if value.is_floating_point() else value for name, value in kept.items()}
    module.load_state_dict(kept, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def check_fit(module: nn.Module, state: Mapping[str, Tensor], path: Path | str) -> None:
    """Refuse a `state` whose names or shapes are not those of `module`.

    Raises
    ------
    ModelError
        Says how many differ, and the first few.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    faults = []
    if missing := [name for name in wanted if name not in given]:
        faults.append(f"{len(missing)} of {len(wanted)} tensors are missing ({_first(missing)})")
    if unknown := [name for name in given if name not in wanted]:
        faults.append(f"{len(unknown)} are unknown ({_first(unknown)})")
    if differ := [name for name in wanted if name in given and wanted[name] != given[name]]:
        shown = [f"{name} is {given[name]}, expected {wanted[name]}" for name in differ[:_SHOWN]]
        faults.append(f"{len(differ)} have another shape ({'; '.join(shown)}{', …' if len(differ) > _SHOWN else ''})")
    if faults:
        raise ModelError(f"{path}: does not fit this architecture: {'; '.join(faults)}. Use the published file.")


def resized_positions(embedding: Tensor, grid: int) -> Tensor:
    """Position embedding (1, 1 + n², D) of a ViT with a class token, as (1, 1 + grid², D): bilinear, as published.

    What is no such embedding is given back unchanged, for `check_fit` to refuse.
    """
    if embedding.ndim != 3 or embedding.shape[1] == 1 + grid * grid:
        return embedding
    side = round((embedding.shape[1] - 1) ** 0.5)
    if side < 1 or 1 + side * side != embedding.shape[1]:
        return embedding
    places = embedding[:, 1:].to(torch.float32).reshape(1, side, side, -1).permute(0, 3, 1, 2)
    places = functional.interpolate(places, size=(grid, grid), mode="bilinear", align_corners=False)
    return torch.cat([embedding[:, :1].to(torch.float32), places.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
