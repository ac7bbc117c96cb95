"""A store that lost a file: its pixels are unknown, never white, and the next run writes exactly that file again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from wsikit.errors import ReadError, StoreError
from wsikit.executor import Executor
from wsikit.inference.caption import caption
from wsikit.slides.store import SlideStore
from wsikit.store.level_files import BYTES, NO_OBJECTS, places_of, runs_of
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile
from wsikit.tiling.verify import verify
from wsikit.tissue.quality import QUALITY_NAMES

SMALL = ImageParameters(tile_px=64, chunks_per_shard=4, regions="all")
TISSUE_ONLY = ImageParameters(tile_px=64, chunks_per_shard=2, regions="tissue")
PORTABLE = ImageParameters(tile_px=64, profile="portable")
KINDS = {"all": SMALL, "tissue": TISSUE_ONLY, "portable": PORTABLE}
Contents = Callable[[Path], dict[str, str]]


@pytest.fixture(autouse=True)
def _small_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Background is left out of levels above 500 px, and coarser levels are built."""
    monkeypatch.setattr("wsikit.tiling.regions.SMALLEST_LEVEL_PX", 500)
    monkeypatch.setattr("wsikit.tiling.plan.SMALLEST_LEVEL_PX", 500)


def make(slide: Path, store: Path, kind: str = "all") -> SlideStore:
    return tile(slide, store, image=KINDS[kind], patch_px=128, executor=Executor(workers=2))


