"""Weights from the hub, when they are asked for: what is fetched, and one line for what goes wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from wsikit.encoders.weights import fetch
from wsikit.errors import ModelError

NAMES = ("model.safetensors", "pytorch_model.bin")


class Hub:
    """A hub that holds some files, or fails."""

    def __init__(self, files: list[str], error: Exception | None = None) -> None:
        self.files, self.error = files, error

    def model_info(self, hub_id: str, **_: Any) -> Any:
        if self.error is not None:
            raise self.error
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in self.files])


def asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: list[str], error: Exception | None = None
) -> list[str]:
    patterns: list[str] = []

    def snapshot(hub_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        patterns.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(files, error))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return patterns


def test_one_file_of_weights_is_fetched_with_configuration_and_tokenizer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    patterns = asked(monkeypatch, tmp_path, ["pytorch_model.bin", "model.safetensors", "config.json", "training.pt"])
    assert fetch("some/model", NAMES) == tmp_path
    assert [name for name in patterns if "*" not in name] == ["model.safetensors"]
    assert "*.json" in patterns


def test_all_parts_of_divided_weights_are_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    patterns = asked(monkeypatch, tmp_path, ["model.safetensors.index.json", "model-00001-of-00002.safetensors"])
    fetch("some/model", NAMES)
    assert patterns[0] == "model-*.safetensors"


def response(error: type[Any]) -> Exception:
    """An error of the hub, as its client raises it."""
    made: Exception = error.__new__(error)
    made.args = ("403 Client Error.\nmore lines",)
    return made


@pytest.mark.parametrize(
    ("error", "gated", "said"),
    [
        (response(GatedRepoError), True, "hf auth login"),
        (response(GatedRepoError), False, "hf auth login"),
        (response(RepositoryNotFoundError), True, "hf auth login"),  # without a log-in the hub says this
        (response(RepositoryNotFoundError), False, "Check the name"),
        (RuntimeError("connection refused"), False, "connection refused"),
        (OSError("no space left"), False, "no space left"),
        (None, False, "holds none of model.safetensors"),
    ],
    ids=["gated", "gated, not known", "gated, not logged in", "unknown", "no network", "no space", "no weights"],
)
def test_what_goes_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception | None, gated: bool, said: str
) -> None:
    asked(monkeypatch, tmp_path, ["README.md"], error)
    with pytest.raises(ModelError) as refused:
        fetch("some/model", NAMES, gated=gated)
    assert said in str(refused.value)
    assert "some/model" in str(refused.value)
    assert "\n" not in str(refused.value)
