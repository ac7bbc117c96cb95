"""What timm says of a model is asked once per version, and kept; a damaged file is asked again."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from wsikit.encoders import timm_cards, timm_models
from wsikit.encoders.registry import describe_encoder

NAME = "random:resnet10t"


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Models that timm was asked for; the user's cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    found: list[str] = []
    original = timm_models.measured

    def measured(architecture: str, *arguments: object) -> object:
        found.append(architecture)
        return original(architecture, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(timm_models, "measured", measured)
    return found


def test_a_model_is_asked_for_once_and_described_alike(asked: list[str]) -> None:
    first = describe_encoder(NAME)
    assert describe_encoder(NAME) == first
    assert asked == ["resnet10t"]
    width, transform = timm_models.measured("resnet10t", {}, "model")
    assert timm_cards.measured("resnet10t", "model") == (width, transform)


def test_another_version_of_timm_is_asked_again(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    describe_encoder(NAME)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99")
    describe_encoder(NAME)
    assert asked == ["resnet10t"] * 2


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"KEY": {"width": "512", "transform": {}}}', '{"KEY": 3}'])
def test_a_damaged_file_is_no_obstacle(asked: list[str], text: str) -> None:
    first = describe_encoder(NAME)
    (key,) = json.loads(timm_cards.cards_path().read_text(encoding="utf-8"))
    timm_cards.cards_path().write_text(text.replace("KEY", key), encoding="utf-8")
    assert describe_encoder(NAME) == first
    assert asked == ["resnet10t"] * 2


def test_a_cache_that_cannot_be_written_is_no_obstacle(asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert describe_encoder(NAME).width == describe_encoder(NAME).width == 512
    assert asked == ["resnet10t"] * 2
