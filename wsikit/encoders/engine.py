"""Engines: how fast an encoder's batches get through a device. The features are the encoder's, to a stated tolerance.

Patches go in as uint8, as they are read, and are normalised on the device. While the device works, further batches wait
in a bounded queue. Which engine is used is decided in `wsikit.encoders.engine_choice`.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from wsikit.encoders.protocol import PatchEncoder
from wsikit.errors import ModelError

Images = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]
Key = TypeVar("Key")

FLOAT32_TOLERANCE = 2e-4
"""Largest difference between float32 engines, as a fraction of the largest feature of a patch."""

HALF_TOLERANCE = 5e-2
"""The same for bfloat16 and float16, against float32."""

BATCH = {"cpu": 8, "cuda": 128}
"""Patches that go through a model together. On a CPU the layers of so few stay in the cache."""

_AHEAD = 2
"""Batches that wait while all threads, or the GPU, are at work."""


@dataclass
class Waits:
    """Where the time of a stream went, s."""

    reading: float = 0.0
    """Waiting for patches."""
    model: float = 0.0
    """Waiting for features."""

    @property
    def bound_by(self) -> str:
        """What more time was spent waiting for: "reading" or "model"."""
        return "reading" if self.reading > self.model else "model"


class Engine(ABC):
    """An encoder on a device: batches of patches in, features out, in the same order.

    Attributes
    ----------
    name
        "torch", "compile", "onnx", or "plain" for an encoder that is not a torch module.
    device, precision
        Where and in which numbers it computes.
    batch
        Patches that it takes at a time, at most.
    waits
        Where the time went.
    """

    name = "plain"

    def __init__(self, encoder: PatchEncoder, device: str, precision: str, batch: int) -> None:
        self.encoder, self.device, self.precision, self.batch = encoder, device, precision, batch
        self.waits = Waits()

    @abstractmethod
    def encode(self, images: Images) -> Features:
        """Features, float32 (B, D), of up to `batch` patches, uint8 (B, P, P, 3)."""

    def encode_shared(self, images: Images) -> Features:
        """Places of patches in the space shared with texts, float32 (B, S), by the encoder itself, in float32."""
        encoder: Any = self.encoder
        return checked(encoder.encode_shared(images), len(images), encoder, encoder.info.shared_width)

    def stream(
        self, batches: Iterable[tuple[Key, Images]], *, shared: bool = False, features: bool = True
    ) -> Iterator[tuple[Key, list[Features]]]:
        """(key, [features, places in the shared space]) of each (key, patches), of these what is asked for.

        Some batches are taken from `batches` before their turn. Batches without patches are allowed.
        """
        functions: list[tuple[Callable[[Images], Features], int]] = []
        if features:
            functions.append((self.encode, self.encoder.info.width))
        if shared:
            functions.append((self.encode_shared, self.encoder.info.shared_width or 0))

        def compute(images: Images) -> list[Features]:
            if not len(images):
                return [np.empty((0, width), np.float32) for _, width in functions]
            return [function(images) for function, _ in functions]

        with self._threads() as (submit, workers):
            waiting: deque[tuple[Key, Future[list[Features]]]] = deque()
            source = iter(batches)
            while True:
                key_images = self._next(source)
                if key_images is not None:
                    waiting.append((key_images[0], submit(compute, key_images[1])))
                if waiting and (key_images is None or len(waiting) > workers + _AHEAD):
                    key, future = waiting.popleft()
                    begun = time.perf_counter()
                    found = future.result()
                    self.waits.model += time.perf_counter() - begun
                    yield key, found
                elif key_images is None:
                    return

    def _next(self, source: Iterator[tuple[Key, Images]]) -> tuple[Key, Images] | None:
        """The next batch, with the time that it took; None at the end."""
        begun = time.perf_counter()
        found = next(source, None)
        self.waits.reading += time.perf_counter() - begun
        return found

    @contextlib.contextmanager
    def _threads(self) -> Iterator[tuple[Callable[..., Future[Any]], int]]:
        """A function that computes a batch on a thread, and the number of threads."""
        pool = ThreadPoolExecutor(1, "wsikit-encoder")
        try:
            yield pool.submit, 1
        finally:
            pool.shutdown(cancel_futures=True)


class PlainEngine(Engine):
    """Any encoder, by its own `encode`, one batch at a time."""

    def encode(self, images: Images) -> Features:
        return checked(self.encoder.encode(images), len(images), self.encoder, self.encoder.info.width)


def checked(found: Any, rows: int, encoder: PatchEncoder, width: int) -> Features:
    """Features of an encoder, float32 (rows, width).

    Raises
    ------
    ModelError
        They have another shape.
    """
    features = np.asarray(found, dtype=np.float32)
    if features.shape != (rows, width):
        raise ModelError(
            f"encoder {encoder.info.name}: gave features of shape {features.shape} for {rows} patches, expected "
            f"{(rows, width)}, as its description states."
        )
    return features


def describe(engine: Engine) -> dict[str, str]:
    """Stored with the features: how they were computed."""
    return {"engine": engine.name, "precision": engine.precision, "device": engine.device}
