"""Paths and URLs behave alike: writes are atomic, and an unreachable file is never treated as missing."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from wsikit.errors import RequestError, StoreError, UnreachableError
from wsikit.store.atomic import atomic_write, new_node, write_bytes, write_json
from wsikit.store.paths import bytes_below, is_local, is_url, place, read_range, remove_tree
from wsikit.store.shards import ShardedLevel, pack_shard


def test_a_path_stays_a_path_and_a_file_url_becomes_one(tmp_path: Path) -> None:
    assert type(place(tmp_path)) is type(tmp_path)
    assert place(f"file://{tmp_path}") == tmp_path
    assert is_local(place("C:/slides/x.zarr"))
    assert not is_url("x.zarr")
    assert is_url("memory://x.zarr")


def test_names_of_a_url_are_those_of_a_path() -> None:
    found = place("memory://bucket/slides//a.b.zarr/")
    assert str(found) == "memory://bucket/slides/a.b.zarr"
    assert (found.name, found.stem, found.suffix) == ("a.b.zarr", "a.b", ".zarr")
    assert found.parent / "c.zarr" == found.with_name("c.zarr") == place("memory://bucket/slides/c.zarr")
    assert place(str(found)) == pickle.loads(pickle.dumps(found)) == place(found) == found


@pytest.mark.parametrize("url", ["nowhere://x.zarr", "simplecache::memory://x.zarr"])
def test_an_unsupported_url_is_refused_with_a_message(url: str) -> None:
    with pytest.raises(RequestError, match=url):
        place(url)


def test_a_remote_place_is_never_opened_as_a_local_file() -> None:
    with pytest.raises(TypeError):
        Path(place("memory://x"))
    with pytest.raises(TypeError):
        open(place("memory://x"))  # noqa: SIM115


def fill(root: Path) -> None:
    for name in ("zarr.json", "0/zarr.json", "0/c/0/0/1", "1/zarr.json", "labels/note.txt"):
        write_bytes(root.joinpath(*name.split("/")), name.encode())


def listing(root: Path) -> dict[str, Any]:
    """Contents of a folder."""

    def below(paths: Any) -> list[str]:
        return sorted(str(path).removeprefix(str(root)) for path in paths)

    return {
        "here": below(root.iterdir()),
        "metadata": below(root.glob("*/zarr.json")),
        "fixed": below(root.glob("0/c/*/*/*")),
        "none": below((root / "none").glob("*")),
        "deep": below(root.rglob("zarr.json")),
        "partials": below(root.rglob("*.partial")),
        "kinds": [(root / name).is_file() for name in ("0", "zarr.json", "none")],
        "folders": [(root / name).is_dir() for name in ("0", "zarr.json", "none")],
        "exists": [(root / name).exists() for name in ("0", "zarr.json", "none")],
        "size": (root / "0" / "zarr.json").stat().st_size,
        "bytes": bytes_below(root),
        "text": (root / "labels" / "note.txt").read_text(encoding="utf-8"),
        "range": [read_range(root / "zarr.json", *span) for span in ((0, 4), (5, 99), (-4, 4), (-99, 99))],
    }


def test_a_remote_folder_lists_the_same_files_as_a_local_one(remote: str, tmp_path: Path) -> None:
    local, there = tmp_path / "x.zarr", place(f"{remote}/x.zarr")
    fill(local)
    fill(there)
    assert listing(there) == listing(local)
    for root in (local, there):
        (root / "0" / "zarr.json").unlink()
        remove_tree(root / "labels")
        assert sorted(path.name for path in root.iterdir()) == ["0", "1", "zarr.json"]
        with pytest.raises(FileNotFoundError):
            (root / "0" / "zarr.json").read_bytes()
        with pytest.raises(FileNotFoundError):
            read_range(root / "0" / "zarr.json", -8, 8)
        (root / "0" / "zarr.json").unlink(missing_ok=True)


def test_a_remote_file_is_written_atomically(memory: str) -> None:
    target = place(memory) / "a" / "b.json"
    write_json(target, {"x": 1})
    with pytest.raises(RuntimeError), atomic_write(target) as partial:  # noqa: PT012
        partial.write_text('{"x": ')
        raise RuntimeError
    assert json.loads(target.read_text()) == {"x": 1}
    with atomic_write(target) as partial:
        partial.write_text("{}")
    assert target.read_text() == "{}"
    assert [path.name for path in target.parent.iterdir()] == ["b.json"]


def make_node(folder: Path, value: str) -> None:
    with new_node(folder) as partial:
        write_json(partial / "zarr.json", {"wsikit": value})
        write_json(partial / "a" / "zarr.json", {"wsikit": value})
        write_json(partial / value / "zarr.json", {"wsikit": value})


def test_a_remote_node_replaces_the_previous_one_completely(remote: str) -> None:
    folder = place(remote) / "node"
    make_node(folder, "old")
    make_node(folder, "new")
    assert sorted(path.name for path in folder.iterdir()) == ["a", "new", "zarr.json"]
    assert json.loads((folder / "zarr.json").read_text()) == {"wsikit": "new"}


def test_a_remote_folder_that_wsikit_did_not_write_is_never_replaced(remote: str) -> None:
    theirs = place(remote) / "label"
    write_bytes(theirs / "thesis.txt", b"mine")
    with pytest.raises(StoreError, match="did not write"):
        make_node(theirs, "x")
    assert [path.name for path in theirs.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("sent", range(4))
def test_an_interrupted_upload_of_a_node_leaves_no_node_and_is_repeated(
    memory: str, sent: int, memory_writes: Callable[[int | None], list[str]]
) -> None:
    folder = place(memory) / "node"
    make_node(folder, "old")
    memory_writes(sent)
    with pytest.raises(UnreachableError, match="connection lost"):
        make_node(folder, "new")
    memory_writes(None)
    assert sent == 0 or not (folder / "zarr.json").exists(), "half of a node must not open"
    make_node(folder, "new")
    assert sorted(path.name for path in folder.iterdir()) == ["a", "new", "zarr.json"]


def test_an_unreachable_server_is_not_an_empty_folder(s3_to_lose: tuple[str, Callable[[], None]]) -> None:
    url, lose = s3_to_lose
    folder = place(url) / "x.zarr"
    write_json(folder / "zarr.json", {})
    lose()
    reads: list[Callable[[], Any]] = [
        folder.exists,
        (folder / "zarr.json").is_file,
        lambda: list(folder.glob("*/zarr.json")),
        (folder / "zarr.json").read_bytes,
        lambda: write_json(folder / "zarr.json", {}),
    ]
    for read in reads:
        with pytest.raises(UnreachableError, match=r"s3://slides-.*x\.zarr"):
            read()


def test_a_missing_bucket_is_reported_as_missing(s3: str) -> None:
    with pytest.raises(UnreachableError, match="s3://no-such-bucket/x: .*bucket does not exist"):
        write_bytes(place("s3://no-such-bucket/x"), b"1")


def test_the_chunks_of_a_remote_shard_are_read_in_one_request(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place(memory) / "0"
    chunks = [b"a" * 5, None, b"c" * 7, b"d"]
    write_bytes(folder / "c/0/0/0", pack_shard(chunks))
    asked: list[str] = []
    original = MemoryFileSystem.cat_file

    def cat_file(self: MemoryFileSystem, path: str, *arguments: Any, **options: Any) -> bytes:
        asked.append(path)
        return original(self, path, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    shards = ShardedLevel(folder, 2)
    assert [shards.chunk(col, row) for row in range(2) for col in range(2)] == chunks
    assert len(asked) == 1
    assert shards.chunk(5, 5) is None
    assert shards.chunk(4, 4) is None
    assert len(asked) == 2, "a shard that is not there is asked for once"


def test_a_long_remote_shard_is_read_in_ranges(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsikit.store.shards._TAIL_BYTES", 100)
    folder = place(remote) / "0"
    chunks = [b"a" * 50, b"b" * 60, None, b"d" * 5]
    write_bytes(folder / "c/0/0/0", pack_shard(chunks))
    shards = ShardedLevel(folder, 2)
    assert [shards.chunk(col, row) for row in range(2) for col in range(2)] == chunks


@pytest.mark.parametrize("fault", ["chunk", "index", "tail"])
def test_a_damaged_remote_shard_is_noticed_and_named(memory: str, fault: str) -> None:
    path = place(memory) / "0/c/0/0/0"
    data = bytearray(pack_shard([b"a" * 50, b"b" * 60, None, b"d" * 5]))
    if fault == "tail":
        data = data[:-7]
    else:
        data[20 if fault == "chunk" else -30] ^= 1
    write_bytes(path, data)
    with pytest.raises(StoreError, match="0/c/0/0/0"):
        ShardedLevel(place(memory) / "0", 2).chunk(0, 0)
