"""Remote places for tests: fsspec's memory, and an S3-compatible server on this machine."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from wsikit.store.remote import async_filesystem, filesystem


class Server:
    """An S3-compatible server on localhost, at a free port."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"

    def stop(self) -> None:
        """Stop the server."""
        self._server.stop()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server for all tests that leave it alive."""
    for name in ("moto", "flask", "s3fs"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'wsikit[test]'")
    found = Server()
    yield found
    found.stop()


@pytest.fixture
def new_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Server], str]]:
    """Makes a bucket on a server and points s3:// there, with credentials that are good for nothing else."""

    def make(server: Server) -> str:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        settings = {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        _forget_connections()
        url = f"s3://slides-{uuid.uuid4().hex[:8]}"
        fsspec.filesystem("s3").mkdir(url)
        return url

    yield make
    _forget_connections()


def _forget_connections() -> None:
    """Clients cache the address of their server."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    filesystem.cache_clear()
    async_filesystem.cache_clear()


@pytest.fixture
def s3(server: Server, new_bucket: Callable[[Server], str]) -> str:
    """URL of an empty bucket."""
    return new_bucket(server)


@pytest.fixture
def s3_to_lose(server: Server, new_bucket: Callable[[Server], str]) -> Iterator[tuple[str, Callable[[], None]]]:
    """URL of an empty bucket on its own server, and a function that stops this server."""
    own = Server()
    yield new_bucket(own), own.stop
    own.stop()


@pytest.fixture
def memory() -> Iterator[str]:
    """A URL in fsspec's memory with nothing below it."""
    root = f"memory://{uuid.uuid4().hex}"
    yield root
    file_system = fsspec.filesystem("memory")
    if file_system.exists(root):
        file_system.rm(root, recursive=True)


@pytest.fixture
def memory_writes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[str]]:
    """Call it with a number: the names of what is written to memory from now on; after so many, all writes fail."""
    original = MemoryFileSystem._open

    def watch(allowed: int | None) -> list[str]:
        written: list[str] = []

        def _open(self: MemoryFileSystem, path: str, mode: str = "rb", **options: Any) -> Any:
            if "r" not in mode:
                if allowed is not None and len(written) >= allowed:
                    raise ConnectionResetError("connection lost")
                written.append(path)
            return original(self, path, mode, **options)

        monkeypatch.setattr(MemoryFileSystem, "_open", _open)
        return written

    return watch


@pytest.fixture(params=["memory", "s3"])
def remote(request: pytest.FixtureRequest) -> str:
    """A remote folder that is empty, of either kind."""
    return str(request.getfixturevalue(request.param))
