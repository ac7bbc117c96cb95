"""Folders of timm and transformers whose config.json has impossible values: an encoder, or one error in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_hostile_records import CHANGES, try_all
from wsikit.encoders.registry import load_encoder
from wsikit.errors import ModelError


@pytest.mark.parametrize("folder_of", ["timm_folder", "dinov2_folder", "clip_folder"])
def test_the_configuration_of_an_encoder_of_another_library(folder_of: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(folder_of)
    record = json.loads((folder / "config.json").read_text())
    try_all(folder / "config.json", record, lambda: load_encoder(folder, device="cpu"), CHANGES // 3)


def test_an_option_that_timm_cannot_divide_by_is_one_error(timm_folder: Path) -> None:
    path = timm_folder / "config.json"
    record = json.loads(path.read_text())
    record["model_args"]["num_heads"] = 0
    path.write_text(json.dumps(record))
    with pytest.raises(ModelError, match="cannot build it with"):
        load_encoder(timm_folder, device="cpu")


def test_a_transform_that_is_no_number_is_one_error(timm_folder: Path) -> None:
    path = timm_folder / "config.json"
    record = json.loads(path.read_text())
    record["pretrained_cfg"]["mean"] = ["red", 0.4, 0.3]
    path.write_text(json.dumps(record))
    with pytest.raises(ModelError, match="its configuration cannot be used"):
        load_encoder(timm_folder, device="cpu")
