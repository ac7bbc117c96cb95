"""Files of weights: read as tensors only, and refused if they are damaged or hold NaN or infinity. Torch only in use.

A network with one such weight gives NaN for every patch, which looks like patches that could not be read.
"""

from __future__ import annotations

import math
import pickle
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

AGAIN = "copy it again from its source"

_FEW = 4_000_000
"""Weights that a network may have beyond those in its files, such as a head that is not used."""


def check_whole(path: Path) -> None:
    """ModelError if a file is cut off or not safetensors: its header and size, without its tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: damaged or not safetensors ({error}); {AGAIN}.") from error


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a safetensors file by name; ModelError if it is damaged, or an array is not finite."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays: dict[str, npt.NDArray[Any]] = load_file(str(path))
    except (SafetensorError, OSError, KeyError, TypeError) as error:  # the last two: a type that NumPy has not
        raise ModelError(f"{path}: damaged or not safetensors ({error}); {AGAIN}.") from error
    check_finite(arrays, path)
    return arrays


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU; ModelError if it is damaged. Pickles are not opened."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: damaged or not safetensors ({error}); {AGAIN}.") from error
    return tensors


def read_tensors(path: Path) -> Any:
    """What a file of weights holds, on the CPU: tensors by name, of a file of torch perhaps within further mappings.

    No code of the file is run. Whether they are finite is checked where it is known which of them are used
    (`check_finite`): published files may hold masks of −∞ with the weights.

    Raises
    ------
    ModelError
        The file is missing, damaged, or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: holds more than tensors, or is damaged ({_first_line(error)}). It was not read, as such a file "
            "can run code; use the published file of weights, or safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: no readable file of weights ({_first_line(error)}); {AGAIN}.") from error


@contextmanager
def no_larger_than(*paths: Path) -> Iterator[None]:
    """Networks that are built within may have twice as many weights as the files at `paths` hold, and 4 million more.

    For configurations that may ask for any size: the network is refused as soon as one of its weights is made, before
    memory is written to. Twice, as weights that are shared are stored once.

    Raises
    ------
    ModelError
        The network is larger; or a file is no safetensors though its name says so.
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook

    most, made, own = 2 * sum(map(_held, paths)) + _FEW, 0, threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        if parameter is None or threading.get_ident() != own:  # the hook is one of all threads
            return
        made += parameter.numel()
        if made > most:
            raise ModelError(
                f"{first}: the network of its configuration has more than {made:.3g} weights, many more than there "
                f"are in this file; {AGAIN}, with its configuration."
            )

    first = paths[0] if paths else "no file"
    hook = register_module_parameter_registration_hook(count)  # type: ignore[arg-type]
    try:
        yield
    finally:
        hook.remove()


def _held(path: Path) -> int:
    """How many weights a file may hold: those of safetensors are counted by its header, others by its bytes."""
    if path.suffix != ".safetensors":
        return path.stat().st_size // 2
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118, it is no dict
            # of four bits each, two are in one number of eight
            return sum(math.prod(one.get_shape()) * (2 if one.get_dtype() in ("U8", "I8") else 1) for one in slices)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: damaged or not safetensors ({error}); {AGAIN}.") from error


def load_module(module: nn.Module, path: Path) -> None:
    """Set the weights of a module from the safetensors file that was written of such a module.

    Raises
    ------
    ModelError
        The file is damaged, its tensors are not those of the module, or not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        load_model(module, str(path), strict=True)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: damaged or not safetensors ({error}); {AGAIN}.") from error
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(
            f"{path}: these weights do not fit config.json ({' '.join(lines[1:2] or lines)}); {AGAIN}."
        ) from error
    check_finite(module.state_dict(), path)


def check_finite(tensors: Mapping[str, Tensor | npt.NDArray[Any]], place: Path | str) -> None:
    """ModelError that names `place` and a tensor, if one of `tensors` has NaN or infinite values.

    Examples
    --------
    >>> check_finite({"weight": np.array([1.0, np.nan])}, "model.safetensors")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    wsikit.errors.ModelError: model.safetensors: weight has values that are NaN or infinite (1 of 1 tensors); ...
    """
    bad = [name for name, values in tensors.items() if not _is_finite(values)]
    if bad:
        raise ModelError(
            f"{place}: {bad[0]} has values that are NaN or infinite ({len(bad)} of {len(tensors)} tensors); {AGAIN}, "
            "or train it again."
        )


def _is_finite(values: Tensor | npt.NDArray[Any]) -> bool:
    """By the extremes, which are NaN if one value is: no memory of the tensor's size."""
    if isinstance(values, np.ndarray):
        return values.dtype.kind != "f" or not values.size or bool(np.isfinite([values.min(), values.max()]).all())
    if not values.is_floating_point() or not values.numel() or values.is_meta:
        return True
    if values.element_size() == 1:  # torch has no extremes of numbers of eight bits
        values = values.float()
    return all(bool(extreme.isfinite()) for extreme in values.detach().aminmax())


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
