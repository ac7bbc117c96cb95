"""Which engine is asked for, checked before anything heavy is imported. No torch here."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, get_args

from wsikit.encoders.precision import PRECISIONS, precision_on
from wsikit.errors import RequestError

EngineName = Literal["auto", "torch", "compile", "onnx"]
ENGINES: tuple[str, ...] = get_args(EngineName)

NEEDED_BY_ONNX = ("onnxruntime", "onnx", "onnxscript")


def has_onnx() -> bool:
    """Whether the packages that ONNX Runtime needs are installed."""
    return all(find_spec(name) is not None for name in NEEDED_BY_ONNX)


def check_engine(engine: str, precision: str, *, device: str = "auto") -> None:
    """Check the settings of an engine as far as they are known without loading an encoder.

    Raises
    ------
    RequestError
        There is no such engine or precision, the two exclude each other, or a package is missing.

    >>> check_engine("onnx", "float16")
    Traceback (most recent call last):
    ...
    wsikit.errors.RequestError: engine 'onnx': computes in float32, not float16.
    """
    if engine not in ENGINES:
        raise RequestError(f"engine {engine!r}: expected {', '.join(ENGINES)}.")
    if precision not in PRECISIONS:
        raise RequestError(f"precision {precision!r}: expected {', '.join(PRECISIONS)}.")
    if device == "cpu":
        precision_on(device, precision)
    if engine == "onnx":
        if precision not in ("auto", "float32"):
            raise RequestError(f"engine 'onnx': computes in float32, not {precision}.")
        if device == "cuda":
            raise RequestError("engine 'onnx': runs on the CPU; give --device cpu, or --engine torch.")
        if not has_onnx():
            raise RequestError("engine 'onnx': needs ONNX Runtime; pip install onnxruntime onnx onnxscript.")
