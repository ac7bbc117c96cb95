"""Memory that is free within the process is given back to the system. Independent of slides."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable


def _find_malloc_trim() -> Callable[[int], int] | None:
    """The C library's call that does it; None where it has none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        found = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None  # musl gives memory back by itself
    found.argtypes, found.restype = [ctypes.c_size_t], ctypes.c_int
    call: Callable[[int], int] = found
    return call


_malloc_trim = _find_malloc_trim()


def give_back_memory() -> None:
    """Give the memory back that was freed. The C library keeps it, and the next stage may need it in other sizes.

    For use between stages: arrays that are made right afterwards take longer.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)
