"""Models and adapters on disk: found or refused with one line, distinguished by their fingerprints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from wsikit.captions.vlm import files as files_module
from wsikit.captions.vlm import load_vlm
from wsikit.captions.vlm.files import adapter_fingerprint, find_vlm, model_fingerprint
from wsikit.errors import ModelError, RequestError


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def _change_a_byte(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def test_a_model_that_is_not_here_is_named_with_the_command_that_fetches_it() -> None:
    with pytest.raises(ModelError, match="hf download no-organisation/no-such-model"):
        find_vlm("no-organisation/no-such-model")


def test_an_adapter_in_place_of_a_model_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="an adapter, not a model"):
        find_vlm(tmp_path)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig

    BertConfig(hidden_size=32, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a bert model, not an image-text-to-text model"):
        load_vlm(tmp_path, device="cpu")


def test_pickled_weights_are_never_opened(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no safetensors weights"):
        load_vlm(copy, device="cpu")


def test_a_truncated_weight_file_is_named(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises((ModelError), match="model.safetensors: damaged or not safetensors"):
        load_vlm(copy, device="cpu")


def test_four_bits_name_the_extra_they_need(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    with pytest.raises(RequestError, match=r"wsikit\[quantized\]"):
        load_vlm(tiny_folder, device="cpu", quantize="4bit")


def test_a_device_that_is_not_there_is_named(tiny_folder: Path) -> None:
    with pytest.raises(RequestError, match="device 'abacus'"):
        load_vlm(tiny_folder, device="abacus")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "chat_template.jinja"])
def test_another_byte_is_another_fingerprint(copy: Path, name: str) -> None:
    before = model_fingerprint(copy)
    _change_a_byte(copy / name, -1)
    assert model_fingerprint(copy) != before


@pytest.mark.parametrize("name", ["wsikit.json", "generation_config.json", "README.md"])
def test_what_decides_no_caption_is_not_in_the_fingerprint(copy: Path, name: str) -> None:
    before = model_fingerprint(copy)
    (copy / name).write_text(json.dumps({"note": "changed"}))
    assert model_fingerprint(copy) == before


def test_large_weights_are_hashed_by_header_size_and_samples(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_FULL_HASH_BYTES", 1000)
    seen = {model_fingerprint(copy)}
    weights = copy / "model.safetensors"
    for at in (20, weights.stat().st_size // 2, -1):
        _change_a_byte(weights, at)
        seen.add(model_fingerprint(copy))
    assert len(seen) == 4


def test_an_adapters_fingerprint_is_the_same_on_another_machine(tmp_path: Path) -> None:
    for name, base in (("a", "/home/me/model"), ("b", "D:/model")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"r": 4, "base_model_name_or_path": base}))
        (tmp_path / name / "adapter_model.safetensors").write_bytes(b"weights")
    assert adapter_fingerprint(tmp_path / "a") == adapter_fingerprint(tmp_path / "b")
