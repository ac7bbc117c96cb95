"""Published files of weights: tensors by name, and their fit to a module. No code of a file is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from wsikit.errors import ModelError
from wsikit.tensor_files import check_finite, read_tensors

_WRAPPERS = ("state_dict", "model", "model_state_dict")
_SHOWN = 3  # names in a message


def read_state(files: Sequence[Path]) -> dict[str, Tensor]:
    """Tensors by name of files of weights (`.safetensors`, or `.bin`/`.pt`/`.pth` of torch).

    A dictionary within `state_dict`, `model` or `model_state_dict` is unwrapped, and the prefix `module.` of
    data-parallel training taken off.

    Raises
    ------
    ModelError
        A file is missing, damaged, or holds more than tensors.
    """
    state: dict[str, Tensor] = {}
    for path in files:
        if not path.is_file():
            raise ModelError(f"{path}: no such file of weights.")
        held = read_tensors(path)
        for key in _WRAPPERS:
            if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
                held = held[key]
        if not isinstance(held, Mapping) or not held or not all(isinstance(value, Tensor) for value in held.values()):
            raise ModelError(f"{path}: holds no table of tensors by name; expected a published file of weights.")
        state.update(held)
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def check_fit(module: nn.Module, state: Mapping[str, Tensor], place: Path | str) -> None:
    """Refuse a `state` whose names or shapes are not those of `module`, or whose values are not finite.

    Raises
    ------
    ModelError
        Says how many differ, and the first few.
    """
    if fault := misfit(module, state):
        raise ModelError(f"{place}: does not fit this architecture: {fault}. Use the published file.")
    check_finite(state, place)


def misfit(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """How names and shapes of `state` differ from the module's, in words; empty: they fit."""
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
    return "; ".join(faults)


def fill(module: nn.Module, state: Mapping[str, Tensor], files: Sequence[Path]) -> None:
    """Load `state` into the module, in the module's own precision.

    Raises
    ------
    ModelError
        Names or shapes differ, or values are not finite.
    """
    check_fit(module, state, files[0] if len(files) == 1 else files[0].parent)
    module.load_state_dict(dict(state), strict=True)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
