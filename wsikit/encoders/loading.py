"""Files of weights as tensors, and their fit to a module. No code of a file is run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsikit.errors import ModelError

_WRAPPERS = ("state_dict", "model")
_SHOWN = 3


def read_state(files: Sequence[Path]) -> dict[str, Tensor]:
    """Tensors by name of files of weights: safetensors, or what torch reads with `weights_only`.

    Raises
    ------
    ModelError
        A file is damaged or holds more than tensors.
    """
    state: dict[str, Tensor] = {}
    for path in files:
        held = _read(path)
        for key in _WRAPPERS:
            if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
                held = held[key]
        if not isinstance(held, Mapping) or not held or not all(isinstance(value, Tensor) for value in held.values()):
            raise ModelError(f"{path}: holds no table of tensors by name; expected a published file of weights.")
        state.update(held)
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: no readable safetensors file ({error}); copy it again.") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: holds more than tensors, or is damaged; it was not read, as such a file can run code. Use the "
            "published file of weights, or safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: no readable file of weights ({reason}); copy it again.") from error


def misfit(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """How names and shapes of `state` differ from the module's, in words; empty: they fit."""
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    faults = []
    if missing := sorted(wanted.keys() - given.keys()):
        faults.append(f"{len(missing)} of {len(wanted)} tensors are missing ({_first(missing)})")
    if unknown := sorted(given.keys() - wanted.keys()):
        faults.append(f"{len(unknown)} are unknown ({_first(unknown)})")
    if other := sorted(name for name in wanted.keys() & given.keys() if wanted[name] != given[name]):
        faults.append(f"{len(other)} have another shape ({other[0]} is {given[other[0]]}, not {wanted[other[0]]})")
    return "; ".join(faults)


def fill(module: nn.Module, state: Mapping[str, Tensor], files: Sequence[Path]) -> None:
    """Load `state` into the module, in the module's own precision.

    Raises
    ------
    ModelError
        Names or shapes differ.
    """
    if fault := misfit(module, state):
        raise ModelError(f"{files[0]}: does not fit this architecture: {fault}. Use the published file.")
    module.load_state_dict(dict(state), strict=True)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
