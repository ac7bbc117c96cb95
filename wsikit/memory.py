"""How much memory is free; what is free within the process is given back to the system. Independent of slides."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable
from pathlib import Path


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


def available_memory() -> int:
    """Bytes that processes may still take: of the machine, or of the container if that has less. Unknown: very many."""
    found = [1 << 62]
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    group = Path("/sys/fs/cgroup")
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        place = group / "memory" if limit.endswith("bytes") else group
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            most, taken = int((place / limit).read_text()), int((place / used).read_text())
            if most < 1 << 60:  # what is taken counts files in the cache, which are given up when memory gets short
                found.append(max(most - taken, most // 4))
    return min(found)
