"""A full disk, a slide that vanishes, a slide that changes while it is read: one clear line, and nothing is lost."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from wsikit.errors import SlideError, StoreError
from wsikit.executor import Executor
from wsikit.slides.store import SlideStore
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile
from wsikit.tiling.verify import verify

SMALL = ImageParameters(tile_px=64, chunks_per_shard=2, codec="zstd", regions="all")


class Listener:
    """Does something when the given number of shards is written."""

    def __init__(self, after: int, then: Callable[[], object]) -> None:
        self.left, self.then, self.stage = after, then, ""

    def start(self, stage: str, total: int, unit: str) -> None:
        self.stage = stage

    def advance(self, done: int = 1) -> None:
        if self.stage == "pixels":
            self.left -= done
            if self.left == 0:
                self.then()

    def finish(self) -> None:
        return None


def make(slide: Path, store: Path, listener: Listener | None = None) -> SlideStore:
    progress = {"progress": listener} if listener else {}
    return tile(
        slide,
        store,
        slide_id="s",
        image=SMALL,
        patch_px=128,
        executor=Executor(workers=1),
        **progress,  # type: ignore[arg-type]
    )


@pytest.fixture
def no_room() -> Iterator[Callable[[int], None]]:
    """From now on the system refuses to write files larger than so many bytes, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_reported_with_slide_and_region_and_the_next_run_continues(
    slide_path: Path, tmp_path: Path, no_room: Callable[[int], None], contents: Callable[[Path], dict[str, str]]
) -> None:
    make(slide_path, tmp_path / "whole.zarr")
    store = tmp_path / "s.zarr"
    with pytest.raises(StoreError) as caught:
        make(slide_path, store, Listener(20, lambda: no_room(4000)))
    message = str(caught.value)
    assert "File too large" in message
    assert str(slide_path) in message
    assert "level 0, x=" in message
    assert "run again" in message
    no_room(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    with pytest.raises(StoreError, match="not a complete slide store"):
        SlideStore(store)
    assert not list(store.rglob("*.partial")), "no half-written file is left"
    assert len(list((store / "0").rglob("c/0/*/*"))) >= 20
    make(slide_path, store)
    assert contents(store) == contents(tmp_path / "whole.zarr")


def test_a_removed_slide_is_not_recorded_as_unreadable_tiles(
    slide_path: Path, tmp_path: Path, contents: Callable[[Path], dict[str, str]]
) -> None:
    make(slide_path, tmp_path / "whole.zarr")
    away = tmp_path / "away.tiff"

    def vanish() -> None:
        shutil.copyfile(slide_path, away)
        shutil.copystat(slide_path, away)
        with open(slide_path, "r+b") as file:
            file.truncate(0)  # reads of the open file come back empty
        slide_path.unlink()

    with pytest.raises(SlideError, match="no longer be read at the end"):
        make(slide_path, tmp_path / "s.zarr", Listener(20, vanish))
    with pytest.raises(StoreError, match="not a complete slide store"):
        SlideStore(tmp_path / "s.zarr")
    shutil.move(away, slide_path)
    store = make(slide_path, tmp_path / "s.zarr")
    assert store.level_record(0)["unreadable_tiles"] == []
    assert contents(store.folder) == contents(tmp_path / "whole.zarr")


def test_a_slide_that_is_still_being_copied_is_refused_at_the_end(slide_path: Path, tmp_path: Path) -> None:
    def grow() -> None:
        with open(slide_path, "ab") as file:
            file.write(b"more")

    with pytest.raises(SlideError, match="changed while it was read"):
        make(slide_path, tmp_path / "s.zarr", Listener(5, grow))
    assert verify(make(slide_path, tmp_path / "s.zarr"), source=slide_path).problems == ()


def test_a_run_with_other_parameters_does_not_reuse_an_interrupted_one(
    slide_path: Path,
    tmp_path: Path,
    pixels: npt.NDArray[np.uint8],
    write_slide: Callable[..., Path],
    contents: Callable[[Path], dict[str, str]],
) -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    with pytest.raises(StopError):
        make(slide_path, tmp_path / "s.zarr", Listener(20, stop))
    write_slide(slide_path, np.ascontiguousarray(pixels[::-1]))
    again = make(slide_path, tmp_path / "s.zarr")
    assert contents(again.folder) == contents(make(slide_path, tmp_path / "fresh.zarr").folder)


def test_a_plan_left_by_a_kill_after_the_commit_is_removed(
    slide_path: Path, tmp_path: Path, contents: Callable[[Path], dict[str, str]]
) -> None:
    store = tmp_path / "s.zarr"
    make(slide_path, store)
    before = contents(store)
    (store / "wsikit-plan").mkdir()
    (store / "wsikit-plan" / "plan.json").write_text("{}")
    make(slide_path, store)
    assert contents(store) == before


def test_only_temporary_files_of_wsikit_are_removed(slide_path: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    make(slide_path, store)
    theirs, ours = store / "notes.partial", store / f"zarr.json.{'0a' * 16}.partial"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("mine")
    ours.write_text("half")
    make(slide_path, store)
    assert (theirs / "thesis.txt").read_text() == "mine"
    assert not ours.exists()
