"""Batches on threads of our own (`wsikit.encoders.threads`), for a model that is given all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from wsikit.encoders.threads import ModelThreads

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_on_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Results of `function` in the order of `items`, on as many threads as torch would use in this thread.

    The number of torch's threads is the same afterwards. An error of one item is raised when the running ones end.
    Results are the same bits as on one thread.

    >>> map_on_threads(abs, [-1, 2, -3])
    [1, 2, 3]
    """
    if min(torch.get_num_threads(), len(items)) < 2:
        return [function(item) for item in items]
    with ModelThreads(len(items)) as threads:
        futures = [threads.submit(function, item) for item in items]
        return [future.result() for future in futures]
