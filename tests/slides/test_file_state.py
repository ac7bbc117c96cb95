"""Whether a slide's file is still what was opened."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from wsikit.errors import SlideError
from wsikit.slides.file_state import FileState
from wsikit.slides.fingerprint import fingerprint


@pytest.fixture(params=["file", "folder"])
def slide(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "slide"
    if request.param == "folder":
        path.mkdir()
        (path / "0").write_bytes(bytes(range(100)))
    else:
        path.write_bytes(bytes(range(100)))
    return path


def test_what_has_not_changed_passes_whether_or_not_all_of_it_could_be_read(slide: Path):
    state, expected = FileState.of(slide), fingerprint(slide)
    state.check()
    state.check_read(expected, complete=True)
    state.check_read(expected, complete=False)


def test_a_deleted_slide_passes_only_where_all_of_it_was_read(slide: Path):
    state, expected = FileState.of(slide), fingerprint(slide)
    if slide.is_dir():
        shutil.rmtree(slide)
    else:
        slide.unlink()
    state.check_read(expected, complete=True)
    with pytest.raises(SlideError, match="could no longer be read"):
        state.check_read(expected, complete=False)


def test_a_file_that_was_cut_off_or_overwritten_is_refused(tmp_path: Path):
    path = tmp_path / "slide.svs"
    path.write_bytes(bytes(100))
    state, expected = FileState.of(path), fingerprint(path)
    for content in (bytes(50), bytes([1]) * 100):
        path.write_bytes(content)
        os.utime(path, ns=(state.modified + 1, state.modified + 1))
        for complete in (True, False):
            with pytest.raises(SlideError, match="changed while it was read"):
                state.check_read(expected, complete=complete)


def test_a_file_that_lost_content_at_equal_size_and_time_is_refused_where_parts_of_it_are_unreadable(tmp_path: Path):
    path = tmp_path / "slide.svs"
    path.write_bytes(bytes([1]) * 100)
    state, expected = FileState.of(path), fingerprint(path)
    path.write_bytes(bytes(100))
    os.utime(path, ns=(state.modified, state.modified))
    with pytest.raises(SlideError, match="changed while it was read"):
        state.check_read(expected, complete=False)


def test_a_file_that_another_program_adds_to_a_folder_is_no_change_where_all_could_be_read(tmp_path: Path):
    folder = tmp_path / "slide.zarr"
    folder.mkdir()
    (folder / "0").write_bytes(bytes(100))
    state, expected = FileState.of(folder), fingerprint(folder)
    (folder / ".DS_Store").touch()
    os.utime(folder, ns=(state.modified + 1, state.modified + 1))
    state.check_read(expected, complete=True)
