"""A GPU that is asked for: known from torch's own file of versions if it is built for CPUs alone, else from torch."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from wsikit.encoders import device
from wsikit.errors import RequestError

FOR_CPUS = (
    "from typing import Optional\n__version__ = '2.9.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FOR_CPUS, True),
        (FOR_CPUS.replace("cuda: Optional[str] = None", "cuda: Optional[str] = '13.0'"), False),
        (FOR_CPUS.replace("hip: Optional[str] = None", "hip: Optional[str] = '6.4'"), False),
        ("__version__ = '9'\n", False),
    ],
    ids=["cpu", "cuda", "rocm", "unknown"],
)
def test_a_build_for_cpus_is_recognised_without_loading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: bool
) -> None:
    (tmp_path / "version.py").write_text(text)
    spec = ModuleSpec("torch", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(device, "find_spec", lambda name: spec)
    asked: list[int] = []
    monkeypatch.setattr(device, "_finds_gpu", lambda: bool(asked.append(1)) or True)
    assert device.is_for_cpus_only() is expected
    if expected:
        with pytest.raises(RequestError, match="finds no GPU here"):
            device.check_device("cuda")
    else:
        device.check_device("cuda")
    assert bool(asked) is not expected


def test_other_devices_need_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_finds_gpu", lambda: pytest.fail("asked"))
    for name in ("auto", "cpu"):
        device.check_device(name)
