"""A settings file with several faults is answered once, with all of them and with the names that were meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsikit.errors import RequestError
from wsikit.training.heads.config import HeadTrainConfig, read_training_config

WRONG = """
name: mine
data:
  table: {images: ., csv: a.csv, columns: {file_name: file, class: kind}}
  patchpx: 224
classes: [tumour, stroma]
image: {feature: uni}
head: {kind: linear, hidden: 3}
"""
RIGHT = """
name: mine
data: {table: {images: ., csv: a.csv, columns: {file: file, label: kind}}, mpp: 0.5, patch_px: 224}
classes: [tumour, {code: stroma, values: [0, 1]}]
image: {features: uni}
head: linear
"""


def test_all_faults_are_named_at_once_with_what_was_probably_meant(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WRONG)
    with pytest.raises(RequestError) as caught:
        read_training_config(tmp_path / "a.yaml")
    message = str(caught.value)
    for words in (
        "data.table.columns.file_name: no such setting, did you mean file?",
        "data.table.columns.class: no such setting; there are description, file, label, patient, slide, x, y",
        "data.patch_px: missing",
        "data.patchpx: no such setting, did you mean patch_px?",
        "image.feature: no such setting, did you mean features?",
        "head.linear.hidden: no such setting; there are class_weights, folds, kind, l2, most",
    ):
        assert words in message
    assert "\n" not in message


def test_a_setting_in_the_wrong_section_is_answered_with_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(RIGHT + "group: file\n")
    with pytest.raises(RequestError, match="group: no such setting here; it belongs under data"):
        read_training_config(tmp_path / "a.yaml")


def test_many_faults_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(RIGHT + "".join(f"q{i}: 1\n" for i in range(20)))
    with pytest.raises(RequestError, match="q7: .*; and 12 more"):
        read_training_config(tmp_path / "a.yaml")


def test_a_class_may_be_given_by_its_code_alone_and_its_values_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(RIGHT)
    config = read_training_config(tmp_path / "a.yaml")
    assert isinstance(config, HeadTrainConfig)
    assert config.values == {"tumour": "tumour", "0": "stroma", "1": "stroma"}
