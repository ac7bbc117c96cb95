"""Shards: zarr reads what we pack, and damage is noticed."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import zarr

from wsikit.errors import StoreError
from wsikit.store.atomic import atomic_write, replace_folder, write_bytes, write_json
from wsikit.store.level_format import LevelFormat
from wsikit.store.shards import NO_HEADER, Chunks, ShardedLevel, SharedHeader, pack_shard, read_index

TILE, SIDE = 32, 2


def jpeg(value: int) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(np.full((TILE, TILE, 3), value, np.uint8), level=95))


@pytest.fixture
def level(tmp_path: Path) -> Path:
    """A level of 100 × 70 px in 32-px tiles, 2 × 2 tiles a shard; tile (1, 0) and shard (1, 1) are left out."""
    folder = tmp_path / "0"
    record = LevelFormat(100, 70, (TILE, TILE), "jpeg", chunks_per_shard=SIDE).to_zarr({})
    write_json(folder / "zarr.json", record)
    write_bytes(folder / "c/0/0/0", pack_shard([jpeg(10), None, jpeg(30), jpeg(40)]))
    write_bytes(folder / "c/0/0/1", pack_shard([jpeg(50), jpeg(60), jpeg(70), jpeg(80)]))
    write_bytes(folder / "c/0/1/0", pack_shard([jpeg(90), jpeg(100), None, None]))
    return folder


def test_zarr_reads_packed_shards_with_edges_and_missing_chunks(level: Path) -> None:
    array = zarr.open_array(level, mode="r")[:]
    assert array.shape == (3, 70, 100)
    assert array[:, 0, 0].tolist() == [10] * 3
    assert array[:, 0, 40].tolist() == [255] * 3, "a missing tile is the fill value"
    assert array[:, 69, 99].tolist() == [255] * 3, "a missing shard is the fill value"
    assert array[:, 31, 99].tolist() == [60] * 3, "an edge tile is cropped, not scaled"
    assert array[:, 65, 0].tolist() == [90] * 3


def test_chunks_are_found_by_column_and_row(level: Path) -> None:
    shards = ShardedLevel(level, SIDE)
    assert shards.chunk(0, 1) == jpeg(30)
    assert shards.chunk(3, 0) == jpeg(60)
    assert shards.chunk(1, 0) is None
    assert shards.chunk(2, 2) is None
    shards.close()


def test_chunks_in_two_pieces_pack_to_the_same_bytes_as_whole_ones() -> None:
    head, bodies = SharedHeader(b"header"), [b"first", b"second one", b""]
    buffer = np.frombuffer(b"".join(bodies), np.uint8)
    chunks = Chunks(5)
    assert not chunks
    assert chunks.first() is None
    chunks.put_all([3, 1], head, [buffer[5:15], buffer[:5]])
    chunks.put(4, NO_HEADER, b"alone")
    assert chunks
    assert chunks.first() == b"headerfirst"
    whole = [None, b"headerfirst", None, b"headersecond one", b"alone"]
    assert b"".join(map(bytes, chunks.pieces())) == pack_shard(whole)
    assert any(piece is buffer or getattr(piece, "base", None) is not None for piece in chunks.pieces()), "not copied"


def test_more_shards_than_may_be_open_are_read(level: Path) -> None:
    shards = ShardedLevel(level, SIDE, max_open=1)
    for _ in range(3):
        assert shards.chunk(0, 0) == jpeg(10)
        assert shards.chunk(2, 0) == jpeg(50)
    shards.close()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs a list of open files")
def test_a_level_that_nothing_refers_to_any_more_leaves_no_open_file(level: Path) -> None:
    for _ in range(3):
        assert ShardedLevel(level, SIDE).chunk(0, 0) is not None
    gc.collect()
    opened = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert not [path for path in opened if path.startswith(str(level))]


@pytest.mark.parametrize("place", ["chunk", "index", "tail"])
def test_a_flipped_byte_or_a_truncated_file_raises_and_names_the_file(level: Path, place: str) -> None:
    path = level / "c/0/0/0"
    data = bytearray(path.read_bytes())
    if place == "tail":
        data = data[:-7]
    else:
        data[20 if place == "chunk" else -30] ^= 1
    path.write_bytes(data)
    shards = ShardedLevel(level, SIDE)
    with pytest.raises(StoreError, match="c/0/0/0"):
        shards.chunk(0, 0)


def test_a_missing_shard_has_no_index(tmp_path: Path) -> None:
    assert read_index(tmp_path / "none", SIDE) is None


def test_an_array_of_encoded_bytes_cannot_be_written_through_zarr(level: Path) -> None:
    before = (level / "c/0/0/0").read_bytes()
    array = zarr.open_array(level, mode="r+")
    with pytest.raises(Exception):  # noqa: B017, PT011 - which one depends on who brings the codec
        array[:, :64, :64] = 0
    assert (level / "c/0/0/0").read_bytes() == before


def test_an_interrupted_atomic_write_leaves_no_file(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.json"
    write_json(target, {"x": 1})
    with pytest.raises(RuntimeError), atomic_write(target) as partial:  # noqa: PT012
        partial.write_text('{"x": ')
        raise RuntimeError
    assert json.loads(target.read_text()) == {"x": 1}
    assert [path.name for path in target.parent.iterdir()] == ["b.json"]


def test_a_folder_that_wsikit_did_not_write_is_never_replaced(tmp_path: Path) -> None:
    theirs = tmp_path / "label"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("mine")
    ours = tmp_path / "partial"
    ours.mkdir()
    with pytest.raises(StoreError, match="did not write"):
        replace_folder(ours, theirs)
    assert (theirs / "thesis.txt").read_text() == "mine"
