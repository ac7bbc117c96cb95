"""Time and memory of a training step: Swin with KAN layers and fusion beside the plain Swin of equal width and weights.

python benchmarks/swin_kan.py [--sizes swin_kan_micro] [--px 50 224] [--pairs 5] [--threads 1]

Forward and backward of a batch, in turns, so that the ratios hold on a busy machine too; medians, and the range over
the turns. Processor time. Memory is what autograd keeps for the backward pass, each storage once, without weights: it
rules the peak of a training, and does not depend on the machine.
"""

from __future__ import annotations

import argparse
import json
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


def kept_mb(model: torch.nn.Module, images: torch.Tensor) -> float:
    """MB kept for the backward pass."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no address is given twice
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        model(images)
    return sum(storage.nbytes() for storage in kept.values()) / 1e6


def measure(name: str, px: int, batch: int, pairs: int) -> dict[str, Any]:
    """Each arm: milliseconds and MB per patch, and their ratios to the plain one; weights."""
    models = {arm: SIZES[name](img_size=px, **options) for arm, options in ARMS.items()}
    images = torch.randn(batch, 3, px, px)
    for model in models.values():
        step(model, images)
    turns = [{arm: step(model, images) for arm, model in models.items()} for _ in range(pairs)]
    kept = {arm: kept_mb(model, images) / batch for arm, model in models.items()}
    found = {}
    for arm, model in models.items():
        ratios = [turn[arm] / turn["plain"] for turn in turns]
        found[arm] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "ms_per_patch": round(1000 * statistics.median(turn[arm] for turn in turns) / batch, 2),
            "times_plain": round(statistics.median(ratios), 2),
            "range": [round(min(ratios), 2), round(max(ratios), 2)],
            "mb_per_patch": round(kept[arm], 2),
            "memory_times_plain": round(kept[arm] / kept["plain"], 2),
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
