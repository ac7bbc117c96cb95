"""Threads of our own for batches of a model, each with its share of torch's threads.

Torch divides each operation among its threads, which wait for each other some hundred times per batch, and use the
processor while they wait. Whole batches on threads cost less processor time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_changing = threading.Lock()
"""Held while the number of torch's threads is changed: torch has one setting for threads that it has not seen yet."""


class ModelThreads:
    """A pool of as many threads as torch would use in this thread, or `most` of them.

    The number of torch's threads is the same afterwards. At the end of the context, what has not begun is dropped.

    >>> with ModelThreads() as threads:
    ...     list(threads.map(abs, [-1, 2, -3]))
    [1, 2, 3]
    """

    def __init__(self, most: int | None = None) -> None:
        total = torch.get_num_threads()
        self.workers = max(1, total if most is None else min(total, most))
        self._pool = ThreadPoolExecutor(self.workers, "wsikit-model", initializer=self._begin)
        self._share = max(1, total // self.workers)
        self._everyone = threading.Barrier(self.workers + 1)
        with _changing:
            try:
                for _ in range(self.workers):
                    self._pool.submit(_nothing)
                self._everyone.wait()
            except BaseException:
                self._everyone.abort()  # a thread could not be started: the others do not wait for it
                self._pool.shutdown(cancel_futures=True)
                raise
            finally:
                torch.set_num_threads(total)

    def _begin(self) -> None:
        torch.get_num_threads()  # now, or torch would set this thread's number at its first operation
        torch.set_num_threads(self._share)  # of this thread, and of threads that torch has not seen yet
        self._everyone.wait()

    def submit(self, function: Callable[[Item], Result], item: Item) -> Future[Result]:
        """Call `function` on one of the threads."""
        return self._pool.submit(function, item)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results of `function` in the order of `items`."""
        return self._pool.map(function, items)

    def __enter__(self) -> ModelThreads:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


def _nothing() -> None:
    """Starts a thread of the pool."""
