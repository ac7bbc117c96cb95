"""A run as the workers of a cluster get it, and what each worker process holds of it: one model, one captioner.

A request is small: paths and settings, never pixels. It is sent to each worker once, also to those that come later
(`wsikit.batch.cluster_plugin`); the task of a slide carries its digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikit._lazy import Once, make_ahead
from wsikit.batch.entry import SlideEntry
from wsikit.batch.job import Resources
from wsikit.errors import RequestError
from wsikit.executor import Executor

if TYPE_CHECKING:
    from wsikit.batch.slide_work import Shared


@dataclass(frozen=True)
class ClusterRequest:
    """What all slides of a run share."""

    out: str
    folder: str
    """Working folder of the driver: paths may be relative to it."""
    settings: Mapping[str, Any]
    """Arguments of `wsikit.batch.prepare.prepare`, without the executor."""
    scheduler: str
    """Address of the scheduler."""
    blocks_from: int
    """Number of patches from which a slide that would make the run longer is cut into blocks for all workers."""
    gpus: bool
    """Whether workers declare GPUs, so that work on a device asks for one."""


def pack_request(request: ClusterRequest) -> tuple[str, bytes]:
    """The digest of a request, and the request as it is sent.

    Raises
    ------
    RequestError
        The model, the captioner or an encoder cannot be sent.
    """
    import cloudpickle

    try:
        payload: bytes = cloudpickle.dumps(request)
    except Exception as error:  # whatever their __reduce__ raises
        raise RequestError(
            f"the model, captioner or encoder cannot be sent to workers ({error}). Give it by its name or its folder."
        ) from error
    return hashlib.sha256(payload).hexdigest(), payload


class Held:
    """What a worker process holds of a run. Model and captioner are loaded when the first slide needs them."""

    def __init__(self, request: ClusterRequest, threads: int) -> None:
        self.request, self.threads = request, threads
        self.users = 0
        """Drivers that have sent this request."""
        self.shared: Once[Shared] = Once(self._prepare)
        self._first: SlideEntry | None = None
        self._lock = threading.Lock()
        self.resources = Resources(Once(self._load_ahead))
        self._closing = contextlib.ExitStack()

    def shared_for(self, entry: SlideEntry) -> Shared:
        """What the slides share; made at the first slide."""
        with self._lock:
            self._first = self._first or entry
        return self.shared()

    def _prepare(self) -> Shared:
        from wsikit.batch.prepare import prepare
        from wsikit.encoders.device import check_device
        from wsikit.worker_pool import shared_pool

        request = self.request
        check_device(request.settings["device"])
        self._closing.enter_context(shared_pool())
        executor = Executor(workers=self.threads)
        prepared = prepare([self._first], request.out, executor=executor, taken={}, **request.settings)
        shared = prepared.shared()
        shared.captioner.load()
        return shared

    def _load_ahead(self) -> None:
        make_ahead(self.shared().model.load)

    def close(self) -> None:
        """Stop its slides, and the processes that measure captions."""
        self.resources.stop()
        self._closing.close()


_held: dict[str, Held] = {}
_lock = threading.Lock()


def receive(digest: str, payload: bytes, threads: int) -> None:
    """Hold a request, in a worker process; its model is not loaded yet."""
    import cloudpickle

    with _lock:
        held = _held.get(digest)
        if held is None or held.resources.stopping.is_set():
            held = _held[digest] = Held(cloudpickle.loads(payload), threads)
        held.users += 1
    with contextlib.suppress(OSError):  # no such folder here: absolute paths do not need it
        os.chdir(held.request.folder)


def forget(digest: str) -> None:
    """Let go of a request that one of its drivers no longer needs."""
    with _lock:
        held = _held.get(digest)
        if held is None:
            return
        held.users -= 1
        if held.users > 0:
            return
        del _held[digest]
    held.close()


def stop(digest: str) -> None:
    """Stop the slides of a request at their next step."""
    held = _held.get(digest)
    if held is not None:
        held.resources.stop()


def held_request(digest: str) -> Held | None:
    """What this process holds of a request; None if its run has ended."""
    return _held.get(digest)


def sees(out: str, mark: str) -> bool:
    """Whether this process sees a file in the output folder, and may write there."""
    return Path(out, mark).is_file() and os.access(out, os.W_OK)
