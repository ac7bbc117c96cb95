"""In which numbers a model computes on a device. No torch here."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

from wsikit.errors import RequestError

Precision = Literal["auto", "float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

BF16_UNITS = frozenset({"amx_bf16", "avx512_bf16"})
"""Flags of processors that multiply bfloat16. Without them it was measured five times slower than float32."""


@lru_cache(maxsize=1)
def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 (Linux; False where that is not known)."""
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line for line in about.splitlines() if line.startswith("flags")), "")
    return not BF16_UNITS.isdisjoint(flags.split())


def precision_on(device: str, wanted: str = "auto", *, gpu_has_bf16: bool = True) -> str:
    """The precision that is used on a device, "cpu" or "cuda".

    "auto": bfloat16 where the device has units for it, float16 on older GPUs, float32 on other processors.

    Raises
    ------
    RequestError
        There is no such precision, or none on this device.

    >>> precision_on("cuda"), precision_on("cuda", gpu_has_bf16=False), precision_on("cpu", "float32")
    ('bfloat16', 'float16', 'float32')
    """
    if wanted not in PRECISIONS:
        raise RequestError(f"precision {wanted!r}: expected {', '.join(PRECISIONS)}.")
    if device == "cpu" and wanted == "float16":
        raise RequestError("precision 'float16' is for GPUs; on a CPU use 'float32', 'bfloat16' or 'auto'.")
    if wanted != "auto":
        return wanted
    if device == "cpu":
        return "bfloat16" if cpu_has_bf16() else "float32"
    if device.startswith("cuda"):
        return "bfloat16" if gpu_has_bf16 else "float16"
    return "float32"
