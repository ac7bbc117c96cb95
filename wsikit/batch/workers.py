"""Worker processes that measure captions start with the run, while this process imports what the stages need."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wsikit.batch.manifest import SlideEntry
from wsikit.captions.base import Captioner, is_mostly_python
from wsikit.captions.registry import MEASURING
from wsikit.executor import Executor
from wsikit.worker_pool import shared_pool

MEASURING_MODULES = ("wsikit.inference.caption", "wsikit.captions.morphometry", "wsikit.tiling.patches")
"""What a process imports to measure captions and quality."""

_PYTHON_S_PER_BYTE = 1.5e-7
"""Of a compressed slide: some 3 px of tissue, at the scale of a model, per byte."""


@contextmanager
def workers_of_run(
    entries: Sequence[SlideEntry], out: Path, captioner: str | Captioner, executor: Executor
) -> Iterator[None]:
    """One set of worker processes for a run. They begin to start if the slides seem large enough for them.

    Slides that have a store, possibly with captions, are left to `wsikit.batch.stages.prepare_workers`.
    """
    with shared_pool():
        if captioner in MEASURING if isinstance(captioner, str) else is_mostly_python(captioner):
            new = [one for one in entries if one.roi is None and not (out / "slides" / f"{one.slide_id}.zarr").exists()]
            executor.get_ready(MEASURING_MODULES, _PYTHON_S_PER_BYTE * sum(_file_size(one.path) for one in new))
        yield


def _file_size(path: str | os.PathLike[str]) -> int:
    """Bytes of a file; 0 for a folder, a remote path, or nothing."""
    try:
        return os.path.getsize(path) if os.path.isfile(path) else 0
    except OSError:
        return 0
