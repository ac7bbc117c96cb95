"""A training step of UMEML on one large bag, in turns with one pass over its features: python benchmarks/umeml.py

One pass: forward and backward of a linear layer from the features (1,536) to the model's width (256), as a matrix
product; its time is the unit. How long its forward half alone takes is stated too, for those who read "one pass" so. A
step: forward, loss, backward and AdamW of the whole network on the same bag and 1,000 gene columns. Pairs alternate,
and processor time is measured, so that other work of the machine counts little; the median of the ratios is stated.
Memory is what autograd keeps for the backward pass, for half of the patches and all.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from wsikit.models.umeml.config import UmemlConfig
from wsikit.models.umeml.losses import discrete_nll
from wsikit.models.umeml.network import UMEML

WIDTH, GENES, GROUPS = 1536, 1000, 50
INTERVALS = 4


def network(pooling: str, heads: int = 8) -> UMEML:
    groups = [list(range(start, start + GENES // GROUPS)) for start in range(0, GENES, GENES // GROUPS)]
    settings = {
        "patches": {"width": WIDTH, "pooling": pooling, "heads": heads},
        "tokens": {"genes": {"kind": "groups", "groups": groups}},
        "tasks": [{"name": "survival", "kind": "survival", "outputs": INTERVALS}],
    }
    torch.manual_seed(0)
    return UMEML(UmemlConfig.model_validate(settings)).train()


def step_of(model: UMEML, bag: torch.Tensor) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-4, fused=True)
    genes = {"genes": torch.randn(1, GENES)}
    target, censored = torch.tensor([1]), torch.tensor([False])

    def step() -> None:
        optimiser.zero_grad()
        found = model(bag, None, genes)
        loss = discrete_nll(found.tasks["survival"], target, censored) + 0.1 * found.communities.loss.mean()
        loss.backward()
        optimiser.step()

    return step


def pass_of(bag: torch.Tensor, width: int) -> Callable[[], None]:
    layer = torch.nn.Linear(bag.shape[-1], width)

    def once() -> None:
        layer.zero_grad()
        layer(bag).sum().backward()

    return once


def forward_of(bag: torch.Tensor, width: int) -> Callable[[], None]:
    layer = torch.nn.Linear(bag.shape[-1], width)

    @torch.no_grad()
    def once() -> None:
        layer(bag)

    return once


def pairs(first: Callable[[], None], second: Callable[[], None], count: int) -> tuple[list[float], list[float]]:
    """Seconds of each, alternating; one run of both before."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(count + 1):
        for which, action in enumerate((first, second)):
            begun = time.process_time()
            action()
            if number:
                seconds[which].append(time.process_time() - begun)
    return seconds


def kept_mb(model: UMEML, bag: torch.Tensor) -> float:
    """Memory that a step keeps for its backward pass beyond the bag and the weights, MB."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (bag, *model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = model(bag, None, {"genes": torch.randn(1, GENES)})  # alive until the sum, so that no address is reused
    del found
    return sum(sizes.values()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=20_000)
    parser.add_argument("--drawn", type=int, default=4096, help="patches of a step with the default draw")
    parser.add_argument("--pairs", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    bag = torch.randn(1, asked.patches, WIDTH)
    drawn = bag[:, torch.randperm(asked.patches)[: asked.drawn]].contiguous()
    once = pass_of(bag, network("heads").config.width)
    record: dict[str, Any] = {"patches": asked.patches, "threads": 1}
    passes, forwards = pairs(once, forward_of(bag, network("heads").config.width), asked.pairs)
    record["pass, in forward halves"] = round(float(np.median(np.array(passes) / np.array(forwards))), 2)
    for name, pooling, heads, one in (
        (f"{drawn.shape[1]} drawn patches, 8 heads (default)", "heads", 8, drawn),
        ("all patches, 8 heads", "heads", 8, bag),
        ("all patches, 8 heads, pooling shared", "shared", 8, bag),
        ("all patches, 4 heads, pooling shared", "shared", 4, bag),
    ):
        passes, steps = pairs(once, step_of(network(pooling, heads), one), asked.pairs)
        ratios = np.array(steps) / np.array(passes)
        record[name] = {
            "pass over all, s": round(float(np.median(passes)), 3),
            "step, s": round(float(np.median(steps)), 3),
            "ratio": round(float(np.median(ratios)), 2),
            "ratios": [round(float(r), 2) for r in ratios],
        }
    half = bag[:, : asked.patches // 2]
    record["kept for the backward pass beyond the bag, MB"] = {
        pooling: {
            n: round(kept_mb(network(pooling), part), 1) for n, part in ((len(half[0]), half), (len(bag[0]), bag))
        }
        for pooling in ("heads", "shared")
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
