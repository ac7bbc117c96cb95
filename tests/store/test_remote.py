"""A slide store at a URL: the same as on a disk, resumable, and never white where the server does not answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

from wsikit.batch.manifest import collect
from wsikit.cli.main import main
from wsikit.errors import RequestError, StoreError, UnreachableError, UnsupportedSlideError
from wsikit.executor import Executor
from wsikit.geometry import PatchGrid
from wsikit.inference.caption import caption
from wsikit.results.export import export
from wsikit.slides.registry import open_slide
from wsikit.slides.store import SlideStore
from wsikit.store.paths import place
from wsikit.store.receipts import Receipt
from wsikit.store.remote import RemotePath
from wsikit.store.table import ROWS_PER_CHUNK, ColumnSpec, PatchTable
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.stream import read_patches
from wsikit.tiling.tile import tile
from wsikit.tiling.verify import verify

TWO = Executor("threads", 2)
MADE = Receipt("test", 1)


@pytest.fixture
def local(slide_path: Path, tmp_path: Path) -> SlideStore:
    """The same slide in a store on a disk."""
    return tile(slide_path, tmp_path / "local" / "x.zarr", executor=TWO)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a store by its name in it."""
    return {
        str(path).removeprefix(str(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_a_remote_store_is_the_local_one_at_another_place(slide_path: Path, local: SlideStore, remote: str) -> None:
    url = f"{remote}/x.zarr"
    tile(slide_path, url, executor=TWO)
    assert files(place(url)) == files(local.folder)
    with SlideStore(url) as store:
        box = (0, 0, *store.dimensions)
        assert np.array_equal(store.read_box(0, box), local.read_box(0, box))
        table, truth = store.patches(), local.patches()
        assert table.columns() == truth.columns()
        assert np.array_equal(table.coords, truth.coords)
        for name in set(table.columns()) - {"coords"}:
            assert np.array_equal(table.read(name), truth.read(name), equal_nan=True), name
        assert store.findings() == local.findings()
    verdict = verify(url, source=slide_path)
    assert verdict.ok, verdict.problems
    assert verdict.shards


def test_captions_and_exports_of_a_remote_store_equal_those_of_a_local_one(
    slide_path: Path, local: SlideStore, memory: str, tmp_path: Path
) -> None:
    url = f"{memory}/x.zarr"
    tile(slide_path, url, executor=TWO)
    said = caption(url, executor=TWO).read("caption")
    assert said.tolist() == caption(local, executor=TWO).read("caption").tolist()
    for to in ("csv", "tiff"):
        here, there = tmp_path / f"here.{to}", f"{memory}/there.{to}"
        export(local, to, here)
        export(url, to, there)
        assert place(there).read_bytes() == here.read_bytes()


def test_zarr_opens_a_remote_store_by_its_url(slide_path: Path, s3: str, pixels: npt.NDArray[np.uint8]) -> None:
    url = f"{s3}/x.zarr"
    tile(slide_path, url, executor=TWO)
    group = zarr.open_group(url, mode="r")
    level = group["0"][:].transpose(1, 2, 0)
    assert level.shape == pixels.shape
    assert np.abs(level.astype(int) - pixels).mean() < 3
    assert group["patches/0.5um_224px/coords"].shape[1] == 2


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.95])
def test_an_interrupted_upload_is_not_a_store_and_is_finished_by_the_next_run(
    slide_path: Path,
    local: SlideStore,
    memory: str,
    memory_writes: Callable[[int | None], list[str]],
    share: float,
) -> None:
    one = Executor("threads", 1)
    whole = memory_writes(None)
    tile(slide_path, f"{memory}/whole.zarr", slide_id="x", executor=one)
    url = f"{memory}/x.zarr"
    first = memory_writes(int(share * len(whole)))
    with pytest.raises(UnreachableError, match="connection lost"):
        tile(slide_path, url, executor=one)
    if not (place(url) / "zarr.json").exists():
        with pytest.raises(StoreError, match="not a complete slide store"):
            SlideStore(url)
    second = memory_writes(None)
    tile(slide_path, url, executor=one)
    assert files(place(url)) == files(local.folder)
    shards = [name for name in first if "/c/0/" in name and "/patches/" not in name and "/labels/" not in name]
    assert not set(shards) & set(second), "what had arrived is not sent again"
    verdict = verify(url)
    assert verdict.ok, verdict.problems


def test_a_remote_column_with_a_missing_chunk_is_not_complete(remote: str) -> None:
    grid = PatchGrid((100_000, 100_000), (0.25, 0.25), 224, 0.5)
    table = PatchTable.create(f"{remote}/{grid.name}", grid, grid.all_coords()[: ROWS_PER_CHUNK + 9], MADE)
    specs = [ColumnSpec("gate", "float32"), ColumnSpec("probability", "float32", 2)]
    assert table.receipt("gate") is None
    first, second = table.prepare(specs, MADE)
    table.write("gate", second, np.zeros(9))
    table.write("probability", first, np.zeros((ROWS_PER_CHUNK, 2)))
    assert table.columns() == ["coords"]
    for spec, rows in zip(specs, (first, second)):
        with pytest.raises(StoreError, match="1 of 2 parts"):
            table.read(spec.name)
        assert PatchTable(table.folder).prepare([spec], MADE) == [rows]
    table.write("gate", first, np.zeros(ROWS_PER_CHUNK))
    table.write("probability", second, np.zeros((9, 2)))
    assert table.columns() == ["coords", "gate", "probability"]
    table.write_vote("mean", {"label": 1}, MADE)
    assert table.votes() == {"mean": {"label": 1}}
    assert table.vote_receipt("mean") == MADE


def test_without_an_answer_nothing_is_white_or_missing(
    slide_path: Path, s3_to_lose: tuple[str, Callable[[], None]]
) -> None:
    bucket, lose = s3_to_lose
    url = f"{bucket}/x.zarr"
    store = tile(slide_path, url, executor=TWO)
    table = store.patches()
    coords = table.coords
    fresh = SlideStore(url)
    lose()
    reads: list[Callable[[], Any]] = [
        lambda: fresh.read_box(0, (0, 0, 300, 300)),
        lambda: read_patches(fresh, table.grid, coords[:3]),
        lambda: table.read("tissue"),
        lambda: SlideStore(url),
        lambda: verify(fresh),
    ]
    for read in reads:
        with pytest.raises(UnreachableError, match=r"s3://slides-\w+/x\.zarr"):
            read()


def test_a_server_that_goes_while_a_store_is_written_ends_the_command_in_one_line(
    slide_path: Path,
    s3_to_lose: tuple[str, Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bucket, lose = s3_to_lose
    upload, left = RemotePath.upload, [3]

    def upload_some(self: RemotePath, *arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            lose()
        return upload(self, *arguments, **options)

    monkeypatch.setattr(RemotePath, "upload", upload_some)
    assert call("tile", slide_path, "-o", f"{bucket}/x.zarr", "--workers", 1) == 1
    assert left[0] <= 0  # it was there at first
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("wsikit: ")]
    assert len(said) == 1
    assert f"{bucket}/x.zarr" in said[0]


def call(*arguments: object) -> int:
    """Exit status of `wsikit ARGUMENTS`."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_every_verb_takes_a_url(slide_path: Path, s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{s3}/slides/x.zarr"
    assert call("tile", slide_path, "-o", url) == 0
    assert f"{url}: " in capsys.readouterr().out
    assert call("info", "--json", url) == 0
    assert json.loads(capsys.readouterr().out)["path"] == url
    assert call("verify", url, "--source", slide_path) == 0
    assert call("export", url, "--to", "png", "-o", tmp_path / "map.png") == 0
    assert (tmp_path / "map.png").stat().st_size > 1000
    assert call("tile", slide_path, "-o", f"{s3}/folder") == 0
    assert (place(s3) / "folder" / "disc.zarr" / "zarr.json").is_file()
    assert [(entry.slide_id, entry.path) for entry in collect([f"{s3}/slides", url])] == [("x", url)]


def test_a_folder_that_is_not_a_store_is_refused_with_a_message(
    slide_path: Path, memory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnsupportedSlideError, match="slide stores"):
        open_slide(f"{memory}/x.svs")
    with pytest.raises(StoreError, match="not a complete slide store"):
        open_slide(f"{memory}/x.zarr")
    with pytest.raises(RequestError, match="no such file"):
        collect([f"{memory}/x.zarr"])
    assert call("run", slide_path, "-o", f"{memory}/out") == 2
    assert "local folder" in capsys.readouterr().err


def test_a_remote_store_can_be_tiled_again_as_any_slide(slide_path: Path, memory: str, tmp_path: Path) -> None:
    tile(slide_path, f"{memory}/x.zarr", executor=TWO)
    again = tile(f"{memory}/x.zarr", tmp_path / "again.zarr", executor=TWO)
    assert again.dimensions == SlideStore(f"{memory}/x.zarr").dimensions
    assert verify(again, source=f"{memory}/x.zarr").ok


def test_a_remote_store_without_pixels_reads_the_slide_on_the_disk(
    slide_path: Path, memory: str, pixels: npt.NDArray[np.uint8]
) -> None:
    image = ImageParameters(pixels="none")
    store = tile(slide_path, f"{memory}/x.zarr", image=image, executor=TWO)
    assert np.array_equal(store.read_box(0, (300, 200, 400, 300)), pixels[200:500, 300:700])
    slide_path.rename(slide_path.with_name("elsewhere.tiff"))
    with pytest.raises(StoreError, match="is not there"):
        SlideStore(f"{memory}/x.zarr")
