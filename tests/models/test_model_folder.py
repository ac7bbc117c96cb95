"""A model's folder: written whole, read back to the last bit, refused in one clear line when it is not one."""

from __future__ import annotations

import json
import pickle
import socket
from pathlib import Path

import pytest
import torch

from wsikit.errors import ModelError
from wsikit.models import io
from wsikit.models.io import load_model, save_model
from wsikit.models.mmlnb import MMLNB
from wsikit.models.registry import describe_model


@pytest.fixture
def folder(tiny_model: MMLNB, tmp_path: Path) -> Path:
    return save_model(tiny_model, tmp_path / "tiny", card="# tiny\n")


def test_a_saved_model_comes_back_to_the_last_bit(tiny_model: MMLNB, folder: Path):
    loaded = load_model(folder)
    assert loaded.config == tiny_model.config
    assert loaded.card == "# tiny\n"
    saved, found = tiny_model.state_dict(), loaded.state_dict()
    assert saved.keys() == found.keys()
    assert all(torch.equal(saved[name], found[name]) for name in saved)
    captions = ["dense nuclei 1250", None]
    assert (loaded.tokenizer(captions).ids == tiny_model.tokenizer(captions).ids).all()
    assert not loaded.training


def test_the_folder_holds_nothing_but_json_safetensors_and_the_card(folder: Path):
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_a_model_is_loaded_without_network_and_without_unpickling(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("forbidden while loading a model")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert load_model(folder).config.name == "tiny"


def test_the_fingerprint_follows_what_decides_and_not_the_card(tiny_model: MMLNB, folder: Path, tmp_path: Path):
    before = load_model(folder).fingerprint
    (folder / "README.md").write_text("another word")
    assert load_model(folder).fingerprint == before
    with torch.no_grad():
        tiny_model.fusion.head_text.bias += 1e-3
    other = save_model(tiny_model, tmp_path / "other", card="")
    assert load_model(other).fingerprint != before


def test_an_unknown_name_is_reported_with_those_that_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"'nope' not found.*nothing is ever downloaded"):
        load_model("nope")
    assert all(name in str(pytest.raises(ModelError, load_model, "nope").value) for name in io.packaged_models())


def test_a_folder_with_pickled_weights_only_is_refused_unopened(folder: Path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"model.safetensors missing.*pytorch_model.bin\) are never opened"):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_part_names_it(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"{name} missing"):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_truncated_file_is_reported_in_one_line_with_its_path(folder: Path, name: str):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_refused(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    config["prmf"]["d"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"do not fit config.json") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"clases": ["a"]}, "clases"),
        ({"mpp": -1}, "mpp"),
        ({"colors": ["#000000"]}, "colors"),
        ({"background": ["XX"]}, "background"),
        ({"format": 99}, "format"),
    ],
)
def test_a_configuration_with_an_error_is_refused_by_name(folder: Path, change: dict, where: str):
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=where):
        load_model(folder)


def test_nothing_that_is_there_is_overwritten(tiny_model: MMLNB, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="nothing is overwritten"):
        save_model(tiny_model, tmp_path, card="")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_save_that_fails_leaves_nothing(tiny_model: MMLNB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full_disk(*args: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(io, "save_weights", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_model(tiny_model, tmp_path / "tiny", card="")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_weights_that_are_cut_off_are_refused_before_anything_is_loaded(folder: Path, size: int):
    whole = (folder / "model.safetensors").read_bytes()
    assert describe_model(folder).name == "tiny"
    (folder / "model.safetensors").write_bytes(whole[:size])
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged or not safetensors"):
        describe_model(folder)
