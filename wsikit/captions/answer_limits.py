"""Limits of one answer of a server: seconds from its request to its last byte, and bytes.

Time-outs of HTTP clients are those of single reads: a server that sends a byte a second is never cut off by them. The
limits are set where bytes are read from the socket, so they also hold for headers.
"""

from __future__ import annotations

import importlib
import threading
import time
from typing import Any

MOST_BYTES = 4 * 2**20
"""Of an answer with its headers. One of 65,536 characters per image is far below it."""


class AnswerLimits:
    """Limits of the requests of an HTTP client of `httpx` or `httpx2`, each request in one thread.

    Parameters
    ----------
    client
        From now on, its own errors are raised by a read after the request's time-out, by one beyond `most_bytes`, and
        by an answer that is compressed and so of unknown size.
    most_bytes
        Of one answer with its headers.

    Raises
    ------
    AttributeError
        The client's connections are not those of `httpcore`.
    """

    def __init__(self, client: Any, *, most_bytes: int = MOST_BYTES) -> None:
        pool = client._transport._pool  # its network is an argument of the pool only, which the client makes
        self._network = pool._network_backend
        pool._network_backend = self
        self._errors = _library_of(self._network)
        self._most_bytes = most_bytes
        self._now = threading.local()
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], self._begin],
            "response": [*hooks["response"], _refuse_compressed],
        }

    def connect_tcp(self, *arguments: Any, **options: Any) -> Any:
        return _LimitedStream(self._network.connect_tcp(*arguments, **options), self)

    def sleep(self, seconds: float) -> None:
        self._network.sleep(seconds)

    def seconds_left(self) -> float:
        """Of this thread's request; the library's error of a time-out if none."""
        left = float(getattr(self._now, "end", time.monotonic() + 1)) - time.monotonic()
        if left <= 0:
            raise self._errors.ReadTimeout("the answer is not complete")
        return left

    def count(self, received: int) -> None:
        """The library's error of a read if this thread's answer has too many bytes with the `received` ones."""
        self._now.bytes = getattr(self._now, "bytes", 0) + received
        if self._now.bytes > self._most_bytes:
            raise self._errors.ReadError(f"the answer has more than {self._most_bytes:,} bytes")

    def _begin(self, request: Any) -> None:
        request.headers["accept-encoding"] = "identity"
        self._now.bytes, self._now.end = 0, time.monotonic() + request.extensions["timeout"]["read"]


class _LimitedStream:
    """A stream of `httpcore` within the limits of the answer that is read."""

    def __init__(self, stream: Any, limits: AnswerLimits) -> None:
        self._stream, self._limits = stream, limits

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = self._limits.seconds_left()
        received: bytes = self._stream.read(max_bytes, left if timeout is None else min(left, timeout))
        self._limits.count(len(received))
        return received

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, *arguments: Any, **options: Any) -> _LimitedStream:
        return _LimitedStream(self._stream.start_tls(*arguments, **options), self._limits)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _refuse_compressed(response: Any) -> None:
    coding = response.headers.get("content-encoding", "identity")
    if coding != "identity":
        raise _library_of(response).DecodingError(f"the answer is compressed ({coding[:40]}), which was not asked for")


def _library_of(made: Any) -> Any:
    """The package of an object: `httpx` and `httpcore`, or their successors `httpx2` and `httpcore2`."""
    return importlib.import_module(type(made).__module__.partition(".")[0])
