"""Engines of torch modules: on a CPU whole batches on threads, on a GPU copying and computing at the same time."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsikit.encoders.engine import BATCH, Engine, Features, Images, Key, checked
from wsikit.encoders.folding import folded
from wsikit.encoders.precision import precision_on
from wsikit.encoders.preparing import normalised, resized
from wsikit.encoders.threads import ModelThreads
from wsikit.encoders.torch_encoder import TorchEncoder

_IN_FLIGHT = 2
"""Batches on a GPU before the features of the first are waited for."""


class TorchEngine(Engine):
    """A torch module, run as it is.

    Weights are not copied. Convolutional networks get the memory format that is fastest for them (channels_last); on a
    CPU in float32 the normalisation is folded into the first convolution where that is exact.
    """

    name = "torch"

    def __init__(self, encoder: TorchEncoder, *, precision: str = "auto", batch: int | None = None) -> None:
        self.torch_device: torch.device = encoder.device
        kind = self.torch_device.type
        exact = precision_on(kind, precision, gpu_has_bf16=kind == "cuda" and torch.cuda.is_bf16_supported())
        super().__init__(encoder, str(self.torch_device), exact, batch or BATCH.get(kind, 32))
        self.transform = encoder.transform
        self._dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(exact)
        module = encoder.module
        if is_convolutional(module):
            module.to(memory_format=torch.channels_last)
        without = folded(module, self.transform, self.torch_device) if kind == "cpu" and self._dtype is None else None
        self.folds = without is not None
        """Whether the normalisation is folded into the first convolution."""
        self._module = without or module

    def encode(self, images: Images) -> Features:
        found = self._features(torch.from_numpy(np.ascontiguousarray(images)).to(self.torch_device))
        return self._checked(found.cpu().numpy(), len(images))

    def _checked(self, found: Any, rows: int) -> Features:
        return checked(found, rows, self.encoder, self.encoder.info.width)

    def _features(self, images: Tensor) -> Tensor:
        """Patches on the device, uint8 (B, P, P, 3), to features on the device, float32 (B, D)."""
        with torch.inference_mode(), self._cast():
            x = resized(images, self.transform)
            x = x.to(torch.float32) if self.folds else normalised(x, self.transform)
            return self._forward(x).to(torch.float32)

    def _forward(self, x: Tensor) -> Tensor:
        found: Tensor = self._module(x)
        return found

    def _cast(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.torch_device.type, dtype=self._dtype)

    @contextlib.contextmanager
    def _threads(self) -> Iterator[tuple[Callable[..., Future[Any]], int]]:
        if self.torch_device.type != "cpu":
            with super()._threads() as found:
                yield found
            return
        with ModelThreads() as threads:
            yield threads.submit, threads.workers

    def stream(
        self, batches: Iterable[tuple[Key, Images]], *, shared: bool = False, features: bool = True
    ) -> Iterator[tuple[Key, list[Features]]]:
        if self.torch_device.type != "cuda" or shared:
            return super().stream(batches, shared=shared, features=features)
        return self._gpu_stream(batches)

    def _gpu_stream(self, batches: Iterable[tuple[Key, Images]]) -> Iterator[tuple[Key, list[Features]]]:
        """Batches are copied to the GPU on a stream of their own while it computes the one before."""
        copying = torch.cuda.Stream(self.torch_device)  # type: ignore[no-untyped-call]
        computing = torch.cuda.current_stream(self.torch_device)
        memory = _Pinned(_IN_FLIGHT + 2)
        waiting: deque[tuple[Key, Tensor, torch.cuda.Event]] = deque()
        source = iter(batches)
        while True:
            taken = self._next(source)
            if taken is not None:
                key, images = taken
                with torch.cuda.stream(copying):
                    on_gpu = memory.holding(images).to(self.torch_device, non_blocking=True)
                computing.wait_stream(copying)
                on_gpu.record_stream(computing)
                found = self._with_enough_memory(on_gpu)
                out = torch.empty(found.shape, dtype=torch.float32, pin_memory=True)
                out.copy_(found, non_blocking=True)
                ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
                ready.record(computing)
                waiting.append((key, out, ready))
            if waiting and (taken is None or len(waiting) > _IN_FLIGHT):
                first, out, ready = waiting.popleft()
                begun = time.perf_counter()
                ready.synchronize()
                self.waits.model += time.perf_counter() - begun
                yield first, [self._checked(out.numpy(), len(out))]
            elif taken is None:
                return

    def _with_enough_memory(self, images: Tensor) -> Tensor:
        """Features of patches on the device; in parts if its memory does not hold the layers of all of them."""
        if not len(images):
            return torch.empty((0, self.encoder.info.width), device=images.device)
        try:
            return self._features(images)
        except torch.cuda.OutOfMemoryError:
            if len(images) == 1:
                raise
        torch.cuda.empty_cache()
        self.batch = max(1, len(images) // 2)
        return torch.cat([self._with_enough_memory(part) for part in images.tensor_split(2)])


class CompiledEngine(TorchEngine):
    """A torch module, compiled by `torch.compile` for batches of one size."""

    name = "compile"

    def __init__(self, encoder: TorchEncoder, *, precision: str = "auto", batch: int | None = None) -> None:
        super().__init__(encoder, precision=precision, batch=batch)
        self._compiled = torch.compile(self._module, dynamic=False)
        self._size = self.batch

    def _forward(self, x: Tensor) -> Tensor:
        missing = self._size - len(x)
        if missing > 0:  # other sizes would be compiled again
            x = torch.cat([x, x[-1:].expand(missing, -1, -1, -1)])
        found: Tensor = self._compiled(x)
        return found[: len(found) - missing] if missing > 0 else found


def is_convolutional(module: nn.Module) -> bool:
    """Whether a module has more convolutions than the one that cuts patches into tokens."""
    return sum(isinstance(part, nn.Conv2d) for part in module.modules()) > 2


class _Pinned:
    """Memory that a GPU copies from while this process goes on; that of the last `kept` batches is not written."""

    def __init__(self, kept: int) -> None:
        self._memory: list[Tensor] = []
        self._kept, self._turn = kept, 0

    def holding(self, images: Images) -> Tensor:
        """`images` in pinned memory."""
        if len(self._memory) < self._kept:
            self._memory.append(torch.empty(images.shape, dtype=torch.uint8, pin_memory=True))
        place = self._turn % self._kept
        self._turn += 1
        if self._memory[place].shape[1:] != images.shape[1:] or len(self._memory[place]) < len(images):
            self._memory[place] = torch.empty(images.shape, dtype=torch.uint8, pin_memory=True)
        held = self._memory[place][: len(images)]
        held.numpy()[:] = images
        return held
