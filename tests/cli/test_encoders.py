"""`wsikit encoders`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from wsikit.cli.encoders import command
from wsikit.encoders.packaged import packaged_encoders
from wsikit.encoders.presets import presets
from wsikit.errors import ModelError


def said(*arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_every_preset_is_listed_with_its_licence_and_whether_its_weights_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--kaiko-ai--midnight" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"")
    entries = {entry["name"]: entry for entry in json.loads(said("--json"))}
    assert set(presets()) <= set(entries)
    assert [name for name in presets() if entries[name]["here"]] == ["midnight"]
    lines = {line.split()[0]: line for line in said().splitlines() if line.strip()}
    assert "here" in lines["midnight"]
    assert "gated" in lines["uni"]
    assert "CC-BY-NC-ND-4.0" in lines["uni"]
    assert str(tmp_path) in said()


def test_one_encoder_is_shown_with_its_sources_and_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    text = said("virchow2")
    for part in ("2560", "register", "TRIDENT", "hf auth login", "--encoder virchow2 --download", "SwiGLUPacked"):
        assert part in text
    facts = json.loads(said("gigapath", "--json"))
    assert (facts["transform"]["resize"], facts["transform"]["crop"]) == (256, 224)
    assert all(address.startswith("https://") for address in facts["sources"].values())


def test_encoders_in_the_package_are_listed_and_shown() -> None:
    entries = {entry["name"]: entry for entry in json.loads(said("--json"))}
    for name in packaged_encoders():
        assert (entries[name]["here"], entries[name]["gated"]) == (True, False)
        assert f"wsikit features STORE --encoder {name}" in said(name)


def test_any_encoder_that_can_be_named_is_shown_in_words() -> None:
    shown = said("random:vit-s16?pooling=cls")
    for part in ("384 numbers per patch", "224 px at any scale", "The features mean nothing"):
        assert part in shown
    assert "wsikit features STORE --encoder 'random:vit-s16?pooling=cls'" in shown
    assert "shared space of 64" in said("phantom-afloc")
    assert "wsikit localize STORE TEXT --encoder phantom-afloc" in said("phantom-afloc")
    for name in ("random:no_such_model", "no/such/folder", "hf-hub:none/this"):
        assert isinstance(CliRunner().invoke(command, [name]).exception, ModelError), name


def test_an_unknown_name_is_refused_with_the_closest_one() -> None:
    result = CliRunner().invoke(command, ["uni2"])
    assert "uni2-h" in str(result.exception)


def test_the_list_loads_no_model_library() -> None:
    code = (
        "import sys; from wsikit.cli.main import main\ntry: main(['encoders'])\nexcept SystemExit as end: "
        "assert not end.code\nassert not {'torch', 'timm', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
