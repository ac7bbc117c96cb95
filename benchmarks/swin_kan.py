"""Time and memory of a training step: Swin with KAN layers and fusion beside the plain Swin of equal width and weights.

python benchmarks/swin_kan.py [--pairs 5] [--px 50 224] [--threads 1]

Forward and backward of a batch, in turns, so that the ratios hold on a busy machine too; medians, and the range over
the turns. Processor time. Memory is what a process has gained at its peak over a forward and backward pass, beyond the
loaded model; each is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from typing import Any

import torch

from wsikit.models.swin_kan import SIZES

ARMS: dict[str, dict[str, bool]] = {
    "plain": {"kan": False, "fusion": False},
    "fusion": {"kan": False, "fusion": True},
    "KAN": {"kan": True, "fusion": False},
    "KAN and fusion": {"kan": True, "fusion": True},
}


def step(model: torch.nn.Module, images: torch.Tensor) -> float:
    """Processor seconds of a forward and backward pass."""
    begun = time.process_time()
    model(images).sum().backward()
    return time.process_time() - begun


def peak_mb(name: str, options: dict[str, bool], px: int, batch: int) -> float:
    """Peak memory gained by a training step, MB; run in a process of its own."""
    torch.set_num_threads(1)
    model = SIZES[name](img_size=px, **options)
    images = torch.randn(batch, 3, px, px)
    step(model, images[:1])  # libraries allocate their own on first use
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(model, images)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def measure(name: str, px: int, batch: int, pairs: int) -> dict[str, Any]:
    """Each arm: milliseconds per patch, ratio to the plain one, memory, weights."""
    models = {arm: SIZES[name](img_size=px, **options) for arm, options in ARMS.items()}
    images = torch.randn(batch, 3, px, px)
    for model in models.values():
        step(model, images)
    turns = [{arm: step(model, images) for arm, model in models.items()} for _ in range(pairs)]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = {arm: pool.apply(peak_mb, (name, options, px, batch)) for arm, options in ARMS.items()}
    found = {}
    for arm, model in models.items():
        ratios = [turn[arm] / turn["plain"] for turn in turns]
        found[arm] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "ms_per_patch": round(1000 * statistics.median(turn[arm] for turn in turns) / batch, 2),
            "times_plain": round(statistics.median(ratios), 2),
            "range": [round(min(ratios), 2), round(max(ratios), 2)],
            "peak_mb": round(peaks[arm]),
            "memory_times_plain": round(peaks[arm] / peaks["plain"], 2),
        }
    return found


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--sizes", nargs="+", default=["swin_kan_micro"], choices=sorted(SIZES))
    arguments.add_argument("--px", type=int, nargs="+", default=[50, 224])
    arguments.add_argument("--pairs", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=1)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    found = {}
    for name in given.sizes:
        for px in given.px:
            batch = max(2, round(64 * (50 / px) ** 2))  # about as many tokens
            found[f"{name}, {px} px, batch {batch}"] = measure(name, px, batch, given.pairs)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
