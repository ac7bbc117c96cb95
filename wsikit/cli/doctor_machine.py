"""Checks of the computer: processors, memory, GPU, output folder, places of weights. And of slides, by reading them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

from wsikit.cli.doctor_check import Check, attempted, shorten

LEAST_FREE_GB = 1.0

LEAST_MEMORY_GB = 4.0
"""Below it, the system may end `wsikit run`: torch, the packaged model and the tiles in hand take about 2 GB."""

LEAST_OPEN_FILES = 512
"""A run over many slides has some hundred files open: tiles are read on threads, and stores are many files."""

_ENVIRONMENT = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "PYTHONPATH")
"""Variables that change what a run does: its speed, its GPU, what is fetched, which packages are imported."""

_WINDOW_PX = 256


def check_devices() -> Iterator[Check]:
    """CPUs, memory, and the GPU that models run on if there is one. Without a GPU models run on the CPU, slower."""
    from wsikit.executor import available_cpus

    threads = os.environ.get("OMP_NUM_THREADS")
    limited = f"; OMP_NUM_THREADS={threads} limits models to {threads}" if threads else ""
    yield Check("devices", "CPU", True, False, f"{available_cpus()} for this process{limited}")
    yield _memory()
    yield from _open_files()
    yield attempted(
        "devices", "GPU", False, _find_gpu, "install a build of torch for CUDA, and test the driver with `nvidia-smi`"
    )
    changed = [f"{name}={os.environ[name]}" for name in _ENVIRONMENT if os.environ.get(name)]
    yield Check("devices", "environment", True, False, shorten(", ".join(changed)) or "no variable that changes a run")


def _memory() -> Check:
    from wsikit.memory import available_memory

    free = available_memory() / 1e9
    if free > 1e6:
        return Check("devices", "memory", True, False, "unknown")
    fix = "close other programs, ask for more memory (SLURM: --mem=8G), or use --workers 1"
    return Check("devices", "memory", free >= LEAST_MEMORY_GB, False, f"{free:,.1f} GB free for this process", fix)


def _open_files() -> Iterator[Check]:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = limit == resource.RLIM_INFINITY or limit >= LEAST_OPEN_FILES
    found = "no limit" if limit == resource.RLIM_INFINITY else f"at most {limit}"
    yield Check("devices", "open files", enough, False, found, "run `ulimit -n 4096` in the same shell before wsikit")


def _find_gpu() -> str:
    import shutil

    import torch

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return ", ".join(f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in devices)
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    if shutil.which("nvidia-smi"):
        raise RuntimeError(f"an NVIDIA driver is installed, but torch {torch.__version__} sees no GPU")
    return "none: models run on the CPU"


def check_folder(folder: str) -> Iterator[Check]:
    """Whether the folder, or the nearest existing folder above it, is writable, has locks, and how much is free."""
    import shutil
    import tempfile

    place = os.path.abspath(folder)
    while not os.path.exists(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place)

    def write() -> str:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"wsikit" * 1000)
            file.flush()
            os.fsync(file.fileno())
        return place

    def lock() -> str:
        from filelock import FileLock, Timeout

        with tempfile.TemporaryDirectory(dir=place) as inside, FileLock(os.path.join(inside, "lock")):
            second = FileLock(os.path.join(inside, "lock"))
            try:
                second.acquire(timeout=0)
            except Timeout:
                return "a locked file cannot be locked a second time"
            second.release()
        raise RuntimeError("a file can be locked twice")

    written = attempted(
        "disk", "writable", True, write, "choose another folder with --folder, or ask for the permission to write"
    )
    yield written
    if written.ok:
        fix = "two runs at once would not see each other: choose a folder on a file system with locks"
        yield attempted("disk", "locks", True, lock, fix)
    free = shutil.disk_usage(place).free / 1e9
    yield Check("disk", "free", free >= LEAST_FREE_GB, True, f"{free:,.1f} GB", f"free {LEAST_FREE_GB:g} GB or more")


def check_weights() -> Iterator[Check]:
    """Where weights of encoders are searched, and which are there."""

    def find() -> str:
        from wsikit.encoders.listing import hub_place, list_encoders

        here = [entry.name for entry in list_encoders() if entry.here]
        return f"{', '.join(here) or 'none'} (searched in {hub_place()})"

    yield attempted("models", "encoders here", False, find, "see wsikit encoders")


def check_slide(path: str) -> Check:
    """Whether a slide opens with a pixel size, and its pixels can be read: in the middle of each level."""
    return attempted("slides", os.path.basename(path), False, partial(_read, path), "see docs/formats.md")


def _read(path: str) -> str:
    from wsikit.slides import open_slide
    from wsikit.slides.scale import how_to_give

    with open_slide(path) as slide:
        info = slide.info
        for level, size in enumerate(info.level_dimensions):
            x, y = ((whole - min(whole, _WINDOW_PX)) / 2 for whole in size)
            across, down = info.level_downsamples[level]
            width, height = (min(whole, _WINDOW_PX) for whole in size)
            slide.read_region(x * across, y * down, width, height, level=level)
        if info.mpp is None:
            raise ValueError(f"reads with reader {info.reader}, but has no pixel size. {how_to_give(path)}")
        return (
            f"{info.dimensions[0]:,} × {info.dimensions[1]:,} px, {info.mpp[0]:.4g} µm/px ({info.mpp_source}), reader "
            f"{info.reader}: each of {len(info.level_dimensions)} levels can be read"
        )
