"""Brings the request of a run to every worker of a cluster, also to those that start or restart later.

Imported only where a cluster is used: `distributed` takes a second to import.
"""

from __future__ import annotations

from typing import Any

from distributed import WorkerPlugin

from wsikit.batch import cluster_request


class RequestPlugin(WorkerPlugin):
    """The request, until the run ends."""

    def __init__(self, name: str, digest: str, payload: bytes) -> None:
        self.name, self.digest, self.payload = name, digest, payload

    def setup(self, worker: Any) -> None:
        """Called by each worker before its first task."""
        cluster_request.receive(self.digest, self.payload, worker.state.nthreads)

    def teardown(self, worker: Any) -> None:
        """Called at the end of the run, and of the worker."""
        cluster_request.forget(self.digest)
