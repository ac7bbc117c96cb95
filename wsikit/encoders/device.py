"""Whether there is a GPU where one is asked for, known before any work begins."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from wsikit.errors import RequestError

_NO_KIT = re.compile(r"^(cuda|hip)\b[^=]*=\s*None\s*$", re.MULTILINE)


def check_device(device: str) -> None:
    """Check that a GPU that is asked for is there. torch is loaded for "cuda" only, unless it is built for CPUs alone.

    Raises
    ------
    RequestError
        torch finds no GPU.

    >>> check_device("auto")
    """
    if device == "cuda" and (is_for_cpus_only() or not _finds_gpu()):
        raise RequestError("device 'cuda': torch finds no GPU here; use 'cpu' or 'auto'.")


def is_for_cpus_only() -> bool:
    """Whether the installed torch is built without CUDA and ROCm, as its file of versions states; False: not known."""
    try:
        found = find_spec("torch")
        if found is None or found.origin is None:
            return False
        stated = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    except (OSError, ValueError):  # ValueError: no specification, or no text
        return False
    return {match[1] for match in _NO_KIT.finditer(stated)} == {"cuda", "hip"}


def _finds_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())