def jpeg_slide(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """A slide whose tiles are passed through."""
    options: dict[str, Any] = {"tile": (64, 64), "compression": "jpeg", "photometric": "ycbcr"}
    tifffile.imwrite(path, pixels, resolution=(20_000, 20_000), resolutionunit="CENTIMETER", metadata=None, **options)
    return path


def stored(store: Path, level: int = 0) -> Path:
    """A file of the middle of a level, where there is tissue."""
    files = sorted(path for path in (store / str(level)).rglob("*") if path.is_file() and path.name.isdigit())
    return files[len(files) // 2]


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: max(len(content) - 100, len(content) // 2)])


def of_earlier_version(store: Path) -> None:
    """Remove what earlier versions did not record."""
    for path in store.glob("*/zarr.json"):
        record = json.loads(path.read_text())
        for name in (NO_OBJECTS, BYTES):
            record["attributes"].get("wsikit", {}).pop(name, None)
        path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def read_all(store: SlideStore, level: int = 0) -> None:
    store.read_box(level, (0, 0, *store.level_dimensions[level]))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_file_is_unreadable_and_listed(slide_path: Path, tmp_path: Path, kind: str, old: bool) -> None:
    folder = make(slide_path, tmp_path / "s.zarr", kind).folder
    if old:
        of_earlier_version(folder)
    whole = SlideStore(folder)
    read_all(whole)
    assert whole.unreadable_tiles == [[] for _ in whole.level_dimensions]
    assert verify(whole).ok
    lost = stored(folder)
    lost.unlink()
    store = SlideStore(folder)
    with pytest.raises(ReadError, match="the file is missing") as error:
        read_all(store)
    if not (old and kind == "tissue"):  # an earlier version states only how many tiles were left out
        assert str(lost) in str(error.value)
    assert store.unreadable_tiles[0]
    assert not any(store.unreadable_tiles[1:])
    assert str(lost) in store.damaged_files()
    assert any(str(lost) in problem for problem in verify(store).problems)


@pytest.mark.parametrize("harm", ["missing", "cut", "empty", "level", "metadata", "no shards"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_lost_is_written_again_and_nothing_else(
    slide_path: Path, tmp_path: Path, kind: str, harm: str, contents: Contents
) -> None:
    folder = make(slide_path, tmp_path / "s.zarr", kind).folder
    caption(folder)
    before = contents(folder)
    level, lost = folder / "0", stored(folder)
    if harm == "missing":
        lost.unlink()
    elif harm == "cut":
        cut(lost)
    elif harm == "empty":
        lost.write_bytes(b"")
    elif harm == "level":
        shutil.rmtree(level)
    elif harm == "metadata":
        (level / "zarr.json").unlink()
    else:
        shutil.rmtree(level / "c")
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path != lost}
    make(slide_path, folder, kind)
    assert contents(folder) == before
    written = {path for path, time in kept.items() if path.stat().st_mtime_ns != time}
    assert not {path for path in written if "patches" in path.parts or "labels" in path.parts}
    if harm in ("missing", "cut", "empty"):
        assert not {path for path in written if path.name.isdigit() and path.parent.parent.name != "associated"}


@pytest.mark.parametrize("kind", ["all", "tissue", "portable"])
def test_a_store_of_an_earlier_version_gets_its_file_back(
    slide_path: Path, tmp_path: Path, kind: str, contents: Contents
) -> None:
    folder = make(slide_path, tmp_path / "s.zarr", kind).folder
    before = contents(folder)
    of_earlier_version(folder)
    stored(folder).unlink()
    stored(folder, 1).unlink()
    make(slide_path, folder, kind)
    after = contents(folder)
    assert {name for name in before if before[name] != after.get(name)} <= {"2/zarr.json"}
    assert set(after) == set(before)


def test_a_repair_that_was_interrupted_is_finished(
    slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: Contents
) -> None:
    folder = make(slide_path, tmp_path / "s.zarr").folder
    before = contents(folder)
    lost = sorted(path for path in (folder / "0" / "c").rglob("*") if path.is_file())[3:6]
    for path in lost:
        path.unlink()
    with monkeypatch.context() as patched:
        from wsikit.tiling import shard

        write = shard.write_pieces

        def once(path: Path, pieces: list[bytes]) -> None:
            if path == lost[1]:
                raise KeyboardInterrupt
            write(path, pieces)

        patched.setattr(shard, "write_pieces", once)
        with pytest.raises(KeyboardInterrupt):
            tile(slide_path, folder, image=SMALL, patch_px=128, executor=Executor(workers=1))
    with pytest.raises(ReadError):
        read_all(SlideStore(folder))
    make(slide_path, folder)
    assert contents(folder) == before


def test_passed_tiles_come_back_from_the_slide(
    tmp_path: Path, pixels: npt.NDArray[np.uint8], contents: Contents
) -> None:
    slide = jpeg_slide(tmp_path / "s.tiff", pixels)
    folder = make(slide, tmp_path / "s.zarr").folder
    before = contents(folder)
    stored(folder).unlink()
    assert not verify(folder, source=slide).ok
    make(slide, folder)
    assert contents(folder) == before
    assert verify(folder, source=slide).ok


def test_nothing_is_computed_from_a_store_with_lost_files(slide_path: Path, tmp_path: Path) -> None:
    folder = make(slide_path, tmp_path / "s.zarr").folder
    stored(folder).unlink()
    with pytest.raises(StoreError, match="the file is missing.*wsikit tile"):
        caption(folder)


def test_the_tissue_label_does_not_turn_into_glass(slide_path: Path, tmp_path: Path, contents: Contents) -> None:
    for kind in ("all", "tissue"):
        folder = make(slide_path, tmp_path / f"{kind}.zarr", kind).folder
        before = contents(folder)
        for harm in (Path.unlink, cut):
            harm(folder / "labels" / "tissue" / "0" / "c" / "0" / "0")
            with pytest.raises(StoreError, match="labels/tissue"):
                SlideStore(folder).tissue()
            assert not verify(folder).ok
            make(slide_path, folder, kind)
            assert contents(folder) == before


def test_a_lost_picture_is_not_white_and_comes_back(slides_dir: Path, tmp_path: Path, contents: Contents) -> None:
    source = slides_dir / "CMU-1-Small-Region.svs"
    folder = tile(source, tmp_path / "s.zarr").folder
    before = contents(folder)
    (lost,) = (path for path in (folder / "associated").rglob("*") if path.is_file() and path.name.isdigit())
    lost.unlink()
    with pytest.raises(ReadError, match="missing"):
        SlideStore(folder).associated("thumbnail")
    tile(source, folder)
    assert contents(folder) == before


@pytest.mark.parametrize("kind", ["all", "portable"])
def test_lost_files_at_a_url_are_noticed_and_written_again(slide_path: Path, kind: str) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    url = f"memory://lost-{kind}/s.zarr"
    tile(slide_path, url, image=KINDS[kind], patch_px=128)
    names = sorted(name for name in memory.find(f"/lost-{kind}/s.zarr/0") if name.rsplit("/", 1)[1].isdigit())
    lost = names[len(names) // 2]
    content = memory.cat_file(lost)
    memory.rm_file(lost)
    with pytest.raises(ReadError, match="the file is missing"):
        read_all(SlideStore(url))
    tile(slide_path, url, image=KINDS[kind], patch_px=128)
    assert memory.cat_file(lost) == content
    read_all(SlideStore(url))
    memory.rm(f"/lost-{kind}", recursive=True)


def test_runs_are_places() -> None:
    rng = np.random.default_rng(1)
    places = {(int(col), int(row)) for col, row in rng.integers(0, 12, size=(60, 2))}
    assert places_of(runs_of(places)) == places


@pytest.mark.parametrize("column", ["coords", "tissue", "blur", "caption", "caption_facts"])
@pytest.mark.parametrize("harm", [Path.unlink, cut])
def test_a_lost_part_of_a_column_is_made_again_and_the_others_are_kept(
    slide_path: Path, tmp_path: Path, harm: Callable[[Path], None], column: str, contents: Contents
) -> None:
    folder = make(slide_path, tmp_path / "s.zarr").folder
    caption(folder)
    before = contents(folder)
    (lost,) = (path for path in (folder / "patches").glob(f"*/{column}/c/**/0") if path.is_file())
    harm(lost)
    with pytest.raises(StoreError, match=f"{column}.*again"):
        SlideStore(folder).patches().read(column)
    own = ("readable", *QUALITY_NAMES) if column == "blur" else (column,)  # columns of one pass over the patches
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("c/**/*") if path.is_file()}
    make(slide_path, folder)
    caption(folder)
    assert contents(folder) == before
    written = {path for path, time in kept.items() if path.stat().st_mtime_ns != time}
    assert {path.relative_to(folder).parts[2] for path in written} <= {*own, "caption", "caption_facts"}


@pytest.mark.parametrize("harm", [Path.unlink, cut])
@pytest.mark.parametrize(
    "lost",
    ["labels", "labels/tissue", "labels/tissue/1", "patches", "patches/*", "patches/*/coords", "patches/*/blur"]
    + ["patches/*/caption"],
)
def test_lost_metadata_of_labels_and_tables_are_written_again(
    slide_path: Path, tmp_path: Path, harm: Callable[[Path], None], lost: str, contents: Contents
) -> None:
    folder = make(slide_path, tmp_path / "s.zarr").folder
    caption(folder)
    before = contents(folder)
    (path,) = folder.glob(f"{lost}/zarr.json")
    harm(path)
    if lost not in ("labels", "patches"):  # these hold nothing but a list of names
        assert not verify(folder).ok
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("patches/*/*/c/**/*") if path.is_file()}
    make(slide_path, folder)
    caption(folder)
    assert contents(folder) == before
    written = {path.relative_to(folder).parts[2] for path, time in kept.items() if path.stat().st_mtime_ns != time}
    own = {"patches/*/coords": {"coords"}, "patches/*/blur": {"readable", *QUALITY_NAMES}}
    assert written <= own.get(lost, {"caption", "caption_facts"})
    assert verify(folder).ok


def test_a_lost_part_of_a_coarser_level_of_the_label_is_noticed_and_made_again(
    slide_path: Path, tmp_path: Path, contents: Contents
) -> None:
    folder = make(slide_path, tmp_path / "s.zarr").folder
    before = contents(folder)
    (folder / "labels/tissue/1/c/0/0").unlink()
    assert not verify(folder).ok
    make(slide_path, folder)
    assert contents(folder) == before


def test_folders_of_others_in_a_store_are_not_taken_for_lost_ones(slide_path: Path, tmp_path: Path) -> None:
    folder = make(slide_path, tmp_path / "s.zarr").folder
    (folder / "labels" / "tissue" / "zarr.json").unlink()
    (folder / "labels" / "tissue" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="did not write"):
        make(slide_path, folder)


@pytest.mark.parametrize("harm", [Path.unlink, cut])
def test_a_store_that_has_lost_its_own_metadata_is_made_again_with_its_tables(
    slide_path: Path, tmp_path: Path, harm: Callable[[Path], None], contents: Contents
) -> None:
    folder = make(slide_path, tmp_path / "s.zarr").folder
    caption(folder)
    before = contents(folder)
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("patches/*/*/c/**/*") if path.is_file()}
    harm(folder / "zarr.json")
    with pytest.raises(StoreError):
        SlideStore(folder)
    make(slide_path, folder)
    assert contents(folder) == before
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    harm(folder / "zarr.json")
    with pytest.raises(StoreError, match="lost its zarr.json.*delete"):
        make(jpeg_slide(tmp_path / "other.tiff", np.full((300, 300, 3), 200, np.uint8)), folder)
