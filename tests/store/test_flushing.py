"""Files that are flushed together are all on the disk before they are relied on, and a disk that fails is named."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from wsikit.errors import StoreError
from wsikit.store import flushing as module
from wsikit.store.atomic import write_bytes
from wsikit.store.flushing import Flushing

MANY = 5 * module._ROUND + 3


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / str(number) for number in range(MANY)]
    for path in paths:
        write_bytes(path, b"x", sync=False)
    return paths


def record_flushes(monkeypatch: pytest.MonkeyPatch, fails: Path | None = None) -> list[int]:
    """Inodes in the order of their flushes; that of `fails` is refused by the disk."""
    flushed: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        if fails is not None and inode == fails.stat().st_ino:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)
        flushed.append(inode)

    monkeypatch.setattr(os, "fsync", fsync)
    return flushed


@pytest.mark.parametrize("linux", [True, False], ids=["begun early", "other systems"])
def test_every_file_is_flushed_once_before_the_context_ends(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, linux: bool
) -> None:
    if not linux:
        monkeypatch.setattr(module, "_sync_file_range", None)
    flushed = record_flushes(monkeypatch)
    with Flushing() as flushing:
        for path in files:
            flushing.add(path)
    assert sorted(flushed) == sorted(path.stat().st_ino for path in files)


def test_waiting_in_between_leaves_nothing_open(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = record_flushes(monkeypatch)
    with Flushing() as flushing:
        for path in files[:20]:
            flushing.add(path)
        flushing.wait()
        assert len(flushed) == 20
        flushing.add(files[20])
    assert len(flushed) == 21


@pytest.mark.parametrize("position", [0, MANY - 1], ids=["while others are written", "at the end"])
def test_a_file_that_the_disk_refuses_is_named(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    record_flushes(monkeypatch, fails=files[position])
    with pytest.raises(StoreError, match=f"{files[position]}: cannot be written \\(Input/output error\\)"):
        flush(files)


def flush(files: list[Path]) -> None:
    with Flushing() as flushing:
        for path in files:
            flushing.add(path)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted by Linux")
@pytest.mark.parametrize("error", [False, True])
def test_no_file_stays_open_and_few_are_open_at_a_time(files: list[Path], error: bool) -> None:
    before = len(os.listdir("/proc/self/fd"))
    most = 0
    try:
        with Flushing() as flushing:
            for path in files:
                flushing.add(path)
                most = max(most, len(os.listdir("/proc/self/fd")) - before)
            if error:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert error
    assert len(os.listdir("/proc/self/fd")) == before
    assert most <= (module._MOST_ROUNDS + 2) * module._ROUND
