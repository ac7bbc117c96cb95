"""Remote places for tests: fsspec's memory, and an S3-compatible server on this machine."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator

import fsspec
import pytest

from wsikit.store import place as place_module


class S3:
    """A server on localhost with an empty bucket."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        self._running = True
        self.url = f"s3://slides-{uuid.uuid4().hex[:8]}"

    def make_bucket(self) -> None:
        fsspec.filesystem("s3").mkdir(self.url)

    def stop(self) -> None:
        """The server is gone: nobody answers at its port."""
        if self._running:
            self._server.stop()
            self._running = False


def _forget_connections() -> None:
    """Clients keep the address that they were made with."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    place_module._filesystem.cache_clear()
    place_module._async_filesystem.cache_clear()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """An S3-compatible server of its own on a free port, with credentials that are good for nothing else."""
    for name in ("moto", "flask", "s3fs"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'wsikit[test]'")
    server = S3()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    _forget_connections()
    server.make_bucket()
    yield server
    server.stop()
    _forget_connections()


@pytest.fixture
def memory() -> Iterator[str]:
    """A URL in fsspec's memory with nothing below it."""
    root = f"memory://{uuid.uuid4().hex}"
    yield root
    file_system = fsspec.filesystem("memory")
    if file_system.exists(root):
        file_system.rm(root, recursive=True)


@pytest.fixture(params=["memory", "s3"])
def remote(request: pytest.FixtureRequest) -> str:
    """A remote folder that is empty, of either kind."""
    found = request.getfixturevalue(request.param)
    return found if isinstance(found, str) else str(found.url)
