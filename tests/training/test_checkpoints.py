"""The folder of a run's checkpoints: it is removed at the end of a run, so no other folder may be taken for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsikit.errors import RequestError
from wsikit.training.captioner.finetune import _claim
from wsikit.training.checkpoints import RUN_FILE, prepare

LEFT = f".{RUN_FILE}.{'0' * 32}.partial"


@pytest.mark.parametrize("name", ["notes.txt", "checkpoint-7", "mine.partial"])
def test_a_folder_that_holds_something_of_the_users_is_not_taken_for_checkpoints(tmp_path: Path, name: str):
    (tmp_path / name).write_text("mine")
    with pytest.raises(RequestError, match=name):
        prepare(tmp_path, {"seed": 0}, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_left_by_a_kill_before_its_first_file_is_taken(tmp_path: Path):
    (tmp_path / LEFT).write_text("{")
    assert prepare(tmp_path, {"seed": 0}, resume=True) is None
    assert (tmp_path / RUN_FILE).is_file()


def test_a_captioner_is_not_tuned_into_a_folder_whose_training_is_the_users(tmp_path: Path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "diary.txt").write_text("mine")
    with pytest.raises(RequestError, match="not empty"):
        _claim(tmp_path, {"seed": 0})
    (tmp_path / "training" / "diary.txt").rename(tmp_path / "training" / LEFT)
    _claim(tmp_path, {"seed": 0})
