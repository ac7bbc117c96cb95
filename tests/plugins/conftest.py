"""Toy plug-ins, announced as an installed package would announce them: by a distribution's metadata on the path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TOYS = Path(__file__).parent


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """install("wsikit.models", brightness="toy_model:Brightness") puts a distribution `toy` on the path."""

    def announce(group: str, **points: str) -> Path:
        site = tmp_path / "site"
        info = site / "toy-0.1.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 0.1\n", encoding="utf-8")
        with open(info / "entry_points.txt", "a", encoding="utf-8") as file:
            file.write(f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items()))
        for folder in (site, TOYS):
            monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("PYTHONPATH", f"{site}:{TOYS}:" + ":".join(sys.path))
        importlib.invalidate_caches()
        return site

    return announce
