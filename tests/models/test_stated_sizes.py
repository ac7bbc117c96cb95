"""A configuration may ask for a network of any size: one larger than its weights is refused before it takes memory."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.json_changes import changed
from wsikit.encoders.packaged import load_own, own_folder
from wsikit.errors import ModelError
from wsikit.models.config import DEFAULT_MODEL, MAX_PATCH_PX, packaged_folder
from wsikit.models.registry import load_patch_model
from wsikit.tensor_files import no_larger_than

HUGE = 10**6


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Five million numbers."""
    save_file({"weight": torch.zeros(5000, 1000)}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_a_network_of_twice_the_weights_is_built_and_a_larger_one_is_not(weights: Path) -> None:
    with no_larger_than(weights):
        nn.Linear(5000, 2500, bias=False)
    words = r"w.safetensors: the network of its configuration has more than 1e\+12"
    with pytest.raises(ModelError, match=words), no_larger_than(weights):
        nn.Linear(HUGE, HUGE, device="meta")
    nn.Linear(5000, 5000)  # nothing is counted afterwards


def test_many_small_layers_are_counted_together(weights: Path) -> None:
    with pytest.raises(ModelError, match="more than"), no_larger_than(weights):
        [nn.Linear(100, 100) for _ in range(HUGE)]


def test_networks_of_other_threads_are_not_counted(weights: Path) -> None:
    made: list[nn.Module] = []
    with no_larger_than(weights):
        other = threading.Thread(target=lambda: made.append(nn.Linear(5000, 5000, device="meta")))
        other.start()
        other.join()
    assert made


def test_two_numbers_of_four_bits_are_two_weights(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(5000, 500, dtype=torch.uint8)}, tmp_path / "w.safetensors")
    with no_larger_than(tmp_path / "w.safetensors"):
        nn.Linear(5000, 1000, bias=False)


def test_a_file_that_is_cut_off_is_refused(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="w.safetensors: damaged"), no_larger_than(weights):
        pass


@pytest.mark.parametrize(
    ("place", "size"),
    [
        (("prmf", "d"), HUGE),
        (("image", "options", "channels", 3), HUGE),
        (("text", "options", "hidden_size"), HUGE),
        (("text", "options", "num_hidden_layers"), HUGE),
        (("text", "options", "vocab_size"), HUGE),
        (("patch_px",), MAX_PATCH_PX + 1),
    ],
)
def test_a_patch_model(place: tuple[Any, ...], size: int, tmp_path: Path) -> None:
    folder = shutil.copytree(packaged_folder(DEFAULT_MODEL), tmp_path / "model")
    _change(folder / "config.json", place, size)
    with pytest.raises(ModelError, match="many more than there are in this file|less than or equal to 4096") as found:
        load_patch_model(folder, device="cpu")
    assert "\n" not in str(found.value)


def test_an_encoder_of_images_and_texts(tmp_path: Path) -> None:
    packaged = own_folder("phantom-afloc")
    assert packaged is not None
    folder = shutil.copytree(packaged, tmp_path / "model")
    _change(folder / "config.json", ("width",), HUGE)
    with pytest.raises(ModelError, match="many more than there are in this file"):
        load_own(folder, device="cpu")


def _change(path: Path, place: tuple[Any, ...], value: int) -> None:
    path.write_text(json.dumps(changed(json.loads(path.read_text()), place, value)))
